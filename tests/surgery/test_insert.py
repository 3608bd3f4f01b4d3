"""Layers behind places of a network."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_swapout as ks
from keras_swapout.surgery import insert_after

pytestmark = pytest.mark.tensorflow  # a graph is the same on every backend


def conv(filters=4, **kwargs):
    return layers.Conv2D(filters, 3, padding="same", **kwargs)


def inserted(model):
    """The new layers by name, and what each of them is behind."""
    ours = [x for x in model._flatten_layers() if type(x).__module__.startswith("keras_swapout.")]
    return {
        x.name: x._inbound_nodes[0].input_tensors[0]._keras_history.operation.name for x in ours
    }


def behind(model):
    return sorted(inserted(model).values())


def same_outputs(a, b):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=[2, *(n or 8 for n in t.shape[1:])]).astype("float32") for t in a.inputs]
    x = x if len(x) > 1 else x[0]
    pairs = zip(keras.tree.flatten(a(x)), keras.tree.flatten(b(x)), strict=True)
    for one, two in pairs:
        np.testing.assert_array_equal(ops.convert_to_numpy(one), ops.convert_to_numpy(two))


def chain(*names, shape=(8, 8, 3)):
    x = inputs = keras.Input(shape)
    for name in names:
        x = conv(name=name)(x)
    return keras.Model(inputs, x, name="chain")


@pytest.mark.parametrize(
    "where, expected",
    [
        ("b", ["b"]),
        (["c", "a"], ["a", "c"]),
        (lambda layer: layer.name < "c", ["a", "b"]),
        (lambda layer: isinstance(layer, layers.Conv2D), ["a", "b", "c"]),
        ("c", ["c"]),  # whose output is the network's
    ],
)
def test_named_places(where, expected):
    model = chain("a", "b", "c")
    before = [len(x._inbound_nodes) for x in model.layers]
    new = insert_after(model, where, ks.layers.SDropDML(0.2, block_size=3))
    assert behind(new) == expected
    assert sorted(inserted(new)) == [f"{name}_sdropdml" for name in expected]
    assert [len(x._inbound_nodes) for x in model.layers] == before
    same_outputs(model, new)
    assert [w.shape for w in new.weights] == [w.shape for w in model.weights]
    assert new.output_names == (["c_sdropdml"] if "c" in expected else ["c"])
    a, b = (ops.convert_to_numpy(new(np.ones((2, 8, 8, 3)), training=True)) for _ in range(2))
    assert not np.array_equal(a, b)


def test_a_schedule_over_depth_and_seeds_of_their_own():
    drop = ks.schedules.per_block(ks.layers.BDropDML, rate=(0.0, 0.2))
    new = insert_after(chain("a", "b", "c"), ["a", "b", "c"], drop)
    assert [x.rate for x in new.layers if "drop" in x.name] == [0.0, 0.1, 0.2]
    new = insert_after(chain("a", "b"), ["a", "b"], ks.layers.BDropDML(0.5))
    states = [x.seed_generator.state for x in new.layers if "drop" in x.name]
    assert len({ops.convert_to_numpy(s).tobytes() for s in states}) == 2


def test_policies_and_other_layers():
    model = chain("a", "b")
    new = insert_after(model, "a", ks.layers.BDropDML(0.2, dtype="float16"))
    assert new.get_layer("a_bdropdml").dtype_policy.name == "float16"
    new = insert_after(model, "a", lambda i, n: layers.BatchNormalization())
    assert new.get_layer("a_batchnormalization").weights
    assert len(new.weights) == len(model.weights) + 4


def test_a_layer_that_is_called_twice_has_one_behind_each_call():
    inputs = keras.Input((8, 8, 4))
    shared = conv(name="shared")
    model = keras.Model(inputs, shared(shared(inputs)))
    new = insert_after(model, "shared", ks.layers.BDropDML(0.2))
    assert inserted(new) == {"shared_bdropdml": "shared", "shared_bdropdml_": "shared"}
    same_outputs(model, new)


def test_nested_and_sequential_models():
    inner = keras.Sequential([keras.Input((8, 8, 3)), conv(name="a"), conv(name="b")], name="inner")
    x = keras.Input((8, 8, 3))
    model = keras.Model(x, conv(name="a")(inner(x)), name="outer")
    new = insert_after(model, ["inner/a", "inner"], ks.layers.BDropDML(0.2))
    assert behind(new.get_layer("inner")) == ["a"]
    assert sorted(inserted(new)) == ["a_bdropdml", "inner_bdropdml"]
    same_outputs(model, new)
    new = insert_after(model, lambda layer: layer.name == "a", ks.layers.BDropDML(0.2))
    assert sorted(inserted(new)) == ["a_bdropdml", "a_bdropdml_"]
    same_outputs(model, new)
    siamese = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    model = keras.Model(siamese, inner(siamese[0]) - inner(siamese[1]))
    new = insert_after(model, "inner/b", ks.layers.BDropDML(0.2))
    assert len(inserted(new)) == 1
    same_outputs(model, new)
    ours = insert_after(
        keras.Sequential([keras.Input((8, 8, 3)), inner]), "a", ks.layers.BDropDML(0.2)
    )
    assert type(ours) is keras.Sequential


def test_operations_are_places_by_name_only():
    inputs = keras.Input((8, 8, 3))
    x = ops.relu(conv(name="a")(inputs))
    name = x._keras_history.operation.name
    model = keras.Model(inputs, conv(name="b")(x))
    assert behind(insert_after(model, name, ks.layers.BDropDML(0.2))) == [name]
    assert behind(insert_after(model, lambda layer: True, ks.layers.BDropDML(0.2))) == ["a", "b"]


def resnet(activation, pre=False):
    x = inputs = keras.Input((8, 8, 4))
    for i in range(3):
        y = conv(name=f"conv_{i}")(layers.ReLU()(x) if pre else x)
        x = layers.Add(name=f"add_{i}")([x, y])
        x = x if pre else activation(x, f"end_{i}")
    return keras.Model(inputs, layers.GlobalAveragePooling2D()(x))


ACTIVATIONS = {
    "ReLU": lambda x, name: layers.ReLU(name=name)(x),
    "Activation": lambda x, name: layers.Activation("gelu", name=name)(x),
    "LeakyReLU": lambda x, name: layers.LeakyReLU(name=name)(x),
    "PReLU": lambda x, name: layers.PReLU(name=name)(x),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_blocks_end_behind_their_activation(activation):
    model = resnet(ACTIVATIONS[activation])
    new = insert_after(model, "blocks", ks.layers.BDropDML(0.2))
    assert behind(new) == ["end_0", "end_1", "end_2"]
    same_outputs(model, new)


def test_blocks_end_at_the_sum_where_no_activation_is_theirs():
    assert behind(insert_after(resnet(None, pre=True), "blocks", ks.layers.BDropDML(0.2))) == [
        "add_0",
        "add_1",
        "add_2",
    ]
    for function in (ops.relu, keras.activations.relu, ops.silu, ops.leaky_relu):
        new = insert_after(
            resnet(lambda x, name, f=function: f(x)), "blocks", ks.layers.BDropDML(0.2)
        )
        assert not any("add" in name for name in behind(new)), function


def test_blocks_of_a_nested_model():
    inputs = keras.Input((8, 8, 4))
    body = resnet(ACTIVATIONS["ReLU"])
    model = keras.Model(inputs, layers.Dense(2)(body(inputs)))
    assert behind(insert_after(model, "blocks", ks.layers.BDropDML(0.2))) == [
        "end_0",
        "end_1",
        "end_2",
    ]


def test_stages_where_there_are_no_blocks():
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Normalization(mean=0.0, variance=1.0)(layers.Rescaling(2.0)(x))
    for i in range(3):
        x = conv(name=f"stage_{i}_a")(x)
        x = conv(activation="relu", name=f"stage_{i}_b")(x)
        x = layers.MaxPooling2D(name=f"pool_{i}")(x)
    x = conv(name="top")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    new = insert_after(model, "blocks", ks.layers.SDropDML(0.1, block_size=2))
    assert behind(new) == ["stage_0_b", "stage_1_b", "stage_2_b", "top"]
    same_outputs(model, new)
    sequential = keras.Sequential([keras.Input((16, 16, 3)), model, layers.Dense(2)])
    assert behind(insert_after(sequential, "blocks", ks.layers.BDropDML(0.1))) == behind(new)


def test_refusals():
    model = chain("a", "b")
    drop = ks.layers.BDropDML(0.2)
    x = keras.Input((4,))
    two = keras.Model(x, layers.LSTM(3, return_state=True, name="lstm")(layers.Reshape((4, 1))(x)))
    vector = keras.Model(x, layers.Dense(2)(x))
    cases = [
        (TypeError, "`model` must be a keras.Model", ("no model", "a", drop)),
        (ValueError, "does not know its input", (keras.Sequential([conv()]), "a", drop)),
        (ValueError, r"'aa' is none of the 2 places. Near: 'a'", (model, "aa", drop)),
        (ValueError, "it is true of none of the 2 layers", (model, lambda layer: False, drop)),
        (TypeError, "`where` must be names", (model, None, drop)),
        (TypeError, "`where` must be names", (model, 3, drop)),
        (TypeError, "`layer` must be a layer, or a function", (model, "a", ks.layers.BDropDML)),
        (TypeError, "`layer` must be a layer, .*it returned", (model, "a", lambda i, n: None)),
        (ValueError, "must make a new layer", (model, ["a", "b"], lambda i, n: drop)),
        (ValueError, "'lstm' has 3 outputs", (two, "lstm", drop)),
        (ValueError, 'where="blocks"`: no residual addition', (vector, "blocks", drop)),
    ]
    for error, message, arguments in cases:
        with pytest.raises(error, match=message):
            insert_after(*arguments)
