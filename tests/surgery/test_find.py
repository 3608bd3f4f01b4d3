"""What is a residual addition and what only looks like one, in networks written by hand."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_swapout as ks
from keras_swapout.surgery import find_residuals

pytestmark = pytest.mark.tensorflow  # a graph is the same on every backend

IMAGE, VECTOR, SEQUENCE = (8, 8, 4), (6,), (5, 6)


def conv(filters=4, size=3, **kwargs):
    return layers.Conv2D(filters, size, padding="same", **kwargs)


def network(shape):
    """Decorates a function (input tensor) -> output by building the model of it."""

    def decorate(body):
        def build():
            inputs = keras.Input(shape)
            return keras.Model(inputs, body(inputs), name=body.__name__)

        build.__name__ = body.__name__
        return build

    return decorate


def squeeze_excitation(x, filters=4):
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = conv(2, 1, activation="relu")(s)
    return x * conv(filters, 1, activation="sigmoid")(s)


def a_call_of_its_own(name, body):
    """A class of a layer, as a library would have it."""
    return type(name, (layers.Layer,), {"call": body, "__module__": "somebody"})


# What is one: the network, which operand each of them has for its shortcut, and whether projected.


@network(VECTOR)
def add_layer(x):
    return layers.Add()([x, layers.Dense(6)(x)])


@network(VECTOR)
def plus(x):
    return x + layers.Dense(6)(x)


@network(VECTOR)
def added_by_ops(x):
    return ops.add(x, layers.Dense(6)(x))


@network(VECTOR)
def shortcut_last(x):
    return layers.add([layers.Dense(6)(x), x])


@network(VECTOR)
def plus_shortcut_last(x):
    return layers.Dense(6)(x) + x


@network(IMAGE)
def post_activation(x):
    for _ in range(2):
        y = layers.BatchNormalization()(conv()(x))
        y = layers.BatchNormalization()(conv()(layers.ReLU()(y)))
        x = layers.ReLU()(layers.Add()([x, y]))
    return x


@network(IMAGE)
def pre_activation(x):
    for _ in range(3):
        y = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Add()([x, conv()(y)])
    return layers.ReLU()(layers.BatchNormalization()(x))


@network(IMAGE)
def pre_activation_with_a_shared_start(x):
    """ResNet v2: the projection starts behind the first activation."""
    y = layers.ReLU()(layers.BatchNormalization()(x))
    return layers.Add()([conv(8, 1, strides=2)(y), conv(8, 3, strides=2)(y)])


@network(IMAGE)
def projected(x):
    shortcut = layers.BatchNormalization()(conv(8, 1, strides=2)(x))
    y = conv(8)(layers.ReLU()(conv(8, strides=2)(x)))
    return layers.Add()([y, shortcut])


@network(IMAGE)
def pooled(x):
    shortcut = layers.MaxPooling2D(padding="same")(conv(8, 1)(x))
    return layers.Add()([shortcut, conv(8, strides=2)(conv(8)(x))])


@network(IMAGE)
def padded(x):
    """The parameter-free shortcut of the first ResNets: strided, and zeros for new channels."""
    shortcut = ops.pad(x[:, ::2, ::2, :], [[0, 0], [0, 0], [0, 0], [2, 2]])
    return layers.Add()([shortcut, conv(8, strides=2)(x)])


@network(IMAGE)
def squeezed_and_excited(x):
    return layers.Add()([squeeze_excitation(conv()(x)), x])


@network(SEQUENCE)
def in_parallel(x):
    h = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 3)(h, h) + layers.Dense(6)(layers.Dense(8, "gelu")(h))
    return x


@network(SEQUENCE)
def in_parallel_layers(x):
    h = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 3)(h, h)])
    return layers.Add()([x, layers.Dense(6)(layers.Dense(8, "gelu")(h))])


@network(SEQUENCE)
def transformer(x):
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(2, 3)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(6)(layers.Dense(8, "relu")(x)))
    return x


@network((12, 4))
def convolved_sequence(x):
    for rate in (1, 2):
        y = layers.Conv1D(4, 3, padding="causal", dilation_rate=rate, activation="relu")(x)
        x = layers.Add()([x, layers.SpatialDropout1D(0.1)(y)])
    return x


@network((None, 4))
def recurrent(x):
    return x + layers.LSTM(4, return_sequences=True)(x)


@network((4, 8, 8))
def channels_first(x):
    y = layers.BatchNormalization(axis=1)(x)
    y = layers.Conv2D(4, 3, padding="same", data_format="channels_first")(y)
    return layers.Add()([x, y])


@network((4, 4, 4, 2))
def volumes(x):
    return layers.Add()([x, layers.Conv3D(2, 3, padding="same")(x)])


@network(IMAGE)
def in_and_of_a_nested_model(x):
    inner = keras.Input(IMAGE)
    block = keras.Model(inner, layers.Add(name="inner")([inner, conv()(inner)]), name="block")
    return conv()(block(x))


@network(IMAGE)
def branch_is_a_nested_model(x):
    inner = keras.Input(IMAGE)
    branch = keras.Model(inner, conv()(layers.ReLU()(conv()(inner))), name="branch")
    return layers.Add()([x, branch(x)])


@network(IMAGE)
def branch_is_sequential(x):
    return layers.Add()([x, keras.Sequential([layers.ReLU(), conv(), conv()])(x)])


@network(IMAGE)
def projection_is_sequential(x):
    shortcut = keras.Sequential([conv(8, 1, strides=2), layers.BatchNormalization()])
    return layers.Add()([conv(8, strides=2)(conv()(x)), shortcut(x)])


@network(IMAGE)
def branch_ends_in_a_relu_without_weights(x):
    return layers.Add()([x, layers.ReLU()(conv()(x))])


@network(VECTOR)
def mixed_dtypes(x):
    return x + layers.Dense(6, dtype="mixed_bfloat16")(x)


@network(VECTOR)
def used_as_output(x):
    y = layers.Dense(6)(x)
    return [layers.Add()([x, y]), y]


@network(VECTOR)
def used_with_the_input(x):
    """The sum is concatenated, as the last of a block's, with nothing of its own input."""
    y = layers.Add()([x, layers.Dense(6)(x)])
    return layers.Concatenate()([y, layers.Add()([y, layers.Dense(6)(y)])])


