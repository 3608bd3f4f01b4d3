import importlib
import inspect
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
added = sorted((after - before - set(sys.stdlib_module_names)) | commands)
"""

#: Before `LOADED`: there is no TensorFlow, and `asked` notes who would have liked one.
WITHOUT_TENSORFLOW = """
import sys
import traceback

asked = []

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            asked.extend(f.filename for f in traceback.extract_stack() if "swapout" in f.filename)
            raise ImportError("No module named 'tensorflow'")

sys.meta_path.insert(0, Absent())
"""

TRAINED = """
asked = list(asked)
import numpy as np
import keras_swapout as ks

inputs = keras.Input((6,))
x = ks.layers.Swapout(0.5, 0.5)([inputs, keras.layers.Dense(6)(inputs)])
model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(x))
model.compile("sgd", "sparse_categorical_crossentropy")
x, y = np.ones((8, 6), "float32"), np.arange(8) % 3
loss = model.fit(x, y, batch_size=8, epochs=1, verbose=0).history["loss"]
print(json.dumps([added, asked, keras.backend.backend(), "tensorflow" in sys.modules, loss]))
"""

REGISTERED = """
import json, sys
from pathlib import Path

sys.argv = ["keras-swapout"]
import keras_swapout
from keras_swapout.study import loading

before = "keras" in sys.modules
try:
    loading.load(Path("none.keras"))
except ValueError:
    pass
import keras

names = ("RBlock", "Swapout", "SDropDML", "ExpectedCalibrationError")
found = [keras.saving.get_registered_object(f"keras_swapout>{name}") for name in names]
print(json.dumps([before, [one.__name__ for one in found]]))
"""


def test_public_names():
    assert dir(ks) == sorted(ks.__all__)
    assert re.fullmatch(r"\d+\.\d+.*", ks.__version__)
    for name in ("Swapout", "SkipForward", "ResidualDropout", "StochasticDepth"):
        assert name in ks.layers.__all__ and callable(getattr(ks.layers, name))


@pytest.mark.parametrize(
    "room",
    [
        "submodels",
        "submodels.views",
        "consistency",
        "consistency.divergence",
        "inference",
        "metrics",
        "datasets",
        "tuning",
    ],
)
def test_a_room_shows_its_public_names_and_they_are_typed(room):
    module = importlib.import_module(f"keras_swapout.{room}")
    if room == "tuning":
        pytest.importorskip("keras_tuner", reason='pip install "keras-swapout[tuner]"')
    assert dir(module) == sorted(module.__all__)
    for name in module.__all__:
        found = getattr(module, name)
        for function in (found, *vars(found).values()) if inspect.isclass(found) else (found,):
            if inspect.isfunction(function) and not function.__name__.startswith("_"):
                signature = inspect.signature(function)
                typed = [p.annotation for p in signature.parameters.values() if p.name != "self"]
                assert inspect.Signature.empty not in (*typed, signature.return_annotation), name


def test_import_loads_nothing_that_keras_does_not(start_python, result):
    assert result(start_python(LOADED + "print(json.dumps(added))")) == ["keras_swapout"]


def test_with_jax_no_tensorflow_is_imported_or_needed(start_python, result):
    pytest.importorskip("jax", reason='pip install "keras-swapout[jax]"')
    process = start_python(WITHOUT_TENSORFLOW + LOADED + TRAINED, KERAS_BACKEND="jax")
    added, asked, backend, loaded, (loss,) = result(process)
    assert (added, asked, backend, loaded) == (["keras_swapout"], [], "jax", False)
    assert 0 < loss < 100


def test_the_command_has_all_classes_once_it_loads_a_model(start_python, result):
    before, found = result(start_python(REGISTERED))
    assert not before
    assert found == ["RBlock", "Swapout", "SDropDML", "ExpectedCalibrationError"]
