"""Saved models: which files are runs of one model, and why a file can't be used."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import keras_swapout as ks
from keras_swapout.datasets.sources import theirs

if TYPE_CHECKING:
    import keras


class Saved(NamedTuple):
    """A model file: `name` without its suffix, which is `model`, or `model`-seed`seed`."""

    path: Path
    name: str
    model: str
    seed: int


def find_models(paths: Iterable[str | os.PathLike]) -> list[Saved]:
    """The model files, those that differ only in a trailing -seed<k> as runs of one model.

    Raises:
        ValueError: there is none, one is no .keras file, or two have the same name.
        FileNotFoundError: a file is missing.

    Example:

    >>> find_models([])
    Traceback (most recent call last):
        ...
    ValueError: Argument `models` must be one or more .keras files. Received: none
    """
    found: dict[str, Saved] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f"Argument `models`: there is no file {str(path)!r}")
        if not path.is_file() or not zipfile.is_zipfile(path):
            raise ValueError(
                "Argument `models` must be files that model.save('name.keras') wrote. "
                f"Received: {str(path)!r}, which is not one"
            )
        name = path.stem
        if name in found:
            raise ValueError(
                "Argument `models` must have different file names, as they name the results. "
                f"Received: {str(found[name].path)!r} and {str(path)!r}"
            )
        match = re.fullmatch(r"(.+)-seed(\d+)", name)
        model, seed = (match[1], int(match[2])) if match else (name, 0)
        found[name] = Saved(path, name, model, seed)
    if not found:
        raise ValueError("Argument `models` must be one or more .keras files. Received: none")
    return list(found.values())


def checksum(path: Path) -> int:
    """CRC-32 of a file."""
    return zlib.crc32(path.read_bytes())


def import_modules(names: Iterable[str]) -> None:
    """Imports modules that register layers; those of the current folder too.

    Raises:
        ValueError: there is no such module.
    """
    for name in names:
        try:
            theirs(name)
        except ModuleNotFoundError as error:
            raise ValueError(
                f"Argument `import` must be modules that Python finds, in {os.getcwd()} or "
                f"installed. Received: {name!r} ({error})"
            ) from error


def load(path: Path, argument: str = "models") -> keras.Model:
    """The network in a file; of an R-Block model the one that ships.

    Args:
        path: the file.
        argument: what messages call it.

    Raises:
        ValueError: it can't be loaded; the message names the classes that are not known, and the
            modules that register them.
    """
    import keras

    for name in ks.__all__:  # the command has not registered the classes of all these yet
        getattr(ks, name)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            try:
                model = keras.saving.load_model(path)
            except Exception:
                # A loss or metric of the user's own is no reason: it is not needed to predict.
                model = keras.saving.load_model(path, compile=False)
    except Exception as error:
        raise ValueError(_why(path, error, argument)) from error
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Argument `{argument}` must be Keras models. Received: a {type(model).__name__} in "
            f"{str(path)!r}"
        )
    return model.model if isinstance(model, ks.RBlock) else model


def _why(path, error, argument):
    start = f"Argument `{argument}`: {str(path)!r} can't be loaded"
    unknown = unregistered(path)
    if not unknown:
        lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
        return f"{start}: {lines[0]}"
    classes = ", ".join(f"{name} of {module or 'an unknown module'}" for name, module in unknown)
    modules = sorted({module for _, module in unknown if module})
    theirs = " ".join(filter(_may_be_theirs, modules))
    if theirs and "__main__" not in modules:
        advice = f"Name what defines them: --import {theirs}"
    else:
        advice = (
            "Put their classes into a module, with @keras.saving.register_keras_serializable(), "
            "and name it: --import my_module"
        )
    return f"{start}, for it has classes that Keras does not know here: {classes}. {advice}"


def _may_be_theirs(module):
    """Whether what a file calls a module can be one of a user's: a name, and none of Python's."""
    names = module.split(".")
    return all(map(str.isidentifier, names)) and names[0] not in sys.stdlib_module_names


def unregistered(path: Path) -> list[tuple[str, str]]:
    """The classes in a .keras file that Keras can't find, as (class, module that has it).

    Args:
        path: the file.

    Returns:
        In the order of the file. The module is where the class was defined or, where the file does
        not tell, the package that it was registered under; "" if it tells neither.
    """
    import keras

    try:
        with zipfile.ZipFile(path) as archive:
            nodes = list(_nodes(json.loads(archive.read("config.json"))))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile):
        return []
    found = {}
    for node in nodes:
        module, name = node.get("module") or "", node["class_name"]
        registered = node.get("registered_name") or ""
        if not all(isinstance(text, str) for text in (module, name, registered)):
            continue
        if module.partition(".")[0] in ("keras", "builtins") or not (module or registered):
            continue
        if keras.saving.get_registered_object(registered) is None and not _importable(module, name):
            package = registered.partition(">")[0] if ">" in registered else ""
            found[name] = module or package
    return list(found.items())


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        if "class_name" in tree and "config" in tree:
            yield tree
        tree = tree.values()
    elif not isinstance(tree, list):
        return
    for value in tree:
        yield from _nodes(value)


def _importable(module, name):
    return hasattr(sys.modules.get(module), name)


def input_size(model: keras.Model) -> tuple[int | None, int | None, int | None] | None:
    """(height, width, channels) of the images that a model takes, each None where it does not say.

    None where it takes no images, or does not say that either.
    """
    shape = getattr(model, "input_shape", None)
    return tuple(shape[1:]) if isinstance(shape, tuple) and len(shape) == 4 else None
