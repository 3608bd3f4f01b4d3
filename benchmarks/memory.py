"""What a training step adds to a process' memory, seen from outside: `python benchmarks/memory.py`.

`keras-swapout benchmark` asks XLA's compiler, or extrapolates over the batch. Here every figure is
from a process of its own that builds a ResNet-20 v2 of the Swapout paper, and trains it on 32x32x3
images in batches of 64: how much the peak of its resident memory rises above what it has before the
first step, in the first step (which compiles) and in ten more (from a new mark). Ratios are to the
plain network's median; several processes of each, taken in turns. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

MODES = {"tensorflow graph": False, "tensorflow xla": True, "jax": True}
VARIANTS = ("plain", "swapout", "two dropouts")
BATCH, STEPS = 64, 10


def measure(variant: str, width: int, jit: bool) -> dict[str, float]:
    """The rises of one process, this one, in MB."""
    import keras
    import numpy as np

    import keras_swapout as ks

    def two_dropouts(pair):
        x, fx = (keras.layers.Dropout(0.5)(one) for one in pair)
        return keras.layers.add([x, fx])

    merges = {
        "plain": None,
        "swapout": lambda block, blocks: ks.layers.Swapout(0.5, 0.5),
        "two dropouts": lambda block, blocks: two_dropouts,
    }
    model = ks.models.ResNetV2(20, width, 10, (32, 32, 3), merge=merges[variant])
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit)
    rng = np.random.default_rng(0)
    x = rng.random((BATCH, 32, 32, 3), "float32")
    y = rng.integers(0, 10, BATCH)
    before = _resident("VmRSS")
    _new_mark()
    model.train_on_batch(x, y)
    found = {"first": _resident("VmHWM") - before}
    _new_mark()
    for _ in range(STEPS):
        model.train_on_batch(x, y)
    return {**found, "steady": _resident("VmHWM") - before}


def _resident(what):
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) / 1024


def _new_mark():
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak is now what is


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--widths", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", default="benchmarks/memory.json")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # variant, width, jit
    args = parser.parse_args()
    if args.one:
        variant, width, jit = args.one
        print(json.dumps(measure(variant, int(width), jit == "True")))
        return
    rows = []
    for mode, jit in MODES.items():
        for width in args.widths:
            found = {variant: [] for variant in VARIANTS}
            for _ in range(args.processes):
                for variant in VARIANTS:
                    found[variant].append(_process(variant, width, jit, mode.split()[0]))
            for step in ("first", "steady"):
                rows += _rows(found, mode, width, step)
    from keras_swapout.study.hardware import cpu_name

    result = {"batch": BATCH, "processes": args.processes, "cpu": cpu_name(), "rows": rows}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _process(variant, width, jit, backend):
    words = [sys.executable, __file__, "--one", variant, str(width), str(jit)]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _rows(found, mode, width, step):
    values = {variant: [run[step] for run in runs] for variant, runs in found.items()}
    plain = statistics.median(values["plain"])
    rows = []
    for variant, own in values.items():
        ratios = sorted(value / plain for value in own)
        row = {"mode": mode, "width": width, "step": step, "variant": variant}
        row |= {"mb": statistics.median(own), "ratio": statistics.median(ratios)}
        row |= {"low": ratios[0], "high": ratios[-1]}
        rows.append(row)
        print(
            f"{mode:16} W x {width} {step:6} {variant:12} {row['mb']:6.0f} MB  {row['ratio']:.2f} "
            f"({row['low']:.2f} to {row['high']:.2f})",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
