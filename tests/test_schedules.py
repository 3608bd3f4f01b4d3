import keras
import numpy as np
import pytest
from refusals import NO_INT, NO_NUMBER, NO_PROBABILITY, refuses

import keras_swapout as ks
from keras_swapout.schedules import constant, linear, per_block, per_stage, probability

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend


@pytest.mark.parametrize("num", [2, 3, 9, 15, 110])
@pytest.mark.parametrize("start, stop", [(1.0, 0.5), (0.1, 0.7), (0.3, 0.3), (1 / 3, 0.9)])
def test_linear_is_linspace_with_exact_ends(start, stop, num):
    thetas = linear(start, stop, num)
    assert [thetas[0], thetas[-1]] == [start, stop]
    np.testing.assert_allclose(thetas, np.linspace(start, stop, num), rtol=0, atol=1e-15)
    assert all(type(theta) is float for theta in thetas)


@pytest.mark.parametrize("num", range(1, 60))
def test_linear_stays_within_its_ends(num):
    # One rounding error above 1 would be an error in the layer that gets it.
    for start, stop in [(1, 1), (0.9, 1), (0, 0.1), (0.1, 0)]:
        thetas = linear(start, stop, num)
        assert min(start, stop) <= min(thetas) and max(thetas) <= max(start, stop)


def test_linear_of_one_block_is_the_start():
    assert linear(0.25, 1, 1) == [0.25]


def test_constant():
    assert constant(0.3, 4) == [0.3] * 4


@pytest.mark.parametrize(
    "name, call",
    [
        ("p", lambda value: probability(value, "p")),
        ("start", lambda value: linear(value, 0.5, 3)),
        ("stop", lambda value: linear(0.5, value, 3)),
        ("value", lambda value: constant(value, 3)),
        ("values[1]", lambda value: per_stage([1, value], 3)),
        ("theta_1", lambda value: per_block(ks.layers.Swapout, theta_1=value)),
        ("theta_2[0]", lambda value: per_block(ks.layers.Swapout, theta_2=(value, 1))),
    ],
)
def test_what_is_no_probability(name, call):
    refuses(call, name, NO_NUMBER, TypeError)
    refuses(call, name, NO_PROBABILITY, ValueError)
    for number in (0, 1, np.float32(0.5), np.int64(1)):
        call(number)


@pytest.mark.parametrize(
    "name, call",
    [
        ("num", lambda num: linear(1, 0.5, num)),
        ("num", lambda num: constant(1, num)),
        ("num", lambda num: per_stage([1], num)),
        ("blocks", lambda blocks: per_block(ks.layers.Swapout)(0, blocks)),
    ],
)
def test_what_is_no_number_of_blocks(name, call):
    refuses(call, name, NO_INT, TypeError)
    refuses(call, name, (0, -3), ValueError)
    call(np.int64(1))


def test_other_arguments_of_schedules():
    no_sequence = (0.5, None, "ab", b"ab", {0.5}, {0.5: 1}, (x for x in (0.5, 1)), int)
    refuses(lambda values: per_stage(values, 3), "values", no_sequence, TypeError)
    refuses(lambda values: per_stage(values, 3), "values", ([], [0.5] * 4), ValueError)
    assert per_stage(np.array([0.5, 1]), 2) == [0.5, 1]
    made = (None, 0.5, "Swapout", ks.layers.Swapout(), keras.layers.Add())
    refuses(lambda layer: per_block(layer, theta_1=1), "layer", made, TypeError)
    refuses(lambda theta: per_block(ks.layers.Swapout, theta_1=theta), "theta_1", [()], ValueError)
    merge = per_block(ks.layers.Swapout, theta_1=(1, 0.5, 0))
    refuses(lambda block: merge(block, 3), "block", NO_INT, TypeError)
    refuses(lambda block: merge(block, 3), "block", (-1, 3), ValueError)
    with pytest.raises(ValueError, match="`theta_1` must be at most 2 numbers"):
        merge(0, 2)


def test_schedules_need_no_keras():
    assert "keras" not in vars(ks.schedules)


def test_per_block_gives_each_argument_its_schedule():
    merge = per_block(ks.layers.Swapout, theta_1=(1, 0.5), theta_2=0.75)
    layers = [merge(block, 5) for block in range(5)]
    assert [layer.theta_1 for layer in layers] == [1, 0.875, 0.75, 0.625, 0.5]
    assert [layer.theta_2 for layer in layers] == [0.75] * 5
    assert len({id(layer) for layer in layers}) == 5


def test_per_block_takes_any_layer():
    merge = per_block(keras.layers.SpatialDropout2D, rate=[0, 0.4])
    assert [merge(block, 3).rate for block in range(3)] == [0, 0.2, 0.4]


def test_per_block_with_three_numbers_has_one_for_each_stage():
    merge = per_block(ks.layers.Swapout, theta_1=(1, 0.5, 0), theta_2=[0.3])
    assert [merge(block, 7).theta_1 for block in range(7)] == [1, 1, 1, 0.5, 0.5, 0, 0]
    assert merge(6, 7).theta_2 == 0.3


@pytest.mark.parametrize("num", [3, 4, 5, 9, 10])
def test_per_stage_has_parts_of_equal_length(num):
    values = per_stage([0.9, 0.5, 0.1], num)
    counts = [values.count(v) for v in (0.9, 0.5, 0.1)]
    assert sum(counts) == num and max(counts) - min(counts) <= 1
    assert values == sorted(values, reverse=True)
