"""What a pilot runs: the options, their defaults for each data set, and their checks."""

from __future__ import annotations

import dataclasses
import json
import numbers
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from keras_swapout.arguments import checked_count, checked_flag, one_of
from keras_swapout.datasets.sources import named
from keras_swapout.datasets.splits import SCALES
from keras_swapout.study.networks import Choice
from keras_swapout.study.pilot.methods import METHODS, REFERENCE, find
from keras_swapout.study.shapes import flag, many, maybe, number, text

#: The Swapout paper's recipe, together with the learning rate and its two steps (training.py).
MOMENTUM = 0.9
LEARNING_RATE = 0.1
WEIGHT_DECAY = 1e-4

FAMILIES = ("swapout", "rblock", "own")

#: What is compared where nobody says; docs/pilot.md has the figures by which it was chosen.
CURATED = (REFERENCE, "swapout", "gjs_bdropdml")

#: The settings that the command line takes, in the order to show them.
OPTIONS = (
    "data",
    "methods",
    "seeds",
    "epochs",
    "model",
    "weights",
    "from_scratch",
    "new_head",
    "scale",
    "width",
    "optimizer",
    "batch_size",
    "learning_rate",
    "limit",
    "label_noise",
    "image_size",
    "unaugmented",
    "skip_unreadable",
    "corruption_images",
    "samples",
)

#: Of those in a file that are no numbers.
_SHAPES = {
    **dict.fromkeys(("data", "model"), text),
    **dict.fromkeys(("weights", "scale", "optimizer"), maybe(text)),
    "learning_rate": maybe(number),
    **dict.fromkeys(("from_scratch", "new_head", "unaugmented", "skip_unreadable"), flag),
    "methods": many(text),
    "samples": many(number),
    "label_noise": many(number),
}

