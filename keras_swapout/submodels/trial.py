"""Layers that draw and do not say so: they are found by what they do.

`keras.random.uniform(...)` without a generator, `tf.random`, a `Lambda` with an augmentation, a
dropout that passes `training=True` on: nothing in such a layer tells of it. So a layer that neither
Keras nor this package vouches for is called a few times on one input, once in its life. In each
call its state is what it is, and afterwards too, but for weights next to 0; it is random if one
moves a seed generator, Keras' global one as well, or if two results differ.
"""

from __future__ import annotations

import concurrent.futures
import math
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_swapout.submodels.inside import (
    PerLayer,
    first_call,
    is_functional,
    owned_generators,
    seed_generators,
    sublayers,
)
from keras_swapout.submodels.overrides import at_inference, overridden

# A branch that tf.random drops for each sample with a rate of 0.1 stays undiscovered once in 1000
# times, where inputs are small enough for all rows. keras.random is seen in the first call.
CALLS, ROWS = 8, 16
MOST = 2**18  # numbers in an input that is made up, unless two rows have more
SIDE = 8  # of an axis of no fixed size
ASLEEP = 1e-3  # the largest number in a weight that would hide what is drawn behind it

#: Wrappers of code that is not Keras'.
WRAPPERS = ("Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer")

_answers = PerLayer(dict)


def says(layer: keras.Layer) -> bool | None:
    """Whether the layer, apart from what is in it, is stochastic; None if only a trial can tell."""
    if _declared(layer) is not None:
        return _declared(layer)
    if hasattr(layer, "recurrent_dropout"):
        # Such cells own a generator whether they use it or not.
        draws = bool(getattr(layer, "dropout", 0) or layer.recurrent_dropout)
    else:
        draws = bool(owned_generators(layer))
    return None if not draws and foreign(layer) else draws


def foreign(layer: keras.Layer) -> bool:
    """Whether the layer's code is neither Keras' nor ours."""
    kind = type(layer)
    ours = kind.__module__.startswith(("keras.", "keras_swapout."))
    return not ours or kind.__name__ in WRAPPERS


def augments(layer: keras.Layer) -> bool:
    """Whether a stochastic layer is one of Keras' preprocessing layers, such as `RandomFlip`.

    By the module, as their base class has no public name.
    """
    return any(
        c.__module__.startswith("keras.") and ".preprocessing" in c.__module__
        for c in type(layer).__mro__
    )


def hidden_layers(model: keras.Layer) -> list[keras.Layer]:
    """The layers that are stochastic although neither they nor their parts say so."""

    def silent(layer):
        known = [says(part) for part in sublayers(layer)]
        return None in known and not any(
            yes and not augments(part) for yes, part in zip(known, sublayers(layer), strict=True)
        )

    drawing, untried = _trials(model, silent, training=True)
    return drawing + untried


def draws_on(model: keras.Layer, inputs: Any, training: bool) -> bool:
    """Whether a network as a whole is random on a batch, beside what its layers say."""
    if _declared(model) is False or not any(map(foreign, sublayers(model))):
        return False
    some = tree.map_structure(lambda a: a if a is None else a[:ROWS], inputs)
    return _draws(model, lambda: ((some,), {}), training) is not False


def draw_at_inference(model: keras.Layer, inputs: Any) -> list[str]:
    """The names of the layers that stay random at inference, by trial, for a batch of inputs."""
    found, untried = _trials(model, lambda x: any(map(foreign, sublayers(x))), training=False)
    # What fails on numbers that are made up may well take what the network makes of these inputs.
    together = untried or not is_functional(model)
    if not found and together and draws_on(model, inputs, training=False):
        found = untried or [model]
    return [layer.name for layer in found]


def _trials(model, candidate, training):
    """The candidates, at any depth, that are random, and those that can't be tried."""
    drawing, untried, settled = [], [], set()
    for layer in sublayers(model):  # what is in a layer comes after it
        if (
            id(layer) in settled
            or _declared(layer) is False
            or is_functional(layer)
            or not candidate(layer)
        ):
            continue
        answer = _tried(layer, training)
        if answer:
            drawing.append(layer)
        elif answer is False:
            settled.update(map(id, sublayers(layer)))
        elif first_call(layer):  # otherwise nobody knows of what type its inputs are
            untried.append(layer)
    return drawing, untried


