"""What the layers and R-Block cost: `keras-swapout benchmark`.

Six things are timed, each against the plain residual network in the same process and in turns, so
that a machine whose speed drifts slows all of them alike:

    merge      the merge alone: forward, and forward with both gradients
    step       one whole training step (forward, backward, SGD update) with a stochastic merge
    drop       the dropouts of one tensor beside Keras' of the same granularity: alone, where plain
               is a multiplication by a number, and a training step with one at the end of each
               branch
    rblock     one whole training step with SDropDML behind the merges of some stages: alone, under
               R-Block, and with R-Block's loss the ways that a user would write it, two passes
               and one pass of a doubled batch
    inference  one prediction of the networks of the part before
    sampling   stochastic inference with T sub-models, `keras_swapout.inference.predict`, of the
               networks with SDropDML behind the merges of some stages, against T predictions of
               the plain network, and against the way that a user would write it, T calls in
               training mode

as a TensorFlow graph, as a TensorFlow graph compiled by XLA, and under JAX where it is installed.
A row is the median time of a call, the median over the rounds of its ratio to plain in that
round, and the quartiles of that ratio. `plain again` is the plain add timed twice: the noise.

Peak memory is, where XLA compiles the step, the compiler's own account of the program: arguments,
constants, temporaries and results. In graph mode there is none, and it is what the batch adds to
the peak anonymous memory of a process, from two processes with two and four times the batch,
(peak_4 - peak_2) / 2, which leaves out what is there whatever the batch. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_swapout.study import store
from keras_swapout.study.hardware import cpu_name
from keras_swapout.study.packages import check_packages, installed
from keras_swapout.study.quiet import quiet

VARIANTS = (
    "plain",
    "plain again",
    "swapout",
    "swapout, adjustable",
    "swapout, by surgery",
    "skip_forward",
    "residual_dropout",
    "stochastic_depth",
    "two dropouts",
)
THETA = 0.5
PLACES = {"last stage": 2, "last two stages": 1, "everywhere": 0}  # the first stage with layers
RBLOCK_VARIANTS = (
    "plain",
    "plain again",
    "SDropDML, everywhere",
    *(f"{how}, {place}" for place in PLACES for how in ("R-Block", "two passes", "doubled batch")),
    "R-Block, everywhere, fraction 0.25",
)
INFERENCE_VARIANTS = ("plain", "plain again", "SDropDML, everywhere", "R-Block, everywhere")
SAMPLING_VARIANTS = (
    "T predictions, plain",
    "T predictions, plain again",
    *(f"sampling, {place}" for place in PLACES),
    "T calls, everywhere",
)
DROP_VARIANTS = (
    "plain",
    "plain again",
    "Dropout, unit",
    "Dropout, unit, Keras'",
    "Dropout, channel",
    "Dropout, channel, Keras'",
    "DropPath",
    "DropPath, Keras'",
)
PARTS = ("merge", "step", "drop", "rblock", "inference", "sampling")
MEASURED_MEMORY = ("plain", "swapout", "two dropouts")  # under TensorFlow two processes each
_MODES = {"tensorflow": {"graph": False, "xla": True}, "jax": {"jit": True}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    integer = _positive
    parser.add_argument(
        "--backends", nargs="+", choices=("tensorflow", "jax"), help="default: those installed"
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        help="of the merge, in the first two parts",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=integer, default=30, help="timed rounds (default 30)")
    parser.add_argument("--batch-size", type=integer, default=64)
    parser.add_argument("--samples", type=integer, default=30, help="the T of sampling (30)")
    parser.add_argument("--depth", type=integer, default=20, help="of the ResNet v2 (default 20)")
    parser.add_argument("--width", type=integer, default=1)
    parser.add_argument(
        "--merge-shape", type=integer, nargs=4, default=[128, 32, 32, 32], metavar="N"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--json", type=Path, help="write the figures there as well")


def main(arguments: argparse.Namespace) -> None:
    """Run every backend in a process of its own, print the tables, write the JSON."""
    backends = arguments.backends or list(filter(installed, _MODES)) or ["tensorflow"]
    check_packages(["rich", *backends])
    results = []
    for backend in backends:
        options = json.loads(json.dumps(vars(arguments), default=str))
        result = _in_a_process(backend, options)
        if backend == "tensorflow" and "step" in options["parts"]:
            for mode in _MODES["tensorflow"]:
                for variant, row in result["parts"][f"training step, {mode}"].items():
                    if variant in MEASURED_MEMORY:
                        row["peak_mb"] = _batch_memory({**options, "peak": variant, "mode": mode})
        results.append(result)
        _print(result)
    if arguments.json:
        store.write_text(arguments.json, json.dumps(results, indent=1) + "\n")


def interleave(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, float]]:
    """Time functions in turns.

        ms = median over rounds of a call;  ratio = median over rounds of (call / first call)

    Args:
        calls: name -> function of no arguments that returns when its work is done. The first is
            what the others are held against.
        rounds: how many rounds, an int >= 1, each in an order of its own (what ran before a call
            leaves its mark on caches and memory). Two uncounted rounds go first.

    Returns:
        name -> {"ms", "ratio", "ratio_low", "ratio_high"}: medians, and quartiles of the ratio.

    Example:

    >>> figures = interleave({"a": lambda: None, "b": lambda: time.sleep(0.001)}, rounds=3)
    >>> figures["a"]["ratio"], figures["b"]["ms"] >= 1
    (1.0, True)
    """
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    shuffler = random.Random(0)
    for _ in range(rounds + 2):
        for name in shuffler.sample(names, len(names)):
            began = time.perf_counter()
            calls[name]()
            times[name].append(time.perf_counter() - began)
    figures = {}
    for name in names:
        counted, base = times[name][2:], times[names[0]][2:]
        ratios = [a / b for a, b in zip(counted, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if rounds > 1 else ratios * 3
        figures[name] = {
            "ms": 1e3 * statistics.median(counted),
            "ratio": middle,
            "ratio_low": low,
            "ratio_high": high,
        }
    return figures


def _batch_memory(options: dict[str, Any]) -> float | None:
    if options["mode"] == "xla":
        with tempfile.TemporaryDirectory() as folder:
            flags = f"--xla_dump_to={folder} --xla_dump_hlo_as_text"
            _in_a_process("tensorflow", options, XLA_FLAGS=flags)
            reports = Path(folder).glob("*memory-usage-report.txt")
            used = [re.match(r"Total bytes used: (\d+)", report.read_text()) for report in reports]
        return max((int(match[1]) / 1e6 for match in used if match), default=None)
    size = options["batch_size"]
    peaks = [
        _in_a_process("tensorflow", {**options, "batch_size": times * size}) for times in (2, 4)
    ]
    return None if None in peaks else (peaks[1] - peaks[0]) / 2


def _in_a_process(backend: str, options: dict[str, Any], **variables: str) -> Any:
    worker = subprocess.run(
        [sys.executable, "-m", "keras_swapout.study.benchmark", json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=sys.stderr,  # the screen: descriptor 2 is not, see quiet.py
        env={**os.environ, "KERAS_BACKEND": backend, **variables},
        text=True,
    )
    if worker.returncode:
        raise RuntimeError(f"The benchmark under {backend} ended with {worker.returncode}.")
    return json.loads(worker.stdout.splitlines()[-1])


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an int >= 1, got {text}")
    return value


# What follows runs in the worker, which has one Keras backend.


def _worker(options: dict[str, Any]) -> Any:
    import keras

    backend = keras.backend.backend()
    if "peak" in options:
        return _peak_of_a_process(options)
    module = sys.modules[backend]
    result = {
        "backend": backend,
        "device": _device(backend),
        "versions": {"keras": keras.__version__, backend: module.__version__},
        "options": options,
        "parts": {},
    }
    for mode, jit in _MODES[backend].items():
        for part, layer, count, variants in (
            ("merge", _layer, 2, options["variants"]),
            ("drop", _drop, 1, DROP_VARIANTS),
        ):
            for backward in (False, True) if part in options["parts"] else ():
                print(f"{backend} {mode}: the {part} alone", file=sys.stderr, flush=True)
                name = f"{part}, forward{' and backward' if backward else ''}, {mode}"
                calls = {v: _call(layer(v), count, options, jit, backward) for v in variants}
                result["parts"][name] = interleave(calls, options["rounds"])
        for part, title, variants in (
            ("step", "training step", options["variants"]),
            ("drop", "training step, dropped branches", DROP_VARIANTS),
            ("rblock", "R-Block, training step", RBLOCK_VARIANTS),
            ("inference", "inference", INFERENCE_VARIANTS),
            ("sampling", "stochastic inference", SAMPLING_VARIANTS),
        ):
            if part in options["parts"]:
                result["parts"][f"{title}, {mode}"] = _models(part, variants, options, mode, jit)
        keras.backend.clear_session()
        gc.collect()
    return result


def _layer(variant: str):
    """A function [x, fx] -> y, and the layers in it."""
    import keras

    from keras_swapout import layers

    if variant == "two dropouts":
        first, second = keras.layers.Dropout(1 - THETA), keras.layers.Dropout(1 - THETA)
        return lambda pair, **kw: keras.layers.add([first(pair[0], **kw), second(pair[1], **kw)])
    if variant.startswith("plain"):
        return lambda pair, **kw: keras.layers.add(pair)
    return {
        "swapout": lambda: layers.Swapout(THETA, THETA),
        "swapout, adjustable": lambda: layers.Swapout(THETA, THETA, adjustable=True),
        "swapout, by surgery": lambda: layers.Swapout(THETA, THETA),
        "skip_forward": lambda: layers.SkipForward(THETA),
        "residual_dropout": lambda: layers.ResidualDropout(THETA),
        "stochastic_depth": lambda: layers.StochasticDepth(THETA),
    }[variant]()


def _drop(variant: str):
    """A function [fx] -> y."""
    import keras

    from keras_swapout import layers

    if variant.startswith("plain"):
        return lambda inputs, **kw: keras.ops.multiply(inputs[0], 2.0)
    layer = {
        "Dropout, unit": lambda: layers.Dropout(0.1),
        "Dropout, unit, Keras'": lambda: keras.layers.Dropout(0.1),
        "Dropout, channel": lambda: layers.Dropout(0.1, "channel"),
        "Dropout, channel, Keras'": lambda: keras.layers.SpatialDropout2D(0.1),
        "DropPath": lambda: layers.DropPath(0.1),
        "DropPath, Keras'": lambda: keras.layers.Dropout(0.1, noise_shape=(None, 1, 1, 1)),
    }[variant]()
    return lambda inputs, **kw: layer(inputs[0], **kw)


def _call(
    layer: Callable, count: int, options: dict[str, Any], jit: bool, backward: bool
) -> Callable:
    """A function that makes one training call of `layer`, a function of a list of tensors."""
    import keras
    import numpy as np

    shape, dtype = options["merge_shape"], options["dtype"]
    rng = np.random.default_rng(0)
    *inputs, upstream = [
        keras.ops.convert_to_tensor(rng.standard_normal(shape, dtype="float32"), dtype=dtype)
        for _ in range(count + 1)
    ]
    symbols = [keras.Input(shape[1:], dtype=dtype) for _ in range(count)]
    with_policy = keras.Model(symbols, layer(symbols, training=True))
    state = [v.value for v in with_policy.non_trainable_variables]

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(jit_compile=jit)
        def run(inputs, upstream):
            if not backward:
                return (with_policy(inputs, training=True),)
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                y = with_policy(inputs, training=True)
            return y, *tape.gradient(y, inputs, output_gradients=upstream)

        def call():
            for output in run(inputs, upstream):
                output[(0,) * len(shape)].numpy()  # waits for it

        return call

    import jax

    @jax.jit
    def run(state, inputs, upstream):
        def forward(inputs):
            return with_policy.stateless_call([], state, inputs, training=True)

        if not backward:
            return forward(inputs)
        y, gradient, state_ = jax.vjp(forward, inputs, has_aux=True)
        return y, state_, gradient(upstream)

    return lambda: jax.block_until_ready(run(state, inputs, upstream))


def _models(part, variants, options, mode, jit):
    import keras

    calls, memory = {}, {}
    for variant in variants:
        backend = keras.backend.backend()
        print(f"{backend} {mode}: compiling {part}, {variant}", file=sys.stderr, flush=True)
        build = {"step": _merge_model, "drop": _drop_model}.get(part, _rblock_model)
        call = {"inference": _prediction_call, "sampling": _sampling_call}.get(part, _step_call)
        calls[variant], memory[variant] = call(build, variant, options, jit)
    figures = interleave(calls, options["rounds"])
    for variant in calls:
        figures[variant]["peak_mb"] = memory[variant]
    return figures


def _network(options: dict[str, Any], merge: Callable):
    import keras

    from keras_swapout import models

    keras.utils.set_random_seed(0)
    if options["dtype"] != "float32":
        keras.config.set_dtype_policy(f"mixed_{options['dtype']}")
    return models.ResNetV2(
        options["depth"], options["width"], merge=merge, classifier_activation=None
    )


def _merge_model(variant: str, options: dict[str, Any]):
    if variant.endswith("by surgery"):  # into a network that knows nothing of it
        from keras_swapout.surgery import swap_residuals

        plain = _network(options, lambda block, blocks: _layer("plain"))
        return swap_residuals(plain, merge=lambda block, blocks: _layer(variant))
    return _network(options, lambda block, blocks: _layer(variant))


def _drop_model(variant: str, options: dict[str, Any]):
    import keras

    def merge(block, blocks):
        drop = _drop(variant)
        return lambda pair: keras.layers.add([pair[0], drop(pair[1:])])

    plain = variant.startswith("plain")
    return _network(options, (lambda block, blocks: keras.layers.Add()) if plain else merge)


def _rblock_model(variant: str, options: dict[str, Any]):
    import keras

    from keras_swapout import RBlock, layers

    how, place, fraction = (*variant.split(", "), "", "")[:3]

    def merge(block, blocks):
        if "plain" in variant or block < PLACES[place] * blocks // 3:
            return keras.layers.Add()
        drop = layers.SDropDML(0.2, block_size=3)
        return lambda pair: drop(keras.layers.add(pair))

    network = _network(options, merge)
    if how in ("SDropDML", "sampling", "T calls") or "plain" in variant:
        return network
    model = RBlock(network, fraction=float(fraction.removeprefix("fraction ") or 1))
    concatenate = keras.ops.concatenate
    if how == "two passes":
        model._run = lambda x, views, training: concatenate(
            [network(x, training=training), network(x, training=training)]
        )
    if how == "doubled batch":
        model._run = lambda x, views, training: network(concatenate([x, x]), training=training)
    return model


def _prediction_call(build, variant: str, options: dict[str, Any], jit: bool):
    """A function that makes one prediction, as `predict_on_batch` does; no memory is measured."""
    import keras
    import numpy as np

    model = build(variant, options)
    model.jit_compile = jit
    x = np.random.default_rng(0).standard_normal((options["batch_size"], 32, 32, 3), "float32")
    x = keras.ops.convert_to_tensor(x)
    return (lambda: model.predict_on_batch(x)), None


def _sampling_call(build, variant: str, options: dict[str, Any], jit: bool):
    """A function that predicts a batch with T sub-models, or as often without noise."""
    import keras
    import numpy as np

    from keras_swapout.inference import Predictor

    model = build(variant, options)
    model.jit_compile = jit
    samples, size = options["samples"], options["batch_size"]
    x = np.random.default_rng(0).standard_normal((size, 32, 32, 3), "float32")
    if variant.startswith("sampling"):
        predictor = Predictor(model, samples)
        return (lambda: predictor(x, verbose=False)), None
    x = keras.ops.convert_to_tensor(x)
    if "plain" in variant:
        return (lambda: [model.predict_on_batch(x) for _ in range(samples)]), None

    class InTraining(keras.Model):
        def call(self, inputs):
            return keras.ops.softmax(model(inputs, training=True))

    sampled = InTraining()
    sampled.inner, sampled.jit_compile = model, jit
    return (lambda: np.mean([sampled.predict_on_batch(x) for _ in range(samples)], axis=0)), None


def _step_call(build, variant: str, options: dict[str, Any], jit: bool):
    """A function that makes one training step, and the peak memory of one, in MB."""
    import keras
    import numpy as np

    model = build(variant, options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((options["batch_size"], 32, 32, 3), dtype="float32")
    y = rng.integers(0, 10, options["batch_size"])

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        data = tf.constant(x), tf.constant(y)
        model.test_on_batch(x, y)  # builds the metrics outside of the graph
        step = tf.function(model.train_step, jit_compile=jit)

        def call():
            step(data)["loss"].numpy()

        return call, None

    import jax

    data = jax.numpy.asarray(x), jax.numpy.asarray(y)
    state = [
        [v.value for v in group]
        for group in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
            model.metrics_variables,
        )
    ]
    compiled = jax.jit(model.train_step, donate_argnums=0).lower(tuple(state), data).compile()
    holder = [jax.tree.map(jax.numpy.copy, tuple(state))]

    def call():
        logs, holder[0] = compiled(holder[0], data)
        jax.block_until_ready((logs, holder[0]))

    analysis = compiled.memory_analysis()
    peak = analysis and (
        analysis.temp_size_in_bytes
        + analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
    )
    return call, peak / 1e6 if peak else None


def _peak_of_a_process(options: dict[str, Any]) -> float | None:
    print(f"peak memory: {options['mode']} {options['peak']}", file=sys.stderr, flush=True)
    if not Path("/proc/self/status").exists():
        return None
    call, _ = _step_call(
        _merge_model, options["peak"], options, _MODES["tensorflow"][options["mode"]]
    )
    call()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what compiling took is given back
    samples = [_anonymous_memory()]
    done = threading.Event()

    def sample():
        while not done.wait(0.001):
            samples.append(_anonymous_memory())

    # Sampled, as the kernel's own high-water mark counts file pages too, which come and go.
    sampler = threading.Thread(target=sample)
    sampler.start()
    for _ in range(4):
        call()
    done.set()
    sampler.join()
    return max(samples) / 1e3


def _anonymous_memory() -> int:
    """Kilobytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0])


def _device(backend: str) -> str:
    if backend == "jax":
        import jax

        if jax.devices()[0].platform != "cpu":
            return jax.devices()[0].device_kind
    return f"{cpu_name()}, {os.cpu_count()} cores"


def _print(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    console.print(f"\n[bold]{result['backend']}[/bold]  {result['device']}  ({versions})")
    for part, figures in result["parts"].items():
        plain_memory = figures.get("plain", {}).get("peak_mb")
        table = Table(title=part, title_justify="left", title_style="bold")
        table.add_column("")
        for heading in ("ms", "x plain", "quartiles", "peak MB", "x plain"):
            table.add_column(heading, justify="right")
        for variant, row in figures.items():
            memory = row.get("peak_mb")
            table.add_row(
                variant,
                f"{row['ms']:.2f}",
                f"{row['ratio']:.2f}",
                f"{row['ratio_low']:.2f} - {row['ratio_high']:.2f}",
                f"{memory:.0f}" if memory else "",
                f"{memory / plain_memory:.2f}" if memory and plain_memory else "",
            )
        console.print(table)


if __name__ == "__main__":
    with quiet():
        print(json.dumps(_worker(json.loads(sys.argv[1]))))
