"""The notebooks run from top to bottom, and are stored as a reader should see them.

They run as they stand but for the numbers that decide how long they take: in each these are in one
cell, tagged "parameters", and another one behind it has smaller ones here (as papermill does it).

Only under TensorFlow: their stored numbers are its.
"""

import ast
import copy
import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
INSTALL = 'pip install "keras-swapout[notebooks]"'
SMALL = {
    "01_quickstart": {"EPOCHS": 1, "SAMPLES": 4},
    "02_what_swapout_samples": {},  # trains nothing
    "03_tuning_theta": {"TRIALS": 7, "SEEDS": 2, "PASSES": 4},  # fewer say nothing of theta
    "04_rblock": {"ALPHAS": (0, 1), "SEEDS": 2, "PASSES": 1, "EPOCHS": 1, "SUB_MODELS": 2},
    "05_inference": {"SEEDS": 2, "EPOCHS": 1, "TEST": 0.12},
    "06_inspection_photographs": {"SIDE": 8, "SEEDS": 2, "EPOCHS": 1, "SAMPLES": 4},
    "07_wrong_labels": {"SEEDS": 1, "EPOCHS": 1, "CELLS": 30},
}
PRIVATE = re.compile(re.escape(str(ROOT)) + r"|/(home|Users|root)/|site-packages")

pytestmark = pytest.mark.tensorflow
notebooks = pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("*.ipynb")) or [FOLDER], ids=lambda path: path.stem
)  # the folder itself, which can't be read, where it is empty: no notebooks are a failure


def code_cells(notebook):
    return [c for c in notebook["cells"] if c["cell_type"] == "code" and "".join(c["source"])]


def make_small(notebook, values):
    """The values in a new cell behind the one tagged "parameters", which must have each of them."""
    tagged = [c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == bool(values)
    for cell in tagged:
        names = {n.id for n in ast.walk(ast.parse(cell["source"])) if isinstance(n, ast.Name)}
        assert set(values) <= names
        after = copy.deepcopy(cell)
        after["source"] = "\n".join(f"{name} = {value!r}" for name, value in values.items())
        after["id"] = "smaller"
        notebook["cells"].insert(notebook["cells"].index(cell) + 1, after)


def results(cell):
    """What a cell shows, by type. Not its printed lines: what is logged depends on the machine."""
    shown = [output for output in cell["outputs"] if output["output_type"] != "stream"]
    return [(output["output_type"], *sorted(output["data"])) for output in shown]


@notebooks
def test_what_is_stored(path):
    cells = code_cells(json.loads(path.read_text(encoding="utf-8")))
    # A gap means that a cell was run again: the outputs would not be those of one run.
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    for output in outputs:
        assert output["output_type"] != "error" and output.get("name") != "stderr", output
        # The letters of an encoded picture may spell anything.
        data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
        assert not PRIVATE.search(json.dumps([output.get("text"), data]))


@notebooks
def test_runs_from_top_to_bottom(path, monkeypatch, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason=INSTALL)
    nbclient = pytest.importorskip("nbclient", reason=INSTALL)
    pytest.importorskip("ipykernel", reason=INSTALL)
    if path.name[:2] in ("06", "07"):
        pytest.importorskip("elpv_dataset", reason='pip install "keras-swapout[elpv]"')
    # The kernel is another process and knows nothing of the import path that pytest has set up.
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # the user's history is not ours to write
    monkeypatch.delenv("MPLBACKEND", raising=False)  # any but the kernel's own shows no figures
    before = path.read_bytes(), sorted(FOLDER.rglob("*"))
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    stored = [results(cell) for cell in cells]
    make_small(notebook, SMALL[path.stem])
    nbclient.execute(notebook, cwd=str(FOLDER), timeout=180, kernel_name="python3")
    assert [results(cell) for cell in cells] == stored
    assert (path.read_bytes(), sorted(FOLDER.rglob("*"))) == before
