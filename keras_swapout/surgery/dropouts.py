"""A network's own dropouts: ours in their place, or other rates where they can't be replaced."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import keras
import numpy as np

from keras_swapout.arguments import checked, checked_number
from keras_swapout.layers import Dropout, DropPath
from keras_swapout.layers.drop import RateLayer
from keras_swapout.submodels.inside import is_functional, owned_generators, sublayers
from keras_swapout.surgery.find import check_reachable, is_drop_path
from keras_swapout.surgery.insert import all_calls, any_mask
from keras_swapout.surgery.places import chosen, fitted
from keras_swapout.surgery.rewrite import key, rewritten, without_mask

_SPATIAL = (
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
_OTHER_NOISE = (
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.AlphaDropout,
)
#: What the drop rate is called in the layers of stochastic depth that there are.
_RATES = ("rate", "drop_path_rate", "drop_rate", "drop_prob", "drop_path")
_KEPT = ("survival_probability", "survival_prob", "keep_prob")


def swap_dropouts(model: keras.Model) -> keras.Model:
    """A copy of a network with our dropouts for its own, of the same rate and granularity.

    Then masks are the same on every backend, complementary in the views of `RBlock` and `fork`, and
    their place in the sequence is saved. `keras.layers.Dropout` becomes `ks.layers.Dropout`, or
    `DropPath` where its `noise_shape` is one number a sample; `SpatialDropout1D` to `3D` become
    `ks.layers.Dropout` of channels; what is named StochasticDepth, DropPath or DropConnect, takes
    one tensor and passes it, or (1 - rate) of it, at inference becomes `DropPath`.

    Args:
        model: a functional or Sequential `keras.Model`; nested models are reached. It stays as it
            is; the copy shares no weights with it.

    Returns:
        An uncompiled `keras.Model` with the same outputs at inference. Layers that drop nothing
        (rate 0) stay.

    Raises:
        TypeError: not a Keras model. ValueError: its graph can't be read; there is no dropout in
            it that can be replaced. Warns of those that stay, with the reason.

    Example:

    >>> import keras, keras_swapout as ks
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dropout(0.3, name="drop")])
    >>> layer = ks.surgery.swap_dropouts(model).get_layer("drop")
    >>> type(layer).__module__.partition(".")[0], layer.rate, layer.granularity
    ('keras_swapout', 0.3, 'unit')

    Source: this package. One number a sample is "drop path" (see `ks.layers.DropPath`).
    """
    check_reachable(model)
    edits, stay, new = {}, {}, {}
    parts = all_calls(model)
    masked = any_mask(parts)
    for where, found in parts.items():
        for call in found:
            layer = call.operation
            if id(layer) not in new:
                new[id(layer)] = _replacement(layer, call.inputs)
            if isinstance(new[id(layer)], RateLayer):
                edits[key(call)] = [new[id(layer)]]
                if masked and not passes_masks(layer, call.inputs[0]):
                    edits[key(call)].append(without_mask(layer.name))
            elif new[id(layer)]:
                stay[where] = new[id(layer)]
    said = "; ".join(f"{where}: {reason}" for where, reason in stay.items())
    if not edits:
        raise ValueError(
            "Argument `model`: there is no dropout in it to replace (Dropout, SpatialDropout, or "
            "what is named StochasticDepth, DropPath or DropConnect, of a rate above 0)."
            + (f" It has these: {said}" if said else "")
        )
    if said:
        warnings.warn(f"These stay as they are: {said}", stacklevel=2)
    return rewritten(model, edits)


def _replacement(layer, inputs) -> RateLayer | str | None:
    """The layer for another; or why there is none for it; or None where it drops nothing."""
    if not isinstance(layer, keras.Layer) or is_functional(layer) or _is_ours(layer):
        return None
    drops = type(layer) in (keras.layers.Dropout, *_SPATIAL) or is_drop_path(layer)
    if not drops:
        return _noise_in(layer)
    rate = _rate(layer)
    if rate is None:
        return f"{type(layer).__name__} has no rate by a name that is known"
    if rate == 0:
        return None
    if len(inputs) != 1:
        return f"{type(layer).__name__} merges {len(inputs)} tensors itself"
    made = _by_kind(layer, rate, inputs[0])
    if isinstance(made, str):
        return made
    seed = getattr(layer, "seed", None)
    seed = seed if isinstance(seed, int) and 0 <= seed < 2**31 else None
    return fitted(made, name=layer.name, dtype=layer.dtype_policy, seed=seed)


def _by_kind(layer, rate, tensor) -> RateLayer | str:
    if is_drop_path(layer):
        share = passed_at_inference(layer, tensor)
        if share == 1:
            return DropPath(rate)
        if share is not None and np.isclose(share, 1 - rate, rtol=0.01):  # of half precisions
            return DropPath(rate, rescale=False)
        return f"{type(layer).__name__} does not pass its input, nor 1 - rate of it, at inference"
    if type(layer) in _SPATIAL:
        return Dropout(rate, "channel", data_format=getattr(layer, "data_format", "channels_last"))
    if layer.noise_shape is None:
        return Dropout(rate)
    shape = tuple(layer.noise_shape)
    drawn = [n != 1 for n in shape]
    if len(shape) == len(tensor.shape):
        if not any(drawn[1:]):
            return DropPath(rate, "sample" if drawn[0] else "batch")
        if all(drawn):
            return Dropout(rate)
        for data_format, axis in (("channels_last", len(shape) - 1), ("channels_first", 1)):
            if drawn == [i in (0, axis) for i in range(len(shape))]:
                return Dropout(rate, "channel", data_format=data_format)
    return f"its noise_shape {shape} is neither of units, channels nor samples"


def passed_at_inference(layer: keras.Layer, tensor: keras.KerasTensor) -> float | None:
    """The share of an input that is passed on at inference; None if something else happens."""
    tried = _tried(layer, tensor)
    if tried is None:
        return None
    x, y = (keras.ops.convert_to_numpy(t).astype("float32") for t in tried)
    share = y / x
    return float(share.mean()) if np.ptp(share) < 0.02 else None  # half precisions


def passes_masks(layer: keras.Layer, tensor: keras.KerasTensor) -> bool:
    """Whether Keras' masks are still there behind a layer: it says so, or returns its input."""
    if layer.supports_masking:
        return True
    tried = _tried(layer, tensor)
    return tried is not None and tried[0] is tried[1]


