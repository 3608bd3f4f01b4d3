"""Layers with a rate: what is dropped, how often at every position, and what two views share.

Where the shape does not matter it is (6, 6, 5, 4): JAX compiles every operation for every shape.
"""

import hashlib
import importlib.util
import itertools
import json

import keras
import numpy as np
import pytest
from backends import marked, reduced
from numpy.lib.stride_tricks import sliding_window_view
from scipy import stats

import keras_swapout as ks
from keras_swapout.layers import (
    BDropDML,
    DropBlock2D,
    Dropout,
    DropPath,
    SDropDML,
    StochasticDepth,
    Swapout,
)
from keras_swapout.submodels.views import Views, laid_out

BACKEND = keras.backend.backend()
MODES = {"tensorflow": ["eager", "graph", "xla"], "jax": ["eager", "jit"]}.get(BACKEND, ["eager"])
#: A fixed seed draws once; a correct sampler fails one seed in 10,000.
P = 1e-4
EACH = [
    lambda **kwargs: BDropDML(0.4, seed=6, **kwargs),
    lambda **kwargs: SDropDML(0.4, 3, seed=6, **kwargs),
    lambda **kwargs: SDropDML(0.4, (2, 3), per_channel=True, seed=6, **kwargs),
    lambda **kwargs: DropBlock2D(0.4, (3, 2), seed=6, **kwargs),
    lambda **kwargs: Dropout(0.4, seed=6, **kwargs),
    lambda **kwargs: DropPath(0.4, seed=5, **kwargs),
]
#: A half of them each with a batch as it is, and as views of some of its samples.
LAID_OUT = [
    *((layer, Views()) for layer in EACH[::2]),
    *((layer, Views(2, forked=(2, 4))) for layer in EACH[1::2]),
]
#: Masks of the layers as bytes, alone and as two views, for any interpreter to print.
DIGEST = """
import hashlib, json
import keras, numpy as np
from keras_swapout.layers import BDropDML, DropBlock2D, Dropout, DropPath, SDropDML
from keras_swapout.submodels.views import Views, laid_out

drawn = hashlib.sha256()
for seed in [2**31 - 1]:
    for layer in [
        BDropDML(0.3, seed=seed),
        SDropDML(0.4, 3, seed=seed),
        SDropDML(0.4, (2, 5), per_channel=True, seed=seed),
        DropBlock2D(0.4, (3, 2), seed=seed),
        Dropout(0.4, seed=seed),
        DropPath(0.4, seed=seed),
        DropPath(0.4, "batch", seed=seed),
    ]:
        for views in [Views(), Views(), Views(2), Views(3, complementary=False)]:
            with laid_out(views):
                y = layer(np.ones((6, 5, 4, 3), "float32"), training=True)
            drawn.update((keras.ops.convert_to_numpy(y) > 0).tobytes())
print(json.dumps([keras.backend.backend(), drawn.hexdigest()]))
"""


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def dropped(layer, shape, views=None):
    """Where one training call of `layer` drops, on a batch laid out as `views`."""
    with laid_out(views or Views()):
        return array(layer(np.ones(shape, "float32"), training=True)) == 0


def check_frequency(drops, probability):
    """Axis 0 repeats a draw. Every other place is held to the binomial, Bonferroni among them."""
    count, size = drops.sum(0), len(drops)
    probability = np.broadcast_to(probability, count.shape)
    least = np.minimum(
        stats.binom.cdf(count, size, probability), stats.binom.sf(count - 1, size, probability)
    )
    assert 2 * least.min() * least.size > P


def borders(drops, axis, block):
    """Residues modulo `block` at which a (map, ...) changes along `axis`; one grid has one."""
    changes = np.diff(drops, axis=axis).any(axis=tuple(i for i in range(drops.ndim) if i != axis))
    return {int(residue) for residue in (np.flatnonzero(changes) + 1) % block}


def on_one_grid(drops, blocks):
    return all(len(borders(drops, axis, block)) <= 1 for axis, block in enumerate(blocks))


def corner_counts(sides, blocks):
    """In how many of its places in the map a block covers each position."""
    along = [
        [sum(start <= i < start + b for start in range(n - b + 1)) for i in range(n)]
        for n, b in zip(sides, blocks, strict=True)
    ]
    return np.outer(*along)


def gamma(rate, sides, blocks):
    (h, w), (b, c) = sides, blocks
    return rate / (b * c) * (h * w) / ((h - b + 1) * (w - c + 1))


def closed_form(rate, sides, block_size):
    """Probability that DropBlock drops each position: one of the blocks that cover it is drawn."""
    blocks = [min(b, n) for b, n in zip(block_size, sides, strict=True)]
    return 1 - (1 - gamma(rate, sides, blocks)) ** corner_counts(sides, blocks)


