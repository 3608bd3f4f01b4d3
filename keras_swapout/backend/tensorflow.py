"""TensorFlow: graph mode fuses nothing, so a kernel is compiled on its own."""

import functools
import inspect
import sys
import weakref

import tensorflow as tf
from tensorflow.python.framework.func_graph import func_graph_from_py_func

from keras_swapout.backend.callers import nearest

INDEX_DTYPE = "int64"  # its Range has no uint32 kernel; XLA drops the upper half


def replica_id():
    if not tf.distribute.has_strategy() or tf.distribute.in_cross_replica_context():
        return None
    context = tf.distribute.get_replica_context()
    return None if context.num_replicas_in_sync == 1 else context.replica_id_in_sync_group


def replicas():
    return tf.distribute.get_strategy().num_replicas_in_sync


def total(x):
    if replica_id() is None:
        return x
    return tf.distribute.get_replica_context().all_reduce("SUM", x)


def held(variable):
    with tf.init_scope():  # out of what is being traced
        return variable.numpy()


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


def gradient(function, x):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        y = function(x)
    return tf.convert_to_tensor(tape.gradient(y, x, unconnected_gradients="zero"))


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


# `keras.remat` is `tf.recompute_grad`, which runs a function in `inner` and again for the gradient
# in `inner_recompute_grad`. Both see the one tuple `args`, by which they are known to belong
# together. tests/layers/test_recomputed.py names the versions that it was tried with.


def _codes(code):
    yield code.co_name, code
    for inner in code.co_consts:
        if hasattr(inner, "co_consts"):
            yield from _codes(inner)


_RECOMPUTE = dict(_codes(tf.recompute_grad.__code__))
_FIRST, _AGAIN = (_RECOMPUTE.get(name) for name in ("inner", "inner_recompute_grad"))
_TRACING = func_graph_from_py_func.__code__
_MAPPED = inspect.unwrap(tf.vectorized_map).__code__
_WATCHED = frozenset(map(id, (_FIRST, _AGAIN, _TRACING, _MAPPED)))
#: For each generator what it drew and may have to draw again: {id of args: (call, draws)}.
_drawn = weakref.WeakKeyDictionary()
_MOST = 4096  # calls with a gradient to come; the oldest are over, which nobody says


def once(generator, draw):
    return _once(generator, draw, sys._getframe())


def _once(generator, draw, frame):
    frame = found = nearest(_WATCHED, frame)
    while frame is not None and frame.f_code is _TRACING:
        frame = nearest(_WATCHED, frame.f_back)
    if frame is None:
        return draw()
    if frame.f_code is _MAPPED:
        raise RuntimeError(
            "tf.vectorized_map can't go around a layer that draws masks in training: all its "
            "elements would have the same, and no gradient. Give the layer the whole batch"
        )
    if frame is not found:
        raise RuntimeError(
            "keras.remat can't go around a tf.function, tf.cond or tf.while_loop with a layer that "
            "draws masks in training: they would be others where it is computed again. Put it "
            "inside"
        )
    calls, args = _drawn.setdefault(generator, {}), id(frame.f_locals["args"])
    if frame.f_code is _AGAIN:
        draws = calls[args][1]
        draws.append(draws.pop(0))  # once around is once through, however often it is run again
        return draws[-1]
    # The id may have been that of an earlier call. Each has a watcher of its own around it.
    call = frame.f_back.f_locals["variable_watcher"]
    if args not in calls or calls[args][0] is not call:
        calls.pop(args, None)
        calls[args] = call, []
        if len(calls) > _MOST:
            del calls[next(iter(calls))]
    value = _once(generator, draw, frame.f_back)  # what goes on around may itself be run again
    calls[args][1].append(value)
    return value
