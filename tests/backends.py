"""Which cases of a test run under which backend."""

import pytest


def reduced(cases, *kept):
    """Values of one argument of `parametrize`: other backends than TensorFlow run the kept ones.

    For tests whose cases differ in what no backend changes, while JAX compiles for each.
    """
    cases = list(cases)
    assert all(case in cases for case in kept)
    return [
        case if case in kept else pytest.param(case, marks=pytest.mark.tensorflow) for case in cases
    ]


def marked(*cases):
    """Cases that run under TensorFlow alone, each a value, or a tuple of one for each argument."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.tensorflow)
        for case in cases
    ]
