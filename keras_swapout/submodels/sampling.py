"""Running a trained network with the masks of training, and everything else as at inference."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swapout.submodels.fork import forked, stochastic_layers
from keras_swapout.submodels.inside import PerLayer, owned_generators, seed_generators, sublayers
from keras_swapout.submodels.overrides import at_inference, overridden
from keras_swapout.submodels.trial import augments, draw_at_inference, says
from keras_swapout.submodels.views import Views


class SubModels(keras.Model):
    """Predicts with training masks: inputs (n, ...) -> `views.count` * n rows, view-major.

    Args:
        model: the network.
        views: how many views, and whether in complementary pairs.
        after: a function of the outputs, computed with them, or None.
        only_masks: whether everything but the masks is as at inference, see `masks_only`.
    """

    def __init__(
        self,
        model: keras.Model,
        views: Views,
        after: Callable[[Any], Any] | None = None,
        only_masks: bool = True,
    ) -> None:
        super().__init__(
            name=f"sub_models_of_{model.name}", dtype=model.dtype_policy, autocast=False
        )
        self.model = model
        self.jit_compile = model.jit_compile
        run = forked(model, sampled_layers if only_masks else stochastic_layers)
        self._run = lambda inputs: run(inputs, views, True)
        self._after = after or (lambda outputs: outputs)
        self._only_masks = only_masks
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        # Within, and not around what is compiled: it may be traced anew, in any thread.
        with masks_only(self.model) if self._only_masks else contextlib.nullcontext():
            return self._after(self._run(inputs))


class AtInference(keras.Model):
    """The network without noise, and a function of its outputs."""

    def __init__(self, model: keras.Model, after: Callable[[Any], Any] | None = None) -> None:
        super().__init__(name=f"inference_of_{model.name}", autocast=False)
        self.model = model
        self.jit_compile = model.jit_compile
        self._after = after or (lambda outputs: outputs)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._after(self.model(inputs, training=False))


def sampled_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers whose masks sub-models differ in: all stochastic ones but data augmentation."""
    return [layer for layer in stochastic_layers(model) if not augments(layer)]


def checked_steady(model: keras.Model, inputs: Any, run: Callable[[], Any], way_out: str) -> Any:
    """`run()`, which is inference on `inputs`, or an error where a layer stays random in it.

    Raises:
        ValueError: with the names of the layers, and the way out.
    """
    layers = [x for x in sublayers(model) if says(x) is not False]
    generators = [(g, layer) for layer in layers for g in owned_generators(layer)]
    places = [np.array(ops.convert_to_numpy(g.state)) for g, _ in generators]
    result = run()
    names = [
        layer.name
        for (generator, layer), place in zip(generators, places, strict=True)
        if not np.array_equal(ops.convert_to_numpy(generator.state), place)
    ] or draw_at_inference(model, inputs)
    if names:
        raise ValueError(
            f"Argument `model` must be without noise at inference. Received: {model.name!r}, in "
            f"which {names} also draw in inference mode, as a layer does that passes "
            f"training=True on. {way_out}. (A layer that does not can say so with an attribute "
            "stochastic=False.)"
        )
    return result


@contextlib.contextmanager
def masks_only(model: keras.Model) -> Iterator[None]:
    """Batch normalisation and data augmentation are in inference mode, whatever the mode is.

    It counts where the network is traced, and in this thread only.
    """
    quiet = [
        layer
        for layer in sublayers(model)
        if isinstance(layer, keras.layers.BatchNormalization) or (augments(layer) and says(layer))
    ]
    with overridden(quiet, at_inference):
        yield


_locks = PerLayer(threading.RLock)


@contextlib.contextmanager
def alone(model: keras.Model) -> Iterator[None]:
    """Within, no other thread is in an `alone` for a network that shares a layer with this one."""
    with contextlib.ExitStack() as stack:
        for layer in sorted(sublayers(model), key=id):  # in one order, or two would wait for ever
            stack.enter_context(_locks[layer])
        yield


@contextlib.contextmanager
def put_back(
    model: keras.Model,
    seed: Sequence[int] | None = None,
    masks: bool = True,
    norms: bool = True,
) -> Iterator[None]:
    """What training mode changes beside the weights is afterwards what it was before.

    Threads take turns: between two of them nothing of the state is anybody else's.

    Args:
        model: the network.
        seed: where the mask sequences start within, ints >= 0; None: where they are.
        masks: whether the places in the mask sequences are put back too. Otherwise they go on.
        norms: whether the statistics of batch normalisation are. Where they are only read, who
            fits the network meanwhile is not to lose his.
    """
    with alone(model):
        generators = seed_generators(model)
        kept = {id(v) for v in model.trainable_variables}
        if not masks:
            kept |= {id(generator.state) for generator in generators}
        if not norms:
            batch_norms = [
                x for x in sublayers(model) if isinstance(x, keras.layers.BatchNormalization)
            ]
            kept |= {id(v) for layer in batch_norms for v in layer.variables}
        state = [v for v in model.variables if id(v) not in kept]
        values = [np.array(ops.convert_to_numpy(v)) for v in state]  # torch would hand out a view
        try:
            if seed is not None:
                for number, generator in enumerate(generators):
                    word = np.random.SeedSequence([*seed, number]).generate_state(1)[0] >> 1
                    generator.state.assign(np.array([word, 0], "int64"))
            yield
        finally:
            for variable, value in zip(state, values, strict=True):
                variable.assign(value)
