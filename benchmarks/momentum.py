"""What batch normalisation's momentum does to a short training: plain on digits, three seeds.

    python benchmarks/momentum.py

Test accuracy with Keras' momentum of 0.99 and with the pilot's, beside that of the same network
with its statistics estimated anew on the training images, where no momentum matters.
"""

import numpy as np

from keras_swapout.study.pilot import training
from keras_swapout.study.pilot.settings import make_settings
from keras_swapout.study.pilot.training import momentum_for
from keras_swapout.study.pilot.work import data_of, run_one, spec_of

for epochs in (2, 12):
    for name, rule in (("0.99", lambda steps: 1.0), ("1 - 20 / steps", momentum_for)):
        training.momentum_for = rule
        # Numbers of their own, for what a process has compiled it keeps.
        images = 2 if rule is momentum_for else 1
        settings = make_settings(
            "digits", ["plain"], epochs=epochs, samples=[1], corruption_images=images
        )
        data = data_of(settings)
        runs = [
            run_one(spec_of(settings, "plain", 0.0, seed, data.checksum, None)) for seed in range(3)
        ]
        for what, quality in (
            ("as it is", [run["test"] for run in runs]),
            ("recalibrated", [run["inference"]["recalibrated"] for run in runs]),
        ):
            values = [100 * one["accuracy"] for one in quality]
            spread = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f} %"
            print(f"{epochs} epochs, momentum {name}, {what}: {spread}", flush=True)
