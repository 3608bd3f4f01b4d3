"""The finished parts of an evaluation, and whether they belong to the one that is asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_swapout.study import store
from keras_swapout.study.evaluate.loading import Saved

CLEAN = "clean"


class Parts:
    """What is finished: files under a folder, or without one a dict.

    A part is a model file in one way of inference on the clean images or under one corruption.

    Args:
        out: the folder, or None.

    Raises:
        ValueError: it is a file.

    Example:

    >>> parts = Parts(None)
    >>> file = Saved(Path("a.keras"), "a", "a", 0)
    >>> parts.keep(file, "deterministic", "fog", {"correct": [1, 0]})
    >>> parts.read(file, "deterministic", "fog")["correct"], parts.read(file, "stochastic", "fog")
    ([1, 0], None)
    """

    def __init__(self, out: str | os.PathLike | None) -> None:
        self.out = None if out is None else Path(out)
        self._memory: dict[str, dict[str, Any]] = {}
        if self.out is not None and self.out.exists() and not self.out.is_dir():
            raise ValueError(
                f"Argument `out` must be a folder, not a file. Received: out={str(out)!r}"
            )

    def check(self, record: Mapping[str, Any]) -> None:
        """Whether what is there was made with these options, models and images.

        Args:
            record: options, checksums of the models and, once it is known, of the images.

        Raises:
            ValueError: it was not; the message names each difference. Models may be added.
        """
        if self.out is None:
            return
        old = store.read_json(self.out / "settings.json", "data", "models")
        if old is None:
            if any((self.out / "parts").glob("**/*.json")):
                raise ValueError(
                    "Argument `out` holds results, but no readable settings.json to say how they "
                    f"were made. Received: out={str(self.out)!r}"
                )
            return
        if "data_checksum" not in record:
            old.pop("data_checksum", None)
        changed = [
            f"{name} was {old.get(name)!r} and is now {record.get(name)!r}"
            for name in {**old, **record}
            if name not in ("models", "data_checksum") and old.get(name) != record.get(name)
        ]
        changed += [
            f"the model file {name}.keras has changed"
            for name, checksum in record["models"].items()
            if old["models"].get(name, checksum) != checksum
        ]
        if old.get("data_checksum") != record.get("data_checksum"):
            changed.append("the images have changed")
        if changed:
            raise ValueError(
                f"Argument `out` holds results made otherwise: {'; '.join(changed)}. Choose "
                "another --out, or what was there before (models may be added)."
            )

    def begin(self, record: Mapping[str, Any]) -> None:
        """Writes down how the parts are made, those of models that are not asked for too."""
        old = {}
        if self.out is not None:
            old = store.read_json(self.out / "settings.json", "models") or {"models": {}}
            store.write_json(
                self.out / "settings.json",
                {**record, "models": {**old["models"], **record["models"]}},
            )

    def read(self, file: Saved, way: str, name: str) -> dict[str, Any] | None:
        """A finished part, or None."""
        required = "test correct nll" if name == CLEAN else "quality correct nll"
        return self._read(_part(file, way, name), *required.split())

    def keep(self, file: Saved, way: str, name: str, part: Mapping[str, Any]) -> None:
        self._keep(_part(file, way, name), part)

    def read_timing(self, file: Saved, ways: Sequence[str]) -> dict[str, Any] | None:
        return self._read(f"{file.name}/timing.json", *ways)

    def keep_timing(self, file: Saved, times: Mapping[str, Any]) -> None:
        self._keep(f"{file.name}/timing.json", times)

    def _read(self, key, *required):
        if key not in self._memory and self.out is not None:
            part = store.read_json(self.out / "parts" / key, *required)
            if part is not None:
                self._memory[key] = part
        return self._memory.get(key)

    def _keep(self, key, part):
        if self.out is not None:
            store.write_json(self.out / "parts" / key, part)
        self._memory[key] = part


def _part(file, way, name):
    return f"{file.name}/{re.sub('[^A-Za-z0-9]+', '-', way)}/{name}.json"
