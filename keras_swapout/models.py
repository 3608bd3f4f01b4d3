"""The CIFAR residual networks of the papers: 6n + 2 layers, three stages, widths W x k.

`merge` decides how a block's shortcut X and residual F(X) come together; None is the plain add.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from keras_swapout.arguments import checked, checked_count, is_int, refusal

__all__ = ["ResNetV1", "ResNetV2"]

Merge = Callable[[int, int], keras.Layer]


def __dir__() -> list[str]:
    return __all__


def ResNetV1(
    depth: int = 20,
    width: int = 1,
    classes: int = 10,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    merge: Merge | None = None,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
) -> keras.Model:
    """The post-activation residual network: Y = ReLU(merge(X, F(X))).

    F(X) is conv - BN - ReLU - conv - BN. Stages of `(depth - 2) / 6` blocks with 16k, 32k and 64k
    channels, the last two halving the image; where the shape changes, X is a 1x1 projection.

    Args:
        depth: number of weighted layers, 6n + 2: 8, 14, 20, 32, 44, 56, 110, ...
        width: k, an int >= 1; multiplies the 16, 32, 64 channels.
        classes: number of classes, an int >= 1.
        input_shape: (height, width, channels), sides of at least 8 or None; in the order of
            `keras.config.image_data_format()`.
        merge: None for `keras.layers.Add`, or a function (block_index, number_of_blocks) -> layer
            called on `[x, fx]`. See `keras_swapout.schedules.per_block`.
        classifier_activation: activation of the last layer; None gives logits.
        name: name of the model.

    Returns:
        A functional `keras.Model`, (batch, *input_shape) -> (batch, classes).

    Raises:
        TypeError, ValueError: an argument is not as above.

    Example:

    >>> import keras_swapout as ks
    >>> merge = ks.schedules.per_block(ks.layers.Swapout, theta_1=(1, 0.5), theta_2=(1, 0.5))
    >>> ResNetV1(depth=20, merge=merge).output_shape
    (None, 10)

    Source: He et al., "Deep residual learning", CVPR 2016, section 4.2, with projections (option B)
    and with biases on the convolutions, which gives the parameter counts of the Swapout paper.
    """
    return _resnet(
        _block_v1, depth, width, classes, input_shape, merge, classifier_activation, name
    )


def ResNetV2(
    depth: int = 20,
    width: int = 1,
    classes: int = 10,
    input_shape: tuple[int | None, int | None, int] = (32, 32, 3),
    merge: Merge | None = None,
    classifier_activation: str | Callable | None = "softmax",
    name: str | None = None,
) -> keras.Model:
    """The pre-activation residual network: Y = merge(X, F(X)), nothing after the merge.

    F(X) is BN - ReLU - conv - BN - ReLU - conv. Otherwise as `ResNetV1`, with a final BN - ReLU;
    a projection reads the activated input, as F does.

    Args: as `ResNetV1`.

    Returns:
        A functional `keras.Model`, (batch, *input_shape) -> (batch, classes).

    Raises:
        TypeError, ValueError: an argument is not as for `ResNetV1`.

    Example:

    >>> model = ResNetV2(depth=8, classes=3, input_shape=(8, 8, 1), classifier_activation=None)
    >>> model.output_shape
    (None, 3)

    Source: He et al., "Identity mappings in deep residual networks", ECCV 2016, section 3; biases
    on the convolutions as in `ResNetV1`.
    """
    return _resnet(
        _block_v2, depth, width, classes, input_shape, merge, classifier_activation, name
    )


def _resnet(block, depth, width, classes, input_shape, merge, classifier_activation, name):
    expected = "an int 6n + 2, such as 8, 14, 20 or 32"
    checked(depth, numbers.Integral, "depth", expected, lambda n: n >= 8 and n % 6 == 2)
    depth = int(depth)
    width, classes = checked_count(width, "width"), checked_count(classes, "classes")
    input_shape = _image_shape(input_shape)
    _check_functions(merge, classifier_activation)
    checked(name, (str, type(None)), "name", "a string or None")
    merge = merge or (lambda index, blocks: layers.Add())
    per_stage = (depth - 2) // 6
    preactivated = block is _block_v2

    inputs = keras.Input(input_shape)
    x = _conv(16 * width, name="stem")(inputs)
    if not preactivated:
        x = layers.ReLU()(_batch_norm()(x))
    for index in range(3 * per_stage):
        stage = index // per_stage
        stride = 2 if stage > 0 and index % per_stage == 0 else 1
        mixed = merge(index, 3 * per_stage)
        if not callable(mixed) or isinstance(mixed, type):
            raise TypeError(
                "Argument `merge` must return a layer to call on [x, fx]. "
                f"Received: merge({index}, {3 * per_stage}) = {mixed!r}"
            )
        x = block(x, 16 * width * 2**stage, stride, mixed)
    if preactivated:
        x = layers.ReLU()(_batch_norm()(x))
    x = layers.GlobalAveragePooling2D()(x)
    outputs = layers.Dense(classes, activation=classifier_activation, name="classifier")(x)
    default = f"resnet{depth}v{2 if preactivated else 1}" + (f"_w{width}" if width > 1 else "")
    return keras.Model(inputs, outputs, name=name or default)


def _block_v1(x, channels, stride, merge):
    fx = layers.ReLU()(_batch_norm()(_conv(channels, stride)(x)))
    fx = _batch_norm()(_conv(channels)(fx))
    if stride > 1 or x.shape[_channel_axis()] != channels:
        x = _batch_norm()(_conv(channels, stride, kernel=1)(x))
    return layers.ReLU()(merge([x, fx]))


def _block_v2(x, channels, stride, merge):
    activated = layers.ReLU()(_batch_norm()(x))
    fx = _conv(channels, stride)(activated)
    fx = _conv(channels)(layers.ReLU()(_batch_norm()(fx)))
    if stride > 1 or x.shape[_channel_axis()] != channels:
        x = _conv(channels, stride, kernel=1)(activated)
    return merge([x, fx])


def _conv(channels, stride=1, kernel=3, name=None):
    return layers.Conv2D(
        channels, kernel, stride, padding="same", kernel_initializer="he_normal", name=name
    )


def _batch_norm():
    return layers.BatchNormalization(axis=_channel_axis())


def _channel_axis():
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def _image_shape(shape: Any) -> tuple[int | None, ...]:
    expected = (
        "(height, width, channels), or (channels, height, width) where that is the image data "
        "format, with sides of at least 8 or None"
    )
    if not isinstance(shape, (tuple, list)) or not all(n is None or is_int(n) for n in shape):
        raise refusal(TypeError, "input_shape", expected, shape)
    least = (1, 8, 8) if _channel_axis() == 1 else (8, 8, 1)
    large = len(shape) == 3 and all(n is None or n >= m for n, m in zip(shape, least, strict=True))
    if not large or shape[min(_channel_axis(), 0)] is None:  # the shape has no batch
        raise refusal(ValueError, "input_shape", expected, shape)
    return tuple(n if n is None else int(n) for n in shape)


def _check_functions(merge: Any, activation: Any) -> None:
    if isinstance(merge, (keras.Layer, type)) or not (merge is None or callable(merge)):
        expected = "None or a function (block_index, number_of_blocks) -> layer"
        raise refusal(TypeError, "merge", expected, merge)
    try:
        keras.activations.get(activation)
    except (TypeError, ValueError):
        error = ValueError if isinstance(activation, str) else TypeError
        expected = "None, a name in keras.activations or a function"
        raise refusal(error, "classifier_activation", expected, activation) from None