def slow_drop_block(rng, rate, sides, blocks):
    """Algorithm 1 of the paper for one map: Bernoulli centres where a block fits, then blocks."""
    drops = np.zeros(sides, bool)
    for i, j in itertools.product(*(range(n - b + 1) for n, b in zip(sides, blocks, strict=True))):
        if rng.random() < gamma(rate, sides, blocks):
            drops[i : i + blocks[0], j : j + blocks[1]] = True
    return drops


@pytest.mark.parametrize("layer", reduced(EACH, EACH[2], EACH[3]))
def test_outputs_are_zero_or_rescaled(layer):
    layer, x = layer(), normal((6, 6, 5, 4))
    y = array(layer(x, training=True))
    scale = y[y != 0] / x[y != 0]
    assert 0.2 < np.mean(y == 0) < 0.6
    if isinstance(layer, DropBlock2D):
        np.testing.assert_allclose(scale, y.size / np.sum(y != 0), rtol=1e-6)
    else:
        np.testing.assert_allclose(scale, 1 / 0.6, rtol=1e-6)


@pytest.mark.parametrize("layer", reduced(EACH, EACH[0], EACH[3]))
def test_inference_is_the_identity(layer):
    x = normal((3, 6, 5, 4))
    for y in (layer()(x), layer()(x, training=False)):
        np.testing.assert_array_equal(array(y), x)


@pytest.mark.parametrize("layer", [BDropDML, SDropDML, DropBlock2D, Dropout, DropPath])
def test_rate_zero_is_the_identity(layer):
    x = normal((3, 6, 5, 4))
    np.testing.assert_array_equal(array(layer(0)(x, training=True)), x)
    assert not layer(0.0).stochastic and layer(0.1).stochastic


# Statistics of the masks, under one backend: every backend draws the same bits, which
# test_every_backend_draws_the_same_regions compares.


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "rate, shape, block_size",
    [
        (0.1, (6000, 7, 5, 1), 3),
        (0.9, (4000, 5, 6, 1), (4, 1)),
        (0.25, (4000, 4, 3, 1), 9),
        (0.3, (3000, 4, 3, 5, 1), (2, 3, 4)),
        (0.01, (6000, 6, 1), 1),
    ],
)
def test_every_position_drops_at_the_rate(rate, shape, block_size):
    drops = dropped(SDropDML(rate, block_size, seed=2), shape)
    check_frequency(drops, rate)


@pytest.mark.tensorflow
@pytest.mark.parametrize("rate", [0.02, 0.5, 0.8])
def test_every_channel_drops_at_the_rate(rate):
    check_frequency(dropped(BDropDML(rate, seed=2), (6000, 9)), rate)
    check_frequency(dropped(Dropout(rate, seed=2), (4000, 4, 3)), rate)
    check_frequency(dropped(DropPath(rate, seed=2), (6000,)), rate)
    drops = dropped(SDropDML(rate, 2, per_channel=True, seed=2), (4000, 4, 3, 3))
    check_frequency(drops, rate)


@pytest.mark.tensorflow
def test_channels_are_independent():
    for drops in (
        dropped(BDropDML(0.3, seed=4), (8000, 6)),
        dropped(SDropDML(0.3, 3, per_channel=True, seed=4), (8000, 4, 6))[:, 2],
    ):
        together = [drops[:, i] & drops[:, j] for i, j in itertools.combinations(range(6), 2)]
        check_frequency(np.stack(together, -1), 0.09)


@pytest.mark.tensorflow
def test_two_positions_share_a_cell_as_often_as_a_uniform_shift_has_it():
    """P(both dropped) = s r + (1 - s) r^2, s = prod over axes of max(0, 1 - distance / block)."""
    rate, sides, blocks = 0.4, (5, 4), (3, 2)
    drops = dropped(SDropDML(rate, blocks, seed=8), (8000, *sides, 1)).reshape(8000, -1)
    places = np.array(list(np.ndindex(*sides)))
    same = np.clip(1 - np.abs(places[:, None] - places) / blocks, 0, None).prod(-1)
    check_frequency(drops[:, :, None] & drops[:, None], same * rate + (1 - same) * rate**2)


