"""Common image corruptions in five severities, to ask how a classifier bears worse images.

The functions and their constants are those of `tensorflow_datasets`' module
`image_classification.corruptions`, after Hendrycks and Dietterich (2019), "Benchmarking neural
network robustness to common corruptions and perturbations". Chosen are those that need neither
ImageMagick nor a download. Departures:

- The constants suit photographs of 224 pixels. Where the shorter side is below 128, the two blurs
  see the image enlarged four times (every pixel becomes a 4x4 square) and the result is
  averaged back, so that without a blur the image would be unchanged. In native pixels the
  Gaussian's sigma is then 0.25, 0.5, 0.75, 1 and 1.5, the defocus disk's radius 0.75, 1, 1.5, 2
  and 2.5. `pixelate` is left out: at four times the size it would do nothing, and at the native
  size it is one more blur, which leaves 2x2 pixels of an 8x8 digit.
- Grey images get one noise value per pixel. Where a function needs colour, a grey image is
  repeated over three equal channels and one of them is returned.
- `impulse_noise` is written out here, with the same shares of changed values: the original draws
  from a generator that cannot be seeded.
"""

from collections.abc import Callable

import numpy as np

severities = (1, 2, 3, 4, 5)

SMALL = 128
ENLARGE = 4


def corrupt(images: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """Corrupts a batch of images.

    Each image gets noise of its own. The result depends on the arguments alone, and NumPy's
    global random state, which the corruptions draw from, is left as it was.

    Args:
        images: `(n, height, width, channels)`, uint8, with 1 or 3 channels.
        name: one of `CORRUPTIONS`.
        severity: 1 (mild) to 5 (strong).
        seed: integer in 0..2**32 - 1.

    Returns:
        Corrupted images, shape and dtype as `images`, which stay as they are.

    Raises:
        ValueError: unknown name or severity, or images of another shape or dtype.
        ImportError: a missing package; the message has the command.

    Example:
        >>> grey = np.full((2, 8, 8, 1), 128, np.uint8)
        >>> noisy = corrupt(grey, "gaussian_noise", severity=3, seed=0)
        >>> noisy.shape, noisy.dtype.name, bool((noisy != grey).any())
        ((2, 8, 8, 1), 'uint8', True)
    """
    if name not in CORRUPTIONS:
        raise ValueError(f"name must be one of {sorted(CORRUPTIONS)}, got {name!r}")
    if isinstance(severity, bool) or severity not in severities:
        raise ValueError(f"severity must be one of {severities}, got {severity!r}")
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or images.dtype != np.uint8:
        raise ValueError(
            "images must be uint8 of shape (n, height, width, 1 or 3), got "
            f"{images.dtype} of shape {images.shape}"
        )
    # The published functions draw from the global state, so there is no way round it.
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        result = np.empty_like(images)
        # In pieces, since the functions compute in float64.
        pieces = np.array_split(np.arange(len(images)), 1 + images.size // 2**22)
        for piece in (piece for piece in pieces if len(piece)):
            result[piece] = CORRUPTIONS[name](images[piece], int(severity))
    except ImportError as error:
        raise ImportError(
            f'{error}. Install what is missing with: pip install "keras-swapout[pilot]"'
        ) from error
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return result


def _published(name):
    from tensorflow_datasets.image_classification import corruptions

    return getattr(corruptions, name)


def _at_once(name):
    """For a function that treats every value alike: the whole batch in one call."""
    return lambda images, severity: _published(name)(images, severity)


def _impulse_noise(images, severity):
    share = (0.03, 0.06, 0.09, 0.17, 0.27)[severity - 1]
    uniform = np.random.random(images.shape)  # noqa: NPY002
    return np.where(uniform < share / 2, 0, np.where(uniform < share, 255, images))


def _one_by_one(name):
    def apply(images, severity):
        function = _published(name)
        channels = images.shape[-1]
        return np.stack([function(image, severity)[..., :channels] for image in _colour(images)])

    return apply


def _enlarged(name):
    apply = _one_by_one(name)

    def apply_enlarged(images, severity):
        if min(images.shape[1:3]) >= SMALL:
            return apply(images, severity)
        count, height, width, channels = images.shape
        large = images.repeat(ENLARGE, axis=1).repeat(ENLARGE, axis=2)
        cells = apply(large, severity).reshape(count, height, ENLARGE, width, ENLARGE, channels)
        return np.round(cells.mean(axis=(2, 4))).astype(np.uint8)

    return apply_enlarged


def _brightness(images, severity):
    # Pixel by pixel, but for one image `(height, width, 3)`: stack the batch to a tall image.
    colour = _colour(images)
    tall = _published("brightness")(colour.reshape(-1, *colour.shape[2:]), severity)
    return tall.reshape(colour.shape)[..., : images.shape[-1]]


def _colour(images):
    return images if images.shape[-1] == 3 else images.repeat(3, axis=-1)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "gaussian_noise": _at_once("gaussian_noise"),
    "shot_noise": _at_once("shot_noise"),
    "impulse_noise": _impulse_noise,
    "speckle_noise": _at_once("speckle_noise"),
    "gaussian_blur": _enlarged("gaussian_blur"),
    "defocus_blur": _enlarged("defocus_blur"),
    "contrast": _one_by_one("contrast"),
    "brightness": _brightness,
    "jpeg_compression": _one_by_one("jpeg_compression"),
}
