"""`keras-swapout strip`: a network's file without any layer of ours, and exports of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_swapout.study import store
from keras_swapout.study.surgery.checks import Reference
from keras_swapout.study.surgery.exports import check_exports, export, path_of
from keras_swapout.study.surgery.files import check_paths, read_network, size


def strip(
    model: str,
    out: str,
    fold_batch_norm: bool = False,
    exports: Sequence[str] = (),
    imports: Sequence[str] = (),
    overwrite: bool = False,
    show: Callable[[str], Any] = print,
) -> None:
    """Writes the network of a file with core Keras layers only, reads it again, and compares.

    Args:
        model, out: the files.
        fold_batch_norm: as `keras_swapout.surgery.strip`.
        exports: of `keras_swapout.study.surgery.exports.FORMATS`; written beside `out`.
        imports: modules to import first, which register layers.
        overwrite: whether files may be there.
        show: what prints.

    Raises:
        TypeError, ValueError, OSError, ImportError: as `keras_swapout.surgery.strip`; a file can't
            be read or written, or predicts something else; a package is missing.
    """
    import keras_swapout as ks

    exports = list(dict.fromkeys(exports))
    paths = {name: path_of(name, Path(out)) for name in exports}
    check_paths(model, out, paths.values(), overwrite)
    check_exports(exports)
    network = read_network(model, imports)
    reference = Reference(network)
    stripped = ks.surgery.strip(network, fold_batch_norm)
    gone = _gone(network, stripped)
    show(f"Out of {network.name!r}: {gone}.\nPredictions beside those of {Path(model).name}:")
    with store.written(Path(out)) as temporary:
        stripped.save(temporary)
        said = reference.compared(read_network(str(temporary), imports), out)
    show(f"  {out} ({size(Path(out))}): {said}")
    for name, path in paths.items():
        said = export(stripped, name, path, reference.compared)
        show(f"  {path} ({size(path)}): {said}")
    show(f"{Path(out).name} needs {' and '.join(_needs(stripped))} to load.")


def _gone(before, after):
    """What is no longer in a network, by class, and how often."""
    import collections

    from keras_swapout.submodels.inside import sublayers

    counts = [collections.Counter(type(x).__name__ for x in sublayers(m)) for m in (before, after)]
    gone = counts[0] - counts[1]
    return ", ".join(f"{n} {name}" for name, n in sorted(gone.items())) or "nothing, it had none"


def _needs(model):
    """The packages that have the classes of a network."""
    from keras_swapout.submodels.inside import sublayers

    return sorted({type(x).__module__.partition(".")[0] for x in sublayers(model)} | {"keras"})
