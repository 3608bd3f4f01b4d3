"""How many samples do complementary masks save? Measured on trained networks.

Trains the pilot's network on digits under each method, predicts the test images with pairs of
complementary masks and with independent ones, and compares the variances of the mean:

    saved = 1 - variance with pairs / variance with independent samples,   at the same T

so that 30 samples in pairs are as good as 30 / (1 - saved) independent ones. A variance here is the
squared standard error that `keras_swapout.inference.predict` reports, averaged over the images and
classes; over seeds the mean and the standard deviation are given. SpatialDropout draws with Keras'
own generator, so that its pairs are independent: it shows the noise of the measurement.

    python benchmarks/antithetic.py      # a few minutes; writes benchmarks/antithetic.json
"""

import argparse
import json
import statistics
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from keras_swapout.inference import Predictor
from keras_swapout.study.pilot.data import PilotData
from keras_swapout.study.pilot.methods import find
from keras_swapout.study.pilot.settings import make_settings
from keras_swapout.study.pilot.training import Trainer

METHODS = (
    "swapout",
    "skip_forward",
    "residual_dropout",
    "stochastic_depth",
    "bdropdml",
    "sdropdml",
    "spatial_dropout",
)
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=200, help="for each variance")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=None, help="default: the pilot's")
    parser.add_argument("--json", type=Path, default=HERE / "antithetic.json")
    options = parser.parse_args()

    settings = make_settings("digits", methods=METHODS, epochs=options.epochs, samples=[1])
    data = PilotData(settings)
    images = data.info.standardise(data.test.images)
    results = {}
    console = Console()
    for name in track(METHODS, "methods", console=console, disable=not console.is_terminal):
        trainer = Trainer(find(name), settings, data)
        predictors = [
            Predictor(trainer.deployed, samples=options.samples, antithetic=pairs)
            for pairs in (True, False)
        ]
        shares = []
        for seed in range(options.seeds):
            trainer.train(seed)
            paired, independent = (
                float(np.mean(np.square(p(images, seed=seed, verbose=False).standard_error)))
                for p in predictors
            )
            shares.append(1 - paired / independent)
        results[name] = {"title": find(name).title, "saved": shares}
        console.print(name, shares, highlight=False)
    report = {
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "samples": options.samples,
        "epochs": settings.epochs,
        "methods": results,
    }
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    console.print(table(results))


def table(results) -> Table:
    shown = Table(title="Samples saved by complementary masks, digits")
    for heading in ("", "saved, %", "30 samples in pairs are worth"):
        shown.add_column(heading, justify="right" if heading else "left")
    for row in results.values():
        mean = statistics.mean(row["saved"])
        spread = statistics.stdev(row["saved"]) if len(row["saved"]) > 1 else 0.0
        worth = 30 / (1 - mean)
        shown.add_row(row["title"], f"{100 * mean:.0f} ± {100 * spread:.0f}", f"{worth:.0f}")
    return shown


if __name__ == "__main__":
    main()
