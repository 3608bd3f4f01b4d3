import re

import pytest

import keras_swapout as ks

#: What is loaded is a matter of the interpreters started here, which have backends of their own.
pytestmark = pytest.mark.tensorflow

LOADED = """
import json, sys
import keras, numpy
before = {name.split(".")[0] for name in sys.modules}
import keras_swapout
after = {name.split(".")[0] for name in sys.modules}
commands = {"keras_swapout.study.pilot", "keras_swapout.study.evaluate"} & set(sys.modules)
print(json.dumps(sorted((after - before - set(sys.stdlib_module_names)) | commands)))
"""

WITHOUT_TENSORFLOW = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ImportError("No module named 'tensorflow'")

sys.meta_path.insert(0, Absent())
import json
import keras, numpy as np
import keras_swapout as ks

inputs = keras.Input((6,))
x = ks.layers.Swapout(0.5, 0.5)([inputs, keras.layers.Dense(6)(inputs)])
model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
model.compile("sgd", "sparse_categorical_crossentropy")
x, y = np.ones((8, 6), "float32"), np.arange(8) % 3
loss = model.fit(x, y, batch_size=8, epochs=1, verbose=0).history["loss"]
print(json.dumps([keras.backend.backend(), "tensorflow" in sys.modules, loss]))
"""


def test_public_names():
    assert set(ks.__all__) <= set(dir(ks))
    assert re.fullmatch(r"\d+\.\d+.*", ks.__version__)
    for name in ("Swapout", "SkipForward", "ResidualDropout", "StochasticDepth"):
        assert name in ks.layers.__all__ and callable(getattr(ks.layers, name))


def test_import_loads_nothing_that_keras_does_not(start_python, result):
    assert result(start_python(LOADED)) == ["keras_swapout"]


def test_import_with_jax_loads_no_tensorflow(start_python, result):
    pytest.importorskip("jax", reason='pip install "keras-swapout[jax]"')
    assert result(start_python(LOADED, KERAS_BACKEND="jax")) == ["keras_swapout"]


def test_trains_where_there_is_no_tensorflow(start_python, result):
    pytest.importorskip("jax", reason='pip install "keras-swapout[jax]"')
    backend, loaded, (loss,) = result(start_python(WITHOUT_TENSORFLOW, KERAS_BACKEND="jax"))
    assert (backend, loaded) == ("jax", False)
    assert 0 < loss < 100
