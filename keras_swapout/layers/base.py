"""What every layer of ours shares: a seed, and a place in the mask sequence that is saved."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swapout.arguments import checked_seed, one_of


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
    probabilities: tuple[str, ...] = ()  # the attributes that `adjustable` makes a variable of

    def __init__(
        self,
        seed: int | None = None,
        data_format: str | None = None,
        adjustable: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.adjustable = bool(adjustable)
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

    @property
    def channel_axis(self) -> int:
        return 1 if self.data_format == "channels_first" else -1

    def _make_variables(self) -> None:
        """The end of a constructor: what `adjustable` asks for."""
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

        self.adjusted = variable("probabilities", self._values())
        self.ramp = variable("ramp", 1.0)  # 0: nothing is dropped, 1: as often as asked for

    def _values(self) -> list[float]:
        return [getattr(self, name) for name in self.probabilities]

    def adjustments(self) -> dict[str, float]:
        """The probabilities by the constructor's names, as `adjust` takes them."""
        values = {name: getattr(self, name) for name in self.arguments}
        return {name: value for name, value in values.items() if isinstance(value, float)}

    def adjust(self, **values: float) -> None:
        """Changes the layer's probabilities; what has been compiled stays in use.

        (They are among the model's weights, so `set_weights` brings those of the other model along:
        adjust after it. Files of weights leave them as they are.)

        Args:
            **values: by the constructor's names: `theta_1`, `rate`, ...

        Raises:
            ValueError: the layer was not made with `adjustable=True`, has no such probability, or a
                value is one that the constructor refuses. TypeError: a value is not a number.

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
        for name in self.probabilities:
            setattr(self, name, getattr(changed, name))
        self.adjusted.assign(self._values())

    # Keras leaves the state of a seed generator out of what it saves: without these two, a model
    # loaded in the middle of training would draw its masks from the beginning again. Probabilities
    # are in the configuration: weights of another run do not change them.

    def save_own_variables(self, store: Any) -> None:
        store["seed_generator_state"] = ops.convert_to_numpy(self.seed_generator.state)
        if self.adjustable:
            store["ramp"] = ops.convert_to_numpy(self.ramp)

    def load_own_variables(self, store: Any) -> None:
        if "seed_generator_state" in store:  # not in the weights of a network without the layer
            self.seed_generator.state.assign(store["seed_generator_state"])
        if self.adjustable and "ramp" in store:
            self.ramp.assign(store["ramp"])

    def get_config(self) -> dict[str, Any]:
        names = (*self.arguments, "seed", "data_format", "adjustable")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}
