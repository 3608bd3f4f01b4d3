"""Arrays of more rows than memory holds: they stay in a file, and are read as asked for."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_swapout.arguments import checked_array, refusal

_PARTIAL = ".partial"  # files that are being written
_ABANDONED = 3600  # seconds in which nobody wrote to one


class Rows:
    """Some rows of an array (n, ...) that lies in a file: a split of more than memory holds.

        rows[key] = file[index[key]]

    `shape`, `dtype`, `ndim`, `size` and `len` are those of the array (m, ...) that `numpy.asarray`
    makes of it, in memory. Keys are for the first axis: an int, a slice, ints or bools; what they
    give is a plain array, in memory. It is read, not mapped into memory: of files larger than that,
    random rows of images came 10 to 20 times faster so.

    Args:
        file: the path of an .npy file, or a `numpy.memmap` (n, ...). By its path it is pickled as
            such, and opened anew.
        index: which rows, ints (m,) in [0, n); None for all.

    Raises:
        TypeError: `index` holds no ints, or a key is a tuple. ValueError: `index` is no row, or
            outside of the array. OSError: the file can't be read.

    Example:

    >>> rows = Rows(np.arange(12).reshape(6, 2), index=[5, 0, 2])
    >>> rows.shape, rows[1:].tolist()
    ((3, 2), [[0, 1], [4, 5]])
    """

    def __init__(self, file: str | os.PathLike | np.ndarray, index: Any = None) -> None:
        self.file = file
        named = isinstance(file, (str, os.PathLike))
        self._array = array = np.load(file, mmap_mode="r") if named else file
        # Of a map of a whole file it is known where each row lies, but not of its parts.
        whole = isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap)
        self._can_be_read = whole and array.mode != "c" and array.flags.c_contiguous
        self._state = _state(os.stat(array.filename)) if self._can_be_read else None
        count = len(array)
        expected = f"ints (m,) in [0, {count})"
        index = np.arange(count) if index is None else checked_array(index, "index", expected)
        if index.size and index.dtype.kind not in "iu":
            raise refusal(TypeError, "index", expected, index)
        if index.ndim != 1 or (index.size and not 0 <= index.min() <= index.max() < count):
            raise refusal(ValueError, "index", expected, index)
        self.index = index.astype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.index), *self._array.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    @property
    def ndim(self) -> int:
        return self._array.ndim

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Any) -> np.ndarray:
        if isinstance(key, tuple):
            raise refusal(TypeError, "key", "an int, a slice, ints or bools, for one axis", key)
        index = self.index[key]
        if not self._can_be_read:
            return np.array(self._array[index])
        return self._read(index.reshape(-1)).reshape((*index.shape, *self.shape[1:]))

    def _read(self, index):
        rows = np.empty((len(index), *self.shape[1:]), self.dtype)
        flat = rows.reshape(-1).view(np.uint8)
        width = flat.size // max(1, len(index))  # bytes
        starts = np.flatnonzero(np.diff(index, prepend=-2) != 1)  # of what lies in one piece
        with open(self._array.filename, "rb") as file:
            whole = _state(os.fstat(file.fileno())) == self._state
            for start, end in itertools.pairwise([*starts, len(index)]):
                file.seek(self._array.offset + int(index[start]) * width)
                whole &= file.readinto(flat[start * width : end * width]) == (end - start) * width
        if not whole:
            raise OSError(errno.EIO, "the file is another one than it was", str(file.name))
        return rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("Argument `copy` must be None or True: the rows lie in a file")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __reduce__(self) -> tuple[Any, ...]:
        return Rows, (self.file, self.index)

    def __repr__(self) -> str:
        return f"Rows({self.file!r}, shape={self.shape}, dtype={self.dtype})"


def _state(found):
    return found.st_ino, found.st_size


def part(array: Any, index: Any) -> Any:
    """`array[index]`, along the first axis; what lies in a file stays there, as `Rows`.

    Example:

    >>> part(Rows(np.arange(6)), [4, 2]).index.tolist(), part(np.arange(6), [4, 2]).tolist()
    ([4, 2], [4, 2])
    """
    if isinstance(array, np.memmap):
        array = Rows(array)
    return Rows(array.file, array.index[index]) if isinstance(array, Rows) else array[index]


def joined(arrays: Sequence[Any]) -> Any:
    """`numpy.concatenate`; `Rows` of one file stay there.

    Example:

    >>> rows = Rows(np.arange(6))
    >>> joined([part(rows, [4, 2]), part(rows, [0])]).index.tolist()
    [4, 2, 0]
    """
    first = arrays[0]
    if all(isinstance(a, Rows) and _same(a.file, first.file) for a in arrays):
        return Rows(first.file, np.concatenate([a.index for a in arrays]))
    return np.concatenate(arrays)


def _same(one, other):
    return one is other or (isinstance(one, (str, os.PathLike)) and one == other)


def pieces(array: Any, most: int = 2**22) -> Iterator[np.ndarray]:
    """An array or `Rows` in consecutive pieces of at most `most` values, or of one row.

    Example:

    >>> [piece.shape for piece in pieces(np.ones((5, 2, 2)), most=8)]
    [(2, 2, 2), (2, 2, 2), (1, 2, 2)]
    """
    rows = max(1, most // max(1, math.prod(array.shape[1:])))
    for start in range(0, len(array), rows):
        yield array[start : start + rows]


def cache() -> Path:
    """The folder for what can be made again: KERAS_SWAPOUT_CACHE, or one in the user's cache."""
    own = os.environ.get("KERAS_SWAPOUT_CACHE")
    users = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache").expanduser()
    return Path(own or Path(users, "keras-swapout")).absolute()


