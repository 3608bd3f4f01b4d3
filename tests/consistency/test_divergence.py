"""Divergences against NumPy and SciPy; what an output is, read off loss and last layer."""

import functools
import inspect
import math

import keras
import numpy as np
import pytest
from refusals import NO_ARRAY, NO_FLAG, NO_INT, NO_TEXT, refuses
from scipy.spatial.distance import jensenshannon
from scipy.special import expit, rel_entr, softmax

from keras_swapout.consistency.divergence import Head, log_probabilities, two_way
from keras_swapout.consistency.heads import activations, head_of, is_of_keras

BACKEND = keras.backend.backend()
# JAX has no float64 unless told, and under torch some of Keras' ops compute in float32.
WIDE = "float64" if BACKEND == "tensorflow" else "float32"
KINDS = ["kl", "js", "mse"]
#: name: (head, shape of the outputs)
OUTPUTS = {
    "logits": (Head("softmax", True), (5, 4)),
    "probabilities": (Head("softmax"), (5, 4)),
    "class axis 1": (Head("softmax", True, 1), (5, 4, 3)),
    "probabilities, class axis 1": (Head("softmax", False, 1), (5, 4, 3)),
    "pixels": (Head("softmax"), (2, 3, 2, 4)),
    "one unit": (Head("sigmoid"), (5, 1)),
    "one logit": (Head("sigmoid", True), (5, 1)),
    "labels": (Head("sigmoid"), (5, 3)),
    "label logits": (Head("sigmoid", True), (5, 3)),
}


def array(tensor):
    return keras.ops.convert_to_numpy(keras.ops.cast(tensor, WIDE)).astype("float64")


def pair_of_outputs(head, shape):
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (2, *shape))
    if head.from_logits:
        return a, b
    if head.distribution == "sigmoid":
        return expit(a), expit(b)
    return softmax(a, head.axis), softmax(b, head.axis)


def one_way(kind, a, b, head):
    """The documented D(a, b), by SciPy."""
    if kind == "mse":
        return np.square(a - b).mean(-1)
    axis = head.axis
    if head.from_logits:
        a, b = (softmax(x, axis) if head.distribution == "softmax" else expit(x) for x in (a, b))
    if head.distribution == "sigmoid":
        a, b, axis = np.stack([a, 1 - a], -1), np.stack([b, 1 - b], -1), -1
    if kind == "kl":
        return rel_entr(a, b).sum(axis)
    middle = (a + b) / 2
    return (rel_entr(a, middle) + rel_entr(b, middle)).sum(axis) / 2


def gradients(function, *inputs):
    """Of the sum of function(*inputs), with respect to each input, as the backend does it."""
    inputs = [keras.ops.convert_to_tensor(x) for x in inputs]
    if BACKEND == "jax":
        import jax

        loss = lambda *inputs: keras.ops.sum(function(*inputs))  # noqa: E731
        return list(map(array, jax.grad(loss, range(len(inputs)))(*inputs)))
    if BACKEND == "torch":
        inputs = [x.detach().requires_grad_() for x in inputs]
        function(*inputs).sum().backward()
        return [array(x.grad.detach()) for x in inputs]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        loss = tf.reduce_sum(function(*inputs))
    return list(map(array, tape.gradient(loss, inputs)))


