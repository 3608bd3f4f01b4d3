import keras
import numpy as np
import pytest

import keras_swapout as ks
from keras_swapout.schedules import constant, linear, per_block, per_stage

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


@pytest.mark.parametrize("num", [0, -3])
def test_count_out_of_range(num):
    for schedule in (lambda: linear(1, 0.5, num), lambda: constant(1, num)):
        with pytest.raises(ValueError, match=f"`num`.*Received: num={num}"):
            schedule()


@pytest.mark.parametrize("num", [2.0, "3", None, True])
def test_count_not_an_int(num):
    for schedule in (lambda: linear(1, 0.5, num), lambda: constant(1, num)):
        with pytest.raises(TypeError, match=f"`num`.*Received: num={num!r}"):
            schedule()


@pytest.mark.parametrize(
    "value, error",
    [
        (-0.01, ValueError),
        (1.01, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        ("0.5", TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_probability_out_of_range(value, error):
    calls = {
        "start": lambda: linear(value, 0.5, 3),
        "stop": lambda: linear(0.5, value, 3),
        "value": lambda: constant(value, 3),
        "theta_1": lambda: per_block(ks.layers.Swapout, theta_1=value),
        "theta_2": lambda: per_block(ks.layers.Swapout, theta_2=(1, value)),
    }
    for name, call in calls.items():
        with pytest.raises(error, match=f"`{name}`.*Received: {name}={value!r}"):
            call()


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
    with pytest.raises(ValueError, match="values"):
        merge(0, 2)


@pytest.mark.parametrize("num", [3, 4, 5, 9, 10])
def test_per_stage_has_parts_of_equal_length(num):
    values = per_stage([0.9, 0.5, 0.1], num)
    counts = [values.count(v) for v in (0.9, 0.5, 0.1)]
    assert sum(counts) == num and max(counts) - min(counts) <= 1
    assert values == sorted(values, reverse=True)