@pytest.mark.parametrize(
    "shape",
    reduced([(40, 5, 6, 16), (40, 6, 16), (40, 3, 2, 4, 16), (40, 16)], (40, 3, 2, 4, 16)),
)
def test_bdropdml_drops_whole_channels(shape):
    drops = dropped(BDropDML(0.5, seed=1), shape).reshape(40, -1, 16)
    assert (drops == drops[:, :1]).all()
    kept_by_sample = {sample.tobytes() for sample in drops[:, 0]}
    assert len(kept_by_sample) == 40


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "sides, blocks", [((24, 18), (3, 3)), ((60,), (7,)), ((8, 6, 9), (2, 3, 4))]
)
def test_regions_are_cells_of_one_grid_for_each_sample(sides, blocks):
    size = blocks if len(set(blocks)) > 1 else blocks[0]
    drops = dropped(SDropDML(0.5, size, seed=5), (50, *sides, 3))
    assert (drops == drops[..., :1]).all()
    drops = drops[..., 0]
    assert all(on_one_grid(sample, blocks) for sample in drops)
    assert not any(on_one_grid(sample, [b + 1 for b in blocks]) for sample in drops[:10])
    # Cells are no coarser either: somewhere two neighbouring cells along each axis differ.
    for axis, block in enumerate(blocks):
        assert sum(len(borders(sample, axis, 2 * block)) == 2 for sample in drops) > 25


@pytest.mark.tensorflow
def test_the_shift_of_the_grid_is_uniform():
    drops = dropped(SDropDML(0.5, (3, 4), seed=9), (1200, 30, 32, 1))[..., 0]
    shifts = np.zeros((3, 4), int)
    for sample in drops:
        (row,), (column,) = borders(sample, 0, 3), borders(sample, 1, 4)
        shifts[row, column] += 1
    assert stats.chisquare(shifts.ravel()).pvalue > P


@pytest.mark.tensorflow
def test_channels_draw_their_own_regions_on_the_grid_of_their_sample():
    drops = dropped(SDropDML(0.5, 3, per_channel=True, seed=5), (30, 15, 12, 8))
    for sample in drops:
        assert on_one_grid(sample, (3, 3, 1))
        assert len({sample[..., channel].tobytes() for channel in range(8)}) == 8


@pytest.mark.tensorflow
def test_a_block_larger_than_the_map_cuts_it_in_two_at_most():
    drops = dropped(SDropDML(0.5, (9, 20), seed=3), (400, 6, 5, 1))[..., 0]
    for axis in (1, 2):
        changes = np.diff(drops, axis=axis).any(axis=3 - axis).sum(axis=1)
        assert changes.max() == 1 and changes.min() == 0


@pytest.mark.parametrize("layer", reduced(EACH[:5], EACH[2]))
def test_channels_first_is_channels_last_transposed(layer):
    x = normal((6, 6, 5, 4))
    last = array(layer(data_format="channels_last")(x, training=True))
    first = layer(data_format="channels_first")(np.moveaxis(x, -1, 1), training=True)
    assert 0 < (last == 0).mean() < 1
    np.testing.assert_array_equal(np.moveaxis(array(first), 1, -1), last)


@pytest.mark.tensorflow
def test_channels_first_with_regions_of_their_own():
    layer = SDropDML(0.3, (2, 4), per_channel=True, seed=1, data_format="channels_first")
    drops = dropped(layer, (3000, 2, 6, 5))
    check_frequency(drops, 0.3)
    check_frequency(drops[:, 0] & drops[:, 1], 0.09)
    assert all(on_one_grid(sample, (1, 2, 4)) for sample in drops[:40])


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", [EACH[2], EACH[4], lambda: BDropDML(0.9, seed=1)])
def test_the_mean_of_many_draws_is_the_input(layer):
    layer, x, draws = layer(), normal((4, 5, 3)), 4000
    y = array(layer(np.broadcast_to(x, (draws, *x.shape)), training=True))
    spread = np.abs(x) * np.sqrt(layer.rate / (1 - layer.rate) / draws)
    # A normal bound, Bonferroni among the positions.
    assert (np.abs(y.mean(0) - x) < stats.norm.isf(P / 2 / x.size) * spread).all()


# One tensor's own: what shares a draw, and low ranks


@pytest.mark.parametrize(
    "shape", reduced([(6,), (6, 4), (6, 3, 4), (6, 2, 3, 4), (6, 2, 3, 2, 4)], (6,), (6, 2, 3, 4))
)
def test_what_shares_a_draw(shape):
    """By the documented threshold on the words of `ks.random.words`, in NumPy."""
    fields = {
        "unit": shape,
        "channel": (6, *(1,) * (len(shape) - 2), *shape[1:][-1:]),
        "sample": (6,) + (1,) * (len(shape) - 1),
    }
    for granularity, field in fields.items():
        words = ks.random.words([3, 0], field, ops=np)
        expected = np.broadcast_to(words % 2**16 < round(0.4 * 65536), shape)
        layers = [Dropout(0.4, granularity, seed=3, data_format="channels_last")]
        layers += [DropPath(0.4, seed=3)] if granularity == "sample" else []
        layers += [BDropDML(0.4, seed=3)] if granularity == "channel" and len(shape) > 1 else []
        for layer in layers:
            np.testing.assert_array_equal(dropped(layer, shape), expected)


