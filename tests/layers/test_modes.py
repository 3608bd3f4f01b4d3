"""One seed gives one sequence of masks: eager, graph, XLA, any backend, dtype, shape or batch."""

import hashlib
import importlib.util
import itertools

import keras
import numpy as np
import pytest
from backends import marked

import keras_swapout as ks
from keras_swapout.layers import Swapout

BACKEND = keras.backend.backend()
THETAS = {"independent": (0.7, 0.4), "shared": (0.7, 0.7), "complementary": (0.7, 0.3)}
#: Which part of a (5, 4, 3, 6) batch draws on its own, channels last.
FIELDS = {
    "unit": (5, 4, 3, 6),
    "channel": (5, 1, 1, 6),
    "sample": (5, 1, 1, 1),
    "batch": (1, 1, 1, 1),
}
#: Masks of all couplings and granularities as bytes, for any interpreter to print.
DIGEST = """
import hashlib, json
import keras, numpy as np
from keras_swapout.layers import Swapout

x = np.ones((5, 4, 3, 6), "float32")
drawn = hashlib.sha256()
for thetas in [(0.7, 0.4, "independent"), (0.7, 0.7, "shared"), (0.7, 0.3, "complementary")]:
    for granularity in ["unit", "channel", "sample", "batch"]:
        for seed in [0, 1, 2**31 - 1]:
            layer = Swapout(*thetas, granularity, seed=seed)
            for step in range(2):
                y = keras.ops.convert_to_numpy(layer([x, 2 * x], training=True))
                drawn.update(y.astype("uint8").tobytes())
print(json.dumps([keras.backend.backend(), drawn.hexdigest()]))
"""


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def oracle(thetas, coupling, granularity, seed, step, shape=(5, 4, 3, 6)):
    """The documented thresholds on the NumPy words, in Python's own integers."""
    field = FIELDS[granularity]
    words = [int(word) for word in ks.random.words([seed, step], field, ops=np).ravel()]
    theta_1 = [word % 2**16 < round(65536 * thetas[0]) for word in words]
    theta_2 = [word // 2**16 < round(65536 * thetas[1]) for word in words]
    if coupling == "shared":
        theta_2 = theta_1
    if coupling == "complementary":
        theta_2 = [not kept for kept in theta_1]
    return [np.broadcast_to(np.reshape(theta, field), shape) for theta in (theta_1, theta_2)]


def run_in(mode, layer, x, fx):
    """One training step of `layer`; under JAX's jit its state comes back to it."""
    if mode == "jit":
        import jax

        state = [variable.value for variable in layer.non_trainable_variables]
        y, state = jax.jit(layer.stateless_call, static_argnames="training")(
            [], state, [x, fx], training=True
        )
        for variable, value in zip(layer.non_trainable_variables, state, strict=True):
            variable.assign(value)
        return array(y)
    step = lambda x, fx: layer([x, fx], training=True)  # noqa: E731
    if mode != "eager":
        import tensorflow as tf

        step = tf.function(step, jit_compile=mode == "xla")
    return array(step(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(fx)))


MODES = {"tensorflow": ["eager", "graph", "xla"], "jax": ["eager", "jit"]}.get(BACKEND, ["eager"])


@pytest.mark.parametrize(
    "coupling, granularity, mode",
    [
        *itertools.product(["independent"], FIELDS, MODES[:1]),
        *itertools.product(["shared", "complementary"], ["unit"], MODES[:1]),
        *itertools.product(["independent"], ["unit", "batch"], MODES[1:]),
    ],
)
def test_masks_are_the_documented_function_of_seed_and_step(coupling, granularity, mode):
    x = np.ones((5, 4, 3, 6), "float32")
    layer = Swapout(*THETAS[coupling], coupling, granularity, seed=12345)
    for step in range(2):
        y = run_in(mode, layer, x, 2 * x)
        theta_1, theta_2 = oracle(THETAS[coupling], coupling, granularity, 12345, step)
        np.testing.assert_array_equal(y, theta_1 + 2 * theta_2)


@pytest.mark.tensorflow
def test_torch_draws_the_same_masks(start_python, result):
    # JAX has a run of its own of these tests, which compare with NumPy.
    if not importlib.util.find_spec("torch"):  # not import: two frameworks may quarrel
        pytest.skip("needs a second backend: pip install torch")
    process = start_python(DIGEST, KERAS_BACKEND="torch")
    here = {}
    exec(compile(DIGEST, "here", "exec"), here)
    expected = here["drawn"].hexdigest()
    assert expected != hashlib.sha256().hexdigest()
    assert result(process) == ["torch", expected]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtypes_have_the_same_masks(dtype, draw):
    if BACKEND == "jax" and dtype == "float64":
        pytest.skip("JAX has no float64 unless told")
    layer = Swapout(0.5, 0.5, seed=1, dtype=dtype)
    x = keras.ops.ones((4, 33), dtype)
    y = layer([x, 2 * x], training=True)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    theta_1, theta_2 = draw(Swapout(0.5, 0.5, seed=1), (4, 33))
    drawn = array(keras.ops.cast(y, "float32"))
    np.testing.assert_array_equal(drawn, theta_1 + 2.0 * theta_2)
    y = layer([x, 2 * x])
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    assert (array(keras.ops.cast(y, "float32")) == 1.5).all()


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_casts_first(policy):
    x = np.ones((4, 8), "float32")
    layer = Swapout(seed=1, dtype=policy)
    for training in (True, False):
        y = layer([x, keras.ops.cast(x, layer.compute_dtype)], training=training)
        assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_dtype_of_its_own_casts_first(dtype):
    """As `keras.layers.Add` does. Where nobody says to which dtype, other ones are a mistake."""
    x = np.ones((4, 8), "float16")
    layers = [Swapout(1.0, 1.0, dtype=dtype), Swapout(0.5, 0.5, rescale=True, dtype=dtype)]
    for layer in [*layers, keras.layers.Add(dtype=dtype)]:
        y = layer([x, x.astype("float32")])
        assert keras.backend.standardize_dtype(y.dtype) == dtype
        assert (array(y) == 2).all()
    again = Swapout.from_config(layers[0].get_config())
    assert keras.backend.standardize_dtype(again([x, x.astype("float32")]).dtype) == dtype
    with pytest.raises(TypeError, match="dtype"):
        Swapout(dtype=dtype, autocast=False)([x, x.astype("float32")])


@pytest.mark.parametrize(
    "shape, granularity",
    [
        ((1,), "channel"),
        ((2, 3, 2, 3, 2), "sample"),
        *marked(
            ((1,), "unit"),
            ((1,), "batch"),
            ((1, 1), "sample"),
            ((1, 7), "channel"),
            ((3,), "sample"),
            ((1, 5, 5, 3), "unit"),
            ((2, 3, 2, 3, 2), "channel"),
        ),
    ],
)
def test_any_rank_and_a_batch_of_one(shape, granularity):
    rng = np.random.default_rng(0)
    x, fx = (rng.normal(size=shape).astype("float32") for _ in range(2))
    layer = Swapout(0.5, 0.5, granularity=granularity, seed=1)
    for training in (True, False):
        y = array(layer([x, fx], training=training))
        assert y.shape == shape
        outcomes = [0.5 * x + 0.5 * fx] if not training else [0 * x, x, fx, x + fx]
        assert np.any([np.isclose(y, outcome) for outcome in outcomes], axis=0).all()


def test_empty_batch():
    x = np.ones((0, 4, 3), "float32")
    for training in (True, False):
        assert array(Swapout(seed=1)([x, x], training=training)).shape == (0, 4, 3)


@pytest.mark.tensorflow
@pytest.mark.parametrize("granularity, jit", [("unit", False), ("unit", True), ("channel", True)])
def test_unknown_sizes_draw_as_known_ones(granularity, jit, draw):
    import tensorflow as tf

    layer = Swapout(0.7, 0.4, granularity=granularity, seed=9)
    known = Swapout(0.7, 0.4, granularity=granularity, seed=9)
    unknown = tf.TensorSpec((None, None, None, 6), tf.float32)
    step = tf.function(
        lambda x: layer([x, 2 * x], training=True), input_signature=[unknown], jit_compile=jit
    )
    for shape in [(5, 4, 3, 6), (1, 4, 3, 6), (8, 2, 2, 6), (5, 4, 3, 6)]:
        theta_1, theta_2 = draw(known, shape)
        np.testing.assert_array_equal(step(tf.ones(shape)), theta_1 + 2.0 * theta_2)
    assert step.experimental_get_tracing_count() == 1
