"""Data parallelism: replicas together draw, train, fork and recalibrate as one device does.

One process has the two devices for all of it, which to start takes longer than what it finds.
"""

import json
import os
import socket

import keras
import numpy as np
import pytest

BACKEND = keras.backend.backend()

TWO_CPUS = """
import json
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import keras_swapout as ks

found = {}
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

def replicas(function, x):
    # A call of what comes back gives what `function` is in each replica, of its half of the batch.
    step = tf.function(lambda parts: strategy.run(function, (parts,)))

    def run():
        parts = strategy.experimental_distribute_values_from_function(
            lambda c: tf.constant(np.split(x, 2)[c.replica_id_in_sync_group])
        )
        return [y.numpy().tolist() for y in strategy.experimental_local_results(step(parts))]

    return run
"""

MASKS = """
x = np.ones((8, 3, 2, 5), "float32")
drawn, read = {}, []

others = {
    "block": lambda: ks.layers.DropBlock2D(0.3, 2, adjustable=True, seed=3),
    "dropped channels": lambda: ks.layers.Dropout(0.4, "channel", seed=3),
    "dropped batch": lambda: ks.layers.DropPath(0.4, "batch", seed=3),
}

def make(granularity):
    other = others.get(granularity)
    return other() if other else ks.layers.Swapout(0.6, 0.4, granularity=granularity, seed=3)

for granularity in ["unit", "sample", "batch", *others]:
    alone = make(granularity)
    with strategy.scope():
        layer = make(granularity)

    def call(x):
        if granularity == "block":
            read.append(layer.rate)
        return layer(x if granularity in others else [x, 2 * x], training=True)

    drawn[granularity] = []
    run = replicas(call, x)
    for _ in range(2):
        whole = alone(x if granularity in others else [x, 2 * x], training=True).numpy().tolist()
        drawn[granularity].append([run(), whole])
found |= {"masks": drawn, "read": read}
"""

FORK = """
x = np.ones((8, 5, 4, 2), "float32")

def network():
    layers = [ks.layers.SDropDML(0.4, 2, seed=3), ks.layers.BDropDML(0.3, seed=4)]
    return ks.fork(keras.Sequential([keras.Input((5, 4, 2)), *layers]))

alone = network()
with strategy.scope():
    together = network()

run = replicas(lambda x: together(x, training=True), x)
found["fork"] = [[run(), alone(x, training=True).numpy().tolist()] for _ in range(2)]
"""

RECALIBRATION = """
x = np.random.default_rng(0).normal(1, 3, (21, 5)).astype("float32")
mask = np.arange(3) < np.arange(21)[:, None] % 4
sequences = np.where(mask[..., None], np.stack([x, x**2, x], axis=1), 0).astype("float32")

def network():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Masking(), keras.layers.Dense(4), keras.layers.BatchNormalization()]
    layers += [keras.layers.Dropout(0.5), keras.layers.BatchNormalization()]
    return keras.Sequential([keras.Input((3, 5)), *layers])

def variables(model):
    return [v for v in model.non_trainable_variables if "moving" in v.path]

alone = network()
with strategy.scope():
    together = network()
for model in (alone, together):
    # Five batches, the last one with one sample: one of the replicas gets none of it.
    ks.inference.recalibrate_batch_norm(
        model, sequences, batch_size=5, in_place=True, verbose=False
    )
copies = [strategy.experimental_local_results(v.value) for v in variables(together)]
found["statistics"] = [
    [v.numpy().tolist() for v in variables(alone)],
    *([c[i].numpy().tolist() for c in copies] for i in range(2)),
]
"""

RBLOCK = """
rng = np.random.default_rng(0)
x, y = rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 3, 64)
weight = rng.uniform(0, 2, 64).astype("float32")

class Sums(keras.layers.Layer):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        self.add_loss(self.factor * keras.ops.sum(x**2))  # both views: R-Block counts half of it
        return x

def trained(factor):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    z = keras.layers.Dense(8, activation="relu", kernel_regularizer="l2")(inputs)
    z = ks.layers.Swapout(0.8, 0.6, seed=2)([z, keras.layers.Dense(8, activation="relu")(z)])
    z = ks.layers.StochasticDepth(0.7, seed=3)([z, ks.layers.BDropDML(0.5, seed=1)(z)])
    z = Sums(factor)(z)
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(z))
    schedule = keras.optimizers.schedules.PolynomialDecay(2.0, 4, 1.0)
    rblock = ks.RBlock(model, alpha=schedule)
    loss = "sparse_categorical_crossentropy"
    rblock.compile(keras.optimizers.SGD(0.5), loss, jit_compile=keras.backend.backend() == "jax")
    data = dict(x=x, y=y, sample_weight=weight)
    history = rblock.fit(**data, epochs=2, batch_size=32, shuffle=False, verbose=0).history
    weights = np.concatenate([w.ravel() for w in map(np.asarray, rblock.get_weights())])
    return [history, weights.tolist()]
"""