@pytest.mark.tensorflow
def test_units_and_batches_are_independent():
    drops = dropped(Dropout(0.3, seed=4), (8000, 2, 3)).reshape(8000, 6)
    together = [drops[:, i] & drops[:, j] for i, j in itertools.combinations(range(6), 2)]
    check_frequency(np.stack(together, -1), 0.09)
    layer = DropPath(0.3, "batch", seed=4)
    steps = np.stack([dropped(layer, (5, 2)) for _ in range(300)])
    assert (steps == steps[:, :1, :1]).all()
    check_frequency(steps[:, 0, 0], 0.3)


@pytest.mark.parametrize("adjustable", [False, True])
def test_a_branch_that_is_not_rescaled(adjustable):
    """keep * F(X) in training, (1 - rate) F(X) at inference, the mean of the former."""
    layer = DropPath(0.4, rescale=False, seed=5, adjustable=adjustable)
    x = normal((6, 5, 4))
    keep = ~dropped(DropPath(0.4, seed=5), x.shape)
    np.testing.assert_array_equal(array(layer(x, training=True)), np.where(keep, x, 0))
    np.testing.assert_allclose(array(layer(x)), 0.6 * x, rtol=1e-6)
    slope = gradient(lambda x: keras.ops.sum(layer(x)), x)
    np.testing.assert_allclose(slope, np.full_like(x, 0.6), rtol=1e-6)


@pytest.mark.parametrize("make", [Dropout, DropPath])
def test_a_dropped_infinity_is_zero(make):
    x = np.repeat(np.array([[np.inf], [np.nan]] * 8, "float32"), 6, axis=1)
    drops = dropped(make(0.5, seed=1), x.shape)
    y = array(make(0.5, seed=1)(x, training=True))
    assert 0 < drops.mean() < 1 and (y[drops] == 0).all() and not np.isfinite(y[~drops]).any()


def test_masks_are_passed_on():
    tokens = keras.Input((5,), dtype="int32")
    embedded = keras.layers.Embedding(7, 4, mask_zero=True)(tokens)
    model = keras.Model(tokens, DropPath(0.4)(Dropout(0.4)(embedded)))
    x = np.array([[1, 2, 0, 0, 3]])
    np.testing.assert_array_equal(array(model(x, training=True)._keras_mask), x != 0)


@pytest.mark.parametrize("make", [Dropout, DropPath])
def test_forked_views_are_complements(make):
    model = keras.Sequential([keras.Input((5, 4)), make(0.5, seed=1)])
    x = normal((6, 5, 4))
    first, second = np.split(array(ks.fork(model, views=2)(x, training=True)), 2)
    assert (first == 0).any() and (second == 0).any()
    np.testing.assert_array_equal(first + second, 2 * x)


# Views


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "layer, shape, rate",
    [
        *((lambda rate: BDropDML(rate, seed=3), (5,), rate) for rate in (0.1, 0.3, 0.5, 0.7)),
        (lambda rate: SDropDML(rate, 3, seed=3), (5, 4, 1), 0.3),
        (lambda rate: SDropDML(rate, 3, seed=3), (5, 4, 1), 0.7),
        (lambda rate: SDropDML(rate, 2, per_channel=True, seed=3), (4, 2), 0.5),
        (lambda rate: Dropout(rate, seed=3), (3, 2), 0.5),
        (lambda rate: DropPath(rate, seed=3), (), 0.7),
    ],
)
def test_two_views_overlap_no_more_than_they_must(layer, shape, rate):
    samples = 4000
    drops = dropped(layer(rate), (2 * samples, *shape), Views(2))
    first, second = drops[:samples], drops[samples:]
    check_frequency(first, rate)
    check_frequency(second, rate)
    must = max(0.0, 2 * rate - 1)
    assert layer(rate).overlap == pytest.approx(must)
    if rate <= 0.5:
        assert np.sum(first & second) == 0
    if rate == 0.5:
        assert (first ^ second).all()
    check_frequency(first & second, must)
    np.testing.assert_array_equal(first, dropped(layer(rate), (samples, *shape)))


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", [lambda: BDropDML(0.5, seed=3), lambda: SDropDML(0.5, 2, seed=3)])
def test_of_four_views_pairs_are_complements_and_different_pairs_independent(layer):
    drops = dropped(layer(), (4 * 4000, 3, 2, 2), Views(4)).reshape(4, 4000, 3, 2, 2)
    assert (drops[0] ^ drops[1]).all() and (drops[2] ^ drops[3]).all()
    check_frequency(drops[0] & drops[2], 0.25)
    check_frequency(drops[1] & drops[2], 0.25)
    check_frequency(drops[2], 0.5)


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", [lambda: BDropDML(0.5, seed=3), lambda: SDropDML(0.5, 2, seed=3)])
def test_views_that_are_no_complements_are_independent(layer):
    views = Views(3, complementary=False)
    drops = dropped(layer(), (3 * 4000, 3, 2, 2), views).reshape(3, 4000, 3, 2, 2)
    for one, other in itertools.combinations(drops, 2):
        check_frequency(one & other, 0.25)
    np.testing.assert_array_equal(drops[0], dropped(layer(), (4000, 3, 2, 2)))


