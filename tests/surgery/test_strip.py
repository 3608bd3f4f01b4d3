"""A network out of training: core Keras alone, and the same deterministic outputs."""

import json

import keras
import numpy as np
import pytest
from backends import marked
from keras import layers, ops

import keras_swapout as ks
from keras_swapout.surgery import strip

RNG = np.random.default_rng(0)
#: Loads files, each with an input, where nothing of ours can be imported.
WITHOUT_US = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "keras_swapout":
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
import keras, numpy as np

try:
    import keras_swapout
except ImportError:
    pass
else:
    raise SystemExit("it can be imported")
worst = []
for path in json.loads(%r):
    model = keras.saving.load_model(path + ".keras")
    wanted = np.load(path + ".npz")
    y = keras.ops.convert_to_numpy(model(wanted["x"]))
    worst.append(float(abs(y - wanted["y"]).max()))
print(json.dumps([worst, "keras_swapout" in sys.modules]))
"""


def array(tensor):
    return ops.convert_to_numpy(tensor)


def of_ours(model):
    return [x for x in model._flatten_layers() if type(x).__module__.startswith("keras_swapout")]


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def settled(model):
    """The model with statistics and biases that are not those of the start."""
    rng = np.random.default_rng(1)
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables + layer._non_trainable_variables:
            if "float" not in str(variable.dtype) or variable.name in ("probabilities", "ramp"):
                continue
            low, high = (0.5, 2) if "variance" in variable.name else (-0.5, 0.5)
            variable.assign(rng.uniform(low, high, variable.shape))
    return model


def same(a, b, x):
    np.testing.assert_array_equal(array(a(x)), array(b(x)))


def pair_model(merge, width=6, tail=None):
    inputs = keras.Input((width,), name="inputs")
    y = merge([inputs, layers.Dense(width, name="dense")(inputs)])
    return settled(keras.Model(inputs, tail(y) if tail else y))


MERGES = {
    "swapout": lambda **k: ks.layers.Swapout(0.7, 0.3, name="merge", **k),
    "from the shortcut alone": lambda **k: ks.layers.Swapout(0.7, 1.0, name="merge", **k),
    "channel": lambda **k: ks.layers.Swapout(0.7, 0.3, granularity="channel", name="merge", **k),
    "skip": lambda **k: ks.layers.SkipForward(0.9, name="merge", **k),
    "residual": lambda **k: ks.layers.ResidualDropout(0.8, name="merge", **k),
    "depth": lambda **k: ks.layers.StochasticDepth(0.8, name="merge", **k),
}


@pytest.mark.parametrize(
    "name, rescale, shortcut, dtype",
    [
        ("swapout", False, 0, "float32"),
        ("skip", True, 1, "float32"),
        *marked(
            ("swapout", False, 1, "bfloat16"),
            ("swapout", True, 0, "mixed_float16"),
            ("from the shortcut alone", False, 1, "float32"),
            ("from the shortcut alone", False, 0, "mixed_float16"),
            ("from the shortcut alone", True, 1, "bfloat16"),
            ("channel", False, 1, "mixed_float16"),
            ("skip", False, 0, "bfloat16"),
            ("residual", False, 0, "float32"),
            ("residual", True, 1, "mixed_float16"),
            ("depth", False, 1, "float32"),
            ("depth", False, 0, "bfloat16"),
            ("depth", True, 0, "float32"),
        ),
    ],
)
def test_merges_are_equal_to_the_bit(name, rescale, shortcut, dtype):
    x = RNG.normal(size=(16, 6)).astype("float32")
    for adjustable in (False, True):
        kwargs = {"rescale": rescale, "shortcut": shortcut, "dtype": dtype}
        merge = MERGES[name](**kwargs, adjustable=adjustable)
        model = pair_model(merge)
        if adjustable:
            merge.ramp.assign(0.37)
        plain = strip(model)
        same(model, plain, x)
        assert not of_ours(plain) and plain.output_names == model.output_names
        assert kinds(plain)[-1] == "Add" and ("Rescaling" in kinds(plain)) == (not rescale)


def test_thetas_are_on_the_operands_that_they_are_of():
    for shortcut in (0, 1):
        merge = ks.layers.Swapout(0.25, 0.5, shortcut=shortcut, name="m")
        inputs = keras.Input((3,)), keras.Input((3,))
        plain = strip(keras.Model(inputs, merge(list(inputs))))
        a, b = np.float32([[1, 2, 3]]), np.float32([[10, 20, 30]])
        x, fx = (b, a) if shortcut else (a, b)
        np.testing.assert_array_equal(array(plain([a, b])), 0.25 * x + 0.5 * fx)
        scales = {layer.name: layer.scale for layer in plain.layers if "theta" in layer.name}
        assert scales == {"m_theta_1": 0.25, "m_theta_2": 0.5}


DROPS = [
    ks.layers.Dropout(0.3),
    ks.layers.Dropout(0.3, "channel"),
    ks.layers.DropPath(0.3),
    ks.layers.DropPath(0.3, rescale=False),
    ks.layers.DropPath(0.3, rescale=False, adjustable=True),
    ks.layers.BDropDML(0.3),
    ks.layers.SDropDML(0.3, 2, adjustable=True),
    ks.layers.DropBlock2D(0.3, 2),
]


@pytest.mark.parametrize(
    "layer, last, sequential",
    [
        *((layer, i % 2 == 0, False) for i, layer in enumerate(DROPS)),
        *marked(*((layer, i % 2 == 1, True) for i, layer in enumerate(DROPS))),
    ],
)
def test_what_drops(layer, last, sequential):
    new = type(layer).from_config({**layer.get_config(), "name": "drop"})
    steps = [layers.Conv2D(2, 1), new, *([] if last else [layers.Activation("relu")])]
    model = keras.Sequential([keras.Input((4, 4, 3)), *steps])
    if not sequential:
        model = keras.Model(model.inputs, model.outputs[0])
    if new.adjustable:
        new.ramp.assign(0.5)
    plain = strip(settled(model))
    same(model, plain, RNG.normal(size=(8, 4, 4, 3)).astype("float32"))
    assert not of_ours(plain) and type(plain) is type(model)
    assert sequential or plain.output_names == model.output_names
    scales = not getattr(new, "rescale", True)
    assert ("Rescaling" in kinds(plain)) == scales


def test_nested_shared_and_called_twice():
    inner_inputs = keras.Input((6,))
    merge = ks.layers.Swapout(0.7, 0.4, name="merge")
    y = merge([inner_inputs, layers.Dense(6)(inner_inputs)])
    inner = keras.Model(inner_inputs, ks.layers.Dropout(0.2)(y), name="inner")
    only = keras.Sequential([keras.Input((6,)), ks.layers.Dropout(0.5)], name="only")
    inputs = keras.Input((6,))
    x = only(inner(inner(inputs)))
    x = merge([x, layers.Dense(6)(x)])  # the same layer, in another model
    x = merge([x, layers.Dense(6, name="merge_theta_1")(x)])  # its name is taken
    model = settled(keras.Model(inputs, {"y": x, "z": ks.layers.DropPath(0.5)(x)}))
    plain = strip(model)
    data = RNG.normal(size=(5, 6)).astype("float32")
    for key, value in model(data).items():
        np.testing.assert_array_equal(array(plain(data)[key]), array(value))
    assert not of_ours(plain)
    assert [x.name for x in plain.get_layer("inner").layers] == [
        *[x.name for x in inner.layers[:2]], "merge_theta_1_", "merge_theta_2", "merge"
    ]  # fmt: skip
    # It is a copy: what is trained in one is not in the other.
    plain.get_layer("inner").layers[1].kernel.assign(np.zeros((6, 6)))
    assert np.any(array(model.get_layer("inner").layers[1].kernel))


def test_masks_go_on():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 4, mask_zero=True)(inputs)
    x = ks.layers.Swapout(0.7, 0.4)([x, layers.Dense(4)(x)])
    x = ks.layers.DropPath(0.5, rescale=False)(ks.layers.Dropout(0.5)(x))
    model = settled(keras.Model(inputs, layers.GlobalAveragePooling1D()(x)))
    tokens = np.array([[1, 2, 0, 0, 0], [3, 0, 4, 5, 0]])
    same(model, strip(model), tokens)


@pytest.mark.tensorflow
@pytest.mark.parametrize("way", ["layer", "model", "model in a model"])
def test_random_at_inference_is_refused_by_name(way):
    inputs = keras.Input((4,))
    drop = ks.layers.Dropout(0.5, name="drop")
    model = keras.Model(inputs, drop(inputs, training=True if way == "layer" else None))
    for name in ("inner", "outer")[: way.count("model")]:
        model.name = name
        outer = keras.Input((4,))
        model = keras.Model(outer, model(outer, training=True if name == "inner" else None))
    path = {"layer": "drop", "model": "inner/drop", "model in a model": "outer/inner/drop"}[way]
    with pytest.raises(ValueError, match=f"Layer '{path}' is called with training=True"):
        strip(model)
    # What the model around it is told counts, and what drops nothing is not random.
    model.name = "around"
    outer = keras.Input((4,))
    x = ks.layers.Dropout(0.0)(outer, training=True)
    quiet = keras.Model(outer, model(x, training=False))
    same(quiet, strip(quiet), RNG.normal(size=(3, 4)).astype("float32"))
    inner = keras.Model(inputs, drop(inputs, training=False), name="inner")
    assert not of_ours(strip(inner))
    with pytest.raises(ValueError, match="Layer 'inner/drop' is called with training=True"):
        strip(keras.Model(outer, inner(outer, training=True)))


class Block(layers.Layer):
    """Calls layers by itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.merge = ks.layers.Swapout(0.5, 0.5, name="mine")

    def call(self, x):
        return self.merge([x, x])


