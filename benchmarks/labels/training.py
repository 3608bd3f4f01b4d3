"""A run: a network trained on given labels, and what it knows then."""

from __future__ import annotations

import time

import keras
import numpy as np
import tensorflow as tf

import keras_swapout as ks
from keras_swapout import datasets
from keras_swapout.consistency.labels import margins
from keras_swapout.study.measuring.scores import log_softmax
from keras_swapout.study.pilot.recipe import papers_sgd
from keras_swapout.study.pilot.training import momentum_for
from keras_swapout.submodels.inside import sublayers
from keras_swapout.tuning.restart import start_as
from labels.measures import listed, measures
from labels.methods import MIXUP, find
from labels.sets import NoisySet

BATCH = 64
EVALUATED = 256  # images at a time


class Trained:
    """A network, compiled once and trained from scratch for each run: the Swapout paper's recipe.

    Args:
        data: the set.
        method: a name, as for `labels.methods.find`.
        width: of the ResNet-8 v2.
        images: how many are trained on.
    """

    def __init__(self, data: NoisySet, method: str, width: int, images: int) -> None:
        self.data, self.method, self.width = data, find(method), width
        self.steps = images // BATCH
        self.model = self._new(0)
        self.deployed = getattr(self.model, "model", self.model)

    def _new(self, seed):
        keras.utils.set_random_seed(seed)
        info = self.data.info
        base = ks.models.ResNetV2(
            8, self.width, len(info.classes), info.image_shape, classifier_activation=None
        )
        steps = self.steps * self.method.epochs
        model = self.method.trained(base, steps)
        for layer in sublayers(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = min(layer.momentum, momentum_for(steps))
        optimizer = papers_sgd(steps)
        plain = [v for v in model.trainable_variables if len(v.shape) < 2]
        optimizer.exclude_from_weight_decay(var_list=plain)
        if self.method.soft:
            loss = keras.losses.CategoricalCrossentropy(True, self.method.smoothing)
        else:
            loss = keras.losses.SparseCategoricalCrossentropy(True)
        model.compile(optimizer, loss, jit_compile=keras.backend.backend() == "jax")
        return model

    def train(self, images: np.ndarray, labels: np.ndarray, seed: int, *callbacks) -> None:
        """Trains anew."""
        start_as(self.model, self._new(seed))
        split = datasets.Split(images, labels)
        batches = datasets.training_batches(split, self.data.info, BATCH, seed).take(self.steps)
        if self.method.soft:
            classes = len(self.data.info.classes)
            batches = batches.map(lambda x, y: (x, tf.one_hot(y, classes)))
        if self.method.mixup:
            mix = keras.layers.MixUp(MIXUP, seed=seed)
            mixed = batches.map(lambda x, y: mix({"images": x, "labels": y}))
            batches = mixed.map(lambda both: (both["images"], both["labels"]))
        epochs = self.method.epochs
        self.model.fit(batches, epochs=epochs, callbacks=list(callbacks), shuffle=False, verbose=0)

    def log_p(self, images: np.ndarray) -> np.ndarray:
        """Log probabilities in inference mode, (n, classes)."""
        found = []
        for start in range(0, len(images), EVALUATED):
            index = np.minimum(np.arange(start, start + EVALUATED), len(images) - 1)
            batch = self.data.info.scaled(images[index])
            found.append(keras.ops.convert_to_numpy(self.deployed.predict_on_batch(batch)))
        return log_softmax(np.concatenate(found)[: len(images)])

    def run(self, noise: str, seed: int) -> dict:
        """Trains on labels with this noise; what is found, as JSON."""
        data = self.data
        given, validation = data.given(noise, seed)
        curves = _Curves(self, given, validation)
        start, cpu = time.perf_counter(), time.process_time()
        self.train(data.train.images, given, seed, curves)
        seconds = time.perf_counter() - start - curves.seconds
        cpu = time.process_time() - cpu - curves.cpu
        test, held = curves.now
        found = {
            "seconds": seconds,
            "cpu": cpu,
            "backend": keras.backend.backend(),
            "test": measures(test, data.test.labels, held, validation),
            "curves": curves.history,
        }
        for criterion, (_, epoch, test, held) in curves.best.items():
            values = measures(test, data.test.labels, held, validation)
            found[f"stopped by {criterion}"] = {"epoch": epoch, **values}
        return found | listed(
            given,
            data.train.labels,
            curves.train,
            curves.margins,
            curves.losses,
            curves.mean,
        )


class _Curves(keras.callbacks.Callback):
    """After each epoch, in inference: how good the network is, and what it says of each training
    image. The test images are measured, and nothing is chosen by them."""

    def __init__(self, trained, given, validation):
        super().__init__()
        self.trained, self.given, self.labels = trained, given, validation
        self.history = {name: [] for name in ("train", "validation", "validation_nll", "test")}
        self.best, self.seconds, self.cpu = {}, 0.0, 0.0
        self.margins = self.losses = self.mean = 0.0

    def on_epoch_end(self, epoch, logs=None):
        _ = self.model  # JAX keeps the state to itself until somebody asks for the model
        start, cpu = time.perf_counter(), time.process_time()
        data, rows = self.trained.data, np.arange(len(self.given))
        epochs = self.trained.method.epochs
        self.train = self.trained.log_p(data.train.images)
        test, held = map(self.trained.log_p, (data.test.images, data.validation.images))
        self.now = test, held
        own = self.train[rows, self.given]
        self.margins = self.margins + margins(self.train, self.given, "given") / epochs
        self.losses = self.losses - own / epochs
        self.mean = self.mean + np.exp(self.train) / epochs
        nll = -held[np.arange(len(held)), self.labels].mean()
        accuracy = (held.argmax(axis=1) == self.labels).mean()
        for name, value in (
            ("train", (self.train.argmax(axis=1) == self.given).mean()),
            ("validation", accuracy),
            ("validation_nll", nll),
            ("test", (test.argmax(axis=1) == data.test.labels).mean()),
        ):
            self.history[name].append(float(value))
        for criterion, value in (("accuracy", accuracy), ("likelihood", -nll)):
            if criterion not in self.best or value > self.best[criterion][0]:
                self.best[criterion] = value, epoch + 1, test, held
        self.seconds += time.perf_counter() - start
        self.cpu += time.process_time() - cpu


def folds(data: NoisySet, method: str, width: int, noise: str, seed: int, number: int) -> dict:
    """Out-of-sample probabilities, as cleanlab wants them, and its list."""
    from sklearn.model_selection import StratifiedKFold

    given, _ = data.given(noise, seed)
    split = StratifiedKFold(number, shuffle=True, random_state=seed)
    log_p = np.zeros((len(given), len(data.info.classes)))
    start, cpu = time.perf_counter(), time.process_time()
    for fold, (rest, held) in enumerate(split.split(given, given)):
        trained = Trained(data, method, width, len(rest))
        trained.train(data.train.images[rest], given[rest], number * seed + fold)
        log_p[held] = trained.log_p(data.train.images[held])
    found = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
    return found | listed(given, data.train.labels, log_p, cleanlab=True)