@pytest.mark.tensorflow
def test_both_views_of_a_sample_have_one_grid():
    first, second = np.split(dropped(SDropDML(0.3, 3, seed=3), (80, 24, 24, 1), Views(2)), 2)
    for sample in first | second:
        assert on_one_grid(sample[..., 0], (3, 3))


@pytest.mark.tensorflow
def test_views_of_dropblock_are_independent():
    drops = dropped(DropBlock2D(0.5, 2, seed=3), (2 * 4000, 3, 4, 1), Views(2))
    first, second = drops[:4000], drops[4000:]
    probability = closed_form(0.5, (3, 4), (2, 2))[..., None]
    check_frequency(first & second, probability**2)
    check_frequency(second, probability)
    assert DropBlock2D(0.9).overlap == 0


@pytest.mark.parametrize(
    "layer",
    [
        lambda: SDropDML(0.5, (2, 3), per_channel=True, seed=3),
        lambda: DropPath(0.5, "batch", seed=3),
        *marked(
            lambda: BDropDML(0.5, seed=3),
            lambda: SDropDML(0.5, 2, seed=3),
        ),
    ],
)
def test_a_second_view_of_some_samples_complements_them(layer):
    drops = dropped(layer(), (11, 6, 5, 4), Views(2, forked=(3, 8)))
    np.testing.assert_array_equal(drops[:8], dropped(layer(), (8, 6, 5, 4)))
    assert (drops[:3] ^ drops[8:]).all()


@pytest.mark.parametrize("granularity", reduced(["unit", "batch"], "unit"))
def test_views_of_swapout(granularity, draw):
    """For theta 0.5 view 1 keeps what view 0 drops; for 0.7 both keep 0.4, none drop both."""
    rows, calls = (4, 60) if granularity == "batch" else (400, 1)
    for theta in (0.5, 0.7):
        layer = Swapout(theta, theta, granularity=granularity, seed=7)
        plain = Swapout(theta, theta, granularity=granularity, seed=7)
        both = []
        for _ in range(calls):
            with laid_out(Views(2)):
                masks = draw(layer, (2 * rows, 3, 4))
            for mask, alone in zip(masks, draw(plain, (rows, 3, 4)), strict=True):
                first, second = mask[:rows], mask[rows:]
                np.testing.assert_array_equal(first, alone)
                assert (first | second).all()
                if theta == 0.5:
                    assert not (first & second).any()
            both.append(np.stack([mask[:rows] & mask[rows:] for mask in masks], -1))
        both = np.concatenate(both)
        one = np.s_[::rows, 0, 0] if granularity == "batch" else np.s_[:, 0, 0]
        check_frequency(both[one], 2 * theta - 1)


@pytest.mark.tensorflow
@pytest.mark.parametrize("granularity", ["channel", "batch"])
def test_four_views_of_swapout(granularity, draw):
    layer = Swapout(0.5, 0.5, granularity=granularity, seed=2)
    calls = 60 if granularity == "batch" else 1
    rows = 2 if granularity == "batch" else 500
    across = []
    for _ in range(calls):
        with laid_out(Views(4)):
            views = draw(layer, (4 * rows, 2, 3))[0].reshape(4, rows, 2, 3)
        assert (views[0] ^ views[1]).all() and (views[2] ^ views[3]).all()
        across.append(views[0] & views[2])
    across = np.concatenate(across)
    check_frequency(across[::rows, 0, 0] if granularity == "batch" else across[:, 0, 0], 0.25)


