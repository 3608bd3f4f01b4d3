"""The finished parts of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_swapout.study import store
from keras_swapout.study.loading import Saved
from keras_swapout.study.shapes import Shape, holds, number

CLEAN = "clean"
FOLDER = "parts"


class Parts:
    """What is finished: files under a folder, or without one a dict.

    A part is a model file in one way of inference on the clean images or under one corruption.

    Args:
        out: the folder, or None.

    Example:

    >>> parts = Parts(None)
    >>> file = Saved(Path("a.keras"), "a", "a", 0)
    >>> parts.keep(file, "deterministic", "fog", {"correct": [1, 0]})
    >>> parts.read(file, "deterministic", "fog")["correct"], parts.read(file, "stochastic", "fog")
    ([1, 0], None)
    """

    def __init__(self, out: Path | None) -> None:
        self.out = out
        self._memory: dict[str, dict[str, Any]] = {}
        self._clean = self._corrupted = store.DICT

    def expect(self, clean: Shape, corrupted: Shape) -> None:
        """What a part has to hold so that it need not be made again."""
        self._clean, self._corrupted = clean, corrupted

    def read(self, file: Saved, way: str, name: str) -> dict[str, Any] | None:
        """A finished part, or None."""
        shape = self._clean if name == CLEAN else self._corrupted
        return self._read(_part(file, way, name), shape)

    def keep(self, file: Saved, way: str, name: str, part: Mapping[str, Any]) -> None:
        self._keep(_part(file, way, name), part)

    def read_timing(self, file: Saved, ways: Sequence[str]) -> dict[str, Any] | None:
        times = holds(**dict.fromkeys(ways, holds(ratio=number, ms=number)))
        return self._read(f"{file.name}/timing.json", times)

    def keep_timing(self, file: Saved, times: Mapping[str, Any]) -> None:
        self._keep(f"{file.name}/timing.json", times)

    def _read(self, key, shape):
        if key not in self._memory and self.out is not None:
            part = store.read_json(self.out / FOLDER / key, shape)
            if part is not None:
                self._memory[key] = part
        return self._memory.get(key)

    def _keep(self, key, part):
        if self.out is not None:
            store.write_json(self.out / FOLDER / key, part)
        self._memory[key] = part


def _part(file, way, name):
    return f"{file.name}/{re.sub('[^A-Za-z0-9]+', '-', way)}/{name}.json"