def slope(function, x, epsilon=1e-5):
    """The gradient of the sum of function(x) by central differences."""
    result = np.zeros_like(x)
    for place in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[place] = epsilon
        result[place] = (function(x + step).sum() - function(x - step).sum()) / (2 * epsilon)
    return result


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_values_are_those_of_scipy(kind, name):
    head, shape = OUTPUTS[name]
    a, b = pair_of_outputs(head, shape)
    expected = (one_way(kind, a, b, head) + one_way(kind, b, a, head)) / 2
    value = two_way(a.astype(WIDE), b.astype(WIDE), kind, head)
    assert keras.backend.standardize_dtype(value.dtype) == WIDE
    tolerance = dict(rtol=1e-9, atol=1e-12) if WIDE == "float64" else dict(rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(array(value), expected, **tolerance)
    np.testing.assert_allclose(
        array(two_way(b.astype(WIDE), a.astype(WIDE), kind, head)), array(value), rtol=1e-5
    )
    np.testing.assert_allclose(array(two_way(a, a, kind, head)), 0 * expected, atol=1e-6)


def test_probabilities_of_a_softmax_are_the_default():
    a, b = pair_of_outputs(*OUTPUTS["probabilities"])
    np.testing.assert_array_equal(array(two_way(a, b)), array(two_way(a, b, "kl", Head())))
    assert Head() == Head("softmax", False, -1)


@pytest.mark.parametrize("axis", [1, -1])
def test_js_is_the_square_of_the_jensen_shannon_distance(axis):
    a, b = pair_of_outputs(Head("softmax", False, axis), (5, 4, 3))
    value = two_way(a.astype(WIDE), b.astype(WIDE), "js", Head("softmax", False, axis))
    np.testing.assert_allclose(array(value), jensenshannon(a, b, axis=axis) ** 2, atol=1e-6)


@pytest.mark.parametrize("distribution", ["softmax", "sigmoid"])
def test_js_is_log_2_at_most(distribution):
    far = np.array([[30.0, -30.0], [1.0, -2.0]])
    value = array(two_way(far, -far, "js", Head(distribution, True)))
    assert value.max() <= math.log(2) + 1e-6
    assert value[0] == pytest.approx(math.log(2), rel=1e-6)
    assert (value[1] < 0.95 * math.log(2)).all()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("distribution", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", ["kl", "js"])
def test_huge_logits_are_harmless(kind, distribution, dtype):
    a = np.array([[1e4, -1e4], [1e4, 1e4], [-1e4, 1e4]])
    b = np.array([[-1e4, 1e4], [1e4, -1e4], [-1e4, 1e4]])
    a, b = (keras.ops.cast(x, dtype) for x in (a, b))
    measure = functools.partial(two_way, divergence=kind, head=Head(distribution, True))
    value = measure(a, b)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    # What differs at all differs by 2e4 in log space under softmax, 1e4 under sigmoid.
    apart = {"kl": 2e4 if distribution == "softmax" else 1e4, "js": math.log(2)}[kind]
    np.testing.assert_allclose(array(value)[0], apart, rtol=5e-3)
    np.testing.assert_allclose(array(value)[2], 0, atol=1e-6)
    for gradient in gradients(measure, a, b):
        assert np.isfinite(gradient).all()
        assert kind == "js" or np.abs(gradient[0]).min() > 0  # and not by being cut off


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("distribution", ["softmax", "sigmoid"])
@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_of_0_and_1_are_harmless(kind, distribution, dtype):
    a = keras.ops.cast(np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]), dtype)
    b = keras.ops.cast(np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), dtype)
    measure = functools.partial(two_way, divergence=kind, head=Head(distribution))
    value = array(measure(a, b))
    least = 2.0**-14 if dtype == "float16" else 1e-7
    apart = {"kl": -(1 - least) * math.log(least), "js": math.log(2), "mse": 1.0}[kind]
    np.testing.assert_allclose(value[0], apart, rtol=1e-2)  # 1 - least has few digits
    np.testing.assert_allclose(value[1], 0, atol=1e-6)
    for gradient in gradients(measure, a, b):
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind, name):
    head, shape = OUTPUTS[name]
    a, b = pair_of_outputs(head, shape)

    def both_ways(a, b):
        return (one_way(kind, a, b, head) + one_way(kind, b, a, head)) / 2

    measure = functools.partial(two_way, divergence=kind, head=head)
    found = gradients(measure, a.astype(WIDE), b.astype(WIDE))
    expected = [
        slope(lambda x: both_ways(x, b), a),
        slope(lambda x: both_ways(a, x), b),
    ]
    tolerance = dict(rtol=1e-5, atol=1e-8) if WIDE == "float64" else dict(rtol=2e-3, atol=1e-5)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **tolerance)


