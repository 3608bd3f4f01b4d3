"""`keras-swapout retrofit` and `strip`: files in, a plan, files out."""

import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_swapout as ks
from keras_swapout.study import cli
from keras_swapout.study.pilot.methods import METHODS
from keras_swapout.study.surgery import checks, exports, kinds

pytestmark = pytest.mark.tensorflow  # files are the same for all backends


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """run(*words): exit code, what was printed, and the errors."""
    monkeypatch.chdir(tmp_path)

    def command(*words):
        with pytest.raises(SystemExit) as stop:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        assert all(len(line) <= 80 for line in said.out.splitlines() if "/" not in line), said.out
        return stop.value.code, said.out, said.err

    return command


def network(blocks=3, drop=False):
    x = inputs = keras.Input((8, 8, 4), name="image")
    for i in range(blocks):
        y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x))
        y = layers.Dropout(0.1, name=f"drop_{i}")(y) if drop else y
        x = layers.Add(name=f"add_{i}")([x, y])
    x = layers.Add(name="three")([x, x, x])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(3)(x), name="network")
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.uniform(0.2, 0.6, variable.shape) * (1 + ("kernel" in variable.name)))
    return model


@pytest.fixture
def saved(tmp_path):
    model = network(drop=True)
    model.save(tmp_path / "model.keras")
    return model


def ours(path):
    model = keras.saving.load_model(path)
    return [x for x in model.layers if type(x).__module__.startswith("keras_swapout.")]


def test_there_and_back(saved, run, tmp_path):
    code, out, err = run("retrofit", "model.keras", "--out", "new/swapout.keras")
    assert (code, err) == (0, "")
    assert "Swapout in 'network', 3 of them for 3 residual additions" in out
    assert "add_1  8x8x4  identity  θ₁ 1, θ₂ 0.75, for Dropout 0.1" in out
    assert "left, 1: 3 operands: three" in out and "equal to the bit" in out
    new = keras.saving.load_model("new/swapout.keras")
    assert [x.theta_2 for x in new.layers if "add" in x.name] == [1.0, 0.75, 0.5]
    assert not any("drop" in x.name for x in new.layers)

    code, out, err = run("strip", "new/swapout.keras", "--out", "plain.keras")
    assert (code, err) == (0, "")
    assert "3 Swapout" in out and "equal to the bit" in out
    assert "plain.keras needs keras to load." in out
    assert not ours("plain.keras")
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype("float32")
    plain = keras.saving.load_model("plain.keras")
    np.testing.assert_array_equal(plain(x), saved(x))

    code, out, _ = run("strip", "plain.keras", "--out", "folded.keras", "--fold-batch-norm")
    assert code == 0 and "3 BatchNormalization" in out and "largest difference" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "folded.keras", "model.keras", "new", "plain.keras"
    ]  # fmt: skip


def test_a_dry_run_writes_nothing_and_a_long_plan_is_short(run, tmp_path):
    network(15).save(tmp_path / "model.keras")
    code, out, _ = run("retrofit", "model.keras", "--out", "model2.keras", "--dry-run")
    lines = out.splitlines()
    assert code == 0 and len(lines) <= 25 and "Nothing is written" in lines[-1]
    assert "  ... 3 more, which --verbose shows" in lines
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]
    words = ("--dry-run", "--verbose")
    _, out, _ = run("retrofit", "model.keras", "--out", "model2.keras", *words)
    assert all(f"add_{i} " in out for i in range(15))


@pytest.mark.parametrize("name", kinds.KINDS)
def test_every_layer(name, saved, run):
    kind = kinds.KINDS[name]
    number = "theta_2" if name == "swapout" else next(iter(kind.values))
    words = ["--layer", name, "--" + number.replace("_", "-"), "0.4", "--keep-dropouts"]
    words += ["--where", "add_0", "add_2"]
    code, out, err = run("retrofit", "model.keras", "--out", "new.keras", *words)
    assert (code, err) == (0, "") and "equal to the bit" in out
    found = ours("new.keras")
    assert [type(x).__name__ for x in found] == [kind.layer.partition(":")[2]] * 2
    assert [getattr(x, number) for x in found] == [0.4, 0.4]
    if kind.merges:
        assert [x.name for x in found] == ["add_0", "add_2"] and all(x.rescale for x in found)
        assert "beside Dropout 0.1" in out
    if "block_size" in kind.values:  # half of the map
        assert {tuple(np.ravel(x.block_size)) for x in found} <= {(4,), (4, 4)}
    assert (getattr(found[0], "granularity", "") == "sample") == (name == "drop_path")


