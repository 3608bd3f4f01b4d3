"""The networks of a study: ours, keras.applications, files and functions, and what fits them."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import keras_swapout as ks
from keras_swapout.consistency.divergence import Head
from keras_swapout.datasets import Info, Split, read
from keras_swapout.study import networks
from keras_swapout.study.networks import Choice, Network
from keras_swapout.study.pilot.methods import METHODS
from keras_swapout.study.pilot.run import fitting
from keras_swapout.study.pilot.settings import make_settings
from keras_swapout.study.scales import found_scale, losses
from keras_swapout.study.task import Output, Task

pytestmark = pytest.mark.tensorflow

CODE = '''
import keras
from keras import layers

def residual():
    """A pre-activation network of two blocks, with its own dropout."""
    x = inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(2):
        h = layers.Conv2D(8, 3, padding="same")(layers.Activation("relu")(x))
        x = x + layers.Dropout(0.2)(h)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    model.compile(keras.optimizers.Nadam(2e-3), "categorical_crossentropy")
    return model

def straight():
    return keras.Sequential([
        keras.Input((8, 8, 1)), layers.Rescaling(1 / 255), layers.Conv2D(8, 3, activation="relu"),
        layers.Conv2D(8, 3, 2, activation="relu"), layers.Flatten(), layers.Dense(10)])

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.flat, self.drop, self.dense = layers.Flatten(), layers.Dropout(0.2), layers.Dense(10)

    def call(self, x):
        return self.dense(self.drop(self.flat(x)))

def own(): return Own()
def other(): return "no model"
'''


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    (tmp_path / "their_nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    yield
    sys.modules.pop("their_nets", None)


def network(model, shape=(8, 8, 1), classes=10, **choice):
    names = tuple(map(str, range(classes)))
    info = Info("made", names, shape, {}, (0.0,) * shape[-1], (1.0,) * shape[-1], "here")
    split = Split(np.zeros((classes, *shape), np.uint8), np.arange(classes))
    return Network(Choice(model, **choice), info, split)


def test_functions_are_called_anew_for_each_seed(theirs):
    made = network("their_nets:residual")
    one, two, other = made.new(0), made.new(0), made.new(1)
    for a, b in zip(one.weights, two.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.weights[0], other.weights[0])
    assert made.task.heads == [Head("softmax", from_logits=False)]
    assert (made.scale, made.continued) == ("standardise", False)
    raw = network("their_nets:straight")
    assert (raw.scale, raw.task.single.from_logits) == ("raw", True)


def test_applications_take_grey_images_and_bring_their_preprocessing():
    made = network("MobileNetV2", (32, 32, 1), 3)
    model = made.new(0)
    assert (made.scale, made.continued) == ("raw", False)
    assert model.input_shape == (None, 32, 32, 1) and model.output_shape == (None, 3)
    x = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 1)).astype("float32")
    inner = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    preprocessed = keras.applications.mobilenet_v2.preprocess_input(np.repeat(x, 3, axis=-1))
    np.testing.assert_allclose(model(x), inner(preprocessed), atol=1e-6)


def test_files_are_continued_or_begun_anew(tmp_path, theirs):
    path = str(tmp_path / "a.keras")
    model = network("their_nets:straight").new(3)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.save(path)
    continued, anew = network(path), network(path, from_scratch=True)
    assert continued.continued and not anew.continued
    for a, b in zip(model.weights, continued.new(0).weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(model.weights[0], anew.new(0).weights[0])
    assert networks.input_size(Choice(path)) == (8, 8)
    with pytest.raises(ValueError, match=r"(?s)for each of the 4 classes.*10 classes.*new_head"):
        network(path, classes=4)
    new = network(path, classes=4, new_head=True).new(0)
    assert new.output_shape == (None, 4) and new.compiled
    np.testing.assert_array_equal(new.weights[0], model.weights[0])


def test_from_scratch_keeps_what_is_adapted(tmp_path):
    norm = keras.layers.Normalization(axis=None)
    norm.adapt(np.array([[0.0], [10.0]]))
    model = keras.Sequential([keras.Input((1,)), norm, keras.layers.Dense(1)])
    new = networks.anew(model)
    np.testing.assert_array_equal(new.layers[0](np.ones((1, 1))), norm(np.ones((1, 1))))
    assert not np.array_equal(new.layers[1].kernel, model.layers[1].kernel)


@pytest.mark.parametrize(
    ("choice", "error", "message"),
    [
        ({"model": "resnet9v2"}, ValueError, "`model`.*6n"),
        ({"model": "unheard of"}, ValueError, "keras.applications"),
        ({"model": "absent.keras"}, FileNotFoundError, "no file 'absent.keras'"),
        ({"model": "VGG16", "width": 2}, ValueError, "`width` is for our own"),
        ({"model": "resnet8v2", "weights": "imagenet"}, ValueError, "`weights` is for a name"),
        ({"model": "VGG16", "from_scratch": True}, ValueError, "`from_scratch` is for a .keras"),
        ({"model": "VGG16", "new_head": True}, ValueError, "`new_head` is for"),
    ],
)
def test_what_is_asked_for_is_checked_without_keras(choice, error, message):
    with pytest.raises(error, match=message):
        Choice(**choice).check()


def test_what_can_not_be_built_is_named(theirs):
    for name, message in (
        ("NoSuchNet", "keras.applications has .*MobileNet"),
        ("their_nets:absent", "must be module:function"),
        ("absent_module:net", "must be module:function"),
        ("their_nets:other", "must return a keras.Model. It returned a str"),
        ("Xception", "can't be built for images of 8×8"),
    ):
        with pytest.raises(ValueError, match=message):
            network(name)
    with pytest.raises(FileNotFoundError, match="`weights`: there is no file"):
        network("VGG16", (32, 32, 3), weights="absent.weights.h5")
    with pytest.raises(ValueError, match=r"9×9×1.*takes 8×8×1"):
        network("their_nets:residual", (9, 9, 1))


def test_methods_that_do_not_fit_are_named_with_the_reason(theirs):
    names = ("swapout", "bdropdml", "rblock_sdropdml")

    def unfit(name):
        model = network(f"their_nets:{name}").new(0)
        return [METHODS[method].unfit(model) for method in (*names, "without_own", "rblock_own")]

    none = "the network has no dropout of its own"
    assert unfit("residual") == [""] * 5
    assert unfit("straight") == ["the network has no residual addition", "", "", none, none]
    assert all("`call` of its own" in reason for reason in unfit("own")[:3])
    assert unfit("own")[3:] == ["", ""]
    swapout = METHODS["swapout"].trained(network("their_nets:residual").new(0))
    assert [type(x).__name__ for x in swapout.layers].count("Swapout") == 2
    settings = make_settings("digits", methods=names, model="their_nets:straight")
    with pytest.warns(UserWarning, match="swapout: the network has no residual addition"):
        fit = fitting(settings, network("their_nets:straight"))
    assert fit.methods == ("plain", "bdropdml", "rblock_sdropdml")
    with pytest.raises(ValueError, match="none can be put into their_nets:own"):
        fitting(dataclasses.replace(settings, model="their_nets:own"), network("their_nets:own"))


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("scale", ["standardise", "unit", "symmetric", "raw"])
def test_the_scale_is_found_by_trying_each(scale):
    data = read("digits", limit=200)
    images, labels = data.train
    x = dataclasses.replace(data.info, scale=scale).scaled(images).reshape(len(images), -1)
    fitted = LogisticRegression(max_iter=50).fit(x, labels)
    model = keras.Sequential(
        [keras.Input(images.shape[1:]), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    model.set_weights([fitted.coef_.T, fitted.intercept_])
    task = Task((Output("dense", Head("softmax", from_logits=True), (10,)),))
    assert found_scale(model, task, images, labels, data.info)[0] == scale
    shuffled = np.random.default_rng(0).permutation(labels)
    with pytest.raises(ValueError, match=r"`scale` must be given.*guessing"):
        found_scale(model, task, images, shuffled, data.info)
    assert losses(model, task, images, labels, data.info, [scale])[scale][1] > 0.8


def test_methods_of_what_a_network_has_itself(theirs):
    for name in ("residual", "own"):
        model = network(f"their_nets:{name}").new(0)
        model(np.zeros((1, 8, 8, 1)))
        without = METHODS["without_own"].trained(model)
        own = [x for x in without._flatten_layers() if isinstance(x, keras.layers.Dropout)]
        assert own and not any(layer.rate for layer in own)
        trained = METHODS["rblock_own"].trained(network(f"their_nets:{name}").new(0))
        assert isinstance(trained, ks.RBlock)
        ours = sum(isinstance(x, ks.layers.Dropout) for x in trained.model._flatten_layers())
        assert ours == (2 if name == "residual" else 0)
