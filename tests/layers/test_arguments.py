"""What the layers, `adjust` and `Ramp` refuse, and that each says which argument it was."""

import keras
import numpy as np
import pytest
from refusals import INF, NAN, NO_FLAG, NO_INT, NO_NUMBER, NO_PROBABILITY, NO_TEXT, refuses

import keras_swapout as ks
from keras_swapout.layers import (
    BDropDML,
    DropBlock2D,
    Dropout,
    DropPath,
    ResidualDropout,
    SDropDML,
    SkipForward,
    StochasticDepth,
    Swapout,
)

pytestmark = pytest.mark.tensorflow  # no backend changes what is said here

#: For each kind of argument what has a wrong type and what a wrong value.
WRONG = {
    "keep": (NO_NUMBER, NO_PROBABILITY),
    "drop": (NO_NUMBER, (*NO_PROBABILITY, 1, 1.0, np.float32(1))),
    "flag": (NO_FLAG, ()),
    "text": (NO_TEXT, ("both", "", "UNIT")),
    "data_format": (NO_TEXT[1:], ("NHWC", "channels_middle")),
    "seed": (NO_INT[1:], (-1, 2**31, 10**400)),
    "which": (NO_INT, (-1, 2, 10**400)),
    "block_size": (
        (*(x for x in NO_INT if not isinstance(x, tuple)), (3, 2.5), (3, True), [3, None]),
        (0, -3, (), [], (3, 0), (3, 2**31)),
    ),
}
SHARED = {"data_format": "data_format", "adjustable": "flag", "seed": "seed"}
MERGE = {"granularity": "text", "rescale": "flag", "shortcut": "which", **SHARED}
LAYERS = {
    Swapout: {"theta_1": "keep", "theta_2": "keep", "coupling": "text", **MERGE},
    ResidualDropout: {"theta": "keep", **MERGE},
    SkipForward: {"theta": "keep", **MERGE},
    StochasticDepth: {"survival_probability": "keep", **MERGE},
    BDropDML: {"rate": "drop", **SHARED},
    SDropDML: {"rate": "drop", "block_size": "block_size", "per_channel": "flag", **SHARED},
    DropBlock2D: {"rate": "drop", "block_size": "block_size", **SHARED},
    Dropout: {"rate": "drop", "granularity": "text", **SHARED},
    DropPath: {"rate": "drop", "granularity": "text", "rescale": "flag", **SHARED},
}


@pytest.mark.parametrize("layer, kinds", LAYERS.items(), ids=lambda x: getattr(x, "__name__", ""))
def test_arguments_of_a_layer(layer, kinds):
    least = {"rate": 0.5} if "rate" in kinds else {}
    assert {*kinds} == {*layer(**least).arguments, *SHARED}
    for name, kind in kinds.items():
        types, values = WRONG[kind]
        call = lambda value, name=name: layer(**{**least, name: value})  # noqa: E731
        refuses(call, name, types, TypeError)
        refuses(call, name, values, ValueError)
        if kind in ("keep", "drop"):
            with pytest.raises(TypeError, match=r"schedules\.per_block` makes a schedule"):
                call((1, 0.3))


@pytest.mark.parametrize("layer", LAYERS, ids=lambda x: x.__name__)
def test_the_first_line_says_what_the_number_is_the_probability_of(layer):
    first = layer.__doc__.splitlines()[0]
    assert ("KEEPING" in first) == issubclass(layer, Swapout) != ("DROPPING" in first)


def test_numbers_of_numpy_are_numbers():
    layer = Swapout(np.float32(0.5), np.float64(0.25), rescale=np.True_, seed=np.int64(3))
    assert (layer.theta_1, layer.theta_2, layer.rescale, layer.seed) == (0.5, 0.25, True, 3)
    layer = SDropDML(np.float32(0.5), (np.int64(3), np.int32(2)), per_channel=np.False_)
    assert (layer.rate, layer.block_size, layer.per_channel) == (0.5, (3, 2), False)
    assert all(type(x) in (int, float, bool) for x in (layer.rate, layer.per_channel))


def test_thetas_have_to_fit_the_coupling():
    for coupling, theta_1, theta_2 in [("shared", 0.5, 0.6), ("complementary", 0.4, 0.4)]:
        with pytest.raises(ValueError, match=f"`theta_2`.*{coupling}.*Received: theta_2={theta_2}"):
            Swapout(theta_1, theta_2, coupling)
    assert Swapout(0.9, 0.1, "complementary").theta_2 == 0.1  # 1 - 0.9 is not 0.1 in binary
    assert SkipForward(0.9).theta_2 == pytest.approx(0.1)
    for thetas in ({"theta_1": 0}, {"theta_2": 0.0}, {"theta_1": 2**-18}):
        with pytest.raises(ValueError, match=r"`rescale` must be False.*Received: rescale=True"):
            Swapout(**thetas, rescale=True)


