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


def on_replicas(model):
    """A function batch -> outputs of `model` that splits the batch among the replicas.

    The outputs of all replicas, and of all workers, whose batches may differ, follow each other
    along the first axis. None where there is one replica.
    """
    strategy = model.model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return None
    here = len(strategy.extended.worker_devices)

    @tf.function
    def step(shares):
        outputs = strategy.run(lambda share: model(share, training=False), args=(shares,))
        return tf.nest.map_structure(lambda output: strategy.gather(output, axis=0), outputs)

    def run(batch):
        def share(context):
            part = context.replica_id_in_sync_group % here
            return tf.nest.map_structure(lambda a: tf.constant(a[part::here]), batch)

        return step(strategy.experimental_distribute_values_from_function(share))

    return run