@network(VECTOR)
def layer_scale(x):
    scale = a_call_of_its_own("LayerScale", lambda self, x: x * 0.1)
    return layers.Add()([x, scale()(layers.Dense(6)(x))])


@network(IMAGE)
def stride_of_an_upsampling_block(x):
    shortcut = conv(2, 1)(layers.UpSampling2D()(x))
    y = conv(2)(layers.UpSampling2D()(layers.ReLU()(layers.BatchNormalization()(x))))
    return layers.Add()([shortcut, y])


def fed_by(merge):
    """The branch is made of another input, too."""

    def build():
        x, t = keras.Input(SEQUENCE), keras.Input((3,))
        if merge == "time":
            h = layers.LayerNormalization()(x) + layers.Dense(6)(t)[:, None]
            y = layers.Dense(6)(ops.silu(h))
        else:
            context = layers.Reshape((3, 1))(t)
            y = layers.MultiHeadAttention(2, 3)(x, context)
        return keras.Model([x, t], x + y)

    build.__name__ = f"fed_by_{merge}"
    return build


FOUND = [
    (add_layer, [(0, False)]),
    (plus, [(0, False)]),
    (added_by_ops, [(0, False)]),
    (shortcut_last, [(1, False)]),
    (plus_shortcut_last, [(1, False)]),
    (post_activation, [(0, False)] * 2),
    (pre_activation, [(0, False)] * 3),
    (pre_activation_with_a_shared_start, [(0, True)]),
    (projected, [(1, True)]),
    (pooled, [(0, True)]),
    (padded, [(0, False)]),
    (squeezed_and_excited, [(1, False)]),
    (in_parallel, [(0, False)] * 2),
    (in_parallel_layers, [(0, False)] * 2),
    (transformer, [(0, False)] * 4),
    (convolved_sequence, [(0, False)] * 2),
    (recurrent, [(0, False)]),
    (channels_first, [(0, False)]),
    (volumes, [(0, False)]),
    (in_and_of_a_nested_model, [(0, False)]),
    (branch_is_a_nested_model, [(0, False)]),
    (branch_is_sequential, [(0, False)]),
    (projection_is_sequential, [(1, True)]),
    (branch_ends_in_a_relu_without_weights, [(0, False)]),
    (mixed_dtypes, [(0, False)]),
    (used_as_output, [(0, False)]),
    (used_with_the_input, [(0, False)] * 2),
    (layer_scale, [(0, False)]),
    (stride_of_an_upsampling_block, [(0, True)]),
    (fed_by("time"), [(0, False)]),
    (fed_by("attention"), [(0, False)]),
]