def test_dropblock_wants_a_pair():
    refuses(lambda size: DropBlock2D(0.5, size), "block_size", [(3,), (3, 3, 3)], ValueError)


@pytest.mark.parametrize(
    "layer, values, error, words",
    [
        (Swapout(), dict(theta_1=0.3), ValueError, "adjustable=True"),
        (SDropDML(0.2, adjustable=True), dict(block_size=2), ValueError, "'rate'.*block_size"),
        (Swapout(0.7, 0.3, "complementary", adjustable=True), dict(theta_1=0.2), ValueError,
         "`theta_2` must be 0[.]8"),
        (Swapout(rescale=True, adjustable=True), dict(theta_1=0), ValueError, "`rescale`"),
        (Swapout(adjustable=True), dict(theta_1=(1, 0.3)), TypeError, "per_block"),
    ],
)  # fmt: skip
def test_adjust_refuses(layer, values, error, words):
    before = layer.get_config()
    with pytest.raises(error, match=words):
        layer.adjust(**values)
    assert layer.get_config() == before
    if layer.adjustable:
        adjusted = keras.ops.convert_to_numpy(layer.adjusted)
        np.testing.assert_allclose(adjusted, layer._held())


@pytest.mark.parametrize("make, kind", [(ResidualDropout, "keep"), (BDropDML, "drop")])
def test_adjust_refuses_what_the_constructor_does(make, kind):
    layer, (types, values) = make(0.5, adjustable=True), WRONG[kind]
    (name,) = layer.adjustments()
    refuses(lambda value: layer.adjust(**{name: value}), name, types, TypeError)
    refuses(lambda value: layer.adjust(**{name: value}), name, values, ValueError)


def test_epochs_of_a_ramp():
    refuses(ks.callbacks.Ramp, "epochs", (*NO_NUMBER, (1, 2)), TypeError)
    refuses(ks.callbacks.Ramp, "epochs", (0, -1, NAN, INF), ValueError)


def test_granularities_of_other_layers_are_refused():
    refuses(lambda value: Dropout(0.5, value), "granularity", ["batch"], ValueError)
    refuses(lambda value: DropPath(0.5, value), "granularity", ["unit", "channel"], ValueError)


# What a layer with a rate is called on; for a merge see test_swapout.

REGIONS = [
    BDropDML(0.3),
    BDropDML(0),
    SDropDML(0.3),
    SDropDML(0.3, (3, 3)),
    DropBlock2D(0.3),
    Dropout(0.3),
    DropPath(0.3, rescale=False),
]
IMAGES = np.ones((2, 6, 6, 3), "float32")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("layer", REGIONS, ids=lambda layer: type(layer).__name__)
def test_inputs_of_a_wrong_kind(layer, training):
    for inputs, received in [
        (IMAGES.astype("int32"), "int32"),
        (keras.ops.ones(IMAGES.shape, "int32"), "int32"),
        (keras.Input((6, 6, 3), dtype="int32"), "int32"),
        (IMAGES > 0, "bool"),
        (IMAGES.astype("complex64"), "complex64"),
        ([IMAGES, IMAGES], "<class 'list'>"),
        ({"images": IMAGES}, "<class 'dict'>"),
        (None, "<class 'NoneType'>"),
        (1.0, "<class 'float'>"),
    ]:
        with pytest.raises(TypeError) as raised:
            layer(inputs, training=training)
        assert str(raised.value) == (
            f"Argument `inputs` of layer {layer.name!r} must be a tensor of floating dtype. "
            f"Received: {received}"
        )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "layer, shape, rank",
    [
        (Dropout(0.5), (), ">= 1"),
        (DropPath(0.5), (), ">= 1"),
        (BDropDML(0.5), (8,), ">= 2"),
        (SDropDML(0.5), (8, 4), ">= 3"),
        (SDropDML(0.5, (3, 3)), (8, 6, 4), "4"),
        (SDropDML(0.5, (3,)), (8, 6, 6, 4), "3"),
        (DropBlock2D(0.5), (8, 6, 4), "4"),
        (DropBlock2D(0.5), (8, 6, 6, 6, 4), "4"),
    ],
)
def test_inputs_of_a_wrong_rank(layer, shape, rank, training):
    with pytest.raises(ValueError) as raised:
        layer(np.ones(shape, "float32"), training=training)
    message = f"`inputs` of layer {layer.name!r} must have rank {rank}. Received: shape {shape}"
    assert message in str(raised.value)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool"])
@pytest.mark.parametrize(
    "make", [lambda **k: Swapout(0.5, 0.5, **k), lambda **k: BDropDML(0.3, **k)]
)
def test_a_layer_of_integers_is_refused(make, dtype):
    with pytest.raises(TypeError, match=f"`dtype` must be a floating dtype.*{dtype}"):
        make(dtype=dtype)
