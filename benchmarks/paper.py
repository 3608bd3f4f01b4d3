"""The Swapout paper's comparison on CIFAR-10 and CIFAR-100, by its recipe, or a smaller one.

    python benchmarks/paper.py [--data cifar10] [--networks v2-20-w2 ...] [--methods ...]
        [--seeds N] [--part K/N] [--out docs/paper] [--plan]

Networks are "v1" or "v2", the depth, and the width. Each run is kept as a file as soon as it is
there and never made again; within a run the network is kept after each epoch, from which an
interrupted one goes on. Before it starts it measures a step of each method and says how long the
whole takes; `--plan` ends there. On several GPUs start it once for each:

    CUDA_VISIBLE_DEVICES=0 python benchmarks/paper.py --part 1/2 &
    CUDA_VISIBLE_DEVICES=1 python benchmarks/paper.py --part 2/2

The recipe: SGD, batch 128, momentum 0.9, weight decay 1e-4, 256 epochs, learning rate 0.1 divided
by 10 after three and seven eighths of them, flips and shifts of 4 pixels. `--images`, `--side` and
`--epochs` make it smaller. No validation images are held back: nothing is chosen by those of the
test, and what is reported is the network at the end.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from pathlib import Path

import keras
import numpy as np

import keras_swapout as ks
from keras_swapout import datasets
from keras_swapout.datasets.splits import Info
from keras_swapout.study import store
from keras_swapout.study.hardware import environment
from keras_swapout.study.measuring.scores import quality
from keras_swapout.study.pilot.recipe import papers_sgd
from keras_swapout.study.report.words import counted

BATCH, EPOCHS, SAMPLES = 128, 256, 30
STEPS = 10  # that are timed
NETWORKS = [f"{v}-{d}-w{w}" for w in (2, 4, 1) for d in (20, 32) for v in ("v2", "v1")]
LINEAR = (1.0, 0.5)
METHODS = {
    "plain": None,
    "dropout": (ks.layers.ResidualDropout, {"theta": LINEAR}),
    "stochastic_depth": (ks.layers.StochasticDepth, {"survival_probability": LINEAR}),
    "skip_forward": (ks.layers.SkipForward, {"theta": LINEAR}),
    "swapout": (ks.layers.Swapout, {"theta_1": LINEAR, "theta_2": LINEAR}),
    "swapout_half": (ks.layers.Swapout, {"theta_1": 0.5, "theta_2": 0.5}),
}


def build(network: str, method: str, classes: int, side: int) -> keras.Model:
    """A network with a method in it, not compiled."""
    version, depth, width = network.split("-")
    merge = METHODS[method] and ks.schedules.per_block(METHODS[method][0], **METHODS[method][1])
    make = ks.models.ResNetV1 if version == "v1" else ks.models.ResNetV2
    return make(
        int(depth), int(width[1:]), classes, (side, side, 3), merge, classifier_activation=None
    )


def compile_for(model: keras.Model, steps: int) -> None:
    """The paper's recipe for so many steps in all."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(papers_sgd(steps), loss, metrics=["accuracy"], jit_compile=True)


@functools.cache
def load(data: str, images: int | None, side: int):
    """(train, test, info) of a TensorFlow Datasets name."""
    import tensorflow_datasets as tfds

    splits = []
    for split in ("train", "test"):
        values = tfds.as_numpy(tfds.load(data, split=split, batch_size=-1))
        x, y = values["image"], values["label"].astype(np.int32)
        if images is not None:
            chosen = datasets.stratified(y, images)
            x, y = x[chosen], y[chosen]
        by = x.shape[1] // side
        x = x.reshape(len(x), side, by, side, by, 3).mean(axis=(2, 4)).round().astype(np.uint8)
        splits.append(datasets.Split(x, y))
    train, test = splits
    pixels = train.images.reshape(-1, 3)
    sizes = {"train": len(train.labels), "validation": 0, "test": len(test.labels)}
    names = tuple(tfds.builder(data).info.features["label"].names)
    mean, std = (tuple(f(pixels, axis=0).tolist()) for f in (np.mean, np.std))
    return train, test, Info(data, names, (side, side, 3), sizes, mean, std, data, augmented=True)


