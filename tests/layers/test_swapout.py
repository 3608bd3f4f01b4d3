"""What one draw is, how often, what shares it, and what inference makes of it."""

import itertools

import keras
import numpy as np
import pytest
from backends import marked
from scipy import stats

from keras_swapout.layers import ResidualDropout, SkipForward, StochasticDepth, Swapout

COUPLINGS = ("independent", "shared", "complementary")
GRANULARITIES = ("unit", "channel", "sample", "batch")
#: theta_1, theta_2 for each coupling, and the shares of the outcomes 0, X, F and X + F.
THETAS = {"independent": (0.7, 0.4), "shared": (0.7, 0.7), "complementary": (0.7, 0.3)}
SHARES = {
    "independent": (0.3 * 0.6, 0.7 * 0.6, 0.3 * 0.4, 0.7 * 0.4),
    "shared": (0.3, 0, 0, 0.7),
    "complementary": (0, 0.7, 0.3, 0),
}
#: A fixed seed draws once; a correct sampler fails one seed in 10,000. Frequencies are tested under
#: one backend: all draw the same bits, those of NumPy (test_modes).
P = 1e-4


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def pair(shape, dtype="float32"):
    rng = np.random.default_rng(0)
    return rng.normal(size=shape).astype(dtype), rng.normal(size=shape).astype(dtype)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_outputs_are_legal(coupling, granularity="unit"):
    x, fx = pair((64, 5, 5, 8))
    layer = Swapout(*THETAS[coupling], coupling, granularity, seed=11)
    y = array(layer([x, fx], training=True))
    outcomes = (np.zeros_like(x), x, fx, x + fx)
    legal = [outcome for outcome, share in zip(outcomes, SHARES[coupling], strict=True) if share]
    assert np.any([y == outcome for outcome in legal], axis=0).all()


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "coupling, granularity",
    [
        *(("independent", granularity) for granularity in GRANULARITIES),
        ("shared", "channel"),
        ("complementary", "sample"),
    ],
)
def test_frequencies_of_the_four_outcomes(coupling, granularity, draw):
    layer = Swapout(*THETAS[coupling], coupling, granularity, seed=5)
    shape, calls = {
        "unit": ((50, 8, 8, 5), 1),
        "channel": ((500, 2, 2, 8), 1),
        "sample": ((4000, 2, 3), 1),
        "batch": ((2, 3), 200),
    }[granularity]
    draws = [draw(layer, shape) for _ in range(calls)]
    # One unit for each draw: the others only repeat it.
    one = {
        "unit": np.s_[:],
        "channel": np.s_[:, 0, 0],
        "sample": np.s_[:, 0, 0],
        "batch": np.s_[:1, 0],
    }[granularity]
    outcome = np.concatenate([(a[one] + 2 * b[one]).ravel() for a, b in draws])
    observed = np.bincount(outcome, minlength=4)
    shares = np.array(SHARES[coupling])
    assert observed[shares == 0].sum() == 0
    expected = len(outcome) * shares[shares > 0]
    assert stats.chisquare(observed[shares > 0], expected).pvalue > P


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "granularity, data_format, shape, shared",
    [
        ("unit", "channels_last", (32, 6, 7, 16), ()),
        ("channel", "channels_last", (32,), ()),
        ("channel", "channels_last", (32, 16), ()),
        ("channel", "channels_first", (32, 16), ()),
        ("channel", "channels_first", (32, 16, 6), (2,)),
        ("channel", "channels_last", (32, 6, 7, 16), (1, 2)),
        ("channel", "channels_first", (32, 16, 3, 4, 5), (2, 3, 4)),
        ("sample", "channels_last", (32,), ()),
        ("sample", "channels_first", (32, 6, 7, 16), (1, 2, 3)),
        ("batch", "channels_last", (32, 6, 7, 16), (0, 1, 2, 3)),
    ],
)
def test_granularity(granularity, data_format, shape, shared, draw):
    layer = Swapout(0.5, 0.5, granularity=granularity, data_format=data_format, seed=1)
    for mask in draw(layer, shape):
        assert mask.shape == shape
        # Along a shared axis all are as the first; along another, some differ from the first.
        same = [(mask == mask.take([0], axis)).all() for axis in range(len(shape))]
        assert same == [axis in shared for axis in range(len(shape))]