def _tried(layer, tensor):
    """Some input for a layer, and its output at inference; None where it fails."""
    shape = [2, *(side or 2 for side in tensor.shape[1:])]
    x = np.random.default_rng(0).uniform(1, 2, shape)
    x = keras.ops.convert_to_tensor(x, layer.compute_dtype)
    try:
        return x, layer(x, training=False)
    except Exception:  # whatever anybody's code raises
        return None


def _noise_in(layer) -> str | None:
    """Why a layer's noise stays as it is; None if it has none."""
    if isinstance(layer, _OTHER_NOISE):
        return f"{type(layer).__name__} is noise of another kind"
    if isinstance(layer, keras.layers.Dropout):
        return f"{type(layer).__name__} is a subclass of Dropout"
    parts = sublayers(layer)
    inner = sorted({type(x).__name__ for x in parts if x is not layer and drops(x)})
    rates = [getattr(x, name, 0) for x in parts for name in ("dropout", "recurrent_dropout")]
    if inner or any(isinstance(rate, (int, float)) and rate > 0 for rate in rates):
        what = f" ({', '.join(inner)})" if inner else ""
        return f"{type(layer).__name__} drops inside{what}, out of reach"
    return None


def _is_ours(layer):
    return type(layer).__module__.startswith("keras_swapout.")


def _rate_attribute(layer) -> str | None:
    """The attribute that holds the rate, or the probability of keeping."""
    for name in (*_RATES, *_KEPT):
        value = getattr(layer, name, None)
        if isinstance(value, (int, float)):
            rate = 1 - value if name in _KEPT else value
            if 0 <= rate < 1:
                return name
    return None


def _rate(layer) -> float | None:
    name = _rate_attribute(layer)
    if name is None:
        return None
    value = float(getattr(layer, name))
    return 1 - value if name in _KEPT else value


def drops(layer):
    """Whether a layer draws at a rate of its own; Keras' own with a rate of 0 can't draw."""
    kinds = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.AlphaDropout)
    if isinstance(layer, kinds):
        return bool(_rate(layer)) and bool(owned_generators(layer))
    return is_drop_path(layer) and bool(_rate(layer))


def set_rates(
    model: keras.Layer,
    rate: float,
    where: str | Sequence[str] | Callable[[keras.Layer], bool] | None = None,
) -> list[tuple[keras.Layer, float]]:
    """Changes the drop rates of dropouts in place, at any depth, also in a `call` of one's own.

    For networks whose graph can't be rewritten: a new layer can't be set on a layer that is built,
    but the rate of one that is there can be changed. What was compiled is compiled again.

    Args:
        model: a model or a layer.
        rate: the probability of DROPPING, in [0, 1). One of 0 is not found again by default.
        where: which dropouts: names, or a predicate on layers. Default all of a rate above 0:
            `keras.layers.Dropout` and its relatives, and what is named StochasticDepth, DropPath or
            DropConnect. (For ours there is `layer.adjust`.)

    Returns:
        What was: (layer, rate before) for each. The files of a network keep the new rates where the
        network saves its dropouts one by one; a layer of one's own that makes its dropout from an
        argument saves that argument, so set them again after loading.

    Raises:
        TypeError: an argument has the wrong type. ValueError: the rate is out of range; there are
            no such dropouts, or a name is of none or several.

    Example:

    >>> import keras, keras_swapout as ks
    >>> model = keras.Sequential([keras.layers.Dropout(0.5, name="drop"), keras.layers.Dense(2)])
    >>> [(layer.name, was) for layer, was in ks.surgery.set_rates(model, 0.1)]
    [('drop', 0.5)]
    >>> model.layers[0].rate
    0.1
    """
    checked(model, keras.Layer, "model", "a keras.Model or a keras.Layer")
    rate = checked_number(rate, lambda n: 0 <= n < 1, "rate", "a number in [0, 1)")
    places: dict[str, keras.Layer] = {}
    left = {}
    for layer in sublayers(model):
        name = layer.path or layer.name
        if drops(layer) and not _is_ours(layer):
            while name in places:
                name += "'"
            places[name] = layer
        elif isinstance(layer, keras.layers.Dropout):
            left[name] = "it was made with rate 0, so it owns no random state to draw from"
        elif _is_ours(layer) and isinstance(layer, RateLayer):
            left[name] = "it is one of ours: make it with adjustable=True, and use its `adjust`"
    if not places:
        raise ValueError(
            "Argument `model`: there is no dropout of a rate above 0 in it (Dropout, "
            "SpatialDropout, GaussianDropout, AlphaDropout, or what is named StochasticDepth, "
            "DropPath or DropConnect)"
        )
    was = []
    for name in chosen(where, places, left, "dropouts"):
        layer = places[name]
        was.append((layer, _rate(layer)))
        name = _rate_attribute(layer)
        setattr(layer, name, 1 - rate if name in _KEPT else rate)
    for name in ("train", "test", "predict"):
        if getattr(model, f"{name}_function", None):
            getattr(model, f"make_{name}_function")(force=True)
    return was
