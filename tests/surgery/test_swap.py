"""Swapout into networks written by hand: what the copy does, and what of the original it keeps."""

import warnings

import keras
import numpy as np
import pytest
from backends import marked, reduced
from keras import layers, ops

import keras_swapout as ks
from keras_swapout.surgery import find_residuals, swap_residuals

tensorflow_only = pytest.mark.tensorflow


def array(x):
    return ops.convert_to_numpy(ops.cast(x, "float32") if x.dtype == "bfloat16" else x)


def batch_for(model, rows=3):
    """Numbers for the inputs of a model, in its structure."""
    rng = np.random.default_rng(0)

    def numbers(x):
        shape = [rows, *(side or 5 for side in x.shape[1:])]
        whole = "int" in x.dtype
        return rng.integers(0, 3, shape) if whole else rng.normal(size=shape).astype("float32")

    sequential = isinstance(model, keras.Sequential)
    return keras.tree.map_structure(numbers, model.inputs[0] if sequential else model.input)


def spread(model):
    """Every weight another random number, as after some training: no bias is 0, no scale 1."""
    rng = np.random.default_rng(1)
    learnt = {id(v) for x in layers_of(model) if hasattr(x, "adapt") for v in x.weights}
    for v in model.weights:
        if id(v) not in learnt and keras.backend.is_float_dtype(v.dtype):
            v.assign(rng.uniform(0.3, 1.0, v.shape) * rng.choice([-0.5, 0.5, 1], v.shape) ** 2)
    return model


