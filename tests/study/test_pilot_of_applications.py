"""The pilot on whole networks of keras.applications, by the command. Minutes each, most of it
compiling, so that `make test-slow` runs them and `make test` does not."""

import subprocess
import sys

import pytest

from keras_swapout.study import store

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.mark.parametrize(
    ("model", "data"),
    [
        ("MobileNetV3Small", "elpv"),
        ("EfficientNetB0", "digits"),
        ("ResNet50V2", "digits"),
        ("ConvNeXtTiny", "digits"),
    ],
)
def test_a_network_and_swapout_in_it(tmp_path, model, data):
    said = subprocess.run(
        f"{sys.executable} -m keras_swapout pilot --model {model} --data {data} --image-size 32 "
        "--limit 100 --epochs 1 --seeds 1 --batch-size 20 --corruption-images 2 --label-noise 0 "
        f"--methods swapout --jobs 1 --out {tmp_path}".split(),
        capture_output=True,
        text=True,
    )
    assert said.returncode == 0, said.stderr
    assert "too few seeds to tell" in said.stdout and len(said.stdout.splitlines()) < 40
    plain, swapout = store.read(tmp_path / "results.json")["runs"]
    assert (plain["method"], swapout["method"]) == ("plain", "swapout")
    assert plain["parameters"] == swapout["parameters"]
    assert swapout["history"]["loss"] != plain["history"]["loss"]
