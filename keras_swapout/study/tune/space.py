"""What is searched for a method of the pilot: its numbers, as KerasTuner hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_swapout.study.pilot.methods import LIMITS, SYMBOLS, Method, check
from keras_swapout.tuning import spaces

STEPS = 0.1  # of a grid
STAGES = 3  # the pilot's networks have as many
#: (low, high) of what is no keep probability.
RANGES = {
    "rate": (0.05, 0.5),
    "block_size": (0.2, 1.0),
    "alpha": spaces.ALPHA,
    "label_weight": (0.1, 0.9),
}
THETA = (0.3, 1.0)
BLOCK_STEP = 0.1  # each block size is compiled anew, so there are few
APART = ("block_size", "alpha")  # whose steps are their own


def ranges_of(method: Method, given: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """(low, high) for each number of a method: `given`, else the default.

    Raises:
        ValueError: a name that the method has not, or no range within its limits.

    Example:

    >>> from keras_swapout.study.pilot.methods import METHODS
    >>> ranges_of(METHODS["bdropdml"], {"rate": (0.1, 0.3)})
    {'rate': (0.1, 0.3)}
    """
    if unknown := set(given) - set(method.values):
        raise ValueError(
            f"Argument `range` must name among {', '.join(method.values)}. "
            f"Received: {', '.join(sorted(unknown))}"
        )
    found = {}
    for name in method.values:
        low, high = map(float, given.get(name, RANGES.get(name, THETA)))
        check(name, low)
        check(name, high)
        if not low < high or (name == "alpha" and low == 0):
            raise ValueError(
                f"Argument `range` must be low < high for {name}"
                f"{', above 0' if name == 'alpha' else ''}. Received: {low:g} {high:g}"
            )
        found[name] = (low, high)
    return found


def chosen(
    hp: Any,
    method: Method,
    ranges: Mapping[str, tuple[float, float]],
    schedule: str = "linear",
    step: float | None = None,
) -> Method:
    """The method with the numbers that `hp` has for this trial, to four digits.

    Keep probabilities: "linear", from 1 in the first block to what is searched in the last;
    "constant"; "stage", one for each of the three stages.

    Args:
        hp: a `keras_tuner.HyperParameters`; what it does not know yet is declared.
        method: of the pilot.
        ranges: from `ranges_of`.
        schedule: "linear", "constant" or "stage".
        step: distance of the probabilities to try, or None for any.
    """
    values = {}
    for name, (low, high) in ranges.items():
        if name == "rate":
            values[name] = spaces.drop_rate(hp, name, (low, high), step)
        elif name == "block_size":
            values[name] = hp.Float(name, low, high, step=BLOCK_STEP)
        elif name == "alpha":
            values[name] = spaces.alpha(hp, name, (low, high))
        elif name == "label_weight":
            values[name] = hp.Float(name, low, high, step=step)
        else:
            blocks = {"linear": 2, "constant": 1, "stage": STAGES}[schedule]
            thetas = spaces.theta_schedule(
                hp, blocks, name, schedule, (low, high), stages=STAGES, step=step
            )
            values[name] = tuple(map(rounded, thetas)) if blocks > 1 else thetas[0]
    return method.with_values(
        **{name: v if isinstance(v, tuple) else rounded(v) for name, v in values.items()}
    )


def parameters(hp: Any, method: Method) -> list[dict[str, Any]]:
    """What is searched, for tables and plots, with the value it has untuned.

    Args:
        hp: a `keras_tuner.HyperParameters` that `chosen` has declared.
        method: of the pilot, with its default numbers.
    """
    return [
        {
            "name": p.name,
            "title": _title(p.name),
            "low": p.min_value,
            "high": p.max_value,
            "scale": "log" if p.sampling == "log" else "linear",
            "type": "float",
            "default": _default(p.name, method),
        }
        for p in hp.space
    ]


def rounded(value: float) -> float:
    """To four digits: as a setting is trained, named and written."""
    return float(f"{value:.4g}")


def _split(parameter):
    for end in ("_stop", *(f"_stage_{i + 1}" for i in range(STAGES))):
        if parameter.endswith(end):
            return parameter.removesuffix(end), end
    return parameter, ""


def _title(parameter):
    name, end = _split(parameter)
    where = {"": "", "_stop": " in the last block"}.get(end, f" in stage {end[-1:]}")
    plain = {"rate": "drop rate", "block_size": "block size (share of the map)"}
    return plain.get(name, SYMBOLS.get(name, name)) + where


def _default(parameter, method):
    """The method's own value of a hyperparameter, or None where the default is of another kind."""
    name, end = _split(parameter)
    value = method.values[name]
    if name in LIMITS:
        return value
    return value[1] if end == "_stop" else None
