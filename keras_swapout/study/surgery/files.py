"""A network from a file, and to a file that is not there yet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_swapout.study import store
from keras_swapout.study.loading import import_modules, load

if TYPE_CHECKING:
    import keras


def check_paths(model: str, out: str, exports: Iterable[Path], overwrite: bool) -> None:
    """Whether a network can be read from `model` and written to `out`, before any work is done.

    Raises:
        FileNotFoundError: there is no such file. ValueError: one is no .keras file; `out` is the
            model itself; something is there already and `overwrite` is False.
    """
    if not Path(model).exists():
        raise FileNotFoundError(f"Argument `model`: there is no file {model!r}")
    for name, path in (("model", model), ("out", out)):
        if Path(path).suffix != ".keras" or Path(path).is_dir():
            raise ValueError(f"Argument `{name}` must be a file *.keras. Received: {path!r}")
    if Path(out).exists() and Path(out).samefile(model):
        raise ValueError(f"Argument `out` must be another file than the model. Received: {out!r}")
    for path in (Path(out), *exports):
        if path.exists() and not overwrite:
            raise ValueError(
                f"Argument `out`: {str(path)!r} is there already. Choose another name, or say "
                "--overwrite"
            )


def read_network(path: str, modules: Sequence[str]) -> keras.Model:
    """The network in a file; of an R-Block model the one that ships.

    Raises:
        ValueError: a module is not found, or the file can't be loaded; the message says why.
    """
    import_modules(modules)
    return load(Path(path), "model")


def save(model: keras.Model, path: Path) -> None:
    """Writes a network, whole or not at all."""
    with store.written(path) as temporary:
        model.save(temporary)


def size(path: Path) -> str:
    """How large a file or a folder is, for people.

    Example:

    >>> size(Path("/none"))
    '0.0 MB'
    """
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return f"{sum(p.stat().st_size for p in files) / 1e6:.1f} MB"