_PAPER = {
    "model": "resnet20v2",
    "epochs": 60,
    "batch_size": 128,
    "seeds": 3,
    "image_size": None,
    "jit_compile": True,
}
#: Where nothing is known of the data: what gives an answer on two cores. On maps of 64x64 pixels a
#: step of resnet8v2 took 1.4 times as long with XLA.
_THEIRS = {"model": "resnet8v2", "epochs": 30, "batch_size": None, "jit_compile": False}
#: Departures from `_PAPER` where the data is small; "digits" is meant to finish in minutes. On its
#: 8x8 images XLA took twice the CPU time to compile, and no less for the steps.
DEFAULTS: dict[str, dict[str, Any]] = {
    "digits": {
        "model": "resnet8v2",
        "epochs": 12,
        "batch_size": 64,
        "seeds": 5,
        "jit_compile": False,
        "label_noise": (0.0, 0.3),
    },
    "elpv": {"model": "resnet8v2", "epochs": 40, "batch_size": 64, "image_size": 64},
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """A checked pilot. `make_settings` fills in what is not given.

    Attributes:
        data: a name or folder, as for `keras_swapout.datasets.load`.
        methods: names from `METHODS`, in its order, perhaps with "@" and numbers of their own (see
            `keras_swapout.study.pilot.methods.find`); always with the reference, "plain".
        seeds: number of runs of each method; the seeds are 0 .. seeds - 1.
        model, weights, from_scratch, new_head, scale, width: see `keras_swapout.study.networks`.
        optimizer: a name of keras.optimizers; None for the network's own where it is compiled,
            SGD as in the Swapout paper for our networks, else AdamW.
        epochs: passes over the training images.
        batch_size: images of a training step, or None for what suits their number.
        learning_rate: of the first 75 % of the steps, or of AdamW and others after a warm-up and
            before a cosine decay; None for 0.1, 1e-3, or 1e-4 where trained weights are continued.
        limit: number of training and validation images to use, or None for all.
        image_size: side to resize to, or None for the source's.
        unaugmented: whether training images are left as they are, which else are flipped left to
            right and shifted by up to 4 pixels where the source asks for it: all but digits.
        skip_unreadable: whether photographs that can't be read are left out, instead of an error.
        corruption_images: number of test images to corrupt, or fewer where there are fewer.
        samples: the numbers of sub-models with which stochastic inference is tried, beside what
            sub-models have in common and recalibration; none leaves all of that out.
        label_noise: shares of the training labels that are made wrong, each a condition in which
            every method is run; 0 for the labels as they are.
        jit_compile: whether XLA compiles the training step.
    """

    data: str
    methods: tuple[str, ...]
    seeds: int
    model: str
    width: int
    epochs: int
    batch_size: int | None
    learning_rate: float | None
    limit: int | None
    image_size: int | None
    corruption_images: int
    samples: tuple[int, ...]
    jit_compile: bool
    weights: str | None = None
    from_scratch: bool = False
    new_head: bool = False
    scale: str | None = None
    optimizer: str | None = None
    unaugmented: bool = False
    skip_unreadable: bool = False
    label_noise: tuple[float, ...] = (0.0,)

    def record(self) -> dict[str, Any]:
        """As JSON has it; `from_record` reads it."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    @property
    def network(self) -> Choice:
        """The network that is asked for."""
        return Choice(
            self.model, self.width, self.weights, self.from_scratch, self.new_head, self.scale
        )


def make_settings(
    data: str = "digits",
    methods: Iterable[str] | None = None,
    family: str | None = None,
    alpha: Iterable[float] | None = None,
    seeds: int | None = None,
    model: str | None = None,
    width: int = 1,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    limit: int | None = None,
    image_size: int | None = None,
    corruption_images: int = 500,
    samples: Iterable[int] = (),
    jit_compile: bool | None = None,
    weights: str | None = None,
    from_scratch: bool = False,
    new_head: bool = False,
    scale: str | None = None,
    optimizer: str | None = None,
    unaugmented: bool = False,
    skip_unreadable: bool = False,
    label_noise: Iterable[float] | None = None,
) -> Settings:
    """Settings with the defaults of `data`, checked.

    Args:
        Those of `Settings`; None means the default for this data, or for `limit` all images.
        methods: names; None for the few of `CURATED`, ["all"] for all that there are.
        family: "swapout", "rblock" or "own", what a network has itself: only these methods (and
            "plain"), where `methods` is None.
        alpha: weights of R-Block's consistency term, numbers >= 0: each R-Block method is run with
            each of them.

    Raises:
        ValueError: a value out of range or an unknown name; the message has the argument, what
            was expected and the value. (Whether `data` exists is known once it is read.)

    Example:

    >>> settings = make_settings("digits", methods=["swapout"], seeds=2)
    >>> settings.methods, settings.model, settings.seeds
    (('plain', 'swapout'), 'resnet8v2', 2)
    """
    given = {
        "model": model,
        "epochs": epochs,
        "batch_size": batch_size,
        "seeds": seeds,
        "image_size": image_size,
        "jit_compile": jit_compile,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    theirs = {} if named(str(data)) else _THEIRS
    defaults = {**_PAPER, **theirs, **DEFAULTS.get(str(data), {})}
    defaults.pop("label_noise", None)
    ours = Choice(chosen.get("model", defaults["model"])).kind == "ours"
    if not ours:
        # XLA takes minutes to compile the step of a large network on a CPU, for each method.
        defaults["jit_compile"] = False
    elif learning_rate is None and optimizer is None:
        learning_rate = LEARNING_RATE
    settings = Settings(
        data=str(data),
        methods=_methods(methods, family, alpha, ours),
        width=width,
        limit=limit,
        learning_rate=learning_rate,
        weights=None if weights == "none" else weights,
        from_scratch=from_scratch,
        new_head=new_head,
        scale=scale,
        optimizer=optimizer,
        unaugmented=checked_flag(unaugmented, "unaugmented"),
        skip_unreadable=skip_unreadable,
        label_noise=_shares(label_noise, str(data)),
        corruption_images=corruption_images,
        samples=tuple(sorted(set(samples))),
        **{**defaults, **chosen},
    )
    _check(settings)
    if jit_compile is None:
        import keras  # takes seconds, which a value to be refused should not

        backend = keras.backend.backend()
        if backend != "tensorflow":
            # JAX has to compile, and torch is slow to; only TensorFlow leaves a choice.
            settings = dataclasses.replace(settings, jit_compile=backend == "jax")
    return settings


def from_record(record: Mapping[str, Any]) -> Settings:
    """The settings that `Settings.record` was made of."""
    lists = ("methods", "samples", "label_noise")
    return Settings(**{**record, **{name: tuple(record[name]) for name in lists}})


def _shares(shares, data):
    if shares is None:
        shares = DEFAULTS.get(data, {}).get("label_noise", (0.0,))
    shares = tuple(sorted({float(share) for share in shares}))
    if not shares or not all(0 <= share < 1 for share in shares):
        raise ValueError(
            "Argument `label_noise` must be one or more numbers in [0, 1). "
            f"Received: label_noise={list(shares)}"
        )
    return shares


def read_settings(path: str | os.PathLike) -> dict[str, Any]:
    """What a best.json of `keras-swapout tune` has for `make_settings`.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file. ValueError: it holds something else.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))["pilot"]
        wrong = [
            name
            for name, value in found.items()
            if name not in OPTIONS or not _SHAPES.get(name, number)(value)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        wrong = ["no settings of a pilot"]
    if wrong:
        raise ValueError(
            "Argument `settings` must be a best.json of keras-swapout tune. "
            f"Received: {str(path)!r}, which has {', '.join(sorted(wrong))}"
        )
    return found


def _methods(names, family, alphas, ours):
    if family is not None and family not in FAMILIES:
        raise ValueError(
            f"Argument `family` must be one of {', '.join(FAMILIES)}. Received: family={family!r}"
        )
    names = None if names is None else list(names)
    if names == ["all"] or (names is None and family is not None):
        wanted = (*FAMILIES[: 2 if ours else 3], "reference") if family is None else (family,)
        names = [name for name, method in METHODS.items() if method.family in wanted]
    elif names is None:
        names = CURATED if ours else (*CURATED, "rblock_own")
    elif family is not None:
        raise ValueError(
            "Arguments `methods` and `family` can't both be given. "
            f"Received: methods={' '.join(names)} and family={family}"
        )
    names, methods, unknown = list(names), {REFERENCE: METHODS[REFERENCE]}, []
    alphas = None if alphas is None else _alphas(alphas)
    for name in names:
        try:
            method = find(name)
        except KeyError:
            unknown.append(name)
            continue
        chosen = method.alpha is not None and "@" not in name
        for alpha in alphas if chosen and alphas else [method.alpha]:
            variant = method if alpha is None else method.with_values(alpha=float(alpha))
            methods[variant.name] = variant
    if unknown or not names:
        raise ValueError(
            f"Argument `methods` must be among {', '.join(METHODS)}. "
            f"Received: methods={' '.join(map(str, unknown)) or names}"
        )
    if alphas and all(method.alpha is None for method in methods.values()):
        with_alpha = [name for name, method in METHODS.items() if method.alpha is not None]
        raise ValueError(
            f"Argument `alpha` is for {', '.join(with_alpha)}. Received: methods={' '.join(names)}"
        )
    order = {name: place for place, name in enumerate(METHODS)}
    return tuple(sorted(methods, key=lambda n: (order[n.partition("@")[0]], methods[n].alpha or 0)))


def _alphas(alphas):
    alphas = list(alphas)
    for alpha in alphas:
        if not isinstance(alpha, numbers.Real) or not 0 <= alpha < float("inf"):
            raise ValueError(f"Argument `alpha` must be numbers >= 0. Received: alpha={alphas}")
    if not alphas:
        raise ValueError("Argument `alpha` must be numbers >= 0. Received: none")
    return alphas


def _check(settings):
    settings.network.check()
    if settings.scale is not None:
        one_of(settings.scale, SCALES, "scale")
    for name in ("seeds", "width", "epochs", "corruption_images"):
        checked_count(getattr(settings, name), name)
    for name in ("limit", "image_size", "batch_size"):
        if getattr(settings, name) is not None:
            checked_count(getattr(settings, name), name)
    for count in settings.samples:
        checked_count(count, "samples")
    rate = settings.learning_rate
    if rate is not None and not (isinstance(rate, numbers.Real) and 0 < rate < float("inf")):
        raise ValueError(
            f"Argument `learning_rate` must be a number above 0. Received: learning_rate={rate!r}"
        )