TOGETHER = """
# Keras divides what a replica adds by their number: of a sum over its half that leaves half.
alone = trained(0.005)
with strategy.scope():
    found["rblock"] = [alone, trained(0.01)]
print(json.dumps(found))
"""

TOGETHER_IN_JAX = """
alone = trained(0.01)
keras.distribution.set_distribution(keras.distribution.DataParallel())
assert len(keras.distribution.list_devices()) == 2
print(json.dumps({"rblock": [alone, trained(0.01)]}))
"""

WORKER = """
import json
import numpy as np
import tensorflow as tf

strategy = tf.distribute.MultiWorkerMirroredStrategy()
import keras
import keras_swapout as ks

me = strategy.cluster_resolver.task_id
x = np.ones((8, 3, 2, 5), "float32")
drawn = {}
for granularity in ["unit", "batch"]:
    alone = ks.layers.Swapout(0.6, 0.4, granularity=granularity, seed=3)
    whole = alone([x, 2 * x], training=True).numpy().tolist()
    with strategy.scope():
        layer = ks.layers.Swapout(0.6, 0.4, granularity=granularity, seed=3)

    @tf.function
    def step(x):
        return strategy.run(lambda x: layer([x, 2 * x], training=True), (x,))

    part = strategy.experimental_local_results(step(tf.constant(np.split(x, 2)[me])))[0]
    drawn[granularity] = [part.numpy().tolist(), whole]
print(json.dumps(drawn))
"""


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def check(parts, whole, granularity):
    assert parts[0] + parts[1] == whole
    if "batch" in granularity:
        assert parts[0] == parts[1]
    else:  # the fault of a generator that gives all replicas one seed
        assert parts[0] != parts[1]


@pytest.fixture(scope="module")
def two_cpus(start_python, result):
    if BACKEND == "tensorflow":
        parts = [TWO_CPUS, MASKS, FORK, RECALIBRATION, RBLOCK, TOGETHER]
        return result(start_python("".join(parts)))
    code = "import json, keras, numpy as np, keras_swapout as ks\n" + RBLOCK + TOGETHER_IN_JAX
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    return result(start_python(code, XLA_FLAGS=flags))


@pytest.mark.tensorflow
def test_two_replicas_draw_the_masks_of_one_device(two_cpus):
    drawn = two_cpus["masks"]
    for granularity in drawn:
        for parts, whole in drawn[granularity]:
            check(parts, whole, granularity)
    first, second = drawn["unit"]
    assert first != second


@pytest.mark.tensorflow
def test_the_kept_units_of_all_replicas_count(two_cpus):
    """DropBlock scales by units / units kept, in the whole batch."""
    for parts, _ in two_cpus["masks"]["block"]:
        y = np.array(parts)
        assert set(np.unique(y)) == {0, np.float32(y.size / np.count_nonzero(y))}


@pytest.mark.tensorflow
def test_a_replica_reads_the_probability(two_cpus):
    assert two_cpus["read"] == [0.3, 0.3]


@pytest.mark.tensorflow
def test_two_replicas_fork_as_one_device_does(two_cpus):
    steps = two_cpus["fork"]
    assert steps[0] != steps[1]
    for parts, whole in steps:
        whole = np.reshape(whole, (2, 8, 5, 4, 2))
        first, second = (np.reshape(part, (2, 4, 5, 4, 2)) for part in parts)
        np.testing.assert_array_equal(np.concatenate([first, second], axis=1), whole)
        assert (first != second).any()
        assert not ((whole[0] > 0) & (whole[1] > 0)).all()


@pytest.mark.tensorflow
def test_two_replicas_find_the_statistics_that_one_device_finds(two_cpus):
    alone, first, second = two_cpus["statistics"]
    assert first == second
    for mine, wanted in zip(first, alone, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-5)
    mean, variance = np.array(alone[2:])
    assert mean == pytest.approx(0, abs=1e-5) and variance == pytest.approx(1, rel=1e-2)


@pytest.mark.skipif(BACKEND not in ("tensorflow", "jax"), reason="Keras has one device there")
def test_two_replicas_train_an_rblock_as_one_device(two_cpus):
    (history, weights), (shared_history, shared_weights) = two_cpus["rblock"]
    assert set(history) == set(shared_history) == {"loss", "task_loss", "consistency"}
    for name, values in history.items():
        np.testing.assert_allclose(shared_history[name], values, rtol=1e-4)
    np.testing.assert_allclose(shared_weights, weights, rtol=1e-3, atol=1e-5)


@pytest.mark.tensorflow
def test_two_workers_draw_the_masks_of_one_device(start_python, result):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    configurations = [
        {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        for index in range(2)
    ]
    processes = [
        start_python(WORKER, TF_CONFIG=json.dumps(configuration))
        for configuration in configurations
    ]
    first, second = (result(process) for process in processes)
    for granularity in ("unit", "batch"):
        (one, whole), (two, same) = first[granularity], second[granularity]
        assert whole == same
        check([one, two], whole, granularity)