def test_granularity_channel_follows_the_global_image_data_format(draw):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        layer = Swapout(granularity="channel", seed=1)
    finally:
        keras.config.set_image_data_format(before)
    mask, _ = draw(layer, (8, 16, 5, 5))
    assert (mask == mask[:, :, :1, :1]).all()
    assert 0 < mask.mean() < 1


@pytest.mark.parametrize(
    "theta_1, theta_2, granularity",
    [(0, 1, "unit"), (1, 0, "unit"), *marked((0, 0, "unit"), (1, 1, "unit"), (0, 1, "channel"))],
)
def test_zero_and_one_are_exact(theta_1, theta_2, granularity, draw):
    shape = (2**20,) if granularity == "unit" else (2**14, 1, 2**6)
    masks = draw(Swapout(theta_1, theta_2, granularity=granularity, seed=3), shape)
    for theta, mask in zip((theta_1, theta_2), masks, strict=True):
        assert (mask == bool(theta)).all()


@pytest.mark.tensorflow
@pytest.mark.parametrize("rare", [2**-16, 2**-13])
def test_rare_outcomes_happen_as_often_as_they_should(rare, draw):
    kept, dropped = draw(Swapout(rare, 1 - rare, seed=4), (2**20,))
    for count in (kept.sum(), (~dropped).sum()):
        assert stats.binomtest(int(count), 2**20, rare).pvalue > P


def test_skip_forward_is_one_or_the_other(draw):
    x, fx = pair((64, 9))
    y = array(SkipForward(0.3, seed=2)([x, fx], training=True))
    taken, _ = draw(SkipForward(0.3, seed=2), (64, 9))
    np.testing.assert_array_equal(y, np.where(taken, x, fx))
    assert stats.binomtest(int(taken.sum()), taken.size, 0.3).pvalue > P
    np.testing.assert_allclose(array(SkipForward(0.3)([x, fx])), 0.3 * x + 0.7 * fx, atol=1e-6)


