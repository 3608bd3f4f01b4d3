"""The network that a study trains: ours by name, one of keras.applications, a file, a function.

Each is built anew for each seed. A method is then put into it by `keras_swapout.surgery`, as the
user would.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_swapout.datasets.sources import called, theirs
from keras_swapout.datasets.splits import KINDS

if TYPE_CHECKING:
    import keras

    from keras_swapout.datasets import Info, Split

_NAMES = "resnet<depth>v1 or resnet<depth>v2 with depth = 6n + 2 (resnet8v2, resnet20v1, ...)"
EXPECTED = (
    f"{_NAMES}, a name of keras.applications (MobileNetV3Small, ...), a .keras file, or "
    "module:function"
)


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is asked for.

    Attributes:
        model: a name, a file, or "module:function"; see `EXPECTED`.
        width: multiplies the channels of our networks.
        weights: of a network of keras.applications: None for new ones, "imagenet", or a file.
        from_scratch: whether a file's weights are drawn anew.
        new_head: whether a file's last dense layer is replaced, to fit the classes of the data.
        scale: what inputs the network expects, one of `keras_swapout.datasets.splits.SCALES`, or
            None for what it says itself.
    """

    model: str
    width: int = 1
    weights: str | None = None
    from_scratch: bool = False
    new_head: bool = False
    scale: str | None = None

    @property
    def kind(self) -> str:
        """ "ours", "file", "function" or "application".

        Example:

        >>> [Choice(name).kind for name in ("resnet8v2", "a.keras", "my.code:net", "VGG16")]
        ['ours', 'file', 'function', 'application']
        """
        if re.fullmatch(r"resnet\d+v\d+", self.model):
            return "ours"
        if self.model.endswith(".keras"):
            return "file"
        return "function" if ":" in self.model else "application"

    def check(self) -> None:
        """Raises a ValueError or FileNotFoundError for what can be seen without Keras."""
        if self.kind == "ours":
            depth_and_version(self.model)
        elif self.kind == "file" and not Path(self.model).is_file():
            raise FileNotFoundError(f"Argument `model`: there is no file {self.model!r}")
        elif self.kind == "application" and not re.fullmatch(r"[A-Z]\w+", self.model):
            raise ValueError(f"Argument `model` must be {EXPECTED}. Received: model={self.model!r}")
        for name, kinds, what in (
            ("weights", ("application",), "a name of keras.applications"),
            ("from_scratch", ("file",), "a .keras file: others are new anyway"),
            ("new_head", ("file", "function"), "a .keras file or a function"),
        ):
            if getattr(self, name) and self.kind not in kinds:
                raise ValueError(
                    f"Argument `{name}` is for {what}. Received: {name}={getattr(self, name)!r} "
                    f"with model={self.model!r}"
                )
        if self.width != 1 and self.kind != "ours":
            raise ValueError(
                "Argument `width` is for our own networks. Received: "
                f"width={self.width!r} with model={self.model!r}"
            )


def depth_and_version(model: str) -> tuple[int, int]:
    """(depth, version) of the name of one of our networks.

    Raises:
        ValueError: it is no such name.

    Example:

    >>> depth_and_version("resnet20v2")
    (20, 2)
    """
    match = re.fullmatch(r"resnet(\d+)v([12])", model)
    if not match or int(match[1]) < 8 or int(match[1]) % 6 != 2:
        raise ValueError(f"Argument `model` must be {EXPECTED}. Received: model={model!r}")
    return int(match[1]), int(match[2])