@pytest.mark.parametrize("name", ["logits", "pixels", "labels", "label logits"])
@pytest.mark.parametrize("kind", ["kl", "mse"])
def test_stop_gradient_is_deep_mutual_learning(kind, name):
    """a learns from D(b as it is, a), b from D(a as it is, b); the value stays."""
    head, shape = OUTPUTS[name]
    a, b = pair_of_outputs(head, shape)
    measure = functools.partial(two_way, divergence=kind, head=head, stop_gradient=True)
    wide = a.astype(WIDE), b.astype(WIDE)
    np.testing.assert_array_equal(array(measure(*wide)), array(two_way(*wide, kind, head)))
    tolerance = dict(rtol=1e-5, atol=1e-8) if WIDE == "float64" else dict(rtol=2e-3, atol=1e-5)
    expected = [
        slope(lambda x: one_way(kind, b, x, head) / 2, a),
        slope(lambda x: one_way(kind, a, x, head) / 2, b),
    ]
    found = gradients(measure, *wide)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, **tolerance)
    if kind == "kl" and name == "logits":  # Zhang et al. 2018: the difference of the predictions
        np.testing.assert_allclose(found[0], (softmax(a, -1) - softmax(b, -1)) / 2, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_outputs_are_measured_in_float32(kind):
    a, b = (keras.ops.cast(x, "float16") for x in pair_of_outputs(*OUTPUTS["logits"]))
    head = Head("softmax", True)
    value = two_way(a, b, kind, head)
    wide = one_way(kind, array(a), array(b), head) + one_way(kind, array(b), array(a), head)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    np.testing.assert_allclose(array(value), wide / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.tensorflow
def test_bad_arguments_are_named():
    a = np.zeros((2, 3), "float32")
    for name, head in (("a", None), ("b", Head(None))):
        call = lambda x, name=name, head=head: two_way(**{"a": a, "b": a, name: x}, head=head)  # noqa: E731
        refuses(call, name, NO_ARRAY, TypeError)
    for b in (a[:1], a[0], a[None], 0.0):
        with pytest.raises(ValueError, match=r"`a` and `b` must have one shape.*\(2, 3\) and b of"):
            two_way(a, b, "mse")
    refuses(lambda x: two_way(a, a, x), "divergence", NO_TEXT, TypeError)
    refuses(lambda x: two_way(a, a, x), "divergence", ("tv", "KL", ""), ValueError)
    wrong = [x for x in (*NO_TEXT, "softmax", [Head()]) if x is not None]
    refuses(lambda x: two_way(a, a, "kl", x), "head", wrong, TypeError)
    refuses(lambda x: log_probabilities(a, x), "head", wrong, TypeError)
    wrong = (Head(None), Head(axis=2), Head(axis=-3))
    refuses(lambda x: log_probabilities(a, x), "head", wrong, ValueError)
    refuses(lambda x: log_probabilities(x, Head()), "outputs", NO_ARRAY, TypeError)
    refuses(lambda x: two_way(a, a, "kl", Head(), x), "stop_gradient", NO_FLAG, TypeError)
    refuses(Head, "distribution", [x for x in NO_TEXT if x is not None], TypeError)
    refuses(Head, "distribution", ("", "Softmax", "linear"), ValueError)
    refuses(lambda x: Head(None, x), "from_logits", NO_FLAG, TypeError)
    refuses(lambda x: Head("softmax", False, x), "axis", NO_INT, TypeError)


@pytest.mark.tensorflow
def test_no_distribution():
    a = np.zeros((2, 3), "float32")
    for kind in ("kl", "js"):
        with pytest.raises(ValueError, match=f"`divergence='{kind}'`.*distribution=None"):
            two_way(a, a, kind, Head(None))
    np.testing.assert_array_equal(array(two_way(a, a + 2, "mse", Head(None))), [4, 4])


# What an output is: read off objects of Keras, whatever the backend is

SOFTMAX = ["CategoricalCrossentropy", "SparseCategoricalCrossentropy", "KLDivergence"]
SOFTMAX += ["CategoricalFocalCrossentropy"]
SIGMOID = ["BinaryCrossentropy", "BinaryFocalCrossentropy"]
AXES_OF_SPACE = ["Dice", "Tversky"]  # whose `axis` is that of the sum, not that of the classes
LOSSES = sorted(
    name
    for name, value in vars(keras.losses).items()
    if inspect.isclass(value) and value is not keras.losses.Loss and name not in AXES_OF_SPACE
)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_keras_say_their_distribution(name):
    assert len(LOSSES) > 15
    expected = "softmax" if name in SOFTMAX else "sigmoid" if name in SIGMOID else None
    made = getattr(keras.losses, name)()
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")
    snake = snake.replace("k_l_", "kl_")
    spellings = [made, getattr(keras.losses, name)]
    if expected:
        spellings += [snake, getattr(keras.losses, snake)]
    for loss in spellings:
        assert head_of(loss, None) == Head(expected, False, -1)
        assert head_of(loss, "linear") == Head(expected, True, -1)
        if expected is None:  # then the activation decides
            assert head_of(loss, "softmax") == Head("softmax", False, -1)
            assert head_of(loss, "sigmoid") == Head("sigmoid", False, -1)
            assert head_of(loss, "relu").distribution is None
        else:
            assert head_of(loss, "softmax").distribution == expected


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", AXES_OF_SPACE)
def test_the_axis_of_a_sum_is_no_class_axis(name):
    for axis in (None, (1, 2, 3)):
        loss = getattr(keras.losses, name)(axis=axis)
        assert head_of(loss, "softmax") == Head("softmax", False, -1)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name",
    [*SOFTMAX, *SIGMOID],
)
def test_losses_say_whether_they_take_logits_and_along_which_axis(name):
    loss = getattr(keras.losses, name)
    distribution = "softmax" if name in SOFTMAX else "sigmoid"
    if name != "KLDivergence":
        assert head_of(loss(from_logits=True), None) == Head(distribution, True, -1)
    if "axis" in inspect.signature(loss).parameters:
        assert head_of(loss(axis=1), "softmax") == Head(distribution, False, 1)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "alias, distribution", [("kld", "softmax"), ("bce", "sigmoid"), ("KLD", "softmax")]
)
def test_aliases(alias, distribution):
    assert head_of(alias, "softmax") == Head(distribution, False, -1)