def test_residual_dropout_drops_the_sum(draw):
    x, fx = pair((64, 9))
    y = array(ResidualDropout(0.3, seed=2)([x, fx], training=True))
    kept, _ = draw(ResidualDropout(0.3, seed=2), (64, 9))
    np.testing.assert_array_equal(y, kept * (x + fx))
    assert stats.binomtest(int(kept.sum()), kept.size, 0.3).pvalue > P
    np.testing.assert_allclose(array(ResidualDropout(0.3)([x, fx])), 0.3 * (x + fx), atol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_stochastic_depth_drops_the_block(granularity):
    x, fx = pair((8, 3, 4))
    layer = StochasticDepth(0.8, granularity=granularity, seed=2)
    kept = []
    for _ in range(100):
        y = array(layer([x, fx], training=True))
        whole = (y == x + fx).all((1, 2))
        assert (whole | (y == x).all((1, 2))).all()
        kept.append(whole)
    if granularity == "batch":
        assert all(len(set(step)) == 1 for step in kept)
        kept = [step[0] for step in kept]
    kept = np.ravel(kept)
    assert stats.binomtest(int(kept.sum()), kept.size, 0.8).pvalue > P
    np.testing.assert_allclose(array(layer([x, fx])), x + 0.8 * fx, atol=1e-6)


def test_stochastic_depth_is_for_the_whole_batch_unless_told(draw):
    _, block = draw(StochasticDepth(0.5), (64, 4))
    assert len(np.unique(block)) == 1


@pytest.mark.tensorflow
def test_special_cases_are_swapout(draw):
    cases = [
        (SkipForward(0.3, seed=9), Swapout(0.3, 0.7, "complementary", seed=9)),
        (ResidualDropout(0.3, seed=9), Swapout(0.3, 0.3, "shared", seed=9)),
        (StochasticDepth(0.3, seed=9), Swapout(1, 0.3, granularity="batch", seed=9)),
        (SkipForward(0.3, seed=9, granularity="channel"),
         Swapout(0.3, 0.7, "complementary", "channel", seed=9)),
        (StochasticDepth(0.3, "unit", seed=9), Swapout(1, 0.3, seed=9)),
    ]  # fmt: skip
    for special, general in cases:
        for _ in range(2):
            masks = draw(special, (16, 4, 8)), draw(general, (16, 4, 8))
            np.testing.assert_array_equal(*masks)


@pytest.mark.tensorflow
def test_masks_are_neither_correlated_nor_shifted_copies(draw):
    """Over all circular shifts of all pairs |r| < 7 sigma, sigma = 1 / sqrt(units).

    28 masks are 406 pairs of 2**16 shifts: of 2.7e7 normal variables one is beyond 7 sigma with
    chance 7e-5.
    """
    n = 2**16
    masks = []
    for seed in (0, 1, 2, 3, 0x1E3779B9, 2**31 - 1):
        layer = Swapout(0.5, 0.5, seed=seed)
        masks += [mask for _ in range(2) for mask in draw(layer, (n,))]
    masks += draw(Swapout(), (n,)) + draw(Swapout(), (n,))  # seeds of Keras' choice
    spectra = [np.fft.rfft(mask - mask.mean()) / mask.std() for mask in masks]
    pairs = itertools.combinations_with_replacement(range(len(masks)), 2)
    for i, j in pairs:
        r = np.fft.irfft(spectra[i] * spectra[j].conj(), n) / n
        if i == j:
            assert r[0] == pytest.approx(1)
            r = r[1:]
        assert np.abs(r).max() < 7 / np.sqrt(n), (i, j)


def test_same_seed_same_masks_and_every_step_its_own(draw):
    a, b = Swapout(seed=7), Swapout(seed=7)
    steps = [draw(a, (512,))[0] for _ in range(3)]
    np.testing.assert_array_equal(steps, [draw(b, (512,))[0] for _ in range(3)])
    assert len({step.tobytes() for step in steps}) == 3


def test_without_a_seed_the_global_one_decides(draw):
    def masks():
        keras.utils.set_random_seed(3)
        return [draw(layer, (512,))[0] for layer in (Swapout(), Swapout())]

    first = masks()
    assert (first[0] != first[1]).any()
    np.testing.assert_array_equal(first, masks())


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_first_and_last_seed(seed, draw):
    mask, _ = draw(Swapout(seed=seed), (4096,))
    assert stats.binomtest(int(mask.sum()), mask.size, 0.5).pvalue > P


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_inference_is_the_weighted_sum(coupling):
    x, fx = pair((4, 5, 6))
    theta_1, theta_2 = THETAS[coupling]
    layer = Swapout(theta_1, theta_2, coupling)
    expected = theta_1 * x.astype(float) + theta_2 * fx
    np.testing.assert_allclose(array(layer([x, fx])), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(array(layer([x, fx], training=False)), array(layer([x, fx])))


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_rescaled_inference_is_exactly_the_sum(coupling):
    x, fx = pair((4, 5, 6))
    layer = Swapout(*THETAS[coupling], coupling, rescale=True)
    np.testing.assert_array_equal(array(layer([x, fx])), x + fx)


@pytest.mark.parametrize(
    "make",
    [
        lambda **kwargs: Swapout(0.7, 0.4, seed=2, **kwargs),
        lambda **kwargs: ResidualDropout(0.7, seed=2, granularity="channel", **kwargs),
        lambda **kwargs: SkipForward(0.7, seed=2, granularity="sample", **kwargs),
        lambda **kwargs: StochasticDepth(0.5, "sample", seed=2, adjustable=True, **kwargs),
    ],
)
def test_the_shortcut_may_be_the_other_input(make):
    x, fx = pair((6, 5, 4))
    for training in (False, True):
        y, turned = make(), make(shortcut=1)
        expected = array(y([x, fx], training=training))
        np.testing.assert_array_equal(array(turned([fx, x], training=training)), expected)
        assert (array(make(shortcut=1)([x, fx], training=training)) != expected).any() or (
            isinstance(y, ResidualDropout)
        )
    for shortcut in (0, 1):
        layer = make(rescale=True, shortcut=shortcut)
        for inputs in ([x, fx], [fx, x]):
            sums = [array(each(inputs)) for each in (layer, keras.layers.Add())]
            np.testing.assert_array_equal(*sums)
        assert type(layer).from_config(layer.get_config()).shortcut == shortcut
    old = {key: value for key, value in make().get_config().items() if key != "shortcut"}
    assert type(layer).from_config(old).shortcut == 0  # 0.1.0 had none


def test_a_shortcut_that_is_last_is_called_by_its_name():
    with pytest.raises(ValueError, match=r"Received: fx \(2, 3\), x \(1, 3\)"):
        Swapout(shortcut=1)([A, A[:1]])


def test_inference_draws_nothing(draw):
    layer, other = Swapout(seed=1), Swapout(seed=1)
    for _ in range(3):
        layer([*pair((4, 5))])
    np.testing.assert_array_equal(draw(layer, (512,)), draw(other, (512,)))


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "coupling, rescale, granularity",
    [
        ("independent", False, "unit"),
        ("independent", True, "channel"),
        ("shared", False, "channel"),
        ("shared", True, "unit"),
        ("complementary", False, "unit"),
        ("complementary", True, "unit"),
    ],
)
def test_training_mean_is_the_inference_output(coupling, rescale, granularity):
    """16 units, 2**14 draws each: |z| < 5 for the mean, a chance of 1e-5 over all units."""
    draws = 2**14
    x, fx = pair((1, 16))
    theta_1, theta_2 = THETAS[coupling]
    layer = Swapout(theta_1, theta_2, coupling, granularity, seed=6, rescale=rescale)
    batch = [np.repeat(value, draws, axis=0) for value in (x, fx)]
    mean = array(layer(batch, training=True)).astype(float).mean(0)
    # Var(Y), from Var(Theta) = theta (1 - theta) and the coupling's covariance of the two
    a, b = (x[0] / theta_1, fx[0] / theta_2) if rescale else (x[0], fx[0])
    covariance = {"independent": 0, "shared": 0.21, "complementary": -0.21}[coupling]
    variance = a**2 * theta_1 * (1 - theta_1) + b**2 * theta_2 * (1 - theta_2)
    variance = variance + 2 * a * b * covariance
    z = (mean - array(layer([x, fx]))[0]) / np.sqrt(variance / draws)
    assert np.abs(z).max() < 5


A = np.ones((2, 3), "float32")


@pytest.mark.parametrize(
    "inputs, error, words",
    [
        (A, ValueError, ["pair"]),
        ([A], ValueError, ["pair", "1 values"]),
        ([A, A, A], ValueError, ["pair", "3 values"]),
        ({"x": A, "fx": A}, ValueError, ["pair", "dict"]),
        ([A, None], ValueError, ["pair", "NoneType"]),
        ([A, A[:1]], ValueError, ["shape", "not broadcast", "(2, 3)", "(1, 3)"]),
        ([A, A[None]], ValueError, ["shape", "(2, 3)", "(1, 2, 3)"]),
        ([A, A.astype("float16")], TypeError, ["dtype", "float32", "float16"]),
        ([A, A.astype("int32")], TypeError, ["dtype", "float32", "int32"]),
        ([A.astype("int32")] * 2, TypeError, ["dtype", "int32"]),
        ([A > 0] * 2, TypeError, ["dtype", "bool"]),
    ],
)
def test_bad_inputs(inputs, error, words):
    for training in (False, True):
        with pytest.raises(error) as info:
            Swapout(name="here")(inputs, training=training)
        text = str(info.value)
        assert all(word in text for word in ["`inputs`", "'here'", *words]), text


def test_bad_symbolic_inputs():
    a, b, c = keras.Input((4, 8)), keras.Input((None, 8)), keras.Input((4, 9))
    with pytest.raises(ValueError, match="same shape"):
        Swapout()([a, c])
    with pytest.raises(TypeError, match="dtype"):
        Swapout()([a, keras.Input((4, 8), dtype="float16")])
    assert Swapout()([a, b]).shape[2] == 8  # an unknown size may be the right one