@pytest.mark.parametrize("granularity", ["batch", "sample"])
def test_a_block_that_one_view_skips_the_other_runs(granularity, draw):
    layer, survived = StochasticDepth(0.5, granularity=granularity, seed=2), []
    for _ in range(20):
        with laid_out(Views(2, forked=(2, 5))):
            skip, block = draw(layer, (7, 3))
        assert skip.all() and (block == block[:, :1]).all()
        assert (block[:2] ^ block[5:]).all()
        if granularity == "batch":
            assert len(np.unique(block[:5])) == 1
        survived.append(block[0, 0])
    assert 0 < sum(survived) < 20


def test_a_skipforward_in_two_views_swaps_its_branches(draw):
    layer = Swapout(0.5, 0.5, coupling="complementary", seed=2)
    with laid_out(Views(2)):
        x, fx = draw(layer, (20, 6))
    assert (x ^ fx).all()
    np.testing.assert_array_equal(x[:10], fx[10:])


# DropBlock


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "rate, sides, block_size",
    [
        (0.1, (8, 8), (3, 3)),
        (0.5, (5, 7), (2, 2)),
        (0.3, (4, 6), (4, 3)),
        (0.3, (4, 3), (9, 9)),
        (0.3, (4, 3), (1, 1)),
        (0.6, (5, 3), (2, 7)),
    ],
)
def test_dropblock_drops_every_position_at_the_closed_form(rate, sides, block_size):
    drops = dropped(DropBlock2D(rate, block_size, seed=4), (4000, *sides, 1))[..., 0]
    check_frequency(drops, closed_form(rate, sides, block_size))


