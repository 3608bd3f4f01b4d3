import itertools

import keras
import numpy as np
import pytest
from backends import reduced
from refusals import NO_INT, NO_SIZE, refuses

import keras_swapout as ks
from keras_swapout.models import ResNetV1, ResNetV2

BACKEND = keras.backend.backend()
BUILDERS = pytest.mark.parametrize("build", [ResNetV1, ResNetV2])


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def merged(build, **arguments):
    """The model and, in order, the layers that merge its blocks."""
    adds = []

    def merge(block, blocks):
        adds.append(keras.layers.Add())
        return adds[-1]

    return build(merge=merge, **arguments), adds


@pytest.fixture
def channels_first():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format(before)


def parameters(version, depth, width, classes=10, channels=3):
    """Trainable parameters by hand: convolutions with biases, two for each normalised channel."""
    conv = lambda size, a, b: size * size * a * b + b  # noqa: E731
    sizes = [16 * width, 32 * width, 64 * width]
    total = conv(3, channels, sizes[0]) + 2 * (sizes[0] if version == 1 else sizes[2])
    before = sizes[0]
    for size, block in itertools.product(sizes, range((depth - 2) // 6)):
        total += conv(3, before, size) + conv(3, size, size) + 2 * size
        total += 2 * (size if version == 1 else before)
        if block == 0 and size != sizes[0]:
            total += conv(1, before, size) + (2 * size if version == 1 else 0)
        before = size
    return total + sizes[2] * classes + classes


@BUILDERS
@pytest.mark.tensorflow
@pytest.mark.parametrize("depth, width, millions", [(20, 2, 1.09), (32, 4, 7.43)])
def test_parameters_of_the_swapout_networks(build, depth, width, millions):
    model = build(depth, width)
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert round(count / 1e6, 2) == millions
    assert count == parameters(1 if build is ResNetV1 else 2, depth, width)


@BUILDERS
@pytest.mark.tensorflow
def test_parameters_of_another_network(build):
    model = build(14, 3, classes=7, input_shape=(8, 8, 5))
    count = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert count == parameters(1 if build is ResNetV1 else 2, 14, 3, classes=7, channels=5)


@pytest.mark.tensorflow
@BUILDERS
@pytest.mark.parametrize(
    "shape, stages",
    [
        ((9, 13, 3), [(9, 13), (5, 7), (3, 4)]),
        ((None, 16, 2), [(None, 16), (None, 8), (None, 4)]),
    ],
)
def test_shapes_of_the_stages(build, shape, stages):
    model, adds = merged(build, depth=14, width=2, input_shape=shape, classes=4)
    shapes = [tuple(add.output.shape) for add in adds]
    expected = [(None, *sides, 32 * 2**stage) for stage, sides in enumerate(stages) for _ in "ab"]
    assert shapes == expected
    assert model.input_shape == (None, *shape) and model.output_shape == (None, 4)


@pytest.mark.tensorflow
@BUILDERS
def test_one_model_for_images_of_any_size(build):
    model = build(8, input_shape=(None, None, 1), classes=3)
    rng = np.random.default_rng(0)
    for sides in [(8, 8), (9, 13)]:
        y = array(model(rng.normal(size=(2, *sides, 1)).astype("float32")))
        assert y.shape == (2, 3)
        np.testing.assert_allclose(y.sum(1), 1, rtol=1e-5)


@pytest.mark.tensorflow
@BUILDERS
def test_classifier_activation(build):
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1)).astype("float32")
    logits = build(8, input_shape=(8, 8, 1), classifier_activation=None)
    softmax = build(8, input_shape=(8, 8, 1))
    softmax.set_weights(logits.get_weights())
    exponentials = np.exp(array(logits(x)))
    expected = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(array(softmax(x)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.tensorflow
@BUILDERS
def test_merge_is_asked_once_for_each_block_in_order(build, depth=14):
    asked = []

    def merge(block, blocks):
        asked.append((block, blocks))
        return keras.layers.Add()

    build(depth, input_shape=(8, 8, 1), merge=merge)
    assert asked == [(block, (depth - 2) // 2) for block in range((depth - 2) // 2)]


@pytest.mark.tensorflow
@BUILDERS
def test_merge_sees_the_shortcut_first(build):
    """With F(X) cut off, only X is left: the convolutions within the blocks don't matter."""
    merge = lambda block, blocks: ks.layers.Swapout(1, 0)  # noqa: E731
    model = build(8, input_shape=(8, 8, 1), merge=merge)
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    before = array(model(x))
    for layer in model.layers:
        if getattr(layer, "kernel_size", None) == (3, 3) and layer.name != "stem":
            layer.kernel.assign(100 * keras.ops.ones(layer.kernel.shape))
    np.testing.assert_array_equal(array(model(x)), before)


@pytest.mark.parametrize("build", reduced([ResNetV1, ResNetV2], ResNetV2))
def test_plain_is_swapout_with_ones(build):
    plain = build(8, input_shape=(8, 8, 3))
    merge = ks.schedules.per_block(ks.layers.Swapout, theta_1=1, theta_2=1)
    ones = build(8, input_shape=(8, 8, 3), merge=merge)
    ones.set_weights(plain.get_weights())
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    for training in (False, True):
        outputs = [array(model(x, training=training)) for model in (plain, ones)]
        np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-7)


@pytest.mark.tensorflow
@BUILDERS
def test_v2_is_linear_after_the_merge_and_v1_is_not(build):
    """Y = merge(X, F) is signed in version 2; version 1 ends a block with a ReLU."""
    model, adds = merged(build, depth=8, input_shape=(8, 8, 1))
    consumer = next(layer for layer in model.layers if any(
        getattr(parent.operation, "name", None) == adds[0].name
        for node in layer._inbound_nodes for parent in node.parent_nodes
    ))  # fmt: skip
    kind = keras.layers.ReLU if build is ResNetV1 else keras.layers.BatchNormalization
    assert isinstance(consumer, kind)


@pytest.mark.tensorflow
@BUILDERS
def test_bad_arguments(build):
    def of(name, **others):
        return lambda value: build(**{"depth": 8, "input_shape": (8, 8, 1), name: value, **others})

    for name, wrong in [("depth", (9, 2, -4)), ("width", (0, -1)), ("classes", (0, -1))]:
        refuses(of(name), name, NO_INT, TypeError)
        refuses(of(name), name, wrong, ValueError)
    shapes = (*NO_SIZE[:-1], 32, (8.0, 8, 1), (8, 8, True), "881", np.array([8, 8, 1]))
    refuses(of("input_shape"), "input_shape", shapes, TypeError)
    shapes = ((), (32, 32), (1, 8, 8, 1), (7, 8, 1), (8, -8, 1), (8, 8, 0), (8, 8, None))
    refuses(of("input_shape"), "input_shape", shapes, ValueError)
    merges = (0.5, "add", keras.layers.Add(), ks.layers.Swapout, np.array(1))
    refuses(of("merge"), "merge", merges, TypeError)
    for nothing in (None, keras.layers.Add, 0.5):
        with pytest.raises(TypeError, match=r"`merge` must return.*merge\(0, 3\) = "):
            build(8, merge=lambda block, blocks, nothing=nothing: nothing)
    name = "classifier_activation"
    refuses(of(name), name, (b"softmax", 1, True, [], np.array("softmax")), TypeError)
    refuses(of(name), name, ("softmaxx",), ValueError)
    refuses(of("name"), "name", (b"net", 1, False, ["net"]), TypeError)


@pytest.mark.tensorflow
def test_numbers_of_numpy_build_a_network():
    eight, one = np.int64(8), np.int32(1)
    assert ResNetV1(eight, one, one, (eight, eight, one)).name == "resnet8v1"


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "module",
    [ks.callbacks, ks.layers, ks.models, ks.random, ks.schedules],
    ids=lambda m: m.__name__,
)
def test_dir_shows_the_public_names(module):
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.tensorflow  # JAX compiles each operation; test_modes and test_fit have it
def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        merge = ks.schedules.per_block(ks.layers.Swapout, theta_1=(1, 0.5), theta_2=0.9)
        model = ResNetV2(8, input_shape=(8, 8, 1), merge=merge)
    finally:
        keras.config.set_dtype_policy("float32")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    y = model(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert np.isfinite(array(keras.ops.cast(y, "float32"))).all()
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}


@BUILDERS
def test_channels_first(build, channels_first):
    model, adds = merged(build, depth=8, input_shape=(3, 9, 13))
    shapes = [tuple(add.output.shape) for add in adds]
    assert shapes == [(None, 16, 9, 13), (None, 32, 5, 7), (None, 64, 3, 4)]
    assert model.output_shape == (None, 10)


@pytest.mark.skipif(BACKEND == "tensorflow", reason="no channels-first convolution on a CPU")
def test_channels_first_computes_the_same(channels_first, build=ResNetV2):
    first = build(8, input_shape=(3, 9, 13))
    keras.config.set_image_data_format("channels_last")
    last = build(8, input_shape=(9, 13, 3))
    last.set_weights(first.get_weights())
    x = np.random.default_rng(0).normal(size=(2, 9, 13, 3)).astype("float32")
    y = array(first(np.moveaxis(x, -1, 1).copy()))
    np.testing.assert_allclose(y, array(last(x)), rtol=1e-4, atol=1e-5)