@pytest.mark.parametrize("build, expected", FOUND, ids=[b.__name__ for b, _ in FOUND])
def test_is_a_residual_addition(build, expected):
    found = find_residuals(build())
    assert [(x.shortcut, x.projection) for x in found] == expected, found


# What is none: the network, and how many are left for which reason.


@network(IMAGE)
def constants(x):
    return layers.ReLU(max_value=6)(conv()(x) + 3.0) * x / 6.0 + 1


@network(VECTOR)
def constant_tensor(x):
    return layers.Dense(6)(x) + np.ones((1, 6), "float32")


@network(SEQUENCE)
def table_of_positions(x):
    return x + layers.Embedding(5, 6)(np.arange(5))


@network(SEQUENCE)
def layer_of_positions(x):
    table = a_call_of_its_own("PositionEmbedding", lambda self, x: x * 0 + self.table)
    table.build = lambda self, shape: setattr(self, "table", self.add_weight(shape[1:]))
    return layers.Add()([x, table()(x)])


@network(IMAGE)
def broadcast(x):
    return layers.Add()([x, conv(4, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))])


@network(IMAGE)
def only_squeezed_and_excited(x):
    return squeeze_excitation(conv()(squeeze_excitation(x)))


@network(IMAGE)
def u_net(x):
    skip = conv(activation="relu")(x)
    y = conv(8, activation="relu")(layers.MaxPooling2D()(skip))
    return conv()(layers.Add()([skip, conv()(layers.UpSampling2D()(y))]))


@network(IMAGE)
def u_net_of_transposed_convolutions(x):
    skip = conv(activation="relu")(x)
    y = conv(8, strides=2, activation="relu")(skip)
    return skip + layers.Conv2DTranspose(4, 2, strides=2)(y)


@network(IMAGE)
def u_net_by_resizing(x):
    y = conv(8, strides=2, activation="relu")(x)
    return conv()(layers.Add()([x, layers.Resizing(8, 8)(conv()(y))]))


@network(IMAGE)
def feature_pyramid(x):
    c1 = conv(8, activation="relu")(x)
    c2 = conv(16, strides=2, activation="relu")(c1)
    return layers.Add()([conv(4, 1)(c1), layers.UpSampling2D()(conv(4, 1)(c2))])


@network(IMAGE)
def hourglass_in_a_nested_model(x):
    inner = keras.Input(IMAGE)
    y = layers.UpSampling2D()(conv(strides=2)(inner))
    return layers.Add()([x, keras.Model(inner, y)(x)])


@network(IMAGE)
def cell(x):
    first = layers.Add()([x, conv()(x)])
    second = layers.Add()([conv()(x), conv(size=5)(x)])
    return layers.Concatenate()([first, second])


@network(VECTOR)
def three_operands(x):
    return layers.Add()([x, layers.Dense(6)(x), layers.Dense(6)(x)])


def two_towers():
    a, b = keras.Input(VECTOR), keras.Input(VECTOR)
    return keras.Model([a, b], layers.Add()([layers.Dense(6)(a), layers.Dense(6)(b)]))


@network(VECTOR)
def two_projections(x):
    return layers.Add()([layers.Dense(6)(x), layers.Dense(6)(x)])


@network(IMAGE)
def two_branches(x):
    return layers.Add()([conv(activation="relu")(x), conv(size=5)(x)])


@network(VECTOR)
def highway(x):
    gate = layers.Dense(6, activation="sigmoid")(x)
    return gate * layers.Dense(6, activation="relu")(x) + (1 - gate) * x


@network(IMAGE)
def long_skip(x):
    y = x
    for _ in range(2):
        y = layers.Add()([y, conv()(layers.ReLU()(conv()(y)))])
    return layers.Add(name="long")([x, conv()(y)])


@network(IMAGE)
def long_skip_over_a_nested_model(x):
    inner = keras.Input(IMAGE)
    body = keras.Model(inner, layers.Add()([inner, conv()(layers.ReLU()(inner))]))
    return layers.Add(name="long")([x, conv()(body(x))])


