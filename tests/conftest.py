import gc
import importlib.util
import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is first imported

import keras
import numpy as np
import pytest

import keras_swapout as ks


def fast_to_compile():
    """XLA's flags for code that takes half the time to compile, and longer to run: no test is long.

    What LLVM optimises they leave out; what becomes of the operations is the same.
    """
    flags = ["--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true"]
    libraries = {
        "tensorflow": ("tensorflow", "libtensorflow_framework.so*"),
        "jax": ("jaxlib", "libjax_common.so"),
    }
    if keras.backend.backend() in libraries:
        # Not every version has it, and XLA ends the process where it doesn't know a flag.
        package, name = libraries[keras.backend.backend()]
        for path in Path(importlib.util.find_spec(package).origin).parent.glob(name):
            with path.open("rb") as file:
                library = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if library.find(b"xla_cpu_use_fusion_emitters") >= 0:
                flags.append("--xla_cpu_use_fusion_emitters=false")
    return " ".join(flags)


os.environ.setdefault("XLA_FLAGS", fast_to_compile())  # read when it first compiles


def pytest_collection_modifyitems(items):
    # They take longest: begun last, they would leave one of two processes without work for minutes.
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")
    backend = keras.backend.backend()
    if backend != "tensorflow":
        skip = pytest.mark.skip(reason=f"needs KERAS_BACKEND=tensorflow, this run has {backend}")
        for item in items:
            if item.get_closest_marker("tensorflow"):
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def fixed_seeds():
    keras.utils.set_random_seed(0)


@pytest.fixture
def draw():
    """draw(layer, shape): the two masks of one training call, read off X = 1 and F(X) = 2."""

    def masks(layer, shape):
        x = np.ones(shape, "float32")
        y = keras.ops.convert_to_numpy(layer([x, 2 * x], training=True)).astype("float32")
        assert set(np.unique(y)) <= {0, 1, 2, 3}
        return y % 2 == 1, y >= 2

    return masks


@pytest.fixture(scope="module")
def little_garbage():
    """KerasTuner collects garbage before each trial: seconds, with all that is loaded here."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def start_python(tmp_path_factory):
    """start_python(code, **environment): a fresh interpreter, stopped at the module's end."""
    started = []
    folder = tmp_path_factory.mktemp("scripts")

    def start(code, **environment):
        script = folder / f"script_{len(started)}.py"
        script.write_text(code)
        path = os.pathsep.join(
            [str(Path(ks.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        )
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "", **environment},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def result():
    """result(process): what the process printed last, as JSON."""

    def read(process, timeout=300):
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == 0, err[-3000:]
        return json.loads(out.splitlines()[-1])

    return read
