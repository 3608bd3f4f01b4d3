"""The formats that Keras exports to: what each is called, what it needs, and how it is run."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_swapout.study import store
from keras_swapout.study.packages import check_packages

if TYPE_CHECKING:
    import keras


class Format(NamedTuple):
    """A format of `keras.Model.export`.

    Attributes:
        ending: of the file beside the network's; a folder's has no dot.
        keras: what Keras calls it.
        needs: packages, by the names that they are imported under.
        runner: the path of an export -> a function of the network's inputs.
    """

    ending: str
    keras: str
    needs: tuple[str, ...]
    runner: Callable[[str], Callable[[Any], Any]]


def _saved_model(path):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)

    def run(inputs):
        return loaded.serve(inputs)

    return run


def _litert(path):
    import tensorflow as tf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it will move to a package of its own
        signature = tf.lite.Interpreter(path).get_signature_runner()

    def run(inputs):
        names = list(signature.get_input_details())
        found = signature(**dict(zip(names, _by_name(inputs, names), strict=True)))
        return [found[name] for name in sorted(found, key=lambda name: (len(name), name))]

    return run


def _onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs):
        names = [x.name for x in session.get_inputs()]
        return session.run(None, dict(zip(names, _by_name(inputs, names), strict=True)))

    return run


def _by_name(inputs, names):
    """The arrays in the order that an export has them in."""
    import keras

    if isinstance(inputs, dict):
        known = {key: [n for n in names if key in n] for key in inputs}
        if all(len(found) == 1 for found in known.values()):
            return [next(inputs[key] for key in inputs if known[key] == [n]) for n in names]
    arrays = keras.tree.flatten(inputs)
    if len(arrays) != len(names):
        more = sorted(set(names))
        raise ValueError(
            f"it has {len(names)} inputs where the network has {len(arrays)}: {more}. A layer "
            "keeps tensors that are neither weights nor NumPy arrays, and the exporter takes them "
            "for inputs"
        )
    return arrays


FORMATS: dict[str, Format] = {
    "onnx": Format(".onnx", "onnx", ("tensorflow", "onnx", "tf2onnx", "onnxruntime"), _onnx),
    "saved_model": Format("_saved_model", "tf_saved_model", ("tensorflow",), _saved_model),
    "litert": Format(".tflite", "litert", ("tensorflow",), _litert),
}


def path_of(name: str, out: Path) -> Path:
    """Where an export lies: beside the network.

    Example:

    >>> path_of("onnx", Path("a/b.keras")).name, path_of("saved_model", Path("b.keras")).name
    ('b.onnx', 'b_saved_model')
    """
    return out.with_name(out.stem + FORMATS[name].ending)


def check_exports(names: list[str]) -> None:
    """Whether the formats can be written here.

    Raises:
        ImportError: a package is missing. ValueError: another backend than TensorFlow.
    """
    for name in names:
        check_packages(FORMATS[name].needs)
    if not names:
        return
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Argument `export` needs Keras on TensorFlow, and this is {keras.backend.backend()}. "
            "Set KERAS_BACKEND=tensorflow for this command: files are the same for all backends"
        )


def export(model: keras.Model, name: str, path: Path, check: Callable[..., str]) -> str:
    """Writes an export, whole or not at all, and runs it once.

    Args:
        model: what to export.
        name: of `FORMATS`.
        path: the file or folder.
        check: of what runs the export, and its name in messages, what to say of it; an export that
            it raises at is not written.

    Raises:
        ValueError: it can't be exported, or is something else than the network.
    """
    form = FORMATS[name]
    if name == "onnx":
        _check_groups(model)
    with store.written(path) as temporary, _silent_converters():
        try:
            model.export(str(temporary), format=form.keras, verbose=False)
            return check(form.runner(str(temporary)), f"the {name} export")
        except OSError:
            raise
        except Exception as error:  # the converters have their own kinds
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise ValueError(f"Argument `export`: no {name} of this network: {lines[0]}") from error


@contextlib.contextmanager
def _silent_converters():
    """Without what the converters say of themselves, tracebacks of optimisers that gave up too."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _check_groups(model):
    """Keras has grouped convolutions compiled by XLA under TensorFlow, which tf2onnx can't read."""
    from keras_swapout.submodels.inside import sublayers

    grouped = [x.name for x in sublayers(model) if _is_grouped(x)]
    if grouped:
        raise ValueError(
            f"Argument `export`: no onnx of this network: {grouped[0]!r} is a convolution in "
            "groups, which Keras has compiled by XLA, out of the exporter's sight. saved_model and "
            "litert can be had"
        )


def _is_grouped(layer):
    import keras

    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    return type(layer) in kinds and layer.groups > 1