def test_where_nothing_is_said():
    """Behind the last two thirds of the blocks, as in the pilot."""
    model = kinds.with_layers(network(6), "sdropdml", kinds.numbers_of("sdropdml", {}), None)
    found = [x.name for x in model.layers if "sdrop" in x.name]
    assert found == [f"add_{i}_sdropdml" for i in range(2, 6)]
    values = kinds.numbers_of("sdropdml", {"block_size": [3.0], "rate": [0.1, 0.3]})
    model = kinds.with_layers(network(6), "sdropdml", values, None)
    found = [x for x in model.layers if "sdrop" in x.name]
    assert {tuple(np.ravel(x.block_size)) for x in found} <= {(3,), (3, 3)}
    np.testing.assert_allclose([found[0].rate, found[-1].rate], [0.1, 0.3])


def test_numbers_are_those_of_the_pilot():
    for name in kinds.KINDS.keys() & METHODS.keys():
        assert kinds.KINDS[name].values.keys() == METHODS[name].values.keys()
    assert kinds.KINDS.keys() - METHODS.keys() == {"drop_path"}


def test_what_is_refused(saved, run, tmp_path):
    retrofit, strip = ("retrofit", "model.keras", "--out"), ("strip", "model.keras", "--out")
    (tmp_path / "there.keras").write_text("something")
    (tmp_path / "there.onnx").mkdir()
    cases = [
        ((*retrofit, "there.keras"), "'there.keras' is there already"),
        ((*strip, "there.keras"), "'there.keras' is there already"),
        ((*strip, "model.keras", "--overwrite"), "must be another file than the model"),
        ((*strip, "new.h5"), "--out must be a file *.keras"),
        (("strip", "none.keras", "--out", "a.keras"), "there is no file 'none.keras'"),
        (("strip", "there.keras", "--out", "a.keras"), "`model`: 'there.keras' can't be loaded"),
        ((*retrofit, "a.keras", "--rate", "0.2"), "--rate: swapout has no such number; it takes"),
        ((*retrofit, "a.keras", "--theta-2", "2"), "must be a number in [0, 1]"),
        ((*retrofit, "a.keras", "--where", "ad_1"), "'ad_1' is none of the 3 residual additions"),
        ((*retrofit, "a.keras", "--import", "no_such"), "--import must be modules"),
        (
            (*retrofit, "a.keras", "--layer", "sdropdml", "--block-size", "1.5"),
            "--block-size must be a share of the map's side below 1, or a whole number",
        ),
        (
            (*retrofit, "a.keras", "--layer", "bdropdml", "--where", "add_9"),
            "'add_9' is none of the",
        ),
    ]
    for words, message in cases:
        code, out, err = run(*words)
        assert (code, out) == (2, "") and message in err, (words, err)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.keras", "there.keras", "there.onnx"
    ]  # fmt: skip
    code, _, err = run(*strip, "there.keras", "--overwrite")
    assert code == 0 and not ours("there.keras")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_exports(saved, run, tmp_path):
    for package in ("onnx", "tf2onnx", "onnxruntime"):
        pytest.importorskip(package, reason='pip install "keras-swapout[export]"')
    (tmp_path / "new_saved_model").mkdir()
    (tmp_path / "new_saved_model" / "old").write_text("old")
    words = ["strip", "model.keras", "--out", "new.keras", "--export", *exports.FORMATS]
    code, _, err = run(*words)
    assert code == 2 and "new_saved_model' is there already" in err
    code, out, err = run(*words, "--overwrite")
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line.startswith("  new")]
    assert [line.split()[0] for line in lines] == [
        "new.keras", "new.onnx", "new_saved_model", "new.tflite"
    ]  # fmt: skip
    assert all("largest difference" in x or "equal to the bit" in x for x in lines)
    assert not (tmp_path / "new_saved_model" / "old").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "model.keras", "new.keras", "new.onnx", "new.tflite", "new_saved_model"
    ]  # fmt: skip