@pytest.mark.tensorflow
def test_dropblock_draws_as_the_slow_algorithm_does():
    """The number of units dropped in a map tells overlaps of blocks, which no position does."""
    maps, rng = 4000, np.random.default_rng(0)
    layer = DropBlock2D(0.4, (2, 3), seed=1, data_format="channels_first")
    here = dropped(layer, (maps // 4, 4, 5, 6)).sum(axis=(2, 3)).ravel()
    slow = [slow_drop_block(rng, 0.4, (5, 6), (2, 3)).sum() for _ in range(maps)]
    table = np.array([np.bincount(counts, minlength=31) for counts in (here, slow)])
    common = table.min(0) >= 10
    table = np.column_stack([table[:, common], table[:, ~common].sum(1)])
    assert table.shape[1] > 8
    assert stats.chi2_contingency(table).pvalue > P


@pytest.mark.tensorflow
def test_the_figures_of_the_docstring_follow_from_the_closed_form():
    for rate, mean in [(0.1, 9.5), (0.5, 38.6)]:
        assert round(100 * closed_form(rate, (8, 8), (3, 3)).mean(), 1) == mean
        assert f"{mean} %" in DropBlock2D.__doc__
    position = closed_form(0.1, (8, 8), (3, 3))
    assert f"{100 * position[0, 0]:.1f} % in a corner" in DropBlock2D.__doc__
    assert f"{100 * position[3, 3]:.1f} % in the middle" in DropBlock2D.__doc__


@pytest.mark.tensorflow
@pytest.mark.parametrize("block_size", [1, 2, 3, (2, 5), 9])
def test_dropblock_drops_unions_of_blocks_inside_the_map(block_size):
    drops = dropped(DropBlock2D(0.4, block_size, seed=1), (20, 6, 7, 3))
    size = block_size if isinstance(block_size, tuple) else (block_size,) * 2
    b, c = (min(n, side) for n, side in zip(size, (6, 7), strict=True))
    whole = sliding_window_view(drops, (b, c), axis=(1, 2)).all(axis=(-2, -1))
    union = np.zeros_like(drops)
    for i, j in itertools.product(range(b), range(c)):
        union[:, i : i + whole.shape[1], j : j + whole.shape[2]] |= whole
    np.testing.assert_array_equal(drops, union)
    assert 0.1 < drops.mean() < 0.6


@pytest.mark.tensorflow
def test_channels_of_dropblock_are_independent():
    drops = dropped(DropBlock2D(0.4, 3, seed=1), (4000, 4, 4, 3))
    probability = closed_form(0.4, (4, 4), (3, 3))
    for i, j in itertools.combinations(range(3), 2):
        check_frequency(drops[..., i] & drops[..., j], probability**2)


def test_dropblock_that_drops_everything_gives_zeros():
    seen = set()
    for seed in range(12):
        y = array(DropBlock2D(0.5, 3, seed=seed)(np.ones((1, 3, 3, 1), "float32"), training=True))
        assert set(y.ravel()) in ({0.0}, {1.0})
        seen |= set(y.ravel())
    assert seen == {0.0, 1.0}


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", [BDropDML, SDropDML, DropBlock2D])
def test_a_rate_next_to_one_drops_everything(layer):
    kwargs = {} if layer is BDropDML else {"block_size": 1}
    assert dropped(layer(1 - 1e-10, **kwargs), (4, 5, 5, 3)).all()


# One mask in every mode


def run_in(mode, layer, x, views):
    """One training step of `layer`; under JAX's jit its state comes back to it."""

    def call(*args, method=layer):
        with laid_out(views):
            return method(*args, training=True)

    if mode == "eager":
        return array(call(x))
    if mode == "jit":
        import jax

        state = [variable.value for variable in layer.non_trainable_variables]
        step = jax.jit(lambda state, x: call([], state, x, method=layer.stateless_call))
        y, state = step(state, x)
        for variable, value in zip(layer.non_trainable_variables, state, strict=True):
            variable.assign(value)
        return array(y)
    import tensorflow as tf

    return array(tf.function(call, jit_compile=mode == "xla")(tf.constant(x)))


@pytest.mark.parametrize("layer, views", LAID_OUT)
def test_modes_agree_bit_for_bit(layer, views):
    x = normal((6, 6, 5, 4))
    layers = [layer() for _ in MODES]
    for _ in range(2):
        eager, *others = [run_in(*pair, x, views) for pair in zip(MODES, layers, strict=True)]
        for y in others:
            np.testing.assert_array_equal(y, eager)


@pytest.mark.tensorflow
def test_torch_draws_the_same_regions(start_python, result):
    # JAX has a run of its own of these tests, which compare with NumPy.
    if not importlib.util.find_spec("torch"):  # not import: two frameworks may quarrel
        pytest.skip("needs a second backend: pip install torch")
    process = start_python(DIGEST, KERAS_BACKEND="torch")
    here = {}
    exec(compile(DIGEST, "here", "exec"), here)
    expected = here["drawn"].hexdigest()
    assert expected != hashlib.sha256().hexdigest()
    assert result(process) == ["torch", expected]


@pytest.mark.parametrize(
    "layer, dtype",
    [
        *((layer, "bfloat16") for layer in EACH[::2]),
        *marked(*((layer, "float16") for layer in EACH[1::2])),
    ],
)
def test_half_precision_has_the_same_masks(layer, dtype):
    x = normal((6, 6, 5, 4))
    y = layer(dtype=dtype)(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    expected = array(layer()(x, training=True))
    half = array(keras.ops.cast(y, "float32"))
    np.testing.assert_array_equal(half == 0, expected == 0)
    np.testing.assert_allclose(half, expected, rtol=0.02)


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", EACH[1:4])  # of the others each number is its place's own
def test_a_batch_of_one_is_the_first_sample_of_many(layer):
    x = normal((3, 6, 5, 4))
    one, many = (array(layer()(batch, training=True)) for batch in (x[:1], x))
    assert one.shape == (1, 6, 5, 4)
    np.testing.assert_array_equal(one == 0, many[:1] == 0)


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer, jit", zip(EACH, [True, False] * 3, strict=True))
def test_unknown_batch_draws_as_a_known_one(layer, jit):
    import tensorflow as tf

    unknown, known = layer(), layer()
    step = tf.function(
        lambda x: unknown(x, training=True),
        input_signature=[tf.TensorSpec((None, 6, 5, 4))],
        jit_compile=jit,
    )
    for rows in (3, 1):
        x = normal((rows, 6, 5, 4))
        np.testing.assert_array_equal(step(x), known(x, training=True))
    assert step.experimental_get_tracing_count() == 1


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", [*EACH[1:4], EACH[4]])
def test_unknown_sides_draw_as_known_ones(layer):
    import tensorflow as tf

    unknown, known = layer(), layer()
    signature = [tf.TensorSpec((None, None, None, 4))]
    step = tf.function(lambda x: unknown(x, training=True), input_signature=signature)
    for shape in [(3, 6, 5, 4), (2, 7, 4, 4)]:
        x = normal(shape)
        np.testing.assert_array_equal(step(x), known(x, training=True))


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "sides, data_format",
    [
        ((2, 6), "channels_last"),
        ((2, 6), "channels_first"),
        ((6, 1), "channels_first"),
        ((1, 1), "channels_last"),
    ],
)
def test_blocks_larger_than_an_unknown_side(sides, data_format):
    import tensorflow as tf

    unknown, known = (DropBlock2D(0.4, (3, 2), data_format=data_format, seed=6) for _ in "ab")
    x = normal((5, *sides, 4) if data_format == "channels_last" else (5, 4, *sides))
    step = tf.function(lambda x: unknown(x, training=True), [tf.TensorSpec((None,) * 4)])
    np.testing.assert_array_equal(step(x), known(x, training=True))


@pytest.mark.tensorflow
@pytest.mark.parametrize("side", [5, 7])
def test_a_map_of_unknown_size_and_no_larger_than_the_block(side):
    """It is dropped as a whole, with gamma = rate / side^2 * side^2 / 1 = rate."""
    import tensorflow as tf

    layer = DropBlock2D(0.3, 7, seed=2)
    signature = [tf.TensorSpec((None, None, None, 1))]
    step = tf.function(lambda x: layer(x, training=True), input_signature=signature)
    drops = array(step(tf.ones((4000, side, side, 1)))) == 0
    assert (drops == drops[:, :1, :1]).all()
    check_frequency(drops[:, 0, 0], 0.3)


# Gradients


def weighted_sum(y, w):
    return keras.ops.sum(y * keras.ops.convert_to_tensor(w))


def gradient(function, x):
    """The gradient of a scalar function of one array."""
    if BACKEND == "jax":
        import jax

        return array(jax.grad(function)(x))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        x = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return array(tape.gradient(y, x))
    x = keras.ops.convert_to_tensor(x).detach().requires_grad_()
    function(x).backward()
    return array(x.grad)


def training_call(layer):
    """layer(x, training=True) at its present step; pure, so JAX may trace it."""
    if BACKEND != "jax":
        return lambda x: layer(x, training=True)
    state = [variable.value for variable in layer.non_trainable_variables]
    return lambda x: layer.stateless_call([], state, x, training=True)[0]


@pytest.mark.parametrize("layer, views", LAID_OUT)
def test_gradient_is_the_scaled_mask_times_the_upstream(layer, views):
    x, w = normal((6, 6, 5, 4)), normal((6, 6, 5, 4), seed=1)
    with laid_out(views):
        y = array(layer()(np.ones_like(x), training=True))
        slope = gradient(lambda x: weighted_sum(training_call(layer())(x), w), x)
    assert 0.2 < (y == 0).mean() < 0.8
    np.testing.assert_allclose(slope, y * w, rtol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", EACH[2:4])
def test_finite_differences(layer):
    x, w, direction = (normal((2, 6, 5, 4), seed) for seed in range(3))

    def loss(x):
        return weighted_sum(keras.ops.tanh(training_call(layer())(x)), w)

    step = 1e-2
    ahead, behind = (float(array(loss(x + np.float32(s) * direction))) for s in (step, -step))
    slope = float(np.sum(gradient(loss, x) * direction))
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=2e-2)


# Saving


def region_model():
    inputs = keras.Input((6, 5, 4))
    x = inputs
    for layer in EACH:
        x = layer()(x)
    x = SDropDML(0.2, 2)(x)  # a seed of Keras' choice
    return keras.Model(inputs, x)


def draws(model, times):
    return [array(model(np.ones((8, 6, 5, 4), "float32"), training=True)) for _ in range(times)]


def test_model_goes_on_where_it_was_saved(tmp_path):
    model = region_model()
    before = draws(model, 2)
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    loaded, other = keras.saving.load_model(tmp_path / "model.keras"), region_model()
    other.load_weights(tmp_path / "model.weights.h5")
    after = draws(model, 2)
    np.testing.assert_array_equal(draws(loaded, 2), after)
    np.testing.assert_array_equal(draws(other, 2), after)
    assert len({y.tobytes() for y in before + after}) == 4


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", EACH)
def test_config_round_trip(layer):
    layer = layer(data_format="channels_first", name="a", trainable=False)
    config = layer.get_config()
    again = type(layer).from_config(json.loads(json.dumps(config)))
    deserialized = keras.saving.deserialize_keras_object(
        json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    )
    x = np.ones((4, 4, 6, 5), "float32")
    expected = array(layer(x, training=True))
    for copy in (again, deserialized):
        assert type(copy) is type(layer) and not copy.trainable
        assert json.dumps(copy.get_config()) == json.dumps(config)
        np.testing.assert_array_equal(array(copy(x, training=True)), expected)


def test_a_clone_starts_at_the_first_step_of_its_seed():
    model = keras.Sequential([keras.Input((6, 5, 4)), *[layer() for layer in EACH]])
    (fresh,) = draws(model, 1)
    clone = keras.models.clone_model(model)
    np.testing.assert_array_equal(draws(clone, 1)[0], fresh)


@pytest.mark.tensorflow
def test_saved_model(tmp_path):
    import tensorflow as tf

    model = region_model()
    model.export(tmp_path / "exported", verbose=False)
    x = normal((5, 6, 5, 4))
    np.testing.assert_array_equal(tf.saved_model.load(tmp_path / "exported").serve(x), x)
