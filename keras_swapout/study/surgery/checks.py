"""Do two networks predict the same? Asked with random inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import keras

ROWS = 8
#: The sides of an input that does not say its own.
SIDE = 64
#: A difference that is more than rounding, as a share of the largest output.
MUCH = 1e-2


def random_inputs(model: keras.Model) -> Any:
    """Inputs for a model, in its structure: half of the rows in [0, 1), half in [0, 255).

    Whole numbers are 0 or 1, which every vocabulary has.

    Raises:
        ValueError: an input is of strings.
    """
    import keras

    rng = np.random.default_rng(0)

    def one(x):
        shape = (x.shape[0] or ROWS, *(side or SIDE for side in x.shape[1:]))
        dtype = keras.backend.standardize_dtype(x.dtype)
        if dtype == "string":
            raise ValueError("an input is of strings")
        if not keras.backend.is_float_dtype(dtype):
            return rng.integers(0, 2, shape).astype(dtype)
        values = rng.random(shape)
        values[len(values) // 2 :] *= 255
        return keras.ops.convert_to_numpy(keras.ops.cast(values, dtype))

    # A Sequential model has no `input` before it has been called.
    given = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    return keras.tree.map_structure(one, given)


def outputs_of(model: Callable[..., Any], inputs: Any) -> list[np.ndarray]:
    """What a network gives at inference, as arrays of float64."""
    import keras

    arrays = map(keras.ops.convert_to_numpy, keras.tree.flatten(model(inputs)))
    return [array.astype("float64") for array in arrays]


def difference(wanted: list[np.ndarray], got: list[np.ndarray]) -> tuple[float, float]:
    """The largest difference of any output, and the largest output.

    What is not finite counts as equal where it is the same in both.

    Raises:
        ValueError: there are others, or of other shapes.
    """
    shapes = [[array.shape for array in arrays] for arrays in (wanted, got)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"outputs of shapes {shapes[1]} where they were {shapes[0]}")
    most, scale = 0.0, 0.0
    for a, b in zip(wanted, got, strict=True):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0.0, np.abs(a - b))
        most = max(most, float(np.nan_to_num(apart, nan=np.inf).max(initial=0)))
        scale = max(scale, float(np.abs(a[np.isfinite(a)]).max(initial=0)))
    return most, scale


class Reference:
    """A network's predictions of random inputs, which others are compared with.

    Attributes:
        unknown: why there are none, or "".
    """

    def __init__(self, model: keras.Model) -> None:
        self.unknown = ""
        try:
            self.inputs = random_inputs(model)
            self.outputs = outputs_of(model, self.inputs)
            again = outputs_of(model, self.inputs)
        except Exception as error:  # whatever anybody's layers make of random numbers
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.unknown = f"random inputs are none for this network: {lines[0]}"
            return
        if difference(self.outputs, again)[0] > 0:
            self.unknown = "two predictions of the network itself differ: it is random at inference"

    def compared(self, run: Callable[..., Any], what: str) -> str:
        """In words, how far another network is from this one.

        A network that gives the same for all inputs can't tell much of another; that is said too.

        Args:
            run: the other network, or what runs it.
            what: how messages call it.

        Raises:
            ValueError: it is further away than rounding explains.
        """
        if self.unknown:
            return f"not compared ({self.unknown})"
        most, scale = difference(self.outputs, outputs_of(run, self.inputs))
        said = f"largest difference {most:.1e}, of outputs up to {scale:.2g}"
        if not most <= MUCH * scale:
            raise ValueError(f"{what} predicts otherwise than the network: {said}")
        said = said if most else "equal to the bit"
        alike = all(np.array_equal(y, np.repeat(y[:1], len(y), 0)) for y in self.outputs)
        return said + alike * ", but whatever it is given (it has not been trained?)"
