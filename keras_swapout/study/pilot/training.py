"""One method's network: compiled once, trained from scratch for every seed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_swapout import TrainInferenceConsistency
from keras_swapout.consistency.rblock import CONSISTENCY, TASK_LOSS
from keras_swapout.datasets import stratified
from keras_swapout.study import store
from keras_swapout.study.measuring import scores
from keras_swapout.study.measuring.ways import RECALIBRATED, Ways
from keras_swapout.study.pilot.data import PilotData
from keras_swapout.study.pilot.measures import SAMPLED_IMAGES
from keras_swapout.study.pilot.methods import Method
from keras_swapout.study.pilot.recipe import compile_for
from keras_swapout.study.pilot.runs import HISTORY
from keras_swapout.study.pilot.settings import Settings
from keras_swapout.study.shapes import holds, number
from keras_swapout.tuning.restart import start_as

TIMED_IMAGES = 256
TRAINED = holds(seconds=number, history=HISTORY)
#: Called after each epoch with (epochs done, training loss, validation accuracy).
OnEpoch = Callable[[int, float, float], None]


class Trainer:
    """Trains and evaluates one method.

    Compiling costs seconds, more than a small run itself. So there is one compiled model, and a
    run begins by giving every variable - weights, batch-norm statistics, seed generators,
    momenta, step counter - the value it has in a new model of that seed.

    Args:
        method: one of `keras_swapout.study.pilot.methods.METHODS`, or with other values. With
            `adjustable` layers `method` can be set anew, to one that differs in probabilities and
            alpha: the next run is one of that.
        settings: the pilot's.
        data: the pilot's.
        **layers: arguments of the method's layers.
    """

    def __init__(self, method: Method, settings: Settings, data: PilotData, **layers: Any) -> None:
        self.method, self.settings, self.data, self.layers = method, settings, data, layers
        head = data.network.head
        self.model = self._new_model(seed=0)
        self.deployed = method.deployed(self.model)
        self.deployed.jit_compile = settings.jit_compile
        self.consistency = TrainInferenceConsistency(
            self.deployed, batch_size=data.batch_size, head=head
        )
        self.ways = Ways(self.deployed, settings.samples, head=head)
        # One step, so that Keras compiles and builds its metrics now: it would peek at the data
        # of the first run for that, and the first run would see other batches than the rest.
        self.model.fit(data.training_batches(seed=0).take(1), shuffle=False, verbose=0)
        self.logits(data.train.images[:1])

    def warm_up(self) -> None:
        """Compiles what `evaluate` measures the time of."""
        images = self.data.info.scaled(self.data.train.images[:1])
        for name in self.ways.names:
            self.ways.predict(name, images.repeat(TIMED_IMAGES, axis=0))

    def run(
        self, seed: int, on_epoch: OnEpoch | None = None, path: Path | None = None
    ) -> dict[str, Any]:
        """Trains from scratch, then evaluates.

        Args:
            seed: of the initial weights, the masks, the order of the batches and the augmentation.
            on_epoch: called after each epoch with (epochs done, training loss, validation
                accuracy).
            path: where to keep the trained network, or None. What is there already is not trained
                again.

        Returns:
            One entry of "runs" in the results; "seconds" is the training alone.

        Raises:
            ValueError: the loss is not finite any more.
        """
        trained = self._kept(path) if path else None
        if trained is None:
            start = time.perf_counter()
            history = self.train(seed, on_epoch)
            trained = {"seconds": time.perf_counter() - start, "history": history}
            if path:
                with store.written(path) as temporary:
                    self.deployed.save(temporary)
                store.write_json(path.with_suffix(".json"), trained)  # last: the model is there
        return {
            "method": self.method.name,
            "seed": seed,
            "seconds": trained["seconds"],
            "epochs": self.settings.epochs,
            "parameters": self.deployed.count_params(),
            **self.evaluate(),
            "history": trained["history"],
        }

    def _kept(self, path):
        """What is known of a trained network, which is loaded; None where it has to be trained."""
        trained = store.read_json(path.with_suffix(".json"), TRAINED)
        if trained is not None:
            try:
                self.deployed.load_weights(path)
            except Exception:  # whatever zip, HDF5 and Keras make of a damaged file
                store.warn_broken(path)
                return None
        return trained

    def train(self, seed: int, on_epoch: OnEpoch | None = None) -> dict[str, list[float]]:
        """Trains from scratch. Arguments and errors are those of `run`.

        Returns:
            "loss", "accuracy", "val_loss" and "val_accuracy", one number for each epoch; the first
            two are Keras', in training mode. Of R-Block also "task_loss" and "consistency".
        """
        start_as(self.model, self._new_model(seed))
        curves = _Curves(self, seed, on_epoch)
        self.model.fit(
            self.data.training_batches(seed),
            epochs=self.settings.epochs,
            callbacks=[curves],
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
        return curves.history

    def evaluate(self) -> dict[str, Any]:
        """Quality of the trained network on clean and corrupted images, in inference mode."""
        data = self.data
        splits = {"test": data.test, "validation": data.validation, "train": data.train}
        logits = {name: self.logits(split.images) for name, split in splits.items()}
        quality = {name: scores.quality(logits[name], splits[name].labels) for name in splits}
        del quality["train"]["ece"]  # says nothing on images that were learnt
        corruption = {
            name: {
                str(severity): scores.accuracy(self.logits(images), data.corrupted_labels)
                for severity, images in severities.items()
            }
            for name, severities in data.corrupted.items()
        }
        every = [accuracy for values in corruption.values() for accuracy in values.values()]
        return {
            **quality,
            "calibration": scores.calibration_curve(logits["test"], data.test.labels),
            "corruption": corruption,
            "corruption_accuracy": float(np.mean(every)),
            **self._sub_models(),
        }

    def _sub_models(self):
        """What takes many passes, on a part of the test images."""
        chosen = stratified(self.data.test.labels, SAMPLED_IMAGES)
        labels = self.data.test.labels[chosen]
        inputs = self.data.info.scaled(self.data.test.images[chosen])
        return {
            "consistency": self.consistency(inputs, labels),
            "inference": self._ways_of_inference(inputs, labels),
        }

    def _ways_of_inference(self, inputs, labels):
        """Quality of the ways of predicting; "seconds" for `TIMED_IMAGES`, and "once" before."""
        found = {}
        start = time.perf_counter()
        self.ways.recalibrate(self.data.info.scaled(self.data.train.images))
        once = time.perf_counter() - start
        # Whole batches, however few images there are: others are filled up and cost as much.
        timed = inputs[np.arange(TIMED_IMAGES) % len(inputs)]
        for name in self.ways.names:
            prediction = self.ways.predict(name, inputs)
            start = time.perf_counter()
            self.ways.predict(name, timed)
            seconds = time.perf_counter() - start
            # Log probabilities are logits too.
            logits = np.log(np.maximum(prediction.mean, np.finfo(np.float32).tiny))
            found[name] = {**scores.quality(logits, labels), "seconds": seconds}
            if name == RECALIBRATED:
                found[name]["once"] = once
        return found

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The network's outputs, in inference mode and in batches of one shape.

        Args:
            images: raw, (n, height, width, channels).

        Returns:
            Float32, (n, classes); of probabilities their logarithms, which are logits too.
        """
        size = self.data.batch_size
        outputs = []
        for start in range(0, len(images), size):
            batch = self.data.info.scaled(images[start : start + size])
            missing = size - len(batch)
            if missing:  # another shape would be compiled again
                batch = np.concatenate([batch, np.repeat(batch[:1], missing, axis=0)])
            logits = keras.ops.convert_to_numpy(self.deployed.predict_on_batch(batch))
            outputs.append(logits[: size - missing])
        logits = np.concatenate(outputs).astype(np.float32)
        if self.data.network.head.from_logits:
            return logits
        return np.log(np.maximum(logits, np.finfo(np.float32).tiny))

    def _new_model(self, seed: int) -> keras.Model:
        """The method's model, with the initial weights that every method has for this seed."""
        network = self.data.network
        base = network.new(seed)
        # What is trained goes on giving the same outputs at inference.
        kept = {"rescale": True} if network.continued and self.method.family == "swapout" else {}
        model = self.method.trained(base, **kept, **self.layers)
        steps = self.data.steps * self.settings.epochs
        compile_for(model, base, network, self.settings, steps)
        return model


class _Curves(keras.callbacks.Callback):
    """The learning curves. Keras' own validation would compile one more function per shape."""

    def __init__(self, trainer, seed, on_epoch):
        super().__init__()
        self.trainer, self.seed, self.on_epoch = trainer, seed, on_epoch
        self.history = {}

    def on_epoch_end(self, epoch, logs=None):
        _ = self.model  # JAX keeps the state to itself until somebody asks for the model
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"The loss of {self.trainer.method.name} with seed {self.seed} is not finite after "
                f"epoch {epoch + 1}. Try a lower `learning_rate`."
            )
        images, labels = self.trainer.data.validation
        logits = self.trainer.logits(images)
        values = {
            "loss": float(logs["loss"]),
            "accuracy": float(logs["accuracy"]),
            "val_loss": scores.negative_log_likelihood(logits, labels),
            "val_accuracy": scores.accuracy(logits, labels),
        }
        values |= {name: float(logs[name]) for name in (TASK_LOSS, CONSISTENCY) if name in logs}
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)
        if self.on_epoch:
            self.on_epoch(epoch + 1, values["loss"], values["val_accuracy"])
