"""`keras-swapout retrofit`: layers of ours into a network's file. The plan, and then the file."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_swapout.study.pilot.methods import SYMBOLS
from keras_swapout.study.surgery.checks import Reference
from keras_swapout.study.surgery.files import check_paths, read_network, save, size
from keras_swapout.study.surgery.kinds import KINDS, NUMBERS, numbers_of, with_layers

if TYPE_CHECKING:
    import keras

WIDTH = 80
_ROWS = 12  # of the plan, unless all are asked for
_LEFT = 3  # reasons


def retrofit(
    model: str,
    out: str,
    layer: str = "swapout",
    where: Sequence[str] | None = None,
    keep_dropouts: bool = False,
    imports: Sequence[str] = (),
    dry_run: bool = False,
    overwrite: bool = False,
    verbose: bool = False,
    show: Callable[[str], Any] = print,
    **numbers: Sequence[float],
) -> None:
    """Puts layers into the network of a file and writes another one.

    Args:
        model, out: the files.
        layer: of `KINDS`.
        where: names of the places; None for all that there are.
        keep_dropouts: whether a dropout that a branch ends in stays beside the new layer.
        imports: modules to import first, which register layers.
        dry_run: only show the plan.
        overwrite: whether `out` may be there.
        verbose: show all places, and all of what was left.
        show: what prints.
        **numbers: of `NUMBERS`, as lists of floats.

    Raises:
        TypeError, ValueError, OSError: as the functions of `keras_swapout.surgery`; a file can't be
            read or written.
    """
    values = numbers_of(layer, numbers)
    check_paths(model, out, (), overwrite or dry_run)
    network = read_network(model, imports)
    options = {"existing": "keep"} if keep_dropouts and KINDS[layer].merges else {}
    new = with_layers(network, layer, values, where, **options)
    for line in plan(network, new, layer, keep_dropouts, verbose):
        show(line)
    if dry_run:
        show(f"\nNothing is written. Without --dry-run it goes to {out}.")
        return
    said = Reference(network).compared(new, "the new network")
    save(new, Path(out))
    show(
        f"\n{out}: {size(Path(out))}.\nPredictions beside those of {Path(model).name}: {said}.\n"
        "Load it with `import keras_swapout`, compile it, and train on. To ship it:\n"
        f"keras-swapout strip {out} --out ..."
    )


def plan(
    network: keras.Model, new: keras.Model, layer: str, keep: bool, verbose: bool
) -> list[str]:
    """What becomes of a network, in lines: each new layer, and what was left and why."""
    from keras_swapout import surgery

    kind = KINDS[layer]
    found = surgery.find_residuals(network)
    rows = _merges(found, new, keep) if kind.merges else _behind(new)
    lines = [f"{kind.layer.partition(':')[2]} in {network.name!r}, {len(rows)} of them"]
    if kind.merges:
        lines[0] += f" for {len(found)} residual additions"
    lines += _table(rows, None if verbose else _ROWS)
    if verbose and kind.merges:
        return [*lines, "", "What was found:", str(found)]
    if kind.merges:
        left = str(found).splitlines()[1 + bool(found) + len(found) :]
        rest = len(left) - _LEFT
        lines += [textwrap.shorten(line, WIDTH, placeholder=" ...") for line in left[:_LEFT]]
        lines += [f"and {rest} more reasons; --verbose shows them"] * (rest > 0)
    return lines


def _merges(found, new, keep):
    """For each addition: where it is, its shape, its shortcut, and what is there now."""
    from keras_swapout.surgery.insert import all_calls

    now = {name: calls[0].operation for name, calls in all_calls(new).items()}
    rows = []
    for residual in found:
        layer = now.get(residual.where)
        if layer is None or not type(layer).__module__.startswith("keras_swapout."):
            continue
        kind = "projection" if residual.projection else "identity"
        dropped = f", {'beside' if keep else 'for'} {residual.drop}" * bool(residual.drop)
        rows.append((residual.where, _times(residual.shape), kind, _numbers(layer) + dropped))
    return rows


def _behind(new):
    """For each layer that came behind another: where, the shape, and its numbers."""
    from keras_swapout.layers.drop import RateLayer
    from keras_swapout.surgery.insert import all_calls

    return [
        (name, _times(calls[0].inputs[0].shape), _numbers(calls[0].operation))
        for name, calls in all_calls(new).items()
        if isinstance(calls[0].operation, RateLayer)
    ]


def _numbers(layer):
    values = {name: getattr(layer, name) for name in NUMBERS if name in layer.arguments}
    return ", ".join(f"{SYMBOLS.get(name, name)} {_plain(x)}" for name, x in values.items())


def _plain(value):
    return "x".join(map(str, value)) if isinstance(value, tuple) else f"{value:.3g}"


def _table(rows, most):
    """Rows in columns, those in the middle left out, in lines of `WIDTH`."""
    shown = list(rows)
    if most and len(rows) > most:
        half = most // 2
        gap = (f"... {len(rows) - 2 * half} more, which --verbose shows",)
        shown = [*rows[:half], gap, *rows[-half:]]
    full = [row for row in shown if len(row) > 1]
    widths = [max(len(row[i]) for row in full) for i in range(len(full[0]))] if full else []
    rest = sum(widths[1:]) + 2 * len(widths)
    if most and widths:
        widths[0] = min(widths[0], max(WIDTH - rest, 16))
    return ["  " + _line(row, widths) for row in shown]


def _line(row, widths):
    return row[0] if len(row) == 1 else "  ".join(map(_cell, row, widths)).rstrip()


def _cell(text, width):
    """A text of a width, the start of a name that is too long left out: ends tell apart."""
    return text.ljust(width) if len(text) <= width else "..." + text[3 - width :]


def _times(shape):
    return "x".join("?" if side is None else str(side) for side in shape[1:])
