"""Swapout and its special cases.

Source: Singh, Hoiem, Forsyth, "Swapout: Learning an ensemble of deep architectures", NIPS 2016,
arXiv 1605.06465, section 3. theta is the probability of KEEPING, the opposite of Keras' `rate`,
and as in the paper nothing is rescaled in training unless `rescale=True` asks for it.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_swapout import random
from keras_swapout.arguments import checked_count, checked_flag, one_of
from keras_swapout.layers.base import Probability, RandomLayer, one_number
from keras_swapout.layers.merge import COUPLINGS, GRANULARITIES, merge, scaled

CERTAIN = {0, random.LEVELS}  # thresholds that draw nothing


@keras.saving.register_keras_serializable("keras_swapout")
class Swapout(RandomLayer):
    """Swapout: `theta_1`, `theta_2` are the probabilities of KEEPING X and F(X), which are added.

    A stochastic merge of a residual block: each unit reports 0, X, F(X) or X + F(X).

        training:   Y = Theta1 * X + Theta2 * F(X),   Theta_i ~ Bernoulli(theta_i)
        inference:  Y = theta_1 X + theta_2 F(X)      (the expectation, exactly)

    With `rescale=True` instead Y = Theta1 / theta_1 X + Theta2 / theta_2 F(X) in training and the
    plain X + F(X) in inference, which costs nothing and needs nothing of this package.

    It is called on a pair `[x, fx]` and replaces `keras.layers.Add`. `x` and `fx` have one shape
    (batch, ...) and one floating dtype; so has the result. Shapes are not broadcast, as they are by
    `Add`: it would be open which units share a mask. Dtypes may differ where Keras is told to which
    one to cast: where the layer is given a `dtype`, and under a mixed-precision policy.

    Args:
        theta_1: probability of keeping X, in [0, 1].
        theta_2: probability of keeping F(X), in [0, 1].
        coupling: "independent": two independent Thetas. "shared": one for both, Theta2 = Theta1;
            needs theta_2 = theta_1. "complementary": Theta2 = 1 - Theta1; needs
            theta_2 = 1 - theta_1.
        granularity: what shares one pair of Thetas. "unit": nothing, every unit draws its own.
            "channel": a channel of a sample. "sample": a sample. "batch": the whole batch.
        rescale: divide by theta in training, so that inference is X + F(X). A departure from the
            paper, which never rescales. Both thetas must be at least 2**-17.
        shortcut: 0 or 1, which of the two inputs is X: 0 for `[x, fx]`, 1 for `[fx, x]`, as in a
            network that adds its shortcut last and whose layers have to keep their order.
        data_format: "channels_last" or "channels_first", for granularity "channel"; default
            `keras.config.image_data_format()`.
        adjustable: whether the thetas are non-trainable variables, so that `layer.adjust(theta_1=
            0.7)` and `keras_swapout.callbacks.Ramp` change them without compiling anything again.
            The layer then has two weights.
        seed: an int in [0, 2**31), or None for a random one. Two layers with the same seed draw
            the same masks. The place in their sequence is kept in `.keras` and `.weights.h5` files;
            a legacy `.h5` file has none for it, and masks begin again.

    Raises:
        TypeError: an argument has the wrong type; the dtypes of the inputs differ or are not
            floating.
        ValueError: a theta is NaN or outside [0, 1] or does not fit the coupling; `coupling`,
            `granularity`, `shortcut` or `data_format` is unknown; the inputs are not a pair of one
            shape.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> x, fx = np.ones((1, 8), "float32"), np.full((1, 8), 10, "float32")
    >>> layer = ks.layers.Swapout(theta_1=0.5, theta_2=0.5, seed=3)
    >>> keras.ops.convert_to_numpy(layer([x, fx], training=True)).astype(int).tolist()
    [[10, 11, 1, 0, 1, 10, 0, 1]]
    >>> keras.ops.convert_to_numpy(layer([x, fx])).tolist()[0][:3]
    [5.5, 5.5, 5.5]

    Source: Swapout, section 3. Probabilities are multiples of 2**-16, so a theta is met to within
    2**-17, and 0 and 1 exactly. Forward-mode differentiation is not defined under JAX.
    """

    arguments = ("theta_1", "theta_2", "coupling", "granularity", "rescale", "shortcut")
    theta_1, theta_2 = Probability(0), Probability(1)

    def __init__(
        self,
        theta_1: float = 0.5,
        theta_2: float = 0.5,
        coupling: str = "independent",
        granularity: str = "unit",
        seed: int | None = None,
        *,
        rescale: bool = False,
        shortcut: int = 0,
        data_format: str | None = None,
        adjustable: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(seed=seed, data_format=data_format, adjustable=adjustable, **kwargs)
        self._casts = self.autocast and (
            kwargs.get("dtype") is not None or self.compute_dtype != self.variable_dtype
        )
        thetas = _theta(theta_1, "theta_1"), _theta(theta_2, "theta_2")
        self.coupling = one_of(coupling, COUPLINGS, "coupling")
        self.granularity = one_of(granularity, GRANULARITIES, "granularity")
        self.rescale = checked_flag(rescale, "rescale")
        self.shortcut = checked_count(shortcut, "shortcut", 0, most=1)
        required = {"shared": thetas[0], "complementary": 1.0 - thetas[0]}
        if abs(thetas[1] - required.get(coupling, thetas[1])) > 1e-6:
            raise ValueError(
                f"Argument `theta_2` must be {required[coupling]:g} for coupling={coupling!r} with "
                f"theta_1={theta_1}. Received: theta_2={theta_2}"
            )
        if self.rescale and 0 in map(random.threshold, thetas):
            raise ValueError(
                "Argument `rescale` must be False unless theta_1 and theta_2, by which it divides, "
                "are at least 2**-17, the smallest probability that is not drawn as 0. "
                f"Received: rescale=True with theta_1={theta_1}, theta_2={theta_2}"
            )
        self._hold(*thetas)

    @property
    def stochastic(self) -> bool:
        drawn = {random.threshold(self.theta_1), random.threshold(self.theta_2)} - CERTAIN
        return self.adjustable or drawn != set()

    @property
    def thetas(self) -> Any:
        """theta_1 and theta_2 as they are in force: two numbers, or two scalar tensors."""
        if not self.adjustable:
            return self.theta_1, self.theta_2
        thetas = ops.convert_to_tensor(self.adjusted)
        thetas = thetas + (1 - self.ramp) * (1 - thetas)
        return thetas[0], thetas[1]

    def _check(self, inputs: Any) -> None:
        _check_pair(inputs, self.name, self._casts, self.shortcut)

    def call(self, inputs: Any, training: bool = False) -> Any:
        x, fx = inputs[self.shortcut], inputs[1 - self.shortcut]
        theta_1, theta_2 = self.thetas
        if not self.adjustable and theta_1 == theta_2 == 1.0:
            return ops.add(x, fx)
        if not training:
            weights = (1.0, 1.0) if self.rescale else (theta_1, theta_2)
            return ops.add(scaled(x, weights[0]), scaled(fx, weights[1]))
        with self._drawing() as key:
            return merge(
                x,
                fx,
                key,
                (theta_1, theta_2),
                (1 / theta_1, 1 / theta_2) if self.rescale else (1.0, 1.0),
                self.coupling,
                self.granularity,
                channel_axis=self.channel_axis,
            )

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """The masks of both inputs, joined as `keras.layers.Add` does."""
        if previous_mask is None or any(mask is None for mask in previous_mask):
            return None
        return ops.logical_or(*previous_mask)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return tuple(input_shape[0])


@keras.saving.register_keras_serializable("keras_swapout")
class ResidualDropout(Swapout):
    """Residual dropout: `theta` is the probability of KEEPING a unit of X + F(X).

        training:   Y = Theta * (X + F(X)),   Theta ~ Bernoulli(theta), one for each unit
        inference:  Y = theta (X + F(X))

    Args:
        theta: probability of KEEPING a unit, in [0, 1].
        **kwargs: `granularity`, `rescale`, `shortcut`, `data_format`, `adjustable`, `seed`: as for
            `Swapout`.

    Raises:
        TypeError, ValueError: as `Swapout`.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> x, fx = np.ones((1, 8), "float32"), np.full((1, 8), 10, "float32")
    >>> y = ks.layers.ResidualDropout(0.5, seed=1)([x, fx], training=True)
    >>> set(keras.ops.convert_to_numpy(y).ravel().tolist()) <= {0.0, 11.0}
    True

    Source: Swapout, section 3, "dropout in a residual network".
    """

    arguments = ("theta", "granularity", "rescale", "shortcut")
    theta = Probability(0)

    def __init__(self, theta: float = 0.5, **kwargs: Any) -> None:
        theta = _theta(theta, "theta")
        super().__init__(theta, theta, coupling="shared", **kwargs)


@keras.saving.register_keras_serializable("keras_swapout")
class SkipForward(Swapout):
    """Skip or forward: `theta` is the probability of KEEPING X; a unit that drops it keeps F(X).

        training:   Y = Theta * X + (1 - Theta) * F(X),   Theta ~ Bernoulli(theta)
        inference:  Y = theta X + (1 - theta) F(X)

    Args:
        theta: probability of keeping X (and of dropping F(X)), in [0, 1].
        **kwargs: `granularity`, `rescale`, `shortcut`, `data_format`, `adjustable`, `seed`: as for
            `Swapout`.

    Raises:
        TypeError, ValueError: as `Swapout`.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> x, fx = np.ones((1, 8), "float32"), np.full((1, 8), 10, "float32")
    >>> y = ks.layers.SkipForward(0.5, seed=1)([x, fx], training=True)
    >>> set(keras.ops.convert_to_numpy(y).ravel().tolist()) <= {1.0, 10.0}
    True

    Source: Swapout, section 3, "SkipForward".
    """

    arguments = ("theta", "granularity", "rescale", "shortcut")
    theta = Probability(0)

    def __init__(self, theta: float = 0.5, **kwargs: Any) -> None:
        theta = _theta(theta, "theta")
        super().__init__(theta, 1.0 - theta, coupling="complementary", **kwargs)


@keras.saving.register_keras_serializable("keras_swapout")
class StochasticDepth(Swapout):
    """Stochastic depth: `survival_probability` is that of KEEPING a residual block, whole.

    Where it is dropped, the network is shallower in training.

        training:   Y = X + Theta * F(X),   Theta ~ Bernoulli(survival_probability)
        inference:  Y = X + survival_probability F(X)

    Args:
        survival_probability: probability of KEEPING the block, in [0, 1].
        granularity: "batch", one Theta for the whole batch, as in the papers; "sample", one for
            each sample ("drop path"); "channel" and "unit" are finer still.
        **kwargs: `rescale`, `shortcut`, `data_format`, `adjustable`, `seed`: as for `Swapout`.

    Raises:
        TypeError, ValueError: as `Swapout`.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> x, fx = np.ones((1, 8), "float32"), np.full((1, 8), 10, "float32")
    >>> y = ks.layers.StochasticDepth(0.5, seed=1)([x, fx], training=True)
    >>> len(set(keras.ops.convert_to_numpy(y).ravel().tolist()))
    1

    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016, section 3; Swapout,
    section 3, "layer dropout". The block is computed also when it is dropped.
    """

    arguments = ("survival_probability", "granularity", "rescale", "shortcut")
    survival_probability = Probability(1)

    def __init__(
        self, survival_probability: float = 0.5, granularity: str = "batch", **kwargs: Any
    ) -> None:
        theta = _theta(survival_probability, "survival_probability")
        super().__init__(1.0, theta, granularity=granularity, **kwargs)


def _theta(value: Any, name: str) -> float:
    return one_number(value, lambda p: 0 <= p <= 1, name, "a number in [0, 1]")


def _check_pair(inputs: Any, name: str, casts: bool, shortcut: int) -> None:
    one, other = ("x", "fx") if shortcut == 0 else ("fx", "x")
    if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
        what = f"{len(inputs)} values" if isinstance(inputs, (list, tuple)) else type(inputs)
        raise ValueError(
            f"Argument `inputs` of layer {name!r} must be a pair [{one}, {other}]. Received: {what}"
        )
    shapes = [getattr(value, "shape", None) for value in inputs]
    if None in shapes:
        raise ValueError(
            f"Argument `inputs` of layer {name!r} must be a pair of tensors [{one}, {other}]. "
            f"Received: {[type(value).__name__ for value in inputs]}"
        )
    a, b = (tuple(shape) for shape in shapes)
    if not a:
        raise ValueError(
            f"Argument `inputs` of layer {name!r}: x and fx must have a batch axis. "
            "Received: scalars"
        )
    if len(a) != len(b) or any(None not in (m, n) and m != n for m, n in zip(a, b, strict=True)):
        raise ValueError(
            f"Argument `inputs` of layer {name!r}: x and fx must have the same shape (they are not "
            f"broadcast). Received: {one} {a}, {other} {b}"
        )
    dtypes = [keras.backend.standardize_dtype(value.dtype) for value in inputs]
    floating = all(keras.backend.is_float_dtype(dtype) for dtype in dtypes)
    if not floating or (dtypes[0] != dtypes[1] and not casts):
        raise TypeError(
            f"Argument `inputs` of layer {name!r}: x and fx must have the same floating dtype, or "
            "floating ones and the layer a `dtype` of its own, to which both are cast. "
            f"Received: {one} {dtypes[0]}, {other} {dtypes[1]}"
        )