def test_what_onnx_can_not_have(run, tmp_path):
    inputs = keras.Input((8, 8, 4))
    keras.Model(inputs, layers.Conv2D(4, 3, groups=2, name="g")(inputs)).save("model.keras")
    pytest.importorskip("tf2onnx", reason='pip install "keras-swapout[export]"')
    code, _, err = run("strip", "model.keras", "--out", "a.keras", "--export", "onnx")
    assert code == 2 and "'g' is a convolution in groups" in err
    assert not (tmp_path / "a.onnx").exists()


MODULE = """
import keras

@keras.saving.register_keras_serializable("theirs")
class Theirs(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def test_layers_of_somebody_else(run, tmp_path, monkeypatch):
    (tmp_path / "their_layers.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    from their_layers import Theirs

    x = keras.Input((6,))
    y = layers.Add(name="sum")([x, Theirs()(layers.Dense(6)(x))])
    network = keras.Model(x, ks.layers.Dropout(0.5)(y))
    ks.RBlock(network).save("model.keras")  # the network in it is meant
    words = ("model.keras", "--import", "their_layers", "--out")
    code, out, err = run("strip", *words, "a.keras")
    assert code == 0, err
    assert "a.keras needs keras and their_layers to load." in out and "equal to the bit" in out
    code, out, err = run("retrofit", *words, "b.keras", "--theta-2", "0.8")
    assert code == 0 and "θ₂ 0.8" in out
    del sys.modules["their_layers"]


def test_what_can_not_be_compared_is_said():
    inputs = keras.Input((4,))
    wild = keras.Model(inputs, layers.Dropout(0.5)(inputs, training=True))
    assert "random at inference" in checks.Reference(wild).compared(wild, "it")
    words = keras.Input((3,), dtype="string")
    text = keras.Model(words, keras.layers.Lambda(lambda x: x)(words))
    assert "strings" in checks.Reference(text).compared(text, "it")
    nothing = keras.Model(inputs, 0 * inputs)
    assert "whatever it is given" in checks.Reference(nothing).compared(nothing, "it")
    dense = keras.Model(inputs, layers.Dense(2)(inputs))
    reference = checks.Reference(dense)
    with pytest.raises(ValueError, match="it predicts otherwise than the network: largest"):
        reference.compared(lambda x: 2 * dense(x), "it")
    with pytest.raises(ValueError, match="outputs of shapes"):
        reference.compared(lambda x: [dense(x)[:, :1]], "it")


def test_inputs_of_every_kind():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert checks.Reference(model).compared(model, "it") == "equal to the bit"
    inputs = {"a": keras.Input((None, None, 3)), "b": keras.Input((4,), dtype="int32")}
    x = layers.GlobalAveragePooling2D()(inputs["a"])
    model = keras.Model(inputs, layers.concatenate([x, layers.Flatten()(
        layers.Embedding(2, 2)(inputs["b"]))]))  # fmt: skip
    assert checks.Reference(model).compared(model, "it") == "equal to the bit"
    nan = np.array([[np.nan, np.inf, 1.0]])
    assert checks.difference([nan], [nan]) == (0.0, 1.0)
    assert checks.difference([nan], [np.ones((1, 3))])[0] == np.inf


@pytest.mark.parametrize("kind", exports.FORMATS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_exports_of_several_inputs(kind, tmp_path):
    if kind == "onnx":
        pytest.importorskip("tf2onnx", reason='pip install "keras-swapout[export]"')
    inputs = {"b": keras.Input((4,), name="b"), "a": keras.Input((2,), name="a")}
    y = layers.Dense(2)(inputs["b"]) + inputs["a"]
    model = ks.surgery.strip(keras.Model(inputs, {"y": y, "z": 2 * y, "x": 3 * y}))
    check = checks.Reference(model).compared
    path = exports.path_of(kind, tmp_path / "m.keras")
    assert "not compared" not in exports.export(model, kind, path, check)
