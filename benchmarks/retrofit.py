"""Swapout into EfficientNetB0, fine-tuned, and out again: `python benchmarks/retrofit.py`.

There are no ImageNet weights here, so the backbone is trained first, on scikit-learn's digits 0 to
4. Then it gets a new head and is fine-tuned on 20 images each of 5 to 9: as it is (with the dropout
that it has at the end of its branches), with Swapout in place of that, and with R-Block around the
latter; the same images, head and number of steps for all, for several seeds. Which theta_2 is
decided on validation images. Differences are paired by seed. One trained network is then stripped,
exported, run and timed. `docs/surgery.md` is the page about it.

Trainings are short, so the moving statistics of batch normalisation get a momentum of 0.9 (they are
not estimated again afterwards). A network is traced once, which takes longer than training it: for
another seed, weights and optimiser are set back instead.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from scipy import stats

import keras_swapout as ks

SIDE, BATCH, PER_CLASS = 32, 25, 20
THETAS_2 = ((1.0, 0.5), (1.0, 0.8))
EPOCHS = {"backbone": 12, "fine-tuning": 15}

WITHOUT_US = """
import sys
sys.modules["keras_swapout"] = None  # an import of it fails now
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
given = np.load(sys.argv[2])
print(np.abs(np.asarray(model(given["x"])) - given["y"]).max())
"""


def digits():
    """The images, enlarged and in three channels, of (0 to 4) and of (5 to 9) by purpose."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = keras.ops.image.resize(x.reshape(-1, 8, 8, 1).astype("float32") * 255 / 16, (SIDE, SIDE))
    x = np.repeat(keras.ops.convert_to_numpy(x), 3, axis=-1)
    old, new = y < 5, y >= 5
    x_new, y_new = x[new], y[new] - 5
    order = np.random.default_rng(0).permutation(len(y_new))
    by_class = [order[y_new[order] == c] for c in range(5)]
    parts = {"pool": slice(0, 60), "validation": slice(60, 80), "test": slice(80, None)}
    found = {}
    for name, part in parts.items():
        which = np.concatenate([places[part] for places in by_class])
        found[name] = x_new[which], y_new[which]
    return (x[old], y[old]), found


def network():
    """EfficientNetB0 with a head for five classes."""
    backbone = keras.applications.EfficientNetB0(
        include_top=False, weights=None, input_shape=(SIDE, SIDE, 3), pooling="avg"
    )
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    outputs = keras.layers.Dense(5, name="head")(backbone.output)
    return keras.Model(backbone.input, outputs, name="efficientnetb0")


class Trained:
    """A network that can be trained again from any weights without being traced again."""

    def __init__(self, model):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], jit_compile=False)
        model.optimizer.build(model.trainable_variables)
        self.model = model
        self.network = model.model if isinstance(model, ks.RBlock) else model
        self._start = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]

    def fit(self, weights, x, y, epochs, seed):
        """Trains from these weights; returns the accuracy in the last epoch, in percent."""
        self.network.set_weights(weights)
        for variable, value in zip(self.model.optimizer.variables, self._start, strict=True):
            variable.assign(value)
        keras.utils.set_random_seed(seed)
        history = self.model.fit(x, y, batch_size=BATCH, epochs=epochs, verbose=0).history
        return 100 * history["accuracy"][-1]

    def scores(self, x, y, samples=None):
        """Accuracy in percent and negative log likelihood."""
        p = ks.inference.predict(self.network, x, samples=samples, seed=0, verbose=False).mean
        nll = -np.log(np.maximum(p[np.arange(len(y)), y], 1e-7)).mean()
        return {"accuracy": float(100 * (p.argmax(-1) == y).mean()), "nll": float(nll)}


def fine_tuned(one, start, data, seeds):
    """Scores by seed of a network that is fine-tuned from the backbone's weights."""
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        x, y = data["pool"]
        few = np.concatenate(
            [rng.choice(np.flatnonzero(y == c), PER_CLASS, False) for c in range(5)]
        )
        kernel = keras.initializers.GlorotUniform(seed)(start[-2].shape)
        weights = [*start[:-2], keras.ops.convert_to_numpy(kernel), np.zeros(5)]
        began = time.perf_counter()
        trained = one.fit(weights, x[few], y[few], EPOCHS["fine-tuning"], seed)
        row = {"seconds": time.perf_counter() - began, "training accuracy": trained}
        row["validation"] = one.scores(*data["validation"])
        row["test"] = one.scores(*data["test"])
        if any(isinstance(layer, ks.layers.Swapout) for layer in one.network.layers):
            row["test, 30 samples"] = one.scores(*data["test"], samples=30)
        rows.append(row)
    return rows


