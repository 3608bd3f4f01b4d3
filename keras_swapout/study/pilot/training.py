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
from keras_swapout.datasets.splits import count, samples
from keras_swapout.study import store
from keras_swapout.study.measuring import scores
from keras_swapout.study.measuring.ways import RECALIBRATED, Ways
from keras_swapout.study.pilot.data import PilotData
from keras_swapout.study.pilot.measures import SAMPLED_IMAGES
from keras_swapout.study.pilot.methods import Method
from keras_swapout.study.pilot.recipe import compile_for, own_metrics, targets
from keras_swapout.study.pilot.runs import HISTORY
from keras_swapout.study.pilot.settings import Settings
from keras_swapout.study.shapes import holds, number
from keras_swapout.submodels.inside import sublayers
from keras_swapout.tuning.restart import start_as

TIMED_IMAGES = 256
EVALUATED = 256  # samples of a batch at inference, where that is more than in training
AT_ONCE = 64  # steps, at most
TRAINED = holds(seconds=number, history=HISTORY)
#: Called after each epoch with (epochs done, training loss, how good it is on validation data).
OnEpoch = Callable[[int, float, str], None]


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
        self.task = data.network.task
        self.model = self._new_model(seed=0)
        self.deployed = method.deployed(self.model)
        self.deployed.jit_compile = settings.jit_compile
        self.consistency = self.ways = None
        if settings.samples and data.has_consistency:
            self.consistency = TrainInferenceConsistency(
                self.deployed, batch_size=data.batch_size, head=self.task.single
            )
        heads = self.task.heads
        heads = heads if len(heads) > 1 else heads[0]
        if settings.samples:
            self.ways = Ways(self.deployed, settings.samples, head=heads)
        # One step, so that Keras compiles and builds its metrics now: it would peek at the data
        # of the first run for that, and the first run would see other batches than the rest.
        self.model.fit(
            data.training_batches(seed=0).take(steps_at_once(data)), shuffle=False, verbose=0
        )
        self.values(samples(data.train.images, slice(1)))

    def run(
        self,
        seed: int,
        on_epoch: OnEpoch | None = None,
        path: Path | None = None,
        noise: float = 0.0,
    ) -> dict[str, Any]:
        """Trains from scratch, then evaluates.

        Args:
            seed: of the initial weights, the masks, the order of the batches and the augmentation.
            on_epoch: see `OnEpoch`.
            path: where to keep the trained network, or None. What is there already is not trained
                again.
            noise: share of the training labels that are wrong.

        Returns:
            One entry of "runs" in the results; "seconds" is the training alone.

        Raises:
            ValueError: the loss is not finite any more.
        """
        trained = self._kept(path) if path else None
        if trained is None:
            start = time.perf_counter()
            history = self.train(seed, on_epoch, noise)
            trained = {"seconds": time.perf_counter() - start, "history": history}
            if path:
                with store.written(path) as temporary:
                    self.deployed.save(temporary)
                store.write_json(path.with_suffix(".json"), trained)  # last: the model is there
        return {
            "method": self.method.name,
            "noise": noise,
            "seed": seed,
            "seconds": trained["seconds"],
            "epochs": self.settings.epochs,
            "parameters": self.deployed.count_params(),
            **self.evaluate(seed, noise),
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

    def train(
        self, seed: int, on_epoch: OnEpoch | None = None, noise: float = 0.0
    ) -> dict[str, list[float]]:
        """Trains from scratch. Arguments and errors are those of `run`.

        Returns:
            "loss", "accuracy", "val_loss" and "val_accuracy", one number for each epoch; the first
            two are Keras', in training mode. Of numbers to predict "rmse" in place of "accuracy".
            Of R-Block also "task_loss" and "consistency".
        """
        start_as(self.model, self._new_model(seed))
        curves = _Curves(self, seed, on_epoch)
        self.model.fit(
            self.data.training_batches(seed, noise),
            epochs=self.settings.epochs,
            callbacks=[curves],
            shuffle=False,  # the batches are shuffled already
            verbose=0,
        )
        return curves.history

    def evaluate(self, seed: int = 0, noise: float = 0.0) -> dict[str, Any]:
        """Quality of the trained network on clean and corrupted samples, in inference mode.

        That on the training samples is by the labels that were trained on, with the wrong ones.
        """
        data = self.data
        given = data.training_labels(noise, seed)
        splits = {"test": data.test, "validation": data.validation}
        splits["train"] = data.train._replace(labels=given)
        values = {name: self.values(split.images) for name, split in splits.items()}
        quality = {
            name: self.task.quality(values[name], split.labels) for name, split in splits.items()
        }
        quality["train"].pop("ece", None)  # says nothing on samples that were learnt
        rows = self.task.rows(values["test"], data.test.labels)
        if data.unbalanced:
            quality["test"] |= scores.balanced(*rows)
        return {
            **quality,
            "calibration": rows and scores.calibration_curve(*rows),
            **self._corrupted(),
            "metrics": self._own_metrics(),
            "memorised": self._memorised(values["train"], given),
            **self._sub_models(),
        }

    def _corrupted(self):
        """Accuracy, or the error of numbers, under each corruption, and its mean; of images."""
        name = "accuracy" if self.task.classifies else "rmse"
        found = {
            corruption: {
                str(severity): self.task.quality(self.values(images), self.data.corrupted_labels)[
                    name
                ]
                for severity, images in severities.items()
            }
            for corruption, severities in self.data.corrupted.items()
        }
        every = [value for values in found.values() for value in values.values()]
        return {
            "corruption": found,
            f"corruption_{name}": float(np.mean(every)) if every else None,
        }

    def _memorised(self, values, given):
        """Of wrongly labelled training samples the shares predicted as given, and as is right."""
        right = self.data.train.labels
        if self.data.info.targets != "classes" or not (wrong := given != right).any():
            return None
        found = self.task.rows(values, given)[0].argmax(axis=1)[wrong]
        return {
            "given": float(np.mean(found == given[wrong])),
            "right": float(np.mean(found == right[wrong])),
        }

    def _own_metrics(self):
        """The user's own metrics on the test samples, by name."""
        base = self.data.network.example
        if len(self.task.outputs) > 1 or not (metrics := own_metrics(base)):
            return {}
        test = self.data.test
        outputs = self.outputs(test.images)[0]
        labels = targets(base, self.task, test.labels)
        found = {}
        for name, metric in metrics.items():
            metric.update_state(labels, outputs)
            found[name] = float(np.mean(keras.ops.convert_to_numpy(metric.result())))
        return found

    def _sub_models(self):
        """What takes many passes, on a part of the test samples."""
        if self.ways is None:
            return {"consistency": {}, "inference": {}}
        data = self.data
        chosen = data.chosen(data.test.labels, SAMPLED_IMAGES)
        labels = samples(data.test.labels, chosen)
        inputs = data.info.scaled(samples(data.test.images, chosen))
        consistency = {}
        if self.consistency is not None:
            consistency = self.consistency(inputs, self.task.labels(labels)[0])
        return {"consistency": consistency, "inference": self._ways_of_inference(inputs, labels)}

    def _ways_of_inference(self, inputs, labels):
        """Quality of the ways of predicting; "seconds" for `TIMED_IMAGES`, and "once" before."""
        found = {}
        start = time.perf_counter()
        self.ways.recalibrate(self.data.scaled_batches(self.data.train.images))
        once = time.perf_counter() - start
        timed = self._timed(self.data.test.images)
        for name in self.ways.names:
            self.ways.predict(name, timed)  # compiles it
            prediction = self.ways.predict(name, inputs)
            start = time.perf_counter()
            self.ways.predict(name, timed)
            seconds = time.perf_counter() - start
            values = self.task.predicted(prediction)
            found[name] = {**self.task.quality(values, labels), "seconds": seconds}
            if name == RECALIBRATED:
                found[name]["once"] = once
        return found

    def _timed(self, inputs):
        """Whole batches, however few samples there are: others are filled up and cost as much."""
        index = np.arange(TIMED_IMAGES) % min(TIMED_IMAGES, count(inputs))
        return self.data.info.scaled(samples(inputs, index))

    def values(self, inputs: Any) -> list[np.ndarray]:
        """What the network says of inputs, in inference mode, as `Task.values` has it.

        Args:
            inputs: raw, of n samples.
        """
        return self.task.values(self.outputs(inputs))

    def outputs(self, inputs: Any) -> list[np.ndarray]:
        """The network's outputs, in inference mode and in batches of one shape.

        Args:
            inputs: raw, of n samples.
        """
        size, number = max(self.data.batch_size, EVALUATED), count(inputs)
        batches = []
        for start in range(0, number, size):
            # The last one is filled up: another shape would be compiled again.
            index = np.minimum(np.arange(start, start + size), number - 1)
            batch = self.data.info.scaled(samples(inputs, index))
            batches.append(keras.tree.flatten(self.deployed.predict_on_batch(batch)))
        return [
            np.concatenate([keras.ops.convert_to_numpy(x) for x in parts])[:number]
            for parts in zip(*batches, strict=True)
        ]

    def _new_model(self, seed: int) -> keras.Model:
        """The method's model, with the initial weights that every method has for this seed."""
        network = self.data.network
        base = network.new(seed)
        # What is trained goes on giving the same outputs at inference.
        kept = {"rescale": True} if network.continued and self.method.family == "swapout" else {}
        model = self.method.trained(base, self.task.divergence, **kept, **self.layers)
        steps = self.data.steps * self.settings.epochs
        for layer in sublayers(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = min(layer.momentum, momentum_for(steps))
        compile_for(model, base, network, self.settings, steps, steps_at_once(self.data))
        return model


def momentum_for(steps: int) -> float:
    """Momentum of batch normalisation's moving statistics, for a training of so many steps.

    They are an average over the last 1 / (1 - momentum) steps or so. With Keras' 0.99 a training of
    a few hundred would be measured by statistics of weights that it has left long ago; this is the
    last twentieth.

    Example:

    >>> momentum_for(40), momentum_for(400), momentum_for(10_000)
    (0.5, 0.95, 0.998)
    """
    return max(0.5, 1 - 20 / max(steps, 1))


def steps_at_once(data: PilotData) -> int:
    """Steps between two looks of `fit` at its callbacks: a divisor of an epoch's.

    One under other backends than TensorFlow, which would compile each of them.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    return max(n for n in range(1, AT_ONCE + 1) if data.steps % n == 0)


_CURVES = ("accuracy", "rmse", TASK_LOSS, CONSISTENCY)


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
        trainer = self.trainer
        inputs, labels = trainer.data.validation
        quality = trainer.task.quality(trainer.values(inputs), labels)
        values = {"loss": float(logs["loss"])}
        values |= {name: float(logs[name]) for name in _CURVES if name in logs}
        if trainer.task.classifies:
            values |= {"val_loss": quality["nll"], "val_accuracy": quality["accuracy"]}
            said = f"validation {quality['accuracy']:.1%}"
        else:
            values |= {"val_loss": quality["rmse"] ** 2, "val_rmse": quality["rmse"]}
            said = f"validation RMSE {quality['rmse']:.3g}"
        for name, value in values.items():
            self.history.setdefault(name, []).append(value)
        if self.on_epoch:
            self.on_epoch(epoch + 1, values["loss"], said)
