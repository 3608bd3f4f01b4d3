"""Fork a network where its randomness begins: shared layers run once, the rest on several views.

Two random passes of one input differ only after the first stochastic layer. So the part before it
runs once, its result is repeated, and the rest runs on the repeated batch. A functional network is
rewritten for that with `keras.models.clone_model`, keeping its layers, and so its weights; a
subclassed one, whose inside is not known, is forked at its input, with the same results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import tree

from keras_swapout.arguments import checked, checked_count, checked_flag
from keras_swapout.submodels.inside import is_functional, plain_view, sublayers
from keras_swapout.submodels.trial import hidden_layers, says
from keras_swapout.submodels.views import MOST, RepeatViews, Views, laid_out


def fork(model: keras.Model, views: int = 2, complementary: bool = True) -> keras.Model:
    """The network that runs several random views of its input, at the least cost.

        fork(model)(x)[v * N + n] = view v of model(x)[n],   (N, ...) -> (views * N, ...)

    View-major: all of view 0, then all of view 1, ... In inference mode the views are equal.

    Args:
        model: a Keras model. Functional, Sequential and nested functional models are forked in
            front of their first stochastic layers (see `stochastic_layers`); models with a `call`
            of their own, Sequential ones without a `keras.Input`, and those that move the batch
            from the first axis, at the input. Its layers are shared, not copied: training the fork
            trains the model.
        views: number of views, an int in [1, 10000].
        complementary: whether in our layers views 2j and 2j + 1 use complementary masks (the most
            different that there are at the same drop rate). False: every view draws on its own.
            `DropBlock2D` and other people's layers draw on their own in either case.

    Returns:
        A `keras.Model`, to call and to train; save the model itself. Batch normalisation after the
        fork sees all views as one batch, and other layers that mix the samples of a batch do so
        too. What `add_loss` collects is of all views. A tensor whose first axis has no fixed size
        is taken to have the batch there.

    Raises:
        TypeError: an argument has the wrong type. ValueError: `views` is out of range.

    Example:

    >>> import keras, keras_swapout as ks, numpy as np
    >>> model = keras.Sequential([keras.Input((6,)), ks.layers.BDropDML(0.5, seed=1)])
    >>> views = ks.fork(model)(np.ones((1, 6), "float32"), training=True)
    >>> keras.ops.convert_to_numpy(views).astype(int).tolist()
    [[2, 2, 2, 0, 0, 0], [0, 0, 0, 2, 2, 2]]

    Source: R-Drop (Liang et al. 2021, section 2) doubles the whole batch instead.
    """
    return _Fork(
        checked(model, keras.Model, "model", "a keras.Model"),
        checked_count(views, "views", most=MOST),
        checked_flag(complementary, "complementary"),
    )


class _Fork(keras.Model):
    def __init__(self, model: keras.Model, views: int, complementary: bool) -> None:
        super().__init__(name=f"fork_of_{model.name}", dtype=model.dtype_policy, autocast=False)
        self.model, self.views, self.complementary = model, views, complementary
        self._run = forked(model)
        self.built = model.built

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self._run(inputs, Views(self.views, self.complementary), training)

    def export(self, *args: Any, **kwargs: Any) -> None:
        """Raises a ValueError: what is deployed is the model."""
        raise ValueError(
            f"{self.name!r} is there to train {self.model.name!r}, and gives every prediction "
            f"{self.views} times. Export that model, which shares its layers: model.export(...)"
        )


def forked(
    model: keras.Model,
    stochastic: Callable[[keras.Layer], list[keras.Layer]] | None = None,
) -> Callable[[Any, Views, bool | None], Any]:
    """The function (inputs, views, training) -> outputs that runs `model`, forked.

    It is no layer, so who keeps it beside the model does not keep the weights twice. `stochastic`
    says which layers in a layer differ from view to view; default `stochastic_layers`.
    """
    stochastic = stochastic or stochastic_layers
    try:
        graph = _rewrite(model, stochastic) if is_functional(model) else None
    except _BatchElsewhere:
        graph = None
    layer = RepeatViews()

    def repeat(x):
        return x if x is None else layer(x)

    def run(inputs, views, training):
        with laid_out(views):
            if graph:
                return graph(inputs, training=training)
            return model(tree.map_structure(repeat, inputs), training=training)

    return run


def stochastic_layers(model: keras.Layer) -> list[keras.Layer]:
    """The layers, at any depth, whose training passes differ.

    A layer says so itself where it has an attribute `stochastic` (ours do, and anybody's may);
    Keras' recurrent layers are stochastic if one of their rates is above 0; any other layer is if
    it owns a `keras.random.SeedGenerator`. Some layers make theirs when they are built. Other
    people's layers that own none are tried, see trial.py: as a whole, where the graph of a model
    calls them, and nothing in them says it already.

    Example:

    >>> model = keras.Sequential([keras.layers.Dropout(0.1, name="a"), keras.layers.Dropout(0.0)])
    >>> [layer.name for layer in stochastic_layers(model)]
    ['a']
    """
    hidden = {id(layer) for layer in hidden_layers(model)}
    return [layer for layer in sublayers(model) if says(layer) or id(layer) in hidden]


def _rewrite(model, stochastic, arrive=None):
    """`model` with its layers, and with a repeat in front of each first stochastic layer.

    Args:
        arrive: for each input whether it comes as views already, for a model inside another one.
            None for the outermost one, whose inputs don't and whose outputs all must.
    """
    model = plain_view(model)
    if arrive:  # the same model may be called on views and on samples
        model.name += "_of_" + "_".join("views" if is_view else "samples" for is_view in arrive)
    layers = [x for x in model.operations if isinstance(x, keras.layers.InputLayer)]
    optional = {id(layer.output): layer.optional for layer in layers}
    inputs = [
        keras.Input(
            batch_shape=(None, *x.shape[1:]),
            dtype=x.dtype,
            sparse=x.sparse,
            name=x.name,
            optional=optional.get(id(x), False),
        )
        for x in model.inputs
    ]
    # By id, as tensors can't be compared, together with the tensor, as an id outlives nothing.
    views = {id(x): x for i, x in enumerate(inputs) if arrive and arrive[i]}
    repeats, nested = {}, {}

    def repeat(x):
        if not isinstance(x, keras.KerasTensor) or id(x) in views or None not in x.shape:
            return x  # what has no batch, a table of positions, say, is for all views
        if x.shape[0] is not None:
            raise _BatchElsewhere
        if id(x) not in repeats:
            y = RepeatViews()(x)
            repeats[id(x)] = x, y
            views[id(y)] = y
        return repeats[id(x)][1]

    def call(operation, *args, **kwargs):
        given = [id(x) in views for x in tree.flatten((args, kwargs)) if x is not None]
        draws = isinstance(operation, keras.Layer) and bool(stochastic(operation))
        if not draws and not any(given):
            return operation(*args, **kwargs)
        if draws and is_functional(operation) and len(given) == len(operation.inputs):
            which = id(operation), *given
            if which not in nested:
                nested[which] = _rewrite(operation, stochastic, given)
            operation, leave = nested[which]
            outputs = operation(*args, **kwargs)
        else:
            args, kwargs = tree.map_structure(repeat, (args, kwargs))
            outputs = operation(*args, **kwargs)
            leave = [True] * len(tree.flatten(outputs))
        flat = tree.flatten(outputs)
        views.update((id(x), x) for x, is_view in zip(flat, leave, strict=True) if is_view)
        return outputs

    clone = keras.models.clone_model(
        model,
        input_tensors=tree.pack_sequence_as(model.input, inputs),
        clone_function=lambda layer: layer,
        call_function=call,
    )
    if arrive is not None:
        return clone, [id(x) in views for x in clone.outputs]
    return keras.Model(clone.input, tree.map_structure(repeat, clone.output), name=model.name)


class _BatchElsewhere(Exception):
    """A tensor that has to be repeated does not have its batch in front."""
