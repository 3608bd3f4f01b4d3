"""Files that are there whole or as they were before, in folders that one process has at a time."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import platform
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_swapout.study.shapes import Shape, holds, number

DICT = holds()
SETTINGS = "settings.json"
_TEMPORARY = ".*.partial"
_ROOM = "make room on the disk"
_ADVICE = {
    errno.ENOSPC: _ROOM,
    getattr(errno, "EDQUOT", errno.ENOSPC): _ROOM,
    errno.EFBIG: "allow larger files, which `ulimit -f` limits",
}
#: How a spreadsheet knows a formula. See `write_csv`.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


# --- writing -------------------------------------------------------------------------------------


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path to write a file to that takes the place of `path` once the block has ended well.

    So no reader, and no power cut, ever meets half of a file. The path has the name of the file,
    since formats are told by it, in a folder of its own, since two may write the same file. Of a
    folder, written likewise, one may meet none for a moment: no folder takes the place of another
    in one step.

    Args:
        path: the file; its folder is made where it is missing.

    Raises:
        OSError: it can't be written; the message has the path and what to do.
    """
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        start, end = _TEMPORARY.split("*")
        with tempfile.TemporaryDirectory(end, start, path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            for part in temporary.rglob("*") if temporary.is_dir() else [temporary]:
                if part.is_file():
                    with open(part, "r+b") as file:
                        os.fsync(file.fileno())
            if path.exists() and (path.is_dir() or temporary.is_dir()):
                os.replace(path, Path(folder) / "before")  # it goes with the folder
            os.replace(temporary, path)
        if os.name == "posix":  # the new name has to reach the disk as well
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """`text` as a file, by `written`. What UTF-8 has not, of names of files, is escaped."""
    with written(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """`value` as JSON, by `written`.

    Raises:
        ValueError: a number in it is not finite. OSError: as `written`.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """`rows` as a table, by `written`; a column for each name that any of them has.

    A text that a spreadsheet would take for a formula, as it begins with =, +, -, @ or white space,
    gets an apostrophe in front, and so does one that has apostrophes in front of these already:
    without the first apostrophe it is what it was. Numbers are left alone.
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
    write_text(path, "".join(map(_line, lines)))


def _line(cells):
    file = io.StringIO()
    # With this end of a line both of its characters are quoted, whatever Python's version.
    csv.writer(file, lineterminator="\r\n").writerow(map(_cell, cells))
    return file.getvalue().removesuffix("\r\n") + "\n"


def _cell(value):
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


@contextlib.contextmanager
def _named(path):
    """OSErrors with the path, which that of a full disk has not, and with what to do."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno, "choose an `out` that can be written to")
        raise OSError(
            error.errno or errno.EIO,
            f"{error.strerror or error}: {advice}. What is finished is kept, and the same call "
            "goes on from there",
            str(path),
        ) from error


# --- reading -------------------------------------------------------------------------------------


def read(path: Path, shape: Shape = DICT) -> dict[str, Any] | None:
    """The dict in a JSON file, or None: there is none, or not one of this shape.

    Args:
        path: the file.
        shape: what the file has to hold, of `keras_swapout.study.shapes`.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return value if DICT(value) and shape(value) else None


def read_json(path: Path, shape: Shape = DICT) -> dict[str, Any] | None:
    """As `read`, with a warning where there is a file and it is broken."""
    value = read(path, shape)
    if value is None and path.exists():
        warn_broken(path)
    return value


def warn_broken(path: Path) -> None:
    """Says that a file is no good, and that this does not stop anything."""
    warnings.warn(f"{path} is broken and will be made again", stacklevel=3)


# --- folders of results --------------------------------------------------------------------------


def check(
    out: Path | None, record: Mapping[str, Any], folders: Sequence[str], grow: Sequence[str] = ()
) -> dict[str, Any]:
    """Whether the folder `out` belongs to the run that is asked for.

    Args:
        out: the folder, which may be missing; None, where nothing is kept.
        record: what settings.json is to hold: all that the results depend on. "data_checksum" is
            compared as soon as it is there.
        folders: where in `out` the results are. As long as there is none, it belongs to any run.
        grow: names of what may grow, as no finished result becomes wrong by that: counts, lists,
            and dicts of checksums of files, which may also be asked for in part.

    Returns:
        What settings.json holds.

    Raises:
        ValueError: it does not; the message names each difference.

    Example:

    >>> with tempfile.TemporaryDirectory() as out:
    ...     write_json(Path(out) / "settings.json", {"seeds": 2, "width": 1})
    ...     write_json(Path(out) / "runs" / "0.json", {})
    ...     _ = check(Path(out), {"seeds": 3, "width": 1}, ["runs"], ["seeds"])
    ...     check(Path(out), {"seeds": 2, "width": 4}, ["runs"], ["seeds"])
    Traceback (most recent call last):
        ...
    ValueError: Argument `out` holds results made otherwise: width was 1 and is now 4. Choose ...
    """
    if out is None:
        return {}
    if out.exists() and not out.is_dir():
        raise ValueError(f"Argument `out` must be a folder, not a file. Received: out={str(out)!r}")
    if not any(path for folder in folders for path in (out / folder).rglob("*.json")):
        return {}
    old = read(out / SETTINGS)
    if old is None:
        raise ValueError(
            "Argument `out` holds results, but no readable settings.json to say how they were "
            f"made. Received: out={str(out)!r}"
        )
    names = [name for name in {**old, **record} if name != _DATA or name in record]
    changed = [
        difference
        for name in names
        for difference in _differences(name, old.get(name), record.get(name), name in grow)
    ]
    if changed:
        only = f" (only {' and '.join(grow)} may grow)" if grow else ""
        raise ValueError(
            f"Argument `out` holds results made otherwise: {'; '.join(changed)}. Choose another "
            f"`out`, or what was there before{only}."
        )
    return old


@contextlib.contextmanager
def claimed(
    out: Path | None, record: Mapping[str, Any], folders: Sequence[str], grow: Sequence[str] = ()
) -> Iterator[None]:
    """Has the folder `out` for this process alone, and in it the settings of the run.

    The lock is the operating system's, on the file .lock, so it ends with the process however that
    ends. Where the file system has none, a warning says so.

    Args, Raises: as `check`; also ValueError: another process has the folder.
    """
    if out is None:
        yield
        return
    path = out / ".lock"
    with _named(path):
        out.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    with file:
        if not _lock(file, path):
            file.seek(0)
            raise ValueError(
                f"Argument `out` is in use by {file.read().strip() or 'another process'}. Wait "
                f"until that has ended, or choose another folder. Received: out={str(out)!r}"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        old = check(out, record, folders, grow)
        left = [*out.glob(_TEMPORARY), *(p for f in folders for p in (out / f).rglob(_TEMPORARY))]
        for folder in left:  # by processes that were killed
            shutil.rmtree(folder, ignore_errors=True)
        merged = {
            name: {**old.get(name, {}), **record[name]}
            for name in grow
            if isinstance(record[name], dict)
        }
        write_json(out / SETTINGS, {**record, **merged})
        yield


_DATA = "data_checksum"


def _differences(name, old, new, may_grow):
    if old == new:
        return
    if name == _DATA:
        yield "the images have changed"
    elif may_grow and isinstance(old, dict) and isinstance(new, dict):
        for file in old:
            if new.get(file, old[file]) != old[file]:
                yield f"the model file {file}.keras has changed"
    elif not (may_grow and _grown(old, new)):
        yield f"{name} was {old!r} and is now {new!r}"


def _grown(old, new):
    if old is None:  # of a version that knew nothing of it
        return isinstance(new, list)
    if isinstance(old, list) and isinstance(new, list):
        return all(value in new for value in old)
    return number(old) and number(new) and new >= old


def _lock(file, path):
    """Whether the lock is ours now."""
    try:
        if os.name == "nt":
            import msvcrt

            file.seek(2**30)  # what is locked can't be read, so not where the holder is
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        warnings.warn(
            f"{path} can't be locked ({error}): see to it that no other process writes there",
            stacklevel=2,
        )
    return True