def same_outputs(a, b, batch=None):
    batch = batch_for(a) if batch is None else batch
    one, two = a(batch), b(batch)
    keras.tree.assert_same_structure(one, two)
    for x, y in zip(keras.tree.flatten(one), keras.tree.flatten(two), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(array(x), array(y))
        assert np.isfinite(array(x)).all()


def nodes(model):
    """How often each operation has been called in a graph: a trace would leave another call."""
    found = {}

    def look(model):
        for operation in getattr(model, "operations", model.layers):
            found[id(operation)] = len(operation._inbound_nodes)
            if isinstance(operation, keras.Model):
                look(operation)

    look(model)
    return found


def swapped_as_it_was(model, batch=None, **kwargs):
    """The copy, after everything has been compared that has to be as it was."""
    before = nodes(model), [np.array(w) for w in model.get_weights()]
    config = model.to_json() if kwargs.pop("config", True) else None
    new = swap_residuals(model, **kwargs)
    same_outputs(model, new, batch)
    assert nodes(model) == before[0]
    for a, b in zip(before[1], model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert config is None or model.to_json() == config
    assert new.name == model.name
    assert input_names(new) == input_names(model)
    assert [w.shape for w in new.weights] == [w.shape for w in model.weights]
    assert [w.dtype for w in new.weights] == [w.dtype for w in model.weights]
    assert len(new.trainable_weights) == len(model.trainable_weights)
    assert not {id(v) for v in new.variables} & {id(v) for v in model.variables}
    assert not new.compiled
    return new


def input_names(model):
    return [x.name for x in model.layers if isinstance(x, layers.InputLayer)]


def layers_of(model):
    return [layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model)]


def merges(model):
    return [x for x in layers_of(model) if isinstance(x, ks.layers.Swapout)]


def residual_mlp(blocks=3, units=6, name="mlp", **kwargs):
    x = inputs = keras.Input((units,), name="numbers")
    for i in range(blocks):
        y = layers.Dense(units, name=f"dense_{i}", **kwargs)(x)
        x = layers.Add(name=f"add_{i}", **kwargs)([x, y])
    return keras.Model(inputs, layers.Dense(2, name="head", **kwargs)(x), name=name)


# Networks, each with what a copy could lose.


def resnet():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same")(x)
    for filters, strides in ((4, 1), (8, 2)):
        y = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same")(y))
        shortcut = x
        if strides > 1:
            shortcut = layers.BatchNormalization()(layers.Conv2D(filters, 1, strides=strides)(x))
        x = layers.ReLU()(layers.Add()([y, shortcut] if strides > 1 else [shortcut, y]))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def masked(merge, rnn=layers.LSTM):
    """Embeddings with masks; what comes after the sum sees a mask behind `Add`, none behind `+`."""

    def build():
        inputs = keras.Input((5,), dtype="int32")
        x = layers.Embedding(3, 6, mask_zero=True)(inputs)
        for _ in range(2):
            y = layers.MultiHeadAttention(2, 3)(x, x)
            y = layers.Dropout(0.1)(layers.Dense(6)(y))
            x = layers.Add()([x, y]) if merge == "add" else x + y
        return keras.Model(inputs, layers.Dense(2)(rnn(4)(x)))

    return build


def masked_in_a_nested_model(merge):
    def build():
        inner = keras.Input((5, 6))
        y = layers.Dense(6)(inner)
        y = layers.Add()([inner, y]) if merge == "add" else inner + y
        body = keras.Model(inner, y, name="body")
        inputs = keras.Input((5,), dtype="int32")
        x = body(layers.Embedding(3, 6, mask_zero=True)(inputs))
        return keras.Model(
            inputs, layers.GlobalAveragePooling1D()(layers.LSTM(4, return_sequences=True)(x))
        )

    return build


def masked_features():
    inputs = keras.Input((5, 6))
    x = layers.Masking()(inputs)
    for _ in range(2):
        x = layers.Add()([x, layers.GRU(6, return_sequences=True)(x)])
    return keras.Model(inputs, layers.LSTM(3)(x))


def siamese():
    inner = keras.Input((6,), name="one")
    y = layers.Add(name="sum")([layers.Dense(6, name="dense")(inner), inner])
    tower = keras.Model(inner, y, name="tower")
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    shared = layers.Dense(3, name="shared")
    return keras.Model([a, b], layers.Subtract()([shared(tower(a)), shared(tower(b))]))


def sequential():
    block = keras.Sequential([keras.Input((6,)), residual_mlp(2), layers.Dense(6)], name="block")
    return keras.Sequential([keras.Input((6,)), layers.Rescaling(2.0), block, layers.Dense(2)])


def dictionaries():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    x = layers.Add()([a, layers.Dense(6)(layers.Concatenate()([a, b]))])
    outputs = {"late": layers.Dense(2, name="late")(x), "early": x}
    return keras.Model({"b": b, "a": a}, outputs)


def several_outputs():
    inputs = keras.Input((6,))
    y = layers.Add(name="first")([inputs, layers.Dense(6)(inputs)])
    z = layers.Add(name="second")([layers.Dense(6)(y), y])
    return keras.Model(inputs, [z, (y, inputs)])


def unused_input():
    a, b = keras.Input((6,)), keras.Input((2,))
    return keras.Model([a, b], a + layers.Dense(6)(a))


def optional_input():
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b", optional=True)
    x = Either(name="either")([a, b])
    return keras.Model([a, b], layers.Add()([x, layers.Dense(6)(x)]))


class Either(layers.Layer):
    def call(self, inputs):
        return inputs[0] if inputs[1] is None else inputs[0] + inputs[1]

    def compute_output_shape(self, shapes):
        return shapes[0]


class WithConfig(layers.Layer):
    """A layer as it should be: its constructor's arguments are in its configuration."""

    def __init__(self, units, start=1.0, **kwargs):
        super().__init__(**kwargs)
        self.units, self.start = units, start

    def build(self, shape):
        self.kernel = self.add_weight((shape[-1], self.units), name="kernel")
        self.count = self.add_weight((), trainable=False, name="count")

    def call(self, x):
        return ops.matmul(x, self.kernel) * self.start + self.count

    def get_config(self):
        return {**super().get_config(), "units": self.units, "start": self.start}


class WithoutConfig(WithConfig):
    """Keras finds out what it was made with."""

    get_config = layers.Layer.get_config


class Block(layers.Layer):
    """A layer of layers, which are made where it is built."""

    def build(self, shape):
        self.dense = layers.Dense(shape[-1])
        self.dense.build(shape)
        self.norm = layers.LayerNormalization()
        self.norm.build(shape)
        self.drop = layers.Dropout(0.2)

    def call(self, x, training=False):
        return x + self.drop(self.dense(self.norm(x)), training=training)


def custom_layers():
    inputs = keras.Input((6,))
    x = layers.Add()([inputs, WithConfig(6, start=3.0)(inputs)])
    x = layers.Add()([x, WithoutConfig(6, 2.0)(x)])
    return keras.Model(inputs, Block()(layers.Lambda(lambda x, by: x * by, arguments={"by": 2})(x)))


def recurrent():
    inputs = keras.Input((5, 6))
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(inputs)
    x = layers.Add()([inputs, x])
    y = layers.RNN([layers.GRUCell(4), layers.LSTMCell(6)], return_sequences=True)(x)
    x = layers.Add()([x, layers.TimeDistributed(layers.Dense(6))(y)])
    whole, state = layers.GRU(6, return_sequences=True, return_state=True)(x)
    again = layers.GRU(6, return_sequences=True)(whole, initial_state=state)
    return keras.Model(inputs, layers.Add()([whole, again]))


def operations():
    """Arithmetic, slices, constants, tensors as keyword arguments."""
    inputs = keras.Input((4, 6))
    x = inputs * 2.0 + np.ones((4, 6), "float32")
    y = layers.Dense(6)(ops.concatenate([x[:, 1:], x[:, :1]], axis=1))
    x = ops.sum([2.0, 1.0]) * (x + y)
    z = layers.MultiHeadAttention(2, 2)(query=x, value=x, key=y, use_causal_mask=True)
    x = layers.Add()(inputs=[z, x])
    x = layers.Dense(6)(layers.Dropout(0.1)(inputs=x)) + x
    return keras.Model(inputs=inputs, outputs=ops.mean(x, axis=1, keepdims=True))


def add_layer_called_twice():
    inputs = keras.Input((6,))
    add, dense = layers.Add(name="both"), layers.Dense(6)
    x = add([inputs, dense(inputs)])
    return keras.Model(inputs, add([dense(x), x]))


def normalized():
    inputs = keras.Input((6,))
    norm = layers.Normalization()
    norm.adapt(np.random.default_rng(3).normal(3, 2, (50, 6)))
    x = norm(inputs)
    return keras.Model(inputs, layers.Add()([x, layers.Dense(6)(x)]))


def projected_by_a_nested_model():
    inner = keras.Input((6,))
    shortcut = keras.Model(inner, layers.BatchNormalization()(layers.Dense(4)(inner)), name="pro")
    inputs = keras.Input((6,))
    y = layers.Dense(4)(layers.Dense(9, activation="gelu")(inputs))
    return keras.Model(inputs, layers.Add()([y, shortcut(inputs)]))


NETWORKS = {
    "resnet": (resnet, 2),
    "mlp": (residual_mlp, 3),
    "masked": (masked("add"), 2),
    "masked_plus": (masked("plus"), 2),
    "masked_nested": (masked_in_a_nested_model("add"), 1),
    "masked_nested_plus": (masked_in_a_nested_model("plus"), 1),
    "masked_features": (masked_features, 2),
    "siamese": (siamese, 1),
    "sequential": (sequential, 2),
    "dictionaries": (dictionaries, 1),
    "several_outputs": (several_outputs, 2),
    "unused_input": (unused_input, 1),
    "optional_input": (optional_input, 1),
    "custom_layers": (custom_layers, 2),
    "recurrent": (recurrent, 3),
    "operations": (operations, 2),
    "add_layer_called_twice": (add_layer_called_twice, 2),
    "normalized": (normalized, 1),
    "projected_by_a_nested_model": (projected_by_a_nested_model, 1),
}


@pytest.mark.parametrize("name", reduced(NETWORKS, "resnet", "masked_plus"))
def test_outputs_are_equal_to_the_bit_and_the_rest_is_as_it_was(name):
    build, count = NETWORKS[name]
    model = spread(build())
    new = swapped_as_it_was(model)
    assert len(merges(new)) == count
    assert [x for x in new._flatten_layers() if type(x) is layers.Add] == []
    old_names = [x.name for x in layers_of(model)]
    new_names = [x.name for x in layers_of(new) if not x.name.endswith("_1")]
    assert [x for x in new_names if x in old_names] == [x for x in old_names if x in new_names]


@tensorflow_only
@pytest.mark.parametrize("name", ["siamese", "sequential", "recurrent"])
def test_weights_go_over_and_back(name, tmp_path):
    build, _ = NETWORKS[name]
    model, other = spread(build()), build()
    new = swap_residuals(other)
    with pytest.raises(AssertionError):
        same_outputs(model, new)
    new.set_weights(model.get_weights())
    same_outputs(model, new)
    new = swap_residuals(other)
    model.save_weights(tmp_path / "old.weights.h5")
    new.load_weights(tmp_path / "old.weights.h5")
    same_outputs(model, new)
    new.save_weights(tmp_path / "new.weights.h5")
    other.load_weights(tmp_path / "new.weights.h5")
    same_outputs(model, other)


@tensorflow_only
@pytest.mark.parametrize("name", ["siamese", "masked_plus", "operations"])
def test_loaded_models_are_swapped_and_swapped_ones_load(name, tmp_path):
    model = spread(NETWORKS[name][0]())
    model.save(tmp_path / "old.keras")
    new = swapped_as_it_was(keras.saving.load_model(tmp_path / "old.keras"))
    same_outputs(model, new)
    new.save(tmp_path / "new.keras")
    loaded = keras.saving.load_model(tmp_path / "new.keras")
    same_outputs(model, loaded)
    assert [x.get_config() for x in merges(loaded)] == [x.get_config() for x in merges(new)]
    left = [x.reason for x in find_residuals(loaded).left]
    assert left.count("already a Swapout") == len(merges(new))


@pytest.mark.parametrize(
    "policy, build",
    [("mixed_bfloat16", resnet), *marked(("mixed_float16", masked("plus")), ("float16", resnet))],
)
def test_other_precisions(policy, build):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy(before)
    new = swapped_as_it_was(spread(model))
    if build is resnet:
        one, two = (
            [x.dtype_policy.name for x in m.layers if not isinstance(x, layers.InputLayer)]
            for m in (model, new)
        )
        assert one == two
    assert new.dtype_policy.name == policy  # by which `compile` scales losses
    y = new(batch_for(new), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")


@tensorflow_only
def test_each_layer_has_its_own_policy():
    x = inputs = keras.Input((6,))
    y = layers.Dense(6, dtype="mixed_float16")(x)
    x = layers.Add(dtype="float32")([x, y])
    y = layers.Dense(6, dtype="mixed_bfloat16")(x)
    x = x + y
    x = layers.Add(dtype="mixed_bfloat16")([x, layers.Dense(6)(x)])
    new = swapped_as_it_was(spread(keras.Model(inputs, x)))
    assert [x.compute_dtype for x in merges(new)] == ["float32", "float32", "bfloat16"]


@tensorflow_only
def test_an_optional_input_may_be_left_out():
    model = spread(optional_input())
    same_outputs(model, swap_residuals(model), [np.ones((2, 6), "float32"), None])


@tensorflow_only
def test_what_is_trainable():
    def flags(model):
        parts = [
            x for x in model._flatten_layers() if not isinstance(x, (layers.Add, ks.layers.Swapout))
        ]
        return [(type(x), x.trainable, [v.trainable for v in x.weights]) for x in parts]

    def frozen(name):
        model = sequential() if name == "nested" else NETWORKS[name][0]()
        if name == "nested":
            model.get_layer("block").trainable = False
            model.get_layer("block").get_layer("mlp").get_layer("dense_1").trainable = True
        elif name == "siamese":
            model.get_layer("tower").trainable = False
        elif name == "resnet":
            for layer in model.layers:
                layer.trainable = not isinstance(layer, layers.BatchNormalization)
        elif name == "mlp":
            model.trainable = False
            model.layers[1].trainable = True
        else:
            model.layers[-2].dense.trainable = False
        return model

    model = frozen("nested")
    assert flags(swapped_as_it_was(model)) == flags(model)
    for name in ("siamese", "resnet", "mlp"):
        model = frozen(name)
        assert flags(swapped_as_it_was(model)) == flags(model), name
    model = custom_layers()
    model.layers[-1].dense.trainable = False
    assert flags(swapped_as_it_was(model)) == flags(model)


@tensorflow_only
def test_quantized_and_low_rank_layers():
    model = spread(residual_mlp())
    model.quantize("int8")
    new = swapped_as_it_was(model)
    assert new.get_layer("dense_1").dtype_policy.quantization_mode == "int8"
    model = spread(residual_mlp())
    model.get_layer("dense_1").enable_lora(2)
    spread(model)
    new = swapped_as_it_was(model)
    assert new.get_layer("dense_1").lora_enabled
    trainable = [[v.path for v in x.trainable_variables] for x in (model, new)]
    assert trainable[0] == trainable[1]
    model.quantize("int8")
    swapped_as_it_was(model)


@tensorflow_only
def test_what_preprocessing_has_learnt():
    words = keras.Input((), dtype="string")
    lookup = layers.StringLookup()
    lookup.adapt(np.array(["to", "be", "or", "not", "to", "be"]))
    text = layers.TextVectorization(output_mode="tf_idf")
    text.adapt(np.array(["to be", "or not to be"]))
    numbers = keras.Input((1,))
    bins = layers.Discretization(num_bins=3)
    bins.adapt(np.arange(30.0)[:, None])
    x = layers.Embedding(9, 6)(lookup(words))
    x = layers.Add()([x, layers.Dense(6)(x)])
    model = keras.Model([words, numbers], [x, text(words), bins(numbers)])
    batch = [ops.convert_to_tensor(x) for x in (["be", "not", "that"], [[3.0], [15.0], [28.0]])]
    new = swap_residuals(model)
    same_outputs(model, new, batch)
    assert len(np.unique(array(new(batch)[2]))) == 3


@tensorflow_only
def test_random_states_go_on():
    """The copy draws what the original would have drawn next, in Keras' own layers."""
    inputs = keras.Input((6,))
    x = layers.GaussianNoise(1.0)(layers.Dropout(0.5)(inputs))
    model = keras.Model(inputs, [x, layers.Add()([x, layers.Dense(6)(x)])])
    model(np.ones((2, 6)), training=True)
    new = swap_residuals(model)
    draws = [array(m(np.ones((2, 6)), training=True)[0]) for m in (model, new)]
    np.testing.assert_array_equal(*draws)


@tensorflow_only
def test_statistics_of_batch_normalization_are_kept_and_go_on_apart():
    model = resnet()
    for _ in range(3):
        model(batch_for(model), training=True)
    new = swapped_as_it_was(model)
    new(batch_for(new), training=True)
    with pytest.raises(AssertionError):
        same_outputs(model, new)


# Whose a model is.


class Trained(keras.Model):
    """With a training step of its own, made of inputs and outputs."""

    def train_step(self, data):
        return {"mine": ops.convert_to_tensor(1.0)}


class Renamed(keras.Model):
    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs, name="always")


class Configured(keras.Model):
    """Makes its own graph."""

    def __init__(self, units, **kwargs):
        inputs = keras.Input((units,))
        super().__init__(inputs, inputs + layers.Dense(units)(inputs), **kwargs)


class Chain(keras.Sequential):
    pass


class ChainOf(keras.Sequential):
    def __init__(self, units):
        super().__init__([keras.Input((units,)), residual_mlp(units=units)])


@tensorflow_only
def test_classes_of_models():
    inputs = keras.Input((6,))
    for kind in (Trained, Renamed):
        model = kind(inputs, inputs + layers.Dense(6)(inputs))
        assert type(swapped_as_it_was(model)) is kind
    new = swap_residuals(Trained(inputs, inputs + layers.Dense(6)(inputs), name="trained"))
    new.compile("sgd", "mse")
    history = new.fit(np.ones((2, 6)), np.ones((2, 6)), verbose=0).history
    assert history == {"mine": [1.0]}
    chain = Chain([keras.Input((6,)), residual_mlp()], name="chain")
    assert type(swapped_as_it_was(chain, config=False)) is Chain
    for model, plain in ((Configured(6), keras.Model), (ChainOf(6), keras.Sequential)):
        with pytest.warns(UserWarning, match=rf"becomes a plain keras.{plain.__name__}"):
            new = swap_residuals(model)
        assert isinstance(new, plain)
        assert not isinstance(new, (Configured, ChainOf))
        same_outputs(model, new)


@tensorflow_only
def test_what_the_graph_does_not_call_is_named():
    model = residual_mlp()
    model.aside = layers.Dense(3, name="aside")
    with pytest.warns(UserWarning, match=r"without the layers \['aside'\]"):
        swap_residuals(model)
    inputs = keras.Input((6,))
    model = Trained(inputs, inputs + layers.Dense(6)(inputs))
    model.temperature = 3.0
    model.compile("sgd", "mse")
    with pytest.warns(UserWarning, match=r"without the attributes \['temperature'\]"):
        swap_residuals(model)


@tensorflow_only
def test_nothing_is_said_where_nothing_is_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("resnet", "siamese", "sequential", "dictionaries", "custom_layers"):
            swap_residuals(NETWORKS[name][0]())


@tensorflow_only
def test_a_compiled_model_comes_back_uncompiled():
    model = residual_mlp()
    model.compile("adam", lambda y, p: ops.mean((y - p) ** 2), metrics=["mae"], run_eagerly=True)
    model.fit(np.ones((4, 6)), np.ones((4, 2)), verbose=0)
    new = swapped_as_it_was(model)
    new.compile("adam", "mse", run_eagerly=True)
    assert np.isfinite(new.fit(np.ones((4, 6)), np.ones((4, 2)), verbose=0).history["loss"][0])


@tensorflow_only
def test_layers_that_cannot_be_copied_are_refused():
    class Lost(layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(units)

        def call(self, x):
            return self.dense(x)

        def get_config(self):
            return super().get_config()

    inputs = keras.Input((6,))
    x = layers.Add()([inputs, Lost(6, name="lost")(inputs)])
    with pytest.raises(ValueError, match=r"(?s)Layer 'lost' \(Lost\) can't be copied.*units"):
        swap_residuals(keras.Model(inputs, x))

    class Grown(WithConfig):
        def get_config(self):
            return {**super().get_config(), "units": 1}

    y = layers.Dense(6)(Grown(6, name="grown")(inputs))
    with pytest.raises(ValueError, match=r"'grown' \(Grown\) can't be copied: it has variables of"):
        swap_residuals(keras.Model(inputs, layers.Add()([inputs, y])))


@tensorflow_only
def test_names_that_would_clash():
    """`+` is called add, add_1, ... as `Add` layers may be: where one stays, the other moves."""
    inputs = keras.Input((6,))
    keras.utils.clear_session(free_memory=False)
    x = inputs + layers.Dense(6)(inputs)
    name = x._keras_history.operation.name
    x = layers.Add(name=f"{name}_1")([layers.Dense(6, name="other")(x), x])
    model = keras.Model(inputs, x)
    for where in (None, name, f"{name}_1"):
        new = swapped_as_it_was(model, where=where)
        expected = [name, f"{name}_1"] if where is None else [where]
        assert [x.name for x in merges(new)] == expected
    model = add_layer_called_twice()
    seen = []
    new = swapped_as_it_was(model, where=lambda residual: seen.append(residual) or len(seen) % 2)
    assert len(merges(new)) == 1
    assert sum(type(x) is layers.Add for x in new.layers) == 1


@tensorflow_only
def test_models_that_share_a_part():
    """An auto-encoder: the encoder's graph is the beginning of the whole one's."""
    inputs = keras.Input((6,))
    code = layers.Add(name="in_both")([inputs, layers.Dense(6)(inputs)])
    whole = layers.Add(name="in_one")([code, layers.Dense(6)(code)])
    encoder, auto = (
        keras.Model(inputs, code, name="encoder"),
        keras.Model(inputs, whole, name="auto"),
    )
    x = keras.Input((6,))
    model = keras.Model(x, [encoder(x), auto(x)])
    assert [r.name for r in find_residuals(model)] == ["in_both", "in_one"]
    new = swapped_as_it_was(spread(model), theta_2=[0.9, 0.3])
    assert [x.theta_2 for x in merges(new)] == [0.9, 0.3]


# What is drawn.


#: X = 1 and F(X) = 2 in each unit, so the sum says which of both it was made of, and how often.
THETA_1, THETA_2 = 0.8, 0.4
SUMS = {0.0: 0.2 * 0.6, 1.25: 0.8 * 0.6, 5.0: 0.2 * 0.4, 6.25: 0.8 * 0.4}


class Shares(layers.Layer):
    """Keeps how often each of the sums was among a training batch."""

    def build(self, shape):
        self.seen = self.add_weight((len(SUMS),), trainable=False)

    def call(self, x, training=False):
        if training:
            near = [ops.less(ops.abs(x - value), 1e-3) for value in SUMS]
            self.seen.assign(ops.stack([ops.mean(ops.cast(n, "float32")) for n in near]))
        return x


@pytest.mark.parametrize("where", reduced(["plus", "nested"], "nested"))
def test_units_are_kept_as_often_as_asked_for_in_a_compiled_step(where):
    two = keras.initializers.Constant(2)
    dense = layers.Dense(50, kernel_initializer="zeros", bias_initializer=two)
    inputs = keras.Input((50,))
    y = inputs + dense(inputs) if where == "plus" else layers.Add()([dense(inputs), inputs])
    if where == "nested":
        inner, inputs = keras.Model(inputs, y), keras.Input((50,))
        y = inner(inputs)
    new = swap_residuals(keras.Model(inputs, Shares()(y)), theta_1=THETA_1, theta_2=THETA_2)
    new.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=True)
    ones = np.ones((400, 50), "float32")
    new.fit(ones, ones, batch_size=400, verbose=0)
    np.testing.assert_allclose(array(new.layers[-1].seen), list(SUMS.values()), atol=0.015)
    np.testing.assert_array_equal(array(new(ones)), 3)


def test_a_compiled_step_trains():
    model = resnet()
    new = swap_residuals(model, theta_1=0.9, theta_2=(0.9, 0.5))
    before = [np.array(w) for w in new.get_weights()]
    new.compile("sgd", "mse", jit_compile=True)
    x = batch_for(model, rows=8)
    expected = array(model(x, training=False))
    loss = new.fit(x, np.ones((8, 2)), epochs=2, verbose=0).history["loss"]
    assert np.isfinite(loss).all()
    # JAX's step gives away the buffers of what it trains: none may be the original's.
    np.testing.assert_array_equal(array(model(x, training=False)), expected)
    for a, b, v in zip(before, new.get_weights(), new.weights, strict=True):
        assert np.array_equal(a, b) == (v.name == "bias" and not v.trainable), v.path
    ones = np.ones((9, 40), "float32")
    a, b = (array(merges(new)[0]([ones, ones], training=True)) for _ in range(2))
    assert not np.array_equal(a, b)


@tensorflow_only
def test_every_layer_has_a_seed_of_its_own():
    new = swap_residuals(residual_mlp())
    assert len({array(x.seed_generator.state).tobytes() for x in merges(new)}) == 3
    new = swap_residuals(residual_mlp(), merge=lambda i, n: ks.layers.Swapout(0.9, 0.5, seed=i))
    assert [x.seed for x in merges(new)] == [0, 1, 2]


# The arguments.


@tensorflow_only
def test_thetas_over_depth():
    def thetas(**kwargs):
        return [(x.theta_1, x.theta_2) for x in merges(swap_residuals(residual_mlp(), **kwargs))]

    assert thetas() == [(1.0, 1.0), (1.0, 0.75), (1.0, 0.5)]
    assert thetas(theta_1=0.9, theta_2=0.5) == [(0.9, 0.5)] * 3
    assert thetas(theta_1=(0.8, 1.0), theta_2=[0.1, 0.2, 0.3]) == [
        (0.8, 0.1),
        (0.9, 0.2),
        (1.0, 0.3),
    ]
    assert thetas(theta_2=(0.9, 0.7), where=["add_0", "add_2"]) == [(1.0, 0.9), (1.0, 0.7)]
    assert thetas(theta_2=[0.4], where="add_1") == [(1.0, 0.4)]


@tensorflow_only
def test_without_rescaling_inference_multiplies_as_in_the_paper():
    inputs = keras.Input((6,))
    model = spread(keras.Model(inputs, [inputs, layers.Dense(6, name="f")(inputs)]))
    whole = keras.Model(inputs, layers.Add()([inputs, model.get_layer("f").output]))
    x = batch_for(whole)
    new = swap_residuals(whole, theta_1=0.5, theta_2=0.25, rescale=False)
    first, second = map(array, model(x))
    np.testing.assert_allclose(array(new(x)), 0.5 * first + 0.25 * second, rtol=1e-6)


@tensorflow_only
def test_other_merges():
    model = spread(siamese())
    depth = ks.schedules.per_block(ks.layers.StochasticDepth, survival_probability=0.5)
    new = swap_residuals(model, merge=depth)
    (layer,) = merges(new)
    assert (type(layer), layer.shortcut, layer.name) == (ks.layers.StochasticDepth, 1, "sum")
    # One of somebody else's is called on [x, fx], wherever the shortcut is.
    new = swap_residuals(model, merge=lambda i, n: layers.Subtract())
    pair = spread(
        keras.Model(
            model.get_layer("tower").input, model.get_layer("tower").get_layer("dense").output
        )
    )
    pair.set_weights(model.get_layer("tower").get_weights())
    x = np.ones((2, 6), "float32")
    np.testing.assert_allclose(array(new.get_layer("tower")(x)), x - array(pair(x)), rtol=1e-6)
    new = swap_residuals(model, merge=ks.layers.Swapout(0.9, 0.9, rescale=True))
    same_outputs(model, new)


@tensorflow_only
def test_where():
    def names(where):
        return [x.name for x in merges(swap_residuals(residual_mlp(), where=where))]

    assert names("add_1") == ["add_1"]
    assert names(["add_2", "add_0"]) == ["add_0", "add_2"]
    assert names(lambda r: r.branch == "Dense" and r.name != "add_1") == ["add_0", "add_2"]
    model = sequential()
    assert [x.where for x in find_residuals(model)] == ["block/mlp/add_0", "block/mlp/add_1"]
    for where in ("add_1", "block/mlp/add_1", lambda r: r.where.endswith("mlp/add_1")):
        assert [x.name for x in merges(swap_residuals(model, where=where))] == ["add_1"]


def drops_at_the_end(layer, merge="add"):
    def block(x, i):
        y = layer(layers.Dense(6, name=f"dense_{i}")(x))
        return layers.Add(name=f"add_{i}")([x, y]) if merge == "add" else x + y

    inputs = keras.Input((6,))
    return keras.Model(inputs, block(block(inputs, 0), 1))


class DropPath(layers.Layer):
    """As many a library has it. No mask passes."""

    def __init__(self, drop_prob, **kwargs):
        super().__init__(**kwargs)
        self.drop_prob = drop_prob

    def call(self, x, training=False):
        return x

    def get_config(self):
        return {**super().get_config(), "drop_prob": self.drop_prob}


class StochasticDepthAsInThePaper(DropPath):
    def call(self, x, training=False):
        return x if training else x * (1 - self.drop_prob)


class DropPathByProduct(DropPath):
    def call(self, x, training=False):
        return x * 1.0


class StochasticDepthBlock(layers.Layer):
    """A whole block, by its name no other than a layer that drops."""

    def build(self, shape):
        self.kernel = self.add_weight(shape[-1:])

    def call(self, x):
        return x * self.kernel


@tensorflow_only
@pytest.mark.parametrize("existing", ["replace", "keep"])
def test_what_the_branch_ends_in_already(existing):
    for layer in (layers.Dropout(0.2), layers.Dropout(0.2, noise_shape=(None, 1)), DropPath(0.2)):
        model = drops_at_the_end(layer)
        assert {x.drop for x in find_residuals(model)} <= {"Dropout 0.2", "DropPath"}
        new = swapped_as_it_was(model, existing=existing)
        kept = [x for x in new.layers if x.name == layer.name]
        assert len(kept) == (existing == "keep")


@tensorflow_only
def test_what_the_branch_ends_in_stays_where_outputs_would_change():
    model = drops_at_the_end(StochasticDepthAsInThePaper(0.2, name="paper"))
    with pytest.warns(UserWarning, match="keeps 'paper'.* does not pass its input at inference"):
        new = swapped_as_it_was(spread(model))
    assert new.get_layer("paper")
    model = drops_at_the_end(StochasticDepthBlock(name="block"))
    assert [x.drop for x in find_residuals(model)] == ["", ""]
    assert swapped_as_it_was(spread(model)).get_layer("block")
    inputs = keras.Input((6,))
    y = layers.Dropout(0.5, name="always")(layers.Dense(6)(inputs), training=True)
    new = swap_residuals(keras.Model(inputs, layers.Add()([inputs, y])))
    assert new.get_layer("always")


@tensorflow_only
@pytest.mark.parametrize("kind", ["DropPath", "DropPathByProduct"])
@pytest.mark.parametrize("nested", [False, True])
def test_masks_pass_without_the_layer_as_with_it(nested, kind):
    """It supports none; but where it returns its input as it is, the mask is still there."""
    drop = {"DropPath": DropPath, "DropPathByProduct": DropPathByProduct}[kind]
    inner = keras.Input((5, 6))
    y = drop(0.1)(layers.Dense(6)(inner))
    body = keras.Model(inner, layers.Add()([inner, y]))
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(3, 6, mask_zero=True)(inputs)
    x = body(x) if nested else layers.Add()([x, drop(0.1)(layers.Dense(6)(x))])
    model = keras.Model(inputs, layers.LSTM(4)(x))
    new = swapped_as_it_was(spread(model))
    assert not any(isinstance(x, DropPath) for x in new._flatten_layers())


@tensorflow_only
def test_a_nested_model_that_is_called_in_inference_mode():
    """Since Keras 3 `fit` says training=True to all layers, whatever they were called with.

    Should that change, nothing would be dropped in there, and `swap_residuals` has to say so.
    """
    outer = keras.Input((6,))
    model = keras.Model(outer, residual_mlp(2, name="backbone")(outer, training=False))
    new = swapped_as_it_was(spread(model), theta_2=0.5)
    a, b = (array(new(np.ones((9, 6)), training=True)) for _ in range(2))
    assert not np.array_equal(a, b)


@tensorflow_only
def test_refusals():
    model = sequential()
    two = residual_mlp(2, name="two")
    inputs = keras.Input((6,))
    ambiguous = keras.Model(inputs, residual_mlp(1, 2, "b")(residual_mlp(1, name="a")(inputs)))
    cases = [
        ("no model", TypeError, r"Argument `model` must be a keras.Model.*'no model'", {}),
        (keras.Sequential([layers.Dense(2)]), ValueError, "does not know its input", {}),
        (Subclassed(), ValueError, r"\(Subclassed\) has a `call` of its own.*set_rates", {}),
        (ks.RBlock(swap_residuals(two)), ValueError, r"operate on its `.model`", {}),
        (plain(), ValueError, r"no residual addition found.*left, 1: 3 operands: near", {}),
        (model, ValueError, r"`where`: 'add' is none of the 2 .*Near: 'block/mlp/add_0'", "add"),
        (model, ValueError, r"`where`: it is true of none of the 2", lambda r: False),
        (
            ambiguous,
            ValueError,
            r"'add_0' is the name of several .*\['a/add_0', 'b/add_0'\]",
            "add_0",
        ),
        (with_left(), ValueError, r"'left' is none of the residual additions: 3 operands", "left"),
        (model, TypeError, r"Argument `where` must be names.*Received: where=3", 3),
        (model, ValueError, r"Argument `where` must be at least one.*where=\[\]", []),
        (
            model,
            ValueError,
            r"`theta_2` must be a number, a pair .* or 2 numbers",
            {"theta_2": [1.0] * 3},
        ),
        (model, ValueError, r"`theta_1\[1\]` must be a number in \[0, 1\]", {"theta_1": (1, 2)}),
        (model, TypeError, r"`theta_1` must be a number", {"theta_1": "high"}),
        (model, ValueError, r"`rescale` must be False unless", {"theta_2": 0.0}),
        (model, TypeError, r"`rescale` must be True or False", {"rescale": 1}),
        (model, ValueError, r"`existing` must be one of", {"existing": "drop"}),
        (model, TypeError, r"`merge` must be a layer, or a function", {"merge": layers.Add}),
        (model, TypeError, r"`merge` must be a layer.*it returned", {"merge": lambda i, n: 3}),
        (model, ValueError, r"with a `merge` they are", {"merge": layers.Add(), "theta_1": 0.5}),
    ]
    same = layers.Subtract()
    cases.append((model, ValueError, "must make a new layer", {"merge": lambda i, n: same}))
    for network, error, message, kwargs in cases:
        kwargs = kwargs if isinstance(kwargs, dict) else {"where": kwargs}
        with pytest.raises(error, match=f"(?s){message}"):
            swap_residuals(network, **kwargs)


class Subclassed(keras.Model):
    def call(self, x):
        return x


def plain():
    inputs = keras.Input((6,))
    x = layers.Add(name="near")([inputs, layers.Dense(6)(inputs), inputs])
    return keras.Model(inputs, x)


def with_left():
    inputs = keras.Input((6,))
    x = layers.Add(name="left")([inputs, layers.Dense(6)(inputs), inputs])
    return keras.Model(inputs, x + layers.Dense(6)(x))