@network(VECTOR)
def used_elsewhere(x):
    y = layers.Dense(6)(x)
    return layers.Concatenate()([layers.Add()([x, y]), layers.Dense(2)(y)])


@network(VECTOR)
def without_weights(x):
    return layers.Dense(6)(x + layers.ReLU()(x))


@network(VECTOR)
def twice_itself(x):
    x = layers.Dense(6)(x)
    return layers.Add()([x, x]) + layers.Dense(6)(x) * 0 + 1


@network(VECTOR)
def merged_by_somebody(x):
    scale = a_call_of_its_own("CustomScaleLayer", lambda self, xs: xs[0] + xs[1] * 0.2)
    return scale()([x, layers.Dense(6)(x)])


@network(VECTOR)
def merged_by_us(x):
    return ks.layers.Swapout(1.0, 0.5)([x, layers.Dense(6)(x)])


@network(VECTOR)
def other_merges(x):
    y = layers.Dense(6)(x)
    return layers.Subtract()([layers.Average()([x, y]), layers.Maximum()([x, y]) * y])


@network(IMAGE)
def dense_net(x):
    for _ in range(3):
        x = layers.Concatenate()([x, conv()(layers.ReLU()(layers.BatchNormalization()(x)))])
    return x


@network(IMAGE)
def nested_block_as_a_projection(x):
    """What an operand does inside of a nested model counts, operations included."""
    inner = keras.Input(IMAGE)
    block = keras.Model(inner, inner + conv(4, 1)(inner), name="block")
    return layers.Add(name="outer")([block(x), conv(activation="relu")(conv(activation="relu")(x))])


@network(VECTOR)
def integers(x):
    y = ops.cast(layers.Dense(6)(x), "int32")
    return layers.Dense(2)(ops.cast(ops.cast(x, "int32") + y, "float32"))


LEFT = [
    (constants, []),
    (constant_tensor, []),
    (table_of_positions, []),
    (layer_of_positions, ["the branch is one PositionEmbedding"]),
    (broadcast, []),
    (only_squeezed_and_excited, []),
    (u_net, ["an hourglass: 'up_sampling2d' in its branch"]),
    (u_net_of_transposed_convolutions, ["an hourglass: 'conv2d_transpose' in its branch"]),
    (u_net_by_resizing, ["an hourglass: 'resizing' in its branch"]),
    (feature_pyramid, ["an hourglass: 'up_sampling2d' in its branch"]),
    (hourglass_in_a_nested_model, ["an hourglass: 'up_sampling2d' in its branch"]),
    (
        cell,
        [
            "a cell: its sum is concatenated with others of the same input",
            "no operand is a shortcut of the other",
        ],
    ),
    (three_operands, ["3 operands"]),
    (two_towers, ["no operand is a shortcut of the other"]),
    (two_projections, ["either operand may be the shortcut"]),
    (two_branches, ["no operand is a shortcut of the other"]),
    (highway, ["no operand is a shortcut of the other"]),
    (used_elsewhere, ["the branch is used elsewhere, by 'dense_1'"]),
    (without_weights, ["no operand is a shortcut of the other"]),
    (merged_by_somebody, ["merged by CustomScaleLayer"]),
    (merged_by_us, ["already a Swapout"]),
    (other_merges, []),
    (dense_net, []),
    (integers, []),
]


@pytest.mark.parametrize("build, reasons", LEFT, ids=[b.__name__ for b, _ in LEFT])
def test_is_none(build, reasons):
    keras.utils.clear_session(free_memory=False)
    found = find_residuals(build())
    assert not found, found
    assert [x.reason for x in found.left] == reasons, found


def test_a_long_skip_is_left_and_what_it_leads_over_is_found():
    for build in (long_skip, long_skip_over_a_nested_model):
        found = find_residuals(build())
        inside = 2 if build is long_skip else 1
        assert len(found) == inside
        assert [(x.name, x.reason) for x in found.left] == [
            ("long", f"a long skip: {inside} residual additions in its branch")
        ]


def test_a_nested_block_is_no_projection():
    found = find_residuals(nested_block_as_a_projection())
    assert [x.where.split("/")[0] for x in found] == ["block"]
    assert [(x.name, x.reason) for x in found.left] == [
        ("outer", "no operand is a shortcut of the other")
    ]


# What is told of it.


