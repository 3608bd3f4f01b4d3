"""How a list of residual additions prints."""

from __future__ import annotations

import collections
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_swapout.surgery.find import Residuals

_SHOWN = 6  # of what was left, for each reason


def table(found: Residuals, model: str) -> str:
    """The residual additions of a model, and below them what was left and what can't be reached."""
    lines = [f"{len(found)} residual addition{'s' * (len(found) != 1)} in {model!r}"]
    rows = [("", "name", "shape", "shortcut", "branch", "drops at its end")]
    for depth, x in enumerate(found):
        kind = "projection" if x.projection else "identity"
        row = (str(depth), x.where, _shape(x.shape), f"{kind}, {x.shortcut}", x.branch, x.drop)
        rows.append(row)
    if found:
        used = [i for i, cells in enumerate(zip(*rows[1:], strict=True)) if any(cells)]
        widths = {i: max(len(row[i]) for row in rows) for i in used}
        for row in rows:
            lines.append("  ".join(row[i].ljust(widths[i]) for i in used).rstrip())
    reasons = collections.defaultdict(list)
    for x in found.left:
        reasons[x.reason].append(x.where)
    for reason, names in reasons.items():
        more = f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN)
        lines.append(f"left, {len(names)}: {reason}: {', '.join(names[:_SHOWN])}{more}")
    kinds = collections.Counter(type(layer).__name__ for layer in found.opaque.values())
    for kind, count in kinds.items():
        lines.append(
            f"out of reach: {kind} x{count} has a `call` of its own; what it adds can't be seen"
        )
    return "\n".join(lines)


def _shape(shape):
    return "x".join("?" if side is None else str(side) for side in shape[1:])