@pytest.mark.tensorflow
def test_partials_no_loss_and_functions_of_ones_own():
    partial = functools.partial(
        keras.losses.sparse_categorical_crossentropy, from_logits=True, axis=2
    )
    assert head_of(partial, None) == Head("softmax", True, 2)
    assert head_of(functools.partial(keras.losses.binary_crossentropy), None).from_logits is False
    assert head_of(None, None) == Head(None, False, -1)
    assert head_of(None, "sigmoid") == Head("sigmoid", False, -1)
    assert head_of(lambda y, p: 0.0, "softmax") == Head("softmax", False, -1)
    assert head_of(lambda y, p: 0.0, "linear").distribution is None


@pytest.mark.tensorflow
def test_a_subclass_is_what_it_is_derived_from():
    class Own(keras.losses.SparseCategoricalCrossentropy):
        pass

    class Smoothed(Own):
        def call(self, y_true, y_pred):
            return super().call(y_true, y_pred) + 0.1

    for loss in (Own, Smoothed):
        assert head_of(loss(from_logits=True, axis=1), None) == Head("softmax", True, 1)
    assert not is_of_keras(Smoothed()) and is_of_keras(keras.losses.BinaryCrossentropy())
    for loss in ("crossentropy", "CE"):  # one or another, by the labels
        assert head_of(loss, "softmax") == Head("softmax", False, -1) and is_of_keras(loss)