def _declared(layer):
    declared = getattr(layer, "stochastic", None)
    return bool(declared) if isinstance(declared, (bool, np.bool_)) else None


def _tried(layer, training):
    """Whether the layer is random, by trial; None where it can't be tried.

    It takes inputs: those of its first call in a graph, or the shape that it was built for.
    """
    answers = _answers[layer]
    if training not in answers:
        call = first_call(layer)
        if call:
            answers[training] = _draws(layer, lambda: _made_up(call), training)
        elif layer.built:
            answers[training] = _draws(layer, lambda: _made_up(_built_for(layer)), training)
    return answers.get(training)


def _draws(layer, arguments, training):
    """Whether calls differ; None where there are no such arguments, or the layer fails on them."""
    # In a thread of its own nothing is being traced, and no scope of Keras is open.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(_differs, layer, arguments, training).result()


def _differs(layer, arguments, training):
    generators = {id(generator.state) for generator in seed_generators(layer)}
    own = {id(v) for v in [*layer.variables, *layer.metrics_variables]} - generators
    known = [x for x in sublayers(layer) if x is not layer and says(x)] if training else []
    python = random.getstate()  # Keras takes from it what the thread's global generator begins with
    try:
        args, kwargs = arguments()
        awake = _awake(layer)
        with overridden(known, at_inference):
            first = None
            for _ in range(CALLS):
                with keras.StatelessScope(awake) as scope:
                    outputs = layer(*args, **{**kwargs, "training": training})
                    outputs = [ops.convert_to_numpy(x) for x in tree.flatten(outputs)]
                if set(scope.state_mapping) - own:  # the ids of the variables that were assigned
                    return True
                first = first or outputs
                if not all(map(_close, first, outputs)):
                    return True
        return False
    except Exception:  # whatever anybody's code raises
        return None
    finally:
        random.setstate(python)


def _awake(layer):
    """Other numbers for weights next to 0, where LayerScale and ReZero begin: [(weight, numbers)].

    For the answer is kept, and then such a branch grows.
    """
    rng = np.random.default_rng(0)
    awake = []
    for weight in layer.weights:
        largest = np.abs(ops.convert_to_numpy(weight)).max(initial=0)
        if "float" in weight.dtype and largest < ASLEEP:
            numbers = rng.uniform(0.1, 1, weight.shape) / math.prod(weight.shape[:-1])
            awake.append((weight, ops.convert_to_tensor(numbers, weight.dtype)))
    return awake


def _close(a, b):
    """Equal, but for the order of a sum on an accelerator."""
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "fV":  # V: bfloat16
        return np.array_equal(a, b)
    a, b = a.astype("float32"), b.astype("float32")
    scale = np.abs(a[np.isfinite(a)]).max(initial=0)
    return np.allclose(a, b, rtol=1e-5, atol=1e-6 * float(scale), equal_nan=True)


def _made_up(arguments):
    """The arguments of a call in a graph with numbers for its tensors."""
    rng = np.random.default_rng(0)
    sizes = [int(np.prod([side or SIDE for side in x.shape[1:]])) for x in _symbolic(arguments)]
    rows = min(ROWS, max(2, MOST // max(sizes, default=1)))

    def numbers(x):
        if not isinstance(x, keras.KerasTensor):
            return x
        shape = [side or (SIDE if axis else rows) for axis, side in enumerate(x.shape)]
        if x.dtype == "bool" or "int" in x.dtype:  # 0 and 1 are in any vocabulary
            return ops.convert_to_tensor(rng.integers(0, 2, shape), x.dtype)
        return ops.convert_to_tensor(rng.uniform(0.1, 1, shape), x.dtype)

    return tree.map_structure(numbers, arguments)


def _symbolic(arguments) -> Iterator[keras.KerasTensor]:
    return (x for x in tree.flatten(arguments) if isinstance(x, keras.KerasTensor))


def _built_for(layer):
    """The arguments of a call on what the layer was built for, as far as its shape tells."""
    tensors = tree.map_shape_structure(
        lambda shape: keras.KerasTensor((None, *shape[1:]), "float32"),
        layer.get_build_config()["input_shape"],
    )
    return (tensors,), {}