class Doubled(ks.layers.Dropout):
    """A layer of ours, and not."""

    def call(self, inputs, training=False):
        return 2 * super().call(inputs, training=training)


@keras.saving.register_keras_serializable("tests")
class Half(ks.layers.Dropout):
    """A layer of ours with a default."""

    def __init__(self, rate=0.5, **kwargs):
        super().__init__(rate, **kwargs)


@pytest.mark.tensorflow
def test_what_is_out_of_reach_is_refused_by_name():
    x = keras.Input((4, 3))
    message = r"'mine' \(Swapout\) is in a layer with a `call` of its own"
    with pytest.raises(ValueError, match=message):
        strip(keras.Model(x, Block()(x)))
    wrapped = layers.TimeDistributed(ks.layers.Dropout(0.5, name="mine"))
    with pytest.raises(ValueError, match=r"'mine' \(Dropout\) is in a layer"):
        strip(keras.Model(x, wrapped(x)))
    with pytest.raises(ValueError, match=r"'mine' \(Doubled\) is a subclass of a layer of ours"):
        strip(keras.Model(x, Doubled(0.5, name="mine")(x)))
    with pytest.raises(ValueError, match=r"'mine' \(Half\) is in a layer"):
        strip(keras.Model(x, layers.TimeDistributed(Half(name="mine"))(x)))
    assert not of_ours(strip(keras.Model(x, Half(name="mine")(x))))

    class Whole(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"\(Whole\) has a `call` of its own"):
        strip(Whole())
    model = keras.Model(x, ks.layers.Dropout(0.5)(x))
    with pytest.raises(ValueError, match=r"operate on its `\.model`"):
        strip(ks.RBlock(model))
    with pytest.raises(TypeError, match="Argument `model` must be a keras"):
        strip(layers.Dense(3))
    with pytest.raises(TypeError, match="Argument `fold_batch_norm` must be"):
        strip(model, fold_batch_norm=1)
    with pytest.raises(ValueError, match="does not know its input"):
        strip(keras.Sequential([layers.Dense(3)]))


