"""What a stripped network costs beside the original: `python benchmarks/stripped.py`.

Each network of keras.applications gets Swapout in place of its residual additions, with
`rescale=True` and with `rescale=False`, and is stripped again, once with batch normalisation
folded. One prediction of a batch is timed, as a TensorFlow graph and compiled by XLA, all of them
in turns, so that a drifting machine slows all alike. A ratio is that to the original in the
same round; "original again" is the noise. Inputs are on the device; compiling is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

NETWORKS = ("ResNet50", "EfficientNetB0")
SIZE, BATCH = 96, 8


def variants(name: str):
    """The networks to time, by name; the original first."""
    import keras

    import keras_swapout as ks

    shape = (SIZE, SIZE, 3)
    original = getattr(keras.applications, name)(weights=None, input_shape=shape, classes=10)
    swapped = ks.surgery.swap_residuals(original)
    paper = ks.surgery.swap_residuals(original, rescale=False)
    return {
        "original": original,
        "original again": original,
        "swapped": swapped,
        "stripped": ks.surgery.strip(swapped),
        "stripped, rescale=False": ks.surgery.strip(paper),
        "stripped and folded": ks.surgery.strip(swapped, fold_batch_norm=True),
    }


def timed(models, jit: bool, rounds: int) -> dict[str, list[float]]:
    """Seconds of a prediction in each round."""
    import numpy as np
    import tensorflow as tf

    x = tf.constant(np.random.default_rng(0).random((BATCH, SIZE, SIZE, 3), "float32"))

    def compiled(model):
        return tf.function(lambda x: model(x, training=False), jit_compile=jit)

    functions = {name: compiled(model) for name, model in models.items()}
    for function in functions.values():
        function(x)
    seconds = {name: [] for name in functions}
    for _ in range(rounds):
        for name in random.sample(list(functions), len(functions)):
            start = time.perf_counter()
            functions[name](x).numpy()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--out", default="benchmarks/stripped.json")
    args = parser.parse_args()
    from keras_swapout.study.hardware import cpu_name

    rows = []
    for name in args.networks:
        models = variants(name)
        for mode, jit in (("graph", False), ("xla", True)):
            seconds = timed(models, jit, args.rounds)
            for variant, own in seconds.items():
                ratios = [a / b for a, b in zip(own, seconds["original"], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                row = {"network": name, "mode": mode, "variant": variant}
                row |= {"ms": round(statistics.median(own) * 1e3, 2), "ratio": round(middle, 3)}
                row |= {"quartiles": [round(low, 3), round(high, 3)]}
                rows.append(row)
                print(
                    f"{name:15} {mode:6} {variant:24} {row['ms']:7.1f} ms  {middle:.2f} "
                    f"({low:.2f} to {high:.2f})",
                    flush=True,
                )
    result = {"batch": BATCH, "size": SIZE, "rounds": args.rounds, "cpu": cpu_name(), "rows": rows}
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
