"""What every layer of ours shares: a seed, and a place in the mask sequence that is saved."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swapout import backend, random
from keras_swapout.arguments import checked_flag, checked_number, checked_seed, one_of, refusal
from keras_swapout.submodels.views import current, laid_out


def one_number(value: Any, fits: Callable[[float], bool], name: str, expected: str) -> float:
    """The number that an argument of a layer has to be, where networks have a schedule."""
    if isinstance(value, (tuple, list)):
        expected += "; `keras_swapout.schedules.per_block` makes a schedule over depth"
        raise refusal(TypeError, name, expected, value)
    return checked_number(value, fits, name, expected)


def numbers_in(variable: Any, given: Sequence[float]) -> tuple[float, ...]:
    """The numbers that a float32 variable holds, by which alone it is known what is in force.

    Args:
        variable: a `keras.Variable` of float32.
        given: what it was last given. These are returned where their float32 is what it holds;
            otherwise the shortest decimals of what it holds, of which it would hold the same.

    Example:

    >>> numbers_in(keras.Variable([0.3, 0.7], dtype="float32"), (0.3, 0.2))
    (0.3, 0.7)
    """
    held = backend.held(variable)
    if held is None:  # JAX's training loop has it, and hands it on as it got it
        return tuple(given)
    pairs = zip(given, np.ravel(held), strict=True)
    return tuple(a if np.float32(a) == b else float(str(b)) for a, b in pairs)


class Probability:
    """An attribute of a layer: the probability of this number among those that it holds."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, layer: RandomLayer | None, owner: type) -> Any:
        return self if layer is None else layer._held()[self.number]

    def __set__(self, layer: RandomLayer, value: float) -> None:
        layer.adjust(**{self.name: value})


class RandomLayer(keras.Layer):
    """A layer that draws masks in training.

    Args:
        seed: an int in [0, 2**31), or None for a random one.
        data_format: "channels_last", "channels_first" or None for Keras' setting.
        adjustable: whether the probabilities are variables, which `adjust` and
            `keras_swapout.callbacks.Ramp` change without compiling anything again.
        **kwargs: those of `keras.Layer`.
    """

    arguments: tuple[str, ...] = ()  # what `get_config` holds, besides what Keras has

    def __init__(
        self,
        seed: int | None = None,
        data_format: str | None = None,
        adjustable: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not keras.backend.is_float_dtype(self.compute_dtype):  # 1 / (1 - rate) would be lost
            raise refusal(TypeError, "dtype", "a floating dtype or policy", kwargs["dtype"])
        self.adjustable = checked_flag(adjustable, "adjustable")
        self.data_format = one_of(
            keras.config.image_data_format() if data_format is None else data_format,
            ("channels_last", "channels_first"),
            "data_format",
        )
        self.seed = checked_seed(seed)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.supports_masking = True
        self.built = True

    @property
    def stochastic(self) -> bool:
        """Whether two training passes can differ. Other people's layers may declare it as well."""
        raise NotImplementedError

    def _check(self, inputs: Any) -> None:
        """Raises a TypeError or ValueError unless these are inputs for the layer."""
        raise NotImplementedError

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._check(inputs)  # before Keras casts: then a difference of dtypes can't be seen
        return super().__call__(inputs, *args, **kwargs)

    @property
    def channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def _hold(self, *values: float) -> None:
        """The end of a constructor: the layer's probabilities, variables where `adjustable`."""
        self._given = values
        if not self.adjustable:
            return

        def variable(name, value):
            return self.add_weight(
                name=name,
                shape=np.shape(value),
                initializer=lambda shape, dtype=None: ops.convert_to_tensor(value, dtype),
                dtype="float32",
                autocast=False,
                trainable=False,
            )

        self.adjusted = variable("probabilities", values)
        self.ramp = variable("ramp", 1.0)  # 0: nothing is dropped, 1: as often as asked for

    def _held(self) -> tuple[float, ...]:
        """The layer's probabilities, but for what `ramp` makes of them."""
        if self.adjustable:
            self._given = numbers_in(self.adjusted, self._given)
        return self._given

    @contextlib.contextmanager
    def _drawing(self) -> Iterator[Any]:
        """The key of a call. What is computed again draws the same, for the same rows as views."""
        key = random.key(self.seed_generator)
        with laid_out(backend.once(self.seed_generator, current)):
            yield key

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        # `keras.RematScope` would have each layer computed again: this one keeps nothing for that.
        return layer_call

    def adjustments(self) -> dict[str, float]:
        """The probabilities by the constructor's names, as `adjust` takes them."""
        values = {name: getattr(self, name) for name in self.arguments}
        return {name: value for name, value in values.items() if isinstance(value, float)}

    def adjust(self, **values: float) -> None:
        """Changes the layer's probabilities; what has been compiled stays in use.

        They are among the model's weights and go wherever those go: `set_weights`, files of weights
        and `EarlyStopping(restore_best_weights=True)` bring the probabilities of their time along,
        and the attributes, the configuration and what is saved say so. Adjust after that.

        Args:
            **values: by the constructor's names: `theta_1`, `rate`, ...

        Raises:
            ValueError: the layer was not made with `adjustable=True`, has no such probability, or a
                value is one that the constructor refuses. TypeError: a value is not a number.
            RuntimeError: within an epoch of `fit` under JAX, unless the model has been asked for.

        Example:

        >>> import keras_swapout as ks
        >>> layer = ks.layers.Swapout(0.5, 0.5, adjustable=True)
        >>> layer.adjust(theta_2=0.9)
        >>> layer.theta_1, layer.theta_2
        (0.5, 0.9)
        """
        if not self.adjustable:
            raise ValueError(
                f"Layer {self.name!r} can't be adjusted: its probabilities are constants of what "
                "was compiled. Make it with adjustable=True"
            )
        known = self.adjustments()
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(
                f"Arguments of `adjust` of layer {self.name!r} must be among {list(known)}. "
                f"Received: {unknown}"
            )
        arguments = {name: getattr(self, name) for name in self.arguments}
        # A new layer checks them. With a seed and a name, as it would take one of Keras' otherwise.
        changed = type(self)(**{**arguments, **values}, seed=0, name=self.name)
        if backend.held(self.adjusted) is None:
            raise RuntimeError(
                f"Layer {self.name!r} can't be adjusted now: JAX's training loop has its variables "
                "and would put them back as they were. Read the callback's `model` first, which "
                "fetches them"
            )
        self._given = changed._held()
        self.adjusted.assign(self._given)

    # Keras leaves the state of a seed generator out of what it saves: without these two, a model
    # loaded in the middle of training would draw its masks from the beginning again. A legacy `.h5`
    # file has no place for it.

    def save_own_variables(self, store: Any) -> None:
        store["seed_generator_state"] = ops.convert_to_numpy(self.seed_generator.state)
        if self.adjustable:
            store["probabilities"] = ops.convert_to_numpy(self.adjusted)
            store["ramp"] = ops.convert_to_numpy(self.ramp)

    def load_own_variables(self, store: Any) -> None:
        variables = {"seed_generator_state": self.seed_generator.state}
        if self.adjustable:
            variables |= {"probabilities": self.adjusted, "ramp": self.ramp}
        for name, variable in variables.items():
            if name in store:  # not in the weights of a network without the layer
                variable.assign(store[name])

    def get_config(self) -> dict[str, Any]:
        names = (*self.arguments, "seed", "data_format", "adjustable")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
