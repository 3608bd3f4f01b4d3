"""Running a trained network with the masks of training, and everything else as at inference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_swapout.submodels.fork import forked, seed_generators, stochastic_layers, sublayers
from keras_swapout.submodels.views import Views


class SubModels(keras.Model):
    """Predicts with training masks: inputs (n, ...) -> `views.count` * n rows, view-major.

    Args:
        model: the network.
        views: how many views, and whether in complementary pairs.
        after: a function of the outputs, computed with them, or None.
        stochastic: which layers differ from view to view, as for `fork.forked`.
    """

    def __init__(
        self,
        model: keras.Model,
        views: Views,
        after: Callable[[Any], Any] | None = None,
        stochastic: Callable[[keras.Layer], list[keras.Layer]] = stochastic_layers,
    ) -> None:
        super().__init__(
            name=f"sub_models_of_{model.name}", dtype=model.dtype_policy, autocast=False
        )
        self.model = model
        self.jit_compile = model.jit_compile
        run = forked(model, stochastic)
        self._run = lambda inputs: run(inputs, views, True)
        self._after = after or (lambda outputs: outputs)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._after(self._run(inputs))


def sampled_layers(model: keras.Model) -> list[keras.Layer]:
    """The layers whose masks sub-models differ in: all stochastic ones but data augmentation."""
    return [layer for layer in stochastic_layers(model) if not _augments(layer)]


@contextlib.contextmanager
def masks_only(model: keras.Model) -> Iterator[None]:
    """Batch normalisation and data augmentation are in inference mode, whatever the mode is.

    It counts where the network is traced, so have it around the first call of a compiled function
    and around those that may trace it again.
    """

    def at_inference(layer):
        call = layer.call
        return lambda *args, **kwargs: call(*args, **{**kwargs, "training": False})

    norms = [x for x in sublayers(model) if isinstance(x, keras.layers.BatchNormalization)]
    with overridden([*norms, *filter(_augments, stochastic_layers(model))], at_inference):
        yield


@contextlib.contextmanager
def overridden(
    layers: list[keras.Layer], change: Callable[[keras.Layer], Callable[..., Any]]
) -> Iterator[None]:
    """Within, the `call` of each layer is `change(layer)`, wherever in a model it is called."""
    before = [vars(layer).get("call") for layer in layers]
    try:
        for layer in layers:
            # Past Keras' own __setattr__, which would look for weights in it.
            vars(layer)["call"] = change(layer)
        yield
    finally:
        for layer, call in zip(layers, before, strict=True):
            if call is None:
                vars(layer).pop("call", None)
            else:
                vars(layer)["call"] = call


@contextlib.contextmanager
def put_back(
    model: keras.Model, seed: Sequence[int] | None = None, masks: bool = True
) -> Iterator[None]:
    """What training mode changes beside the weights is afterwards what it was before.

    Args:
        model: the network.
        seed: where the mask sequences start within, ints >= 0; None: where they are.
        masks: whether the places in the mask sequences are put back too. Otherwise they go on.
    """
    generators = seed_generators(model)
    trainable = {id(v) for v in model.trainable_variables}
    kept = {id(generator.state) for generator in generators} if not masks else set()
    state = [v for v in model.variables if id(v) not in trainable | kept]
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


def _augments(layer):
    """Whether a stochastic layer is one of Keras' preprocessing layers, such as `RandomFlip`.

    By the module, as their base class has no public name.
    """
    return any(
        c.__module__.startswith("keras.") and ".preprocessing" in c.__module__
        for c in type(layer).__mro__
    )
