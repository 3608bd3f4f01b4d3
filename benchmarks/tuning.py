"""Ten trials of one short epoch, with the compiled step shared and without.

    python benchmarks/tuning.py [--depth 8] [--json FILE]

KerasTuner's random search over the thetas of a Swapout ResNet v2, on random 32x32 images, 512 of
them in batches of 64, XLA-compiled. Each way runs in a process of its own; the ratio is of whole
searches. With KERAS_BACKEND=jax likewise.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TRIALS = 10


def search(depth, reuse, jit_compile):
    import keras
    import keras_tuner
    import numpy as np

    import keras_swapout as ks

    rng = np.random.default_rng(0)
    x, y = rng.random((512, 32, 32, 3), dtype="float32"), rng.integers(0, 10, 512)
    seconds = []

    def build(hp, merge):
        model = ks.models.ResNetV2(depth, merge=merge, classifier_activation=None)
        model.compile(
            keras.optimizers.SGD(0.1, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile=jit_compile,
        )
        return model

    class Tuner(keras_tuner.RandomSearch):
        def on_trial_end(self, trial):
            super().on_trial_end(trial)
            assert trial.status == "COMPLETED", trial.message
            seconds.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        hypermodel = ks.tuning.SwapoutHyperModel(build, reuse=reuse)
        objective = keras_tuner.Objective("val_loss", "min")
        tuner = Tuner(hypermodel, objective, max_trials=TRIALS, seed=1, directory=folder)
        start = time.perf_counter()
        tuner.search(x, y, batch_size=64, epochs=1, validation_data=(x[:128], y[:128]), verbose=0)
    ends = [start, *seconds]
    return [round(b - a, 2) for a, b in itertools.pairwise(ends)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.way:
        reuse, jit_compile = args.way.split(",")
        print(json.dumps(search(args.depth, reuse == "shared", jit_compile == "xla")))
        return
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    found = {}
    for jit in ("xla",) if backend == "jax" else ("xla", "graph"):
        for way in ("shared", "anew"):
            words = [sys.executable, __file__, "--depth", str(args.depth), "--way", f"{way},{jit}"]
            out = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout
            seconds = json.loads(out.splitlines()[-1])
            found[f"{backend} {jit}, {way}"] = seconds
            print(
                f"{backend} {jit}, step {'shared' if way == 'shared' else 'compiled anew'}: "
                f"{sum(seconds):.1f} s for {TRIALS} trials, of them the first {seconds[0]:.1f} s",
                flush=True,
            )
        ratio = sum(found[f"{backend} {jit}, anew"]) / sum(found[f"{backend} {jit}, shared"])
        print(f"{backend} {jit}: compiled anew takes {ratio:.1f} times as long")
    if args.json:
        from keras_swapout.study.hardware import cpu_name

        old = json.loads(args.json.read_text()) if args.json.exists() else {}
        new = {"device": cpu_name(), "depth": args.depth, "seconds of each trial": found}
        args.json.write_text(json.dumps({**old, f"resnet{args.depth}v2 {backend}": new}, indent=1))


if __name__ == "__main__":
    main()
