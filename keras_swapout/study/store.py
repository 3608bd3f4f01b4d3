"""Files that survive an interruption: a file is there whole, or as it was before."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Writes a file so that no reader, and no power cut, ever meets half of it.

    Args:
        path: the file; its folder is made where it is missing.
        text: its contents.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":  # the new name has to reach the disk as well
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def write_json(path: Path, value: Any) -> None:
    """`value` as JSON, by `write_text`.

    Raises:
        ValueError: a number in it is not finite.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """`rows` as a table, by `write_text`; a column for each name that any of them has."""
    file = io.StringIO()
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(file, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, file.getvalue())


def read_json(path: Path, *required: str) -> dict[str, Any] | None:
    """The dict in a JSON file; None, with a warning where it is broken, if there is none.

    Args:
        path: the file.
        *required: keys without which the file counts as broken.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        value = None
    if not isinstance(value, dict) or any(key not in value for key in required):
        warnings.warn(f"{path} is broken and will be made again", stacklevel=2)
        return None
    return value


def run_path(out: Path, method: str, seed: int) -> Path:
    """Where a finished run is kept."""
    return out / "runs" / f"{method}-seed{seed}.json"


def model_path(out: Path, method: str, seed: int) -> Path:
    """Where a trained network is kept."""
    return out / "models" / f"{method}-seed{seed}.keras"


def read_run(out: Path, method: str, seed: int) -> dict[str, Any] | None:
    """A finished run, or None."""
    path = run_path(out, method, seed)
    parts = "method seed test validation train corruption consistency inference history"
    run = read_json(path, *parts.split())
    if run is not None and (run["method"], run["seed"]) != (method, seed):
        warnings.warn(f"{path} holds another run and will be made again", stacklevel=2)
        return None
    return run
