"""Data flows one way: each room imports from those before it, and nothing from the study."""

import ast
from pathlib import Path

import pytest

import keras_swapout

pytestmark = pytest.mark.tensorflow  # no backend matters here

PACKAGE = Path(keras_swapout.__file__).parent
ROOMS = (
    "_version",
    "arguments",
    "backend",
    "schedules",
    "metrics",
    "random",
    "submodels",
    "layers",
    "models",
    "surgery",
    "consistency",
    "callbacks",
    "inference",
    "datasets",
    "tuning",
    "study",
)
#: Within the study, likewise.
STUDY = (
    "shapes",
    "store",
    "packages",
    "quiet",
    "hardware",
    "executors",
    "loading",
    "measuring",
    "task",
    "networks",
    "scales",
    "report",
    "progress",
    "pilot",
    "audit",
    "evaluate",
    "surgery",
    "tune",
    "benchmark",
    "cli",
)
AT_THE_DOOR = {"__init__", "__main__"}


def imports(path):
    """The modules that a file imports, anywhere in it, as lists of names after the package's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            package, *rest = name.split(".")
            if package == PACKAGE.name and rest:
                yield rest


@pytest.mark.parametrize("depth, rooms", [(0, ROOMS), (1, STUDY)], ids=["library", "study"])
def test_no_door_leads_back_up(depth, rooms):
    start = PACKAGE / "study" if depth else PACKAGE
    wrong = []
    for path in start.rglob("*.py"):
        here = path.relative_to(start).with_suffix("").parts[0]
        if here in AT_THE_DOOR:
            continue
        assert here in rooms, f"{path} is in no room: where in the order does {here} belong?"
        for parts in imports(path):
            if depth and parts[0] != "study":
                continue
            there = parts[depth] if len(parts) > depth else None
            if there in rooms and rooms.index(there) > rooms.index(here):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {'.'.join(parts)}")
    assert not wrong
