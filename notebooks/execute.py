"""Runs notebooks from top to bottom and stores their output: python execute.py [NOTEBOOK ...]"""

import sys
from pathlib import Path

import nbclient
import nbformat

HERE = Path(__file__).parent

for path in map(Path, sys.argv[1:] or sorted(map(str, HERE.glob("*.ipynb")))):
    print(path.name, flush=True)
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        # TensorFlow greets from C++ whatever it is told; that is nothing to store.
        extra_arguments=["--IPKernelApp.capture_fd_output=False"],
        coalesce_streams=True,
    ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times, which would make every run a change
    notebook.metadata["language_info"] = {"name": "python"}  # without the version
    nbformat.write(notebook, path)
