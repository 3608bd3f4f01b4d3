"""The gradient uses the masks of the forward pass, in every mode of every backend."""

import itertools

import keras
import numpy as np
import pytest
from backends import reduced

from keras_swapout.layers import Swapout

BACKEND = keras.backend.backend()
MODES = {
    "tensorflow": ["eager", "graph", "xla"],
    "jax": ["eager", "xla"],
    "torch": ["eager"],
}.get(BACKEND, [])
#: Those that differ most; what a graph runs without XLA is the kernel that it runs eagerly.
ENDS = [MODES[0], MODES[-1]] if MODES else []
pytestmark = pytest.mark.skipif(not MODES, reason=f"{BACKEND} has no gradients")

THETAS = {"independent": (0.6, 0.4), "shared": (0.6, 0.6), "complementary": (0.6, 0.4)}


def array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def weighted_sum(y, w):
    return keras.ops.sum(y * keras.ops.convert_to_tensor(w))


def arrays(shape, count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype("float32") for _ in range(count)]


def differentiate(function, inputs, mode="eager"):
    """function(*inputs) -> (scalar, auxiliary); returns (auxiliary, gradients), for one step."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        def step(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                scalar, auxiliary = function(*inputs)
            return auxiliary, tape.gradient(scalar, inputs)

        if mode != "eager":
            step = tf.function(step, jit_compile=mode == "xla")
        auxiliary, gradients = step(*[tf.convert_to_tensor(value) for value in inputs])
    elif BACKEND == "jax":
        import jax

        step = jax.value_and_grad(function, argnums=range(len(inputs)), has_aux=True)
        if mode == "xla":
            step = jax.jit(step)
        (_, auxiliary), gradients = step(*inputs)
    else:
        inputs = [keras.ops.convert_to_tensor(value).detach().requires_grad_() for value in inputs]
        scalar, auxiliary = function(*inputs)
        scalar.backward()
        auxiliary, gradients = auxiliary.detach(), [value.grad for value in inputs]
    return array(auxiliary), [array(gradient) for gradient in gradients]


def training_call(layer):
    """layer([x, fx], training=True) at its present step; pure, so JAX may trace it."""
    if BACKEND != "jax":
        return lambda x, fx: layer([x, fx], training=True)
    state = [variable.value for variable in layer.non_trainable_variables]
    return lambda x, fx: layer.stateless_call([], state, [x, fx], training=True)[0]


@pytest.mark.parametrize(
    "coupling, granularity, mode",
    [
        ("independent", "unit", MODES[0]),
        *itertools.product(["independent"], ["unit", "batch"], MODES[1:]),
        ("shared", "channel", MODES[-1]),
        ("complementary", "sample", MODES[-1]),
    ],
)
def test_gradient_is_the_mask_times_the_upstream(coupling, granularity, mode, draw):
    shape = (6, 4, 3, 8)
    x, fx, w = arrays(shape, 3)
    twin = Swapout(*THETAS[coupling], coupling, granularity, seed=8)
    call = training_call(Swapout.from_config(twin.get_config()))

    def weighted(x, fx):
        y = call(x, fx)
        return weighted_sum(y, w), y

    y, (gradient_x, gradient_fx) = differentiate(weighted, [x, fx], mode)
    theta_1, theta_2 = draw(twin, shape)
    np.testing.assert_array_equal(y, np.where(theta_1, x, 0) + np.where(theta_2, fx, 0))
    np.testing.assert_array_equal(gradient_x, np.where(theta_1, w, 0))
    np.testing.assert_array_equal(gradient_fx, np.where(theta_2, w, 0))


@pytest.mark.parametrize("mode", ENDS)
def test_every_step_has_its_own_masks_in_both_passes(mode):
    x, fx, w = arrays((5, 7), 3)
    layer = Swapout(0.5, 0.5, seed=1)
    seen = set()
    for step in range(4):
        if BACKEND == "jax":  # the state is the caller's to advance
            layer.seed_generator.state.assign([1, step])
        call = training_call(layer)

        def weighted(x, fx, call=call):
            y = call(x, fx)
            return weighted_sum(y, w), y

        y, gradients = differentiate(weighted, [x, fx], mode)
        theta_1, theta_2 = (gradient != 0 for gradient in gradients)
        np.testing.assert_array_equal(y, x * theta_1 + fx * theta_2)
        seen.add(theta_1.tobytes())
    assert len(seen) == 4


def test_rescaled_gradient(draw):
    x, fx, w = arrays((5, 7), 3)
    twin = Swapout(0.5, 0.25, seed=8, rescale=True)
    call = training_call(twin.from_config(twin.get_config()))

    def weighted(x, fx):
        y = call(x, fx)
        return weighted_sum(y, w), y

    _, gradients = differentiate(weighted, [x, fx])
    masks = draw(Swapout(0.5, 0.25, seed=8), (5, 7))
    np.testing.assert_allclose(gradients[0], masks[0] * w * 2, rtol=1e-6)
    np.testing.assert_allclose(gradients[1], masks[1] * w * 4, rtol=1e-6)


@pytest.mark.tensorflow  # the tests above know the gradient exactly
def test_finite_differences():
    """Of a loss that is not linear, along random directions, masks held by the seed."""
    x, fx, w, dx, dfx = arrays((6, 8), 5)

    def loss(x, fx):
        y = training_call(Swapout(0.6, 0.4, seed=2))(x, fx)
        return weighted_sum(keras.ops.tanh(y), w), y

    _, gradients = differentiate(loss, [x, fx])
    step = np.float32(1e-2)
    ahead, behind = (
        float(array(loss(x + sign * step * dx, fx + sign * step * dfx)[0])) for sign in (1, -1)
    )
    slope = np.sum(gradients[0] * dx) + np.sum(gradients[1] * dfx)
    assert slope == pytest.approx((ahead - behind) / (2 * float(step)), rel=1e-2)


@pytest.mark.parametrize("mode", ENDS)
def test_layer_used_twice(mode, draw):
    shape = (16, 6)
    x, fx, w = arrays(shape, 3)
    layer, twin = Swapout(0.5, 0.5, seed=3), Swapout(0.5, 0.5, seed=3)

    def twice(a, b):
        if BACKEND != "jax":
            y = layer([layer([a, b], training=True), b], training=True)
        else:
            state = [variable.value for variable in twin_state.non_trainable_variables]
            once, state = layer.stateless_call([], state, [a, b], training=True)
            y, _ = layer.stateless_call([], state, [once, b], training=True)
        return weighted_sum(y, w), y

    twin_state = Swapout(0.5, 0.5, seed=3)
    _, (gradient_x, gradient_fx) = differentiate(twice, [x, fx], mode)
    (a1, a2), (b1, b2) = draw(twin, shape), draw(twin, shape)
    assert (a1 != b1).any()
    np.testing.assert_allclose(gradient_x, w * b1 * a1, rtol=1e-6)
    np.testing.assert_allclose(gradient_fx, w * (b1 * a2.astype(int) + b2), rtol=1e-6)


def test_second_order(draw):
    """For a loss sum(Y^3): the gradient is 3 Y^2 Theta1, and its own 6 Y Theta1."""
    x, fx = arrays((5, 6), 2)
    call = training_call(Swapout(0.6, 0.6, seed=4))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        a, b = tf.constant(x), tf.constant(fx)
        with tf.GradientTape() as outer:
            outer.watch(a)
            with tf.GradientTape() as inner:
                inner.watch(a)
                loss = tf.reduce_sum(call(a, b) ** 3)
            first = inner.gradient(loss, a)
        second = outer.gradient(first, a)
    elif BACKEND == "jax":
        import jax

        def slope(a):
            return jax.grad(lambda a: keras.ops.sum(call(a, fx) ** 3))(a)

        first, second = slope(x), jax.grad(lambda a: keras.ops.sum(slope(a)))(x)
    else:
        import torch

        a = keras.ops.convert_to_tensor(x).detach().requires_grad_()
        loss = (call(a, keras.ops.convert_to_tensor(fx)) ** 3).sum()
        (first,) = torch.autograd.grad(loss, a, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), a)
    theta_1, theta_2 = draw(Swapout(0.6, 0.6, seed=4), (5, 6))
    y = x * theta_1 + fx * theta_2
    np.testing.assert_allclose(array(first), 3 * y**2 * theta_1, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(array(second), 6 * y * theta_1, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode, rescale", [(MODES[0], False), (MODES[-1], True)])
def test_dropped_infinity_is_zero(mode, rescale, draw):
    shape = (3, 32)
    (fx,) = arrays(shape, 1)
    x = np.repeat(np.array([[np.inf], [-np.inf], [np.nan]], "float32"), 32, axis=1)
    twin = Swapout(0.5, 0.5, seed=5, rescale=rescale)
    call = training_call(Swapout.from_config(twin.get_config()))

    def total(x, fx):
        y = call(x, fx)
        return keras.ops.sum(y), y

    y, gradients = differentiate(total, [x, fx], mode)
    kept, kept_fx = draw(Swapout(0.5, 0.5, seed=5), shape)
    scale = 2 if rescale else 1
    np.testing.assert_array_equal(y[~kept], scale * np.where(kept_fx, fx, 0)[~kept])
    assert not np.isfinite(y[kept]).any()
    np.testing.assert_array_equal(gradients[0], scale * kept)


@pytest.mark.parametrize("thetas", reduced([(1, 1), (0, 1), (1, 0), (0, 0)], (0, 1)))
def test_gradient_at_the_ends(thetas):
    x, fx, w = arrays((4, 5), 3)
    call = training_call(Swapout(*thetas))

    def weighted(x, fx):
        y = call(x, fx)
        return weighted_sum(y, w), y

    y, gradients = differentiate(weighted, [x, fx])
    np.testing.assert_array_equal(y, thetas[0] * x + thetas[1] * fx)
    for theta, gradient in zip(thetas, gradients, strict=True):
        np.testing.assert_array_equal(gradient, theta * w)


@pytest.mark.parametrize("thetas", reduced([(0.5, 0.25), (1, 0.5)], (0.5, 0.25)))
def test_gradient_of_inference(thetas):
    x, fx, w = arrays((4, 5), 3)
    layer = Swapout(*thetas)

    def weighted(x, fx):
        y = layer([x, fx])
        return weighted_sum(y, w), y

    _, gradients = differentiate(weighted, [x, fx])
    for theta, gradient in zip(thetas, gradients, strict=True):
        np.testing.assert_allclose(gradient, theta * w, rtol=1e-6)
