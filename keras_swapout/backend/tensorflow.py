"""TensorFlow: graph mode fuses nothing, so a kernel is compiled on its own."""

import functools

import tensorflow as tf

INDEX_DTYPE = "int64"  # its Range has no uint32 kernel; XLA drops the upper half


def replica_id():
    if not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context():
        return None
    context = tf.distribute.get_replica_context()
    return None if context.num_replicas_in_sync == 1 else context.replica_id_in_sync_group


def replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def fused(function):
    """`function(*tensors, **static)` compiled by XLA, once for each set of shapes and statics.

    All layers share the executables, so a deep network compiles as many kernels as it has shapes.
    Inside a program that XLA compiles anyway, the kernel is inlined and costs nothing.
    """

    # Concrete functions, kept here: `tf.function` would warn of retracing for every new shape.
    @functools.lru_cache(maxsize=1024)
    def compiled(signature, static):
        kernel = tf.function(
            lambda *tensors: function(*tensors, **dict(static)), jit_compile=True, autograph=False
        )
        return kernel.get_concrete_function(*(tf.TensorSpec(*spec) for spec in signature))

    def call(*tensors, **static):
        tensors = [tf.convert_to_tensor(t) for t in tensors]
        signature = tuple((tuple(t.shape), t.dtype) for t in tensors)
        return compiled(signature, tuple(sorted(static.items())))(*tensors)

    return call


def hoist(x):
    return x


def untaped(x):
    # The tape records inside a custom gradient as well. It would have the kernel hand out its masks
    # and copies of its inputs, for a gradient that is never taken.
    return tf.stop_gradient(x)
