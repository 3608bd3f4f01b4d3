"""Networks of keras.applications, one of each family: found, swapped, trained, stripped."""

import functools

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.applications.convnext import ConvNeXt
from keras.src.applications.densenet import DenseNet
from keras.src.applications.efficientnet_v2 import EfficientNetV2
from keras.src.applications.nasnet import NASNet

import keras_swapout as ks
from keras_swapout.surgery import find_residuals, strip, swap_residuals

pytestmark = pytest.mark.tensorflow  # a graph is the same on every backend

#: Families of which a few blocks are enough: what the public networks are built with.
FEWER_BLOCKS = {
    "ConvNeXt": lambda **k: ConvNeXt([1, 1, 2, 1], [16, 24, 32, 40], **k),
    "DenseNet": lambda **k: DenseNet([1, 1, 1, 1], **k),
    "EfficientNetV2": lambda **k: EfficientNetV2(0.5, 0.4, 224, name="efficientnetv2-b0", **k),
    "NASNet": lambda **k: NASNet(penultimate_filters=96, num_blocks=1, **k),
}
#: One of each family: the side of an input, the residual additions, and what looks like one.
FAMILIES = {
    "ConvNeXt": (32, 5, 0),
    "DenseNet": (32, 0, 0),
    "EfficientNetV2": (32, 5, 0),
    "InceptionResNetV2": (75, 0, 40),
    "MobileNetV2": (32, 10, 0),
    "MobileNetV3Small": (32, 6, 0),
    "NASNet": (32, 0, None),  # cells, of which a few come near
    "ResNet50": (32, 16, 0),
    "ResNet50V2": (32, 16, 0),
    "Xception": (71, 12, 0),
}
#: Whole ones, of which users fine-tune the most.
WHOLE = {"EfficientNetB0": 9, "ConvNeXtTiny": 18}
#: One of each kind of branch: scaled and dropped, dropped, gated.
SWAPPED = ["ConvNeXt", "EfficientNetV2", "MobileNetV3Small"]


def build(name, side):
    kind = FEWER_BLOCKS.get(name) or getattr(keras.applications, name)
    return kind(weights=None, input_shape=(side, side, 3), classes=3)


@functools.cache
def original(name):
    return build(name, FAMILIES[name][0])


@functools.cache
def swapped(name):
    return swap_residuals(original(name))


@pytest.fixture(scope="module", autouse=True)
def gone_afterwards():
    yield
    original.cache_clear()
    swapped.cache_clear()


def images(name, count=2):
    side = FAMILIES[name][0]
    return np.random.default_rng(0).uniform(0, 255, (count, side, side, 3)).astype("float32")


def outputs(model, x):
    return ops.convert_to_numpy(model(x, training=False))


def nodes(model):
    return [len(operation._inbound_nodes) for operation in model.operations]


@pytest.mark.parametrize("name", FAMILIES)
def test_finds(name):
    _, count, left = FAMILIES[name]
    model = original(name)
    before = nodes(model)
    found = find_residuals(model)
    assert len(found) == count, found
    assert len(found.left) == left or left is None, found
    assert nodes(model) == before
    assert not found.opaque


@pytest.mark.parametrize("name", WHOLE)
def test_finds_in_whole_ones(name):
    found = find_residuals(build(name, 32))
    assert (len(found), found.left) == (WHOLE[name], []), found


def test_says_what_it_left():
    found = find_residuals(original("InceptionResNetV2"))
    assert {x.reason for x in found.left} == {"merged by CustomScaleLayer"}
    found = find_residuals(original("NASNet"))
    assert sum(x.reason.startswith("a cell") for x in found.left) > 0
    assert all(x.reason for x in found.left)


@pytest.mark.parametrize("name", SWAPPED)
def test_swaps_and_strips(name):
    model, new = original(name), swapped(name)
    x = images(name)
    y = outputs(model, x)
    np.testing.assert_array_equal(outputs(new, x), y)
    np.testing.assert_array_equal(outputs(strip(new), x), y)
    assert [w.shape for w in new.weights] == [w.shape for w in model.weights]
    # Of the layers only those are gone in which a branch ended; what `+` was is one now.
    drops = {x.tail.operation.name for x in find_residuals(model) if x.tail}
    before = [x.name for x in model.layers if x.name not in drops]
    assert [x.name for x in new.layers if x.name in before] == before
    assert sum(isinstance(x, ks.layers.Swapout) for x in new.layers) == FAMILIES[name][1]


def up_to_the_first_merge(model):
    """The network's first block, with a head: XLA takes half a minute for a whole network."""
    merge = next(layer for layer in model.layers if isinstance(layer, ks.layers.Swapout))
    x = keras.layers.GlobalAveragePooling2D()(merge.output)
    return keras.Model(model.input, keras.layers.Dense(3, activation="softmax")(x))


@pytest.mark.parametrize("name", ["EfficientNetV2"])
def test_trains_as_compiled_by_xla(name):
    first = find_residuals(original(name))[0].where
    model = swap_residuals(original(name), theta_1=0.9, theta_2=0.5, where=first)
    model = up_to_the_first_merge(model)
    model.compile("sgd", "categorical_crossentropy", jit_compile=True)
    before = model.get_weights()
    loss = model.train_on_batch(images(name), np.eye(3)[:2])
    assert np.isfinite(loss)
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert sum(moved) > 0.5 * len(moved)


@pytest.mark.parametrize("name", ["ConvNeXt"])
def test_trains_in_r_block_and_predicts_with_an_uncertainty(name):
    model = swapped(name)
    prediction = ks.inference.predict(
        model, images(name), samples=3, antithetic=False, verbose=False
    )
    assert prediction.mean.shape == (2, 3)
    np.testing.assert_allclose(prediction.mean.sum(-1), 1, rtol=1e-5)
    assert (prediction.variance > 0).any(-1).all()  # tiny, before any training
    block = ks.RBlock(model, alpha=1.0)
    block.compile("sgd", "categorical_crossentropy", run_eagerly=True)
    before = model.get_weights()
    logs = block.train_on_batch(images(name), np.eye(3)[:2], return_dict=True)
    assert np.isfinite(list(logs.values())).all()
    assert logs["consistency"] > 0
    moved = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert sum(moved) > 0.5 * len(moved)