class Network:
    """The network of a choice, for some data: `new(seed)` builds it.

    Args:
        choice: what is asked for.
        info: of the data.
        split: of the data, to try the network on.

    Attributes:
        scale: what its inputs are, one of `keras_swapout.datasets.splits.SCALES`; None where it
            has been trained elsewhere and does not say.
        continued: whether it begins with weights that are trained.
        task: what it predicts.
        example: that of seed 0, to look at and not to train.

    Raises:
        ValueError: there is no such network, it does not fit such data, or its weights don't fit.
        FileNotFoundError: weights that are not there and can't be fetched.
    """

    def __init__(self, choice: Choice, info: Info, split: Split) -> None:
        self.choice, self.info, self.classes = choice, info, len(info.classes)
        needed = choice.kind in ("ours", "application")
        if needed and (info.kind, info.targets) != ("images", "classes"):
            raise ValueError(
                f"Argument `model` must be a .keras file or module:function, as {choice.model} "
                f"classifies images, and the data are {described(info)}"
            )
        from keras_swapout.study.task import find_task, trial_inputs

        self._trial = trial_inputs(info, split)
        self._build = {
            "ours": self._ours,
            "application": self._application,
            "file": self._brought,
            "function": self._brought,
        }[choice.kind]()
        self.continued = bool(choice.weights) or (choice.kind == "file" and not choice.from_scratch)
        self.example = self.new(seed=0)
        self.task = find_task(self.example, choice.model, info, split)
        fitting = KINDS[info.kind]
        if choice.scale is not None and choice.scale not in fitting:
            raise ValueError(
                f"Argument `scale` must be one of {', '.join(fitting)} for inputs that are "
                f"{described(info)}. Received: scale={choice.scale!r}"
            )
        self.scale = choice.scale or scale_of(self.example, choice.kind)
        if self.scale is None and (len(fitting) == 1 or not self.continued):
            self.scale = info.scale if info.kind != "images" else "standardise"

    def new(self, seed: int) -> keras.Model:
        """A network with the weights of a seed, compiled if the user's is.

        Args:
            seed: of the initial weights.
        """
        import keras

        keras.utils.set_random_seed(seed)
        model = self._build()
        if not model.built:  # a subclassed one has no weights before it is called
            with contextlib.suppress(Exception):  # `find_task` says what is wrong
                model(self._trial, training=False)
        return model

    def _ours(self) -> Callable[[], keras.Model]:
        from keras_swapout import models

        depth, version = depth_and_version(self.choice.model)
        resnet = {1: models.ResNetV1, 2: models.ResNetV2}[version]
        width, classes, shape = self.choice.width, self.classes, self.info.image_shape
        return lambda: resnet(depth, width, classes, shape, classifier_activation=None)

    def _application(self) -> Callable[[], keras.Model]:
        import keras

        name, weights = self.choice.model, self.choice.weights
        build = getattr(keras.applications, name, None)
        if not inspect.isfunction(build):
            known = [x for x in dir(keras.applications) if x[0].isupper()]
            raise ValueError(
                f"Argument `model` must be {EXPECTED}. Received: model={name!r}, and "
                f"keras.applications has {', '.join(known)}"
            )
        preprocess = sys.modules[build.__module__].preprocess_input
        height, width, channels = self.info.image_shape
        pretrained = weights == "imagenet"
        from_file = weights is not None and not pretrained
        if from_file and not Path(weights).is_file():
            raise FileNotFoundError(f"Argument `weights`: there is no file {weights!r}")

        def new():
            inputs = keras.Input((height, width, channels))
            x = inputs
            if channels == 1:  # they are made for colours
                x = keras.layers.Concatenate(name="grey_as_colours")([x, x, x])
            # (What returns its input for the networks that have their preprocessing in them.)
            x = preprocess(x)
            options = {"include_top": False, "pooling": "avg"} if pretrained else {}
            if not pretrained:
                options |= {"classes": self.classes, "classifier_activation": None}
            try:
                network = build(
                    weights="imagenet" if pretrained else None,
                    input_shape=(height, width, 3),
                    **{
                        k: v for k, v in options.items() if k in inspect.signature(build).parameters
                    },
                )
            except ValueError as error:
                raise ValueError(
                    f"Argument `model`: {name} can't be built for images of "
                    f"{height}×{width}: {error}"
                ) from error
            except Exception as error:  # whatever stands between here and a server
                raise FileNotFoundError(
                    f"Argument `weights`: those of {name} for imagenet are not on this machine and "
                    f"can't be fetched ({error}). Put the file into ~/.keras/models from a machine "
                    "with a connection, give a file, or choose --weights none"
                ) from error
            if from_file:
                _load_weights(network, weights)
            x = network(x)
            if pretrained:
                x = keras.layers.Dense(self.classes, name="predictions")(x)
            return keras.Model(inputs, x, name=name.lower())

        return new

    def _brought(self) -> Callable[[], keras.Model]:
        build = _theirs(self.choice)
        return lambda: new_head(build(), self.classes) if self.choice.new_head else build()


def _theirs(choice: Choice) -> Callable[[], keras.Model]:
    """The function that builds what a file or a function of the user's holds."""
    if choice.kind == "file":
        from keras_swapout.study.loading import load

        path = Path(choice.model)
        if choice.from_scratch:
            return lambda: anew(load(path, "model"))
        return lambda: load(path, "model")
    module, _, name = choice.model.partition(":")
    try:
        build = getattr(theirs(module), name)
    except (ModuleNotFoundError, AttributeError) as error:
        ours = (None, module, module.partition(".")[0])
        if getattr(error, "name", None) not in ours and isinstance(error, ModuleNotFoundError):
            raise  # the module is there, and imports another that is not
        raise ValueError(
            "Argument `model` must be module:function, of a module that Python finds in "
            f"{os.getcwd()} or installed. Received: {choice.model!r} ({error})"
        ) from error
    return lambda: _returned(build, choice)