def small_resnet(**kwargs):
    return settled(ks.models.ResNetV2(8, 1, 3, (8, 8, 3), **kwargs))


@pytest.mark.tensorflow
def test_strip_undoes_swap():
    model = small_resnet()
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(3, 3, padding="same")(inputs)
    outer = settled(keras.Model(inputs, model(x + inputs), name="outer"))
    back = strip(ks.surgery.swap_residuals(outer, theta_1=(1, 0.7)))
    same(outer, back, RNG.normal(size=(4, 8, 8, 3)).astype("float32"))
    assert [w.path for w in back.weights] == [w.path for w in outer.weights]
    for a, b in zip(back.get_weights(), outer.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    inner, original = back.get_layer(model.name), model
    assert [(x.name, type(x)) for x in inner.layers] == [(x.name, type(x)) for x in original.layers]


@pytest.fixture(scope="module")
def stripped():
    """Networks with layers of ours, and what they are without them."""
    keras.utils.set_random_seed(0)
    merge = ks.schedules.per_block(ks.layers.Swapout, theta_1=(1, 0.6), theta_2=(1, 0.5))
    norm = layers.Normalization()
    norm.adapt(RNG.normal(3, 2, (64, 8, 8, 3)))
    inputs = keras.Input((8, 8, 3), name="image")
    x = settled(small_resnet(merge=merge))(norm(inputs))
    found = {"resnet": (keras.Model(inputs, ks.layers.DropPath(0.3, rescale=False)(x)), False)}
    found["folded"] = (found["resnet"][0], True)
    given = keras.Input((6,))
    found["output"] = (keras.Model(given, ks.layers.Dropout(0.3)(layers.Dense(3)(given))), False)
    found["sequential"] = (keras.Sequential([keras.Input((6,)), ks.layers.DropPath(0.3)]), False)
    found["merge"] = (pair_model(ks.layers.Swapout(0.7, 0.3, adjustable=True)), False)
    return {name: (model, strip(model, fold)) for name, (model, fold) in found.items()}


@pytest.mark.tensorflow
def test_files_load_where_we_are_not(stripped, start_python, result, tmp_path):
    for name, (model, plain) in stripped.items():
        x = RNG.normal(size=(4, *model.inputs[0].shape[1:])).astype("float32")
        np.savez(tmp_path / name, x=x, y=array(model(x)))
        plain.save(tmp_path / f"{name}.keras")
    paths = [str(tmp_path / name) for name in stripped]
    worst, imported = result(start_python(WITHOUT_US % json.dumps(paths)))
    assert not imported
    worst = dict(zip(stripped, worst, strict=True))
    assert worst.pop("folded") < 1e-5 and set(worst.values()) == {0}


@pytest.fixture(scope="module", params=["saved_model", "litert", "onnx"])
def exported(request, stripped, tmp_path_factory):
    """export(model) -> a function of an array that runs what was exported."""
    kind = request.param
    if kind == "onnx":
        for package in ("onnx", "tf2onnx", "onnxruntime"):
            pytest.importorskip(package, reason='pip install "keras-swapout[export]"')
    folder = tmp_path_factory.mktemp(kind)
    import tensorflow as tf

    def run(name):
        suffix = {"saved_model": "", "litert": ".tflite", "onnx": ".onnx"}[kind]
        path = str(folder / f"{name}{suffix}")
        stripped[name][1].export(path, format="tf_saved_model" if not suffix else kind, verbose=0)
        if kind == "saved_model":
            loaded = tf.saved_model.load(path)
            return lambda x: loaded.serve(x)
        if kind == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(path)
            (given,) = session.get_inputs()
            return lambda x: session.run(None, {given.name: x})[0]
        interpreter = tf.lite.Interpreter(path)
        signature = interpreter.get_signature_runner()
        (given,) = signature.get_input_details()
        return lambda x: next(iter(signature(**{given: x}).values()))

    return run


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_exports_agree(exported, stripped):
    model, _ = stripped["folded"]
    x = RNG.normal(size=(4, 8, 8, 3)).astype("float32")
    wanted = array(model(x))
    got = np.asarray(exported("folded")(x))
    assert np.abs(got - wanted).max() < 1e-5 * np.abs(wanted).max()


def test_statistics_stay_what_they_are(stripped):
    """NumPy arrays for the exporters, until a layer is adapted or loaded."""
    _, plain = stripped["resnet"]
    (norm,) = (x for x in plain.layers if isinstance(x, layers.Normalization))
    assert isinstance(norm.mean, np.ndarray) and norm.mean.shape == (1, 1, 1, 3)
    again = keras.models.clone_model(plain)
    again.layers[1].load_own_variables({str(i): array(v) for i, v in enumerate(norm.variables)})
    x = RNG.normal(size=(4, 8, 8, 3)).astype("float32")
    same(again.layers[1], norm, x)
    same(strip(plain), plain, x)
    for dtype in ("mixed_float16", "bfloat16"):
        half = layers.Normalization(
            mean=[1.0, 2, 3], variance=[4.0, 1, 2], dtype=dtype, invert=True
        )
        model = keras.Sequential([keras.Input((8, 8, 3)), half])
        same(model, strip(model), x)


# --- folding -------------------------------------------------------------------------------------

FIRST = "channels_first"
LINEAR = {
    "dense": ((6,), lambda **k: layers.Dense(4, **k)),
    "dense of a sequence": ((5, 6), lambda **k: layers.Dense(4, **k)),
    "conv1d": ((8, 4), lambda **k: layers.Conv1D(6, 3, padding="causal", **k)),
    "conv2d": ((8, 8, 4), lambda **k: layers.Conv2D(6, 3, strides=2, padding="same", **k)),
    "groups": ((8, 8, 4), lambda **k: layers.Conv2D(6, 3, groups=2, **k)),
    "conv3d": ((4, 4, 4, 3), lambda **k: layers.Conv3D(2, 2, **k)),
    "transpose1d": ((8, 4), lambda **k: layers.Conv1DTranspose(6, 3, **k)),
    "transpose2d": ((8, 8, 4), lambda **k: layers.Conv2DTranspose(6, 3, strides=2, **k)),
    "transpose3d": ((4, 4, 4, 3), lambda **k: layers.Conv3DTranspose(2, 2, **k)),
    "separable1d": ((8, 4), lambda **k: layers.SeparableConv1D(6, 3, depth_multiplier=2, **k)),
    "separable2d": ((8, 8, 4), lambda **k: layers.SeparableConv2D(6, 3, depth_multiplier=2, **k)),
    "depthwise1d": ((8, 4), lambda **k: layers.DepthwiseConv1D(3, depth_multiplier=2, **k)),
    "depthwise2d": ((8, 8, 4), lambda **k: layers.DepthwiseConv2D(3, depth_multiplier=2, **k)),
    "first": ((4, 8, 8), lambda **k: layers.Conv2D(5, 3, data_format=FIRST, **k)),
    "first1d": ((4, 8), lambda **k: layers.Conv1D(5, 3, data_format=FIRST, **k)),
}


@pytest.mark.parametrize(
    "name, bias",
    [
        *((name, True) for name in ("dense", "conv2d", "separable2d")),
        *marked(
            *((name, True) for name in LINEAR if name not in ("dense", "conv2d", "separable2d"))
        ),
        *marked(*((name, False) for name in ("dense", "groups", "depthwise2d", "transpose2d"))),
    ],
)
def test_folds(name, bias):
    shape, make = LINEAR[name]
    inputs = keras.Input(shape)
    first = name.startswith("first")
    norm = layers.BatchNormalization(
        axis=1 - len(shape) - 1 if first else -1, scale=bias, center=not bias, epsilon=0.01
    )
    x = norm(make(use_bias=bias, name="linear")(inputs))
    model = settled(keras.Model(inputs, layers.Activation("relu")(x)))
    plain = strip(model, fold_batch_norm=True)
    assert kinds(plain) == ["InputLayer", type(model.get_layer("linear")).__name__, "Activation"]
    x = RNG.normal(size=(3, *shape)).astype("float32")
    try:
        wanted = array(model(x))
    except Exception as error:
        pytest.skip(f"no such convolution on this machine: {type(error).__name__}")
    np.testing.assert_allclose(array(plain(x)), wanted, rtol=1e-5, atol=2e-5)
    # By hand, from the numbers alone.
    new, old = plain.get_layer("linear"), model.get_layer("linear")
    scale = (array(norm.gamma) if bias else 1) / np.sqrt(array(norm.moving_variance) + 0.01)
    bias = (array(old.bias) if bias else 0) - array(norm.moving_mean)
    beta = array(norm.beta) if norm.center else 0
    np.testing.assert_allclose(array(new.bias), scale * bias + beta, rtol=1e-5, atol=1e-6)


def block(conv, norm, between=None):
    inputs = keras.Input((6, 6, 4))
    y = layers.Conv2D(4, 3, name="conv", **conv)(inputs)
    y = between(y) if between else y
    return keras.Model(inputs, layers.BatchNormalization(name="norm", **norm)(y))


def normalised_twice():
    inputs, norm = keras.Input((6, 6, 4)), layers.BatchNormalization(name="norm")
    convs = [layers.Conv2D(4, 3)(inputs) for _ in range(2)]
    return keras.Model(inputs, [norm(x) for x in convs])


def convolved_twice():
    inputs, conv = keras.Input((6, 6, 4)), layers.Conv2D(4, 1)
    x = layers.BatchNormalization()(conv(inputs))
    return keras.Model(inputs, layers.BatchNormalization()(conv(x)))


def used_twice(as_output):
    inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(4, 3)(inputs)
    y = layers.BatchNormalization()(x)
    return keras.Model(inputs, [x, y] if as_output else layers.add([x, y]))


def called_so(nested):
    inputs, other = keras.Input((6, 6, 4)), keras.Input((6, 6, 4))
    norm = layers.BatchNormalization(momentum=1.0)
    y = norm(layers.Conv2D(4, 3)(inputs), training=None if nested else True)
    model = keras.Model(inputs, y)
    return keras.Model(other, model(other, training=True)) if nested else model


def int8():
    model = block({}, {})
    model = keras.Model(model.inputs, layers.BatchNormalization()(layers.Dense(4)(model.output)))
    model.layers[3].quantize("int8")
    return model


def lora():
    inputs = keras.Input((6,))
    dense = layers.Dense(6)
    model = keras.Model(inputs, layers.BatchNormalization()(dense(inputs)))
    dense.enable_lora(2)
    return model


UNFOLDED = {
    "an activation": (lambda: block({"activation": "relu"}, {}), 1),
    "an activation between": (lambda: block({}, {}, layers.Activation("relu")), 1),
    "another axis": (lambda: block({}, {"axis": 1}), 1),
    "another precision": (lambda: block({"dtype": "bfloat16"}, {"dtype": "float32"}), 1),
    "normalised twice": (normalised_twice, 1),
    "convolved twice": (convolved_twice, 2),
    "used twice": (lambda: used_twice(False), 1),
    "an output": (lambda: used_twice(True), 1),
    "training": (lambda: called_so(False), 1),
    "training, nested": (lambda: called_so(True), 1),
    "int8": (int8, 1),
    "LoRA": (lora, 1),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", UNFOLDED)
def test_does_not_fold(name):
    make, left = UNFOLDED[name]
    model = make()
    model = model if name in ("int8", "LoRA") else settled(model)
    x = RNG.normal(size=(3, *model.inputs[0].shape[1:])).astype("float32")
    wanted = [array(y) for y in keras.tree.flatten(model(x))]
    plain = strip(model, fold_batch_norm=True)
    for a, b in zip(keras.tree.flatten(plain(x)), wanted, strict=True):
        np.testing.assert_allclose(array(a), b, rtol=1e-5, atol=1e-5)
    norms = [x for x in plain._flatten_layers() if type(x) is layers.BatchNormalization]
    assert len(norms) == left


def test_folds_into_an_output_by_its_name_and_after_what_went():
    inputs = keras.Input((6, 6, 4))
    x = ks.layers.BDropDML(0.3)(layers.Conv2D(4, 3, use_bias=False, trainable=False)(inputs))
    inner = keras.Sequential([keras.Input((4, 4, 4)), layers.Dense(3), layers.BatchNormalization()])
    y = inner(layers.BatchNormalization(name="a")(x))
    model = keras.Model(inputs, {"y": y, "z": layers.BatchNormalization(name="b")(
        layers.DepthwiseConv2D(3)(y)
    )})  # fmt: skip
    plain = strip(settled(model), fold_batch_norm=True)
    data = RNG.normal(size=(3, 6, 6, 4)).astype("float32")
    for name, value in model(data).items():
        np.testing.assert_allclose(array(plain(data)[name]), array(value), rtol=1e-4, atol=1e-4)
    assert "BatchNormalization" not in [type(x).__name__ for x in plain._flatten_layers()]
    assert plain.output_names == model.output_names
    assert not plain.layers[1].trainable and model.layers[1].use_bias is False