def run_one(key: tuple[str, str, int], args: argparse.Namespace, path: Path) -> dict:
    """Trains and evaluates; goes on from the network that is kept beside `path`."""
    network, method, seed = key
    train, test, info = load(args.data, args.images, args.side)
    keras.utils.set_random_seed(seed)
    model = build(network, method, len(info.classes), args.side)
    steps = len(train.labels) // BATCH
    compile_for(model, steps * args.epochs)
    kept = keras.callbacks.BackupAndRestore(path.with_suffix(".backup"))
    start = time.perf_counter()
    model.fit(
        datasets.training_batches(train, info, BATCH, seed).take(steps),
        epochs=args.epochs,
        callbacks=[kept],
        shuffle=False,
        verbose=0,
    )
    seconds = time.perf_counter() - start
    images = info.scaled(test.images)
    found = {"deterministic": model.predict(images, batch_size=500, verbose=0)}
    if method != "plain":
        many = ks.inference.predict(model, images, samples=SAMPLES, seed=seed, verbose=False)
        found[f"stochastic, {SAMPLES}"] = np.log(np.maximum(many.mean, 1e-12))
    return {
        "network": network,
        "method": method,
        "seed": seed,
        "seconds": seconds,
        "parameters": model.count_params(),
        "training_accuracy": model.history.history["accuracy"][-1] if model.history.epoch else None,
        "test": {name: quality(np.asarray(x), test.labels) for name, x in found.items()},
        "environment": environment(seconds),
    }


def step_time(network: str, method: str, args: argparse.Namespace) -> float:
    """Seconds of a training step, once it is compiled."""
    _, _, info = load(args.data, args.images, args.side)
    model = build(network, method, len(info.classes), args.side)
    compile_for(model, 1000)
    x = np.zeros((BATCH, *info.image_shape), np.float32)
    y = np.zeros(BATCH, np.int32)
    model.train_on_batch(x, y)
    start = time.perf_counter()
    for _ in range(STEPS):
        model.train_on_batch(x, y)
    return (time.perf_counter() - start) / STEPS


def table(out: Path) -> str:
    """All runs that are there: test error in %, mean ± standard deviation over the seeds."""
    runs = [store.read_json(path) for path in sorted((out / "runs").glob("*.json"))]
    rows = []
    for (network, method), some in itertools.groupby(
        sorted(
            runs, key=lambda r: (NETWORKS.index(r["network"]), list(METHODS).index(r["method"]))
        ),
        key=lambda r: (r["network"], r["method"]),
    ):
        some = list(some)
        cells = []
        for way in ("deterministic", f"stochastic, {SAMPLES}"):
            errors = [100 * (1 - r["test"][way]["accuracy"]) for r in some if way in r["test"]]
            spread = f" ± {np.std(errors, ddof=1):.2f}" if len(errors) > 1 else ""
            cells.append(f"{np.mean(errors):.2f}{spread}" if errors else "")
        known = f"{100 * np.mean([r['training_accuracy'] for r in some]):.0f}"
        hours = np.mean([r["seconds"] for r in some]) / 3600
        rows.append([network, method, str(len(some)), *cells, known, f"{hours:.2f}"])
    head = ["network", "method", "seeds", "test error, %", f"with {SAMPLES} sub-models, %"]
    head += ["training accuracy, noise on, %", "hours a run"]
    return "\n".join(f"| {' | '.join(r)} |" for r in [head, ["---"] * len(head), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="cifar10", help="cifar10 or cifar100")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--images", type=int, help="training and test images; default all")
    parser.add_argument("--side", type=int, default=32, choices=(32, 16, 8))
    parser.add_argument("--part", default="1/1")
    parser.add_argument("--plan", action="store_true", help="say what it will take, and end")
    parser.add_argument("--out", type=Path, default=Path("docs/paper"))
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in ("data", "epochs", "images", "side")}
    store.check(args.out, settings, ("runs",), ())
    (args.out / "runs").mkdir(parents=True, exist_ok=True)
    store.write_json(args.out / store.SETTINGS, settings)
    keys = list(itertools.product(range(args.seeds), args.networks, args.methods))
    part, parts = map(int, args.part.split("/"))
    paths = {
        (network, method, seed): args.out / "runs" / f"{network}-{method}-seed{seed}.json"
        for seed, network, method in keys[part - 1 :: parts]
    }
    missing = {key: path for key, path in paths.items() if not path.exists()}
    steps = args.epochs * (len(load(args.data, args.images, args.side)[0].labels) // BATCH)
    took = {key: step_time(*key, args) for key in dict.fromkeys((n, m) for n, m, _ in missing)}
    seconds = sum(steps * took[network, method] for network, method, _ in missing)
    print(f"{counted(len(missing), 'run')}, about {seconds / 3600:.1f} hours", flush=True)
    if args.plan:
        for (network, method), step in took.items():
            print(f"{network} {method}: {1000 * step:.0f} ms a step, {steps * step / 3600:.2f} h")
        return
    for key, path in missing.items():
        run = run_one(key, args, path)
        store.write_json(path, run)
        errors = ", ".join(f"{w} {100 * (1 - q['accuracy']):.2f} %" for w, q in run["test"].items())
        print(f"{' '.join(map(str, key))}: test error {errors}", flush=True)
    store.write_text(args.out / "table.md", table(args.out) + "\n")


if __name__ == "__main__":
    main()