class OwnCall(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.head(inputs)


def dense(activation=None, units=3):
    return lambda x: keras.layers.Dense(units, activation=activation)(x)


def nested(activation):
    inputs = keras.Input((4,))
    return keras.Model(inputs, dense(activation)(inputs))


ENDS = {
    "dense, softmax": (dense("softmax"), "softmax"),
    "dense, sigmoid": (dense("sigmoid", 1), "sigmoid"),
    "dense": (dense(), "linear"),
    "dense, relu": (dense("relu"), "relu"),
    "dense, own function": (dense(lambda x: x * 1.0), "<lambda>"),
    "Activation": (lambda x: keras.layers.Activation("softmax")(dense()(x)), "softmax"),
    "Softmax": (lambda x: keras.layers.Softmax()(dense()(x)), "softmax"),
    "ops.softmax": (lambda x: keras.ops.softmax(dense()(x)), "softmax"),
    "ops.sigmoid": (lambda x: keras.ops.sigmoid(dense()(x)), "sigmoid"),
    "ops.log_softmax": (lambda x: keras.ops.log_softmax(dense()(x)), "linear"),
    "Reshape": (lambda x: keras.layers.Reshape((3, 1))(dense("softmax")(x)), "softmax"),
    "linear in float32": (
        lambda x: keras.layers.Activation("linear", dtype="float32")(dense("softmax")(x)),
        "softmax",
    ),
    "linear, reshaped": (
        lambda x: keras.layers.Activation("linear")(keras.layers.Reshape((3, 1))(dense()(x))),
        "linear",
    ),
    "functional inside": (lambda x: nested("softmax")(x), "softmax"),
    "Sequential inside": (
        lambda x: keras.Sequential([keras.layers.Dense(3), keras.layers.Softmax()])(x),
        "softmax",
    ),
    "inside, reshaped": (lambda x: keras.layers.Reshape((3, 1))(nested("sigmoid")(x)), "sigmoid"),
    "subclassed inside": (lambda x: OwnCall()(x), None),
    "no activation": (lambda x: keras.layers.BatchNormalization()(dense("softmax")(x)), None),
    "a multiple": (lambda x: 2 * dense("softmax")(x), None),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ENDS)
def test_the_last_activation_is_seen(name):
    end, expected = ENDS[name]
    inputs = keras.Input((4,))
    assert activations(keras.Model(inputs, end(inputs))) == [expected]


@pytest.mark.tensorflow
def test_activations_of_sequential_models():
    layers = [keras.layers.Dense(3), keras.layers.Activation("sigmoid")]
    assert activations(keras.Sequential([keras.Input((4,)), *layers])) == ["sigmoid"]


@pytest.mark.tensorflow
def test_activations_of_a_sequential_model_without_input_are_unknown():
    assert activations(keras.Sequential([keras.layers.Dense(3, activation="softmax")])) == []


@pytest.mark.tensorflow
def test_activations_of_several_outputs_are_in_their_order():
    inputs = keras.Input((4,))
    softmaxed = dense("softmax")(inputs)
    flat = keras.layers.Flatten()(dense("sigmoid")(inputs))
    linear = dense()(inputs)
    listed = keras.Model(inputs, [linear, flat, softmaxed])
    assert activations(listed) == ["linear", "sigmoid", "softmax"]
    named = keras.Model(inputs, {"c": linear, "a": softmaxed, "b": flat})
    by_name = dict(zip(sorted("abc"), activations(named), strict=True))
    assert by_name == {"a": "softmax", "b": "sigmoid", "c": "linear"}
    assert activations(keras.Model(inputs, nested("softmax")(inputs))) == ["softmax"]


@pytest.mark.tensorflow
def test_activations_of_a_subclassed_model_are_unknown():
    model = OwnCall()
    model(np.zeros((1, 4), "float32"))
    assert activations(model) == []


@pytest.mark.tensorflow
def test_a_layer_that_two_outputs_share_is_not_mistaken():
    """`Flatten` first behind logits, then behind probabilities: these are no logits."""
    inputs = keras.Input((4,))
    flatten = keras.layers.Flatten()
    hidden = flatten(dense()(inputs))
    probabilities = flatten(dense("softmax")(hidden))
    assert activations(keras.Model(inputs, probabilities)) != ["linear"]


@pytest.mark.tensorflow
def test_activation_does_not_change_the_model():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Reshape((3, 1))(dense("softmax")(inputs)))
    before = model.to_json()
    activations(model)
    assert model.to_json() == before
