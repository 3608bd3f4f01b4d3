"""The notebooks run from top to bottom as they stand, and are stored as a reader should see them.

Only under TensorFlow: their stored numbers are its, and to run them twice would take minutes.
"""

import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
INSTALL = 'pip install "keras-swapout[notebooks]"'
PRIVATE = re.compile(re.escape(str(ROOT)) + r"|/(home|Users|root)/|site-packages")

pytestmark = pytest.mark.tensorflow
notebooks = pytest.mark.parametrize(
    "path", sorted(FOLDER.glob("*.ipynb")) or [FOLDER], ids=lambda path: path.stem
)  # the folder itself, which can't be read, where it is empty: no notebooks are a failure


def code_cells(notebook):
    return [c for c in notebook["cells"] if c["cell_type"] == "code" and "".join(c["source"])]


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
    if solar := path.name.startswith("06"):
        pytest.importorskip("elpv_dataset", reason='pip install "keras-swapout[elpv]"')
    # The kernel is another process and knows nothing of the import path that pytest has set up.
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # the user's history is not ours to write
    monkeypatch.delenv("MPLBACKEND", raising=False)  # any but the kernel's own shows no figures
    before = path.read_bytes(), sorted(FOLDER.rglob("*"))
    notebook = nbformat.read(path, as_version=4)
    stored = [results(cell) for cell in code_cells(notebook)]
    timeout = 480 if solar else 180
    nbclient.execute(notebook, cwd=str(FOLDER), timeout=timeout, kernel_name="python3")
    assert [results(cell) for cell in code_cells(notebook)] == stored
    assert (path.read_bytes(), sorted(FOLDER.rglob("*"))) == before