def summary(runs, compared):
    """Mean and standard deviation of each, and differences from plain, paired by seed."""
    lines, differences = [], []
    for name, rows in runs.items():
        for part in [key for key in rows[0] if key.startswith("test")]:
            line = {"variant": name, "part": part}
            for score in ("accuracy", "nll"):
                own = np.array([row[part][score] for row in rows])
                line[score] = {"mean": own.mean(), "deviation": own.std(ddof=1)}
                if name in compared:
                    apart = own - [row["test"][score] for row in runs["plain"]]
                    interval = stats.ttest_1samp(apart, 0).confidence_interval(0.95)
                    found = {"variant": name, "part": part, "score": score}
                    found |= {"mean": apart.mean(), "interval": list(interval)}
                    differences.append(found)
            lines.append(line)
    return lines, differences


def shipped(swapped, plain, x):
    """What becomes of a trained network: stripped, saved, exported, run and timed."""
    from keras_swapout.study.surgery.exports import FORMATS

    stripped = ks.surgery.strip(swapped)
    folded = ks.surgery.strip(swapped, fold_batch_norm=True)
    wanted = np.asarray(swapped(x))

    def apart(y):
        return float(np.abs(np.asarray(keras.tree.flatten(y)[0]) - wanted).max())

    result = {"largest output": float(np.abs(wanted).max())}
    result["largest difference"] = {"stripped": apart(stripped(x)), "folded": apart(folded(x))}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        paths = {
            "with optimiser.keras": swapped,
            "stripped.keras": stripped,
            "folded.keras": folded,
        }
        for name, model in paths.items():
            model.save(folder / name)
        np.savez(folder / "given.npz", x=x, y=wanted)
        words = [sys.executable, "-c", WITHOUT_US, folder / "stripped.keras", folder / "given.npz"]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        result["largest difference"]["without keras_swapout"] = float(done.stdout.split()[-1])
        for name, form in FORMATS.items():
            path = folder / f"stripped{form.ending}"
            stripped.export(str(path), format=form.keras, verbose=False)
            result["largest difference"][name] = apart(form.runner(str(path))(x))
        result["megabytes"] = {
            path.name: round(sum(f.stat().st_size for f in [path, *path.rglob("*")]) / 1e6, 2)
            for path in sorted(folder.iterdir())
            if path.suffix != ".npz"
        }
    networks = {"original": plain, "original again": plain, "swapped": swapped}
    result["latency"] = latency(networks | {"stripped": stripped, "folded": folded}, x[:8])
    return result


def latency(models, x, rounds=60):
    """Times of a prediction of 8 images as ratios to the original in the same round."""
    import tensorflow as tf

    x = tf.constant(x)
    calls = {}
    for name, model in models.items():
        calls[name] = tf.function(lambda x, model=model: model(x, training=False))
        calls[name](x)
    seconds = {name: [] for name in calls}
    for _ in range(rounds):
        for name in random.sample(list(calls), len(calls)):
            began = time.perf_counter()
            calls[name](x).numpy()
            seconds[name].append(time.perf_counter() - began)
    found = {}
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds["original"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found[name] = {
            "ms": statistics.median(own) * 1e3,
            "ratio": middle,
            "quartiles": [low, high],
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", default="benchmarks/retrofit.json")
    args = parser.parse_args()
    from keras_swapout.study.hardware import cpu_name

    began = time.perf_counter()
    keras.utils.set_random_seed(0)
    (x, y), data = digits()
    plain = network()
    print(ks.surgery.find_residuals(plain))
    variants = {"plain": Trained(plain)}
    learned = variants["plain"].fit(plain.get_weights(), x, y, EPOCHS["backbone"], 0)
    start = plain.get_weights()

    runs = {}

    def run(name, one):
        variants[name] = one
        runs[name] = fine_tuned(one, start, data, args.seeds)
        for row in runs[name]:
            print(f"{time.perf_counter() - began:4.0f} s  {name}", json.dumps(row), flush=True)

    run("plain", variants["plain"])
    thetas = {f"Swapout, theta_2={theta_2}": theta_2 for theta_2 in THETAS_2}
    for name, theta_2 in thetas.items():
        run(name, Trained(ks.surgery.swap_residuals(plain, theta_2=theta_2)))

    def validation(name):
        return statistics.mean(row["validation"]["nll"] for row in runs[name])

    chosen = min(thetas, key=validation)
    under = f"R-Block, {chosen}"
    run(under, Trained(ks.RBlock(ks.surgery.swap_residuals(plain, theta_2=thetas[chosen]))))
    lines, differences = summary(runs, (chosen, under))
    result = {
        "cpu": cpu_name(),
        "seeds": args.seeds,
        "epochs": EPOCHS,
        "images": {"backbone": len(x), "fine-tuning": 5 * PER_CLASS}
        | {part: len(data[part][1]) for part in ("validation", "test")},
        "backbone's training accuracy": learned,
        "chosen on validation": chosen,
        "scores": lines,
        "differences from plain": differences,
        "runs": runs,
        "shipped": shipped(variants[chosen].network, plain, data["test"][0][:64]),
        "seconds": round(time.perf_counter() - began),
    }
    Path(args.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({key: result[key] for key in result if key != "runs"}, indent=1))


if __name__ == "__main__":
    main()