def _returned(build, choice):
    import keras

    model = called(build, "model", choice.model)
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Argument `model`: {choice.model} must return a keras.Model. It returned a "
            f"{type(model).__name__}"
        )
    return model


def _load_weights(network, path):
    try:
        network.load_weights(path)
    except Exception as error:  # whatever HDF5 and Keras make of another network's file
        raise ValueError(
            f"Argument `weights`: {path!r} does not hold the weights of {network.name}, with "
            f"{network.count_params():,} numbers: {error}"
        ) from error


def anew(model: keras.Model) -> keras.Model:
    """The network of a model with new weights; what is adapted to data, not trained, stays."""
    import keras

    from keras_swapout.submodels.inside import sublayers

    new = type(model).from_config(model.get_config())
    if not new.built:
        new.build_from_config(model.get_build_config())
    for old, twin in zip(sublayers(model), sublayers(new), strict=True):
        if isinstance(old, keras.layers.Normalization):
            store: dict[str, Any] = {}
            old.save_own_variables(store)
            twin.load_own_variables(store)
    if model.compiled:
        new.compile_from_config(model.get_compile_config())
    return new


def new_head(model: keras.Model, classes: int) -> keras.Model:
    """A copy of a functional network whose last dense layer has another number of units.

    Raises:
        ValueError: its graph can't be read, or it does not end in a dense layer.
    """
    import keras

    from keras_swapout.surgery.find import check_reachable
    from keras_swapout.surgery.graph import Graph
    from keras_swapout.surgery.places import fitted
    from keras_swapout.surgery.rewrite import key, rewritten

    check_reachable(model)
    graph = Graph(model)
    call = graph.producer.get(id(model.outputs[0]))
    while call and isinstance(call.operation, (keras.layers.Activation, keras.layers.Softmax)):
        call = graph.producer.get(id(call.inputs[0]))
    if len(model.outputs) != 1 or not call or type(call.operation) is not keras.layers.Dense:
        raise ValueError(
            f"Argument `new_head`: {model.name!r} must have one output that a Dense layer makes. "
            f"It ends in {call.operation.name if call else 'its input'!r}"
        )
    dense = fitted(call.operation, units=classes)
    copy = rewritten(model, {key(call): [dense]})
    if model.compiled:
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        copy.compile(optimizer, model.loss, **compiled(model))
    return copy


def compiled(model: keras.Model) -> dict[str, Any]:
    """The metrics and loss weights that a network is compiled with, made anew; empty if it is not.

    Says where they can't be.
    """
    if not getattr(model, "compiled", False):
        return {}
    import keras

    found, config = {}, model.get_compile_config()
    for name in ("loss_weights", "metrics"):
        try:
            found[name] = keras.saving.deserialize_keras_object(config.get(name))
        except Exception as error:  # of the user's own metrics, whatever they raise
            # Without the model's name, which differs each time, it is said once.
            warnings.warn(f"the network's {name} can't be made anew: {error}", stacklevel=2)
    return found


def input_size(choice: Choice) -> tuple[int, int] | None:
    """(height, width) of the images that a network takes, or None where it takes any, or none."""
    if choice.kind not in ("file", "function"):
        return None
    from keras_swapout.study.loading import input_size as sides

    found = sides(_theirs(choice)())
    return None if found is None or None in found[:2] else found[:2]


def scale_of(model: keras.Model, kind: str) -> str | None:
    """What a network is to be fed with, as far as it says itself."""
    import keras

    from keras_swapout.submodels.inside import calls, is_functional

    if kind == "application":
        return "raw"  # its preprocessing is in front of it
    network, first = model, None
    while is_functional(network):
        first = next((c.operation for c in calls(network)), None)
        network = first
    # The last of them takes whole numbers.
    scaled = (keras.layers.Rescaling, keras.layers.Normalization, keras.layers.Embedding)
    return "raw" if isinstance(first, scaled) else None


def described(info: Info) -> str:
    """What data are, in a few words: "inputs of (30,), with 2 classes"."""
    what = "images" if info.kind == "images" else "inputs"
    labels = {
        "classes": f"{len(info.classes)} classes",
        "labels": "several labels for each",
        "steps": "a class for each step",
        "numbers": "numbers to predict",
        "several": "several things to predict",
    }
    return f"{what} of {info.image_shape}, with {labels[info.targets]}"