def two_blocks():
    x = inputs = keras.Input((8, 8, 4))
    y = conv(name="a")(layers.ReLU()(x))
    y = layers.Dropout(0.2, noise_shape=(None, 1, 1, 1))(conv(name="b")(y))
    x = layers.Add(name="first")([y, x])
    y = layers.BatchNormalization()(conv(6, strides=2)(x))
    x = layers.Add(name="second")([conv(6, 1, strides=2)(x), y])
    x = layers.Add(name="three")([x, conv(6)(x), conv(6, 1)(x)])
    return keras.Model(inputs, Grouped(name="own")(x), name="two")


class Grouped(layers.Layer):
    """A `call` of its own with layers in it: what it adds can't be seen."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(6)

    def call(self, x):
        return x + self.dense(x)


def test_the_table():
    expected = """\
2 residual additions in 'two'
   name    shape  shortcut       branch                      drops at its end
0  first   8x8x4  identity, 1    Conv2D x2                   Dropout 0.2
1  second  4x4x6  projection, 0  Conv2D, BatchNormalization
left, 1: 3 operands: three
out of reach: Grouped x1 has a `call` of its own; what it adds can't be seen"""
    found = find_residuals(two_blocks())
    assert repr(found) == expected
    assert list(found.opaque) == ["own"]
    assert found[0].shape == (None, 8, 8, 4)


def test_the_table_of_a_large_network_fits():
    x = inputs = keras.Input((None, 6))
    for i in range(9):
        x = layers.Add(name=f"three_{i}")([x, layers.Dense(6)(x), layers.Dense(6)(x)])
    found = find_residuals(keras.Model(inputs, x + layers.Dense(6)(x), name="large"))
    lines = repr(found).splitlines()
    assert lines[0] == "1 residual addition in 'large'"
    assert lines[2].split()[2] == "?x6"
    assert lines[-1].endswith("three_5 and 3 more")
    assert max(map(len, lines)) <= 100


def test_nested_models_are_looked_into_once():
    inner = keras.Input(VECTOR)
    block = keras.Model(
        inner, layers.Add(name="sum")([inner, layers.Dense(6)(inner)]), name="block"
    )
    a, b = keras.Input(VECTOR), keras.Input(VECTOR)
    both = keras.Sequential([keras.Input(VECTOR), block, layers.Dense(6)], name="both")
    found = find_residuals(keras.Model([a, b], [both(a), both(b), block(a)]))
    assert [x.name for x in found] == ["sum"]
    assert found[0].where in ("both/block/sum", "block/sum")


def test_layers_that_wrap_models_are_out_of_reach():
    inner = keras.Input(VECTOR)
    block = keras.Model(inner, layers.Add()([inner, layers.Dense(6)(inner)]))
    inputs = keras.Input(SEQUENCE)
    x = layers.TimeDistributed(block, name="each")(inputs)
    found = find_residuals(keras.Model(inputs, x))
    assert (list(found), list(found.opaque)) == ([], ["each"])
    x = layers.TimeDistributed(layers.Dense(3))(layers.MultiHeadAttention(2, 2)(inputs, inputs))
    assert not find_residuals(keras.Model(inputs, x)).opaque


@pytest.mark.parametrize("build", [post_activation, transformer, in_and_of_a_nested_model])
def test_the_model_stays_as_it_was(build):
    model = build()
    parts = [x for x in model._flatten_layers()]
    before = [len(x._inbound_nodes) for x in parts], model.to_json()
    assert find_residuals(model)
    assert ([len(x._inbound_nodes) for x in parts], model.to_json()) == before


def test_models_whose_graph_cannot_be_read():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    for model, error, message in (
        (None, TypeError, "Argument `model` must be a keras.Model. Received: model=None"),
        (layers.Dense(2), TypeError, "Argument `model` must be a keras.Model"),
        (keras.Sequential([layers.Dense(2)]), ValueError, "does not know its input"),
        (Subclassed(), ValueError, "has a `call` of its own.*functional model of its blocks"),
        (ks.RBlock(merged_network()), ValueError, "wraps the network 'merged'.*`.model`"),
    ):
        with pytest.raises(error, match=message):
            find_residuals(model)
    built = keras.Sequential([layers.Dense(2)])
    built(np.ones((2, 3)))
    assert find_residuals(built) == []


def merged_network():
    inputs = keras.Input(VECTOR)
    return keras.Model(inputs, layers.Dropout(0.5)(inputs), name="merged")
