"""Data parallelism: the replicas together draw what one device draws for the whole batch."""

import json
import socket

import numpy as np
import pytest

pytestmark = pytest.mark.tensorflow

TWO_CPUS = """
import json
import numpy as np
import tensorflow as tf

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import keras
import keras_swapout as ks

strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
"""

MASKS = """
x = np.ones((8, 3, 2, 5), "float32")
drawn, read = {}, []

others = {
    "block": lambda: ks.layers.DropBlock2D(0.3, 2, adjustable=True, seed=3),
    "dropped units": lambda: ks.layers.Dropout(0.4, seed=3),
    "dropped batch": lambda: ks.layers.DropPath(0.4, "batch", seed=3),
}

def make(granularity):
    other = others.get(granularity)
    return other() if other else ks.layers.Swapout(0.6, 0.4, granularity=granularity, seed=3)

for granularity in ["unit", "channel", "sample", "batch", *others]:
    alone = make(granularity)
    with strategy.scope():
        layer = make(granularity)

    def call(x):
        if granularity == "block":
            read.append(layer.rate)
        if granularity in others:
            return layer(x, training=True)
        return layer([x, 2 * x], training=True)

    @tf.function
    def step(parts):
        return strategy.run(call, (parts,))

    drawn[granularity] = []
    for _ in range(2):
        parts = strategy.experimental_distribute_values_from_function(
            lambda c: tf.constant(np.split(x, 2)[c.replica_id_in_sync_group])
        )
        parts = [y.numpy().tolist() for y in strategy.experimental_local_results(step(parts))]
        whole = alone(x if granularity in others else [x, 2 * x], training=True).numpy().tolist()
        drawn[granularity].append([parts, whole])
"""

FIT = """
rng = np.random.default_rng(0)
labels = rng.integers(0, 4, 96)
images = rng.uniform(size=(4, 6))[labels] + rng.normal(0, 0.1, (96, 6))

def losses_and_weights():
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(16, activation="relu")(inputs)
    x = ks.layers.Swapout(0.8, 0.6, seed=1)([x, keras.layers.Dense(16, activation="relu")(x)])
    x = ks.layers.StochasticDepth(0.7, seed=2)([x, keras.layers.Dense(16)(x)])
    model = keras.Model(inputs, keras.layers.Dense(4, activation="softmax")(x))
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=False)
    history = model.fit(images, labels, batch_size=32, epochs=5, shuffle=False, verbose=0)
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return history.history["loss"], weights.tolist()

alone = losses_and_weights()
with strategy.scope():
    together = losses_and_weights()
print(json.dumps([drawn, alone, together, read]))
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
for granularity in ["unit", "channel", "sample", "batch"]:
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
    return result(start_python(TWO_CPUS + MASKS + FIT))


def test_two_replicas_draw_the_masks_of_one_device(two_cpus):
    drawn = two_cpus[0]
    for granularity in drawn:
        for parts, whole in drawn[granularity]:
            check(parts, whole, granularity)
    first, second = drawn["unit"]
    assert first != second


def test_the_kept_units_of_all_replicas_count(two_cpus):
    """DropBlock scales by units / units kept, in the whole batch."""
    for parts, _ in two_cpus[0]["block"]:
        y = np.array(parts)
        assert set(np.unique(y)) == {0, np.float32(y.size / np.count_nonzero(y))}


def test_a_replica_reads_the_probability(two_cpus):
    assert two_cpus[3] == [0.3, 0.3]


def test_fit_on_two_replicas_is_fit_on_one(two_cpus):
    _, alone, together, _ = two_cpus
    assert alone[0][-1] < 0.8 * alone[0][0]
    assert together[0] == pytest.approx(alone[0], rel=1e-4)
    assert together[1] == pytest.approx(alone[1], rel=1e-3, abs=1e-4)


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
    for granularity in ("unit", "channel", "sample", "batch"):
        (one, whole), (two, same) = first[granularity], second[granularity]
        assert whole == same
        check([one, two], whole, granularity)