def write(path: Path, rows: Iterable[np.ndarray], size: int) -> None:
    """Writes an .npy file row by row. It has its name once it is whole.

    Args:
        path: the file; its folder is made where it is missing.
        rows: arrays of one shape and type, one at least; an error among them, none of files, leaves
            nothing behind.
        size: bytes that there has to be room for.

    Raises:
        OSError: it can't be written; the message has the path, and what to do.
    """
    with _advised(path, size):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"*{_PARTIAL}"):  # by processes that were killed
            with contextlib.suppress(OSError):  # another may do the same
                if time.time() - left.stat().st_mtime > _ABANDONED:
                    left.unlink()
        # Before anything is decoded, which may take long.
        if shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # A name of its own: another process may be at it as well.
        descriptor, temporary = tempfile.mkstemp(_PARTIAL, f"{path.stem}-", path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for count, row in enumerate(rows, 1):
                    if count == 1:
                        _header(file, (2**40, *row.shape), row.dtype)  # room for any number
                        start = file.tell()
                    # Not by a memory map, where a full disk is the end of the process.
                    file.write(np.ascontiguousarray(row))
                file.seek(0)
                _header(file, (count, *row.shape), row.dtype, start)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise


def write_text(path: Path, text: str) -> None:
    """Writes a small file, which has its name once it is whole.

    Raises:
        OSError: as `write`.
    """
    with _advised(path, len(text)):
        descriptor, temporary = tempfile.mkstemp(_PARTIAL, f"{path.stem}-", path.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)


def _header(file, shape, dtype, length=None):
    """That of an .npy file, filled up with spaces to a length; see `numpy.lib.format`."""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False}
    text = repr(described | {"shape": shape}).encode("latin1")
    begin = np.lib.format.magic(1, 0)
    length = length or -(-(len(begin) + 3 + len(text)) // 64) * 64
    room = length - len(begin) - 2
    file.write(begin + room.to_bytes(2, "little") + text.ljust(room - 1) + b"\n")


@contextlib.contextmanager
def _advised(path, size):
    """OSErrors with the path, which that of a full disk has not, and with what to do."""
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,
            f"{error.strerror or error}: it takes {size / 1e9:.2g} GB. Make room there, or name "
            "another folder with the environment variable KERAS_SWAPOUT_CACHE",
            str(path),
        ) from error
