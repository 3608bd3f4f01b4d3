"""Common image corruptions in five severities, to ask how a classifier bears worse images.

The functions and their constants are those of `tensorflow_datasets`' module
`image_classification.corruptions`, after Hendrycks and Dietterich (2019), "Benchmarking neural
network robustness to common corruptions and perturbations". `CORRUPTIONS` are the nine of the
pilot, `MORE` the others that `evaluate` uses as well. Left out are `motion_blur` and `snow`, which
run ImageMagick, and `frost`, which needs photographs that would have to be downloaded. Departures:

- The constants suit photographs of 224 pixels. Where the shorter side is below 128, the blurs
  (Gaussian, defocus, glass, zoom) see the image enlarged four times (every pixel becomes a 4x4
  square) and the result is averaged back, so that without a blur the image would be unchanged. In
  native pixels the Gaussian's sigma is then 0.25, 0.5, 0.75, 1 and 1.5, the defocus disk's radius
  0.75, 1, 1.5, 2 and 2.5. `spatter` sees it enlarged to 128 pixels at least, so that its drops
  keep their size relative to the image; an image on which no drop falls stays as it is.
- `pixelate` is for images of 128 pixels and more: at four times the size it would do nothing, and
  at the native size it is one more blur, which leaves 2x2 pixels of an 8x8 digit.
- `saturate` is for colour images; it changes nothing in grey ones.
- Grey images get one noise value per pixel. Where a function needs colour, a grey image is
  repeated over three equal channels and the first of them is returned.
- `impulse_noise` is written out here, with the same shares of changed values: the original draws
  from a generator that cannot be seeded.
- `fog` is written out to cut small images from a smaller cloud: a corner of 8 pixels of the
  original's 512 would be of one shade.
- `elastic_transform` is written out, with an affine part that is in proportion to the shorter side;
  small images are enlarged as for the blurs.
- `glass_blur` and `zoom_blur` are written out for speed, with the same results: the one runs over
  the pixels in Python, here once for many images, the other interpolates over the channels too.
  Like the original, which means to swap two pixels, `glass_blur` copies one over the other.
"""

import math
from collections.abc import Callable, Sequence

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
        name: one of `CORRUPTIONS` or `MORE`; see `suitable`.
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
    every = CORRUPTIONS | MORE
    if name not in every:
        raise ValueError(f"name must be one of {sorted(every)}, got {name!r}")
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
            result[piece] = every[name](images[piece], int(severity))
    except ImportError as error:
        raise ImportError(
            f'{error}. Install what is missing with: pip install "keras-swapout[pilot]"'
        ) from error
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return result


def suitable(image_shape: Sequence[int]) -> tuple[str, ...]:
    """The corruptions that do something to images of this shape, those of `CORRUPTIONS` first.

    Args:
        image_shape: (height, width, channels).

    Example:
        >>> suitable((8, 8, 1))[9:]
        ('glass_blur', 'zoom_blur', 'fog', 'elastic_transform', 'spatter')
        >>> suitable((224, 224, 3))[14:]
        ('saturate', 'pixelate')
    """
    height, width, channels = image_shape
    unfit = {"saturate": channels == 1, "pixelate": min(height, width) < SMALL}
    return tuple(name for name in CORRUPTIONS | MORE if not unfit.get(name))


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


def _enlarged(apply, least=0):
    """Small images are enlarged four times, or to `least` pixels where that is given."""

    def apply_enlarged(images, severity):
        count, height, width, channels = images.shape
        side = min(height, width)
        if side >= SMALL:
            return apply(images, severity)
        times = math.ceil(least / side) if least else ENLARGE
        large = images.repeat(times, axis=1).repeat(times, axis=2)
        cells = apply(large, severity).reshape(count, height, times, width, times, channels)
        return np.round(cells.mean(axis=(2, 4))).astype(np.uint8)

    return apply_enlarged


def _pixel_by_pixel(name):
    """For a function of one image that treats its pixels alike: the batch as a tall image."""

    def apply(images, severity):
        colour = _colour(images)
        tall = _published(name)(colour.reshape(-1, *colour.shape[2:]), severity)
        return tall.reshape(colour.shape)[..., : images.shape[-1]]

    return apply


def _glass_blur(images, severity):
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[
        severity - 1
    ]
    count, height, width, channels = images.shape
    rows, columns = (range(side - reach, reach, -1) for side in (height, width))
    places = [row * width + column for row in rows for column in columns] * rounds
    # Of one image all, then of the next: what the original draws.
    shifts = np.stack(
        [np.random.randint(-reach, reach, (len(places), 2)).astype(np.int8) for _ in images]  # noqa: NPY002
    )
    sources = np.transpose(shifts @ np.array([1, width]) + np.array(places, int))
    every = np.arange(count)
    seen = np.repeat(np.arange(height * width)[:, None], count, axis=1)
    for place, source in zip(places, sources, strict=True):
        seen[place] = seen[source, every]
    blurred = np.uint8(_blurred(images / 255.0, sigma) * 255).reshape(count, -1, channels)
    moved = np.take_along_axis(blurred, seen.T[..., None], axis=1).reshape(images.shape)
    return _eight_bits(_blurred(moved / 255.0, sigma))


def _blurred(images, sigma):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(images, (0, sigma, sigma, 0), mode="nearest")


def _zoom_blur(images, severity):
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[severity - 1]
    x = (images / 255.0).astype(np.float32)
    factors = np.arange(1, end, step)
    total = x.copy()
    for factor in factors:
        total += _zoomed(_zoomed(x, factor, 1), factor, 2)
    return _eight_bits(total / (len(factors) + 1))


def _zoomed(images, factor, axis):
    """Along one axis the middle of the images, enlarged by linear interpolation."""
    size = images.shape[axis]
    inside = math.ceil(size / factor)
    large = round(inside * factor)
    place = np.arange(size) + (large - size) // 2
    place = (size - inside) // 2 + place * ((inside - 1) / max(large - 1, 1))
    low = np.minimum(place.astype(int), max(size - 2, 0))
    share = np.float32(place - low).reshape([-1 if i == axis else 1 for i in range(4)])
    first = images.take(low, axis)
    return first + share * (images.take(np.minimum(low + 1, size - 1), axis) - first)


def _fog(images, severity):
    strength, decay = ((1.5, 2), (2.0, 2), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4))[severity - 1]
    height, width = images.shape[1:3]
    longer = max(height, width)
    # As large beside the image as 512 is beside 224, or 512.
    wanted = longer * 512 / 224 if min(height, width) < SMALL else max(longer, 512)
    side = 2 ** math.ceil(math.log2(wanted))
    cloud = _published("plasma_fractal")
    x = images / 255.0
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    clouds = np.stack([cloud(side, decay)[:height, :width, None] for _ in images])
    return _eight_bits((x + strength * clouds) * brightest / (brightest + strength))


_ELASTIC = (
    (2, 0.7, 0.1),
    (2, 0.08, 0.2),
    (0.05, 0.01, 0.02),
    (0.07, 0.01, 0.02),
    (0.12, 0.01, 0.02),
)


def _elastic_transform(images, severity):
    """A random affine map, then displacements that are a smoothed field of noise."""
    import cv2
    from scipy.ndimage import map_coordinates
    from skimage.filters import gaussian

    height, width, channels = images.shape[1:]
    side = min(height, width)
    strength, sigma, shift = 244 * np.array(_ELASTIC[severity - 1]) * (1, 1, side / 224)
    centre, reach = np.float32([height, width]) // 2, side // 3
    corners = np.float32([[reach, reach], [reach, -reach], [-reach, -reach]]) + centre
    places = np.mgrid[:height, :width].astype(np.float32)

    def field():
        noise = np.random.uniform(-1, 1, size=(height, width))  # noqa: NPY002
        return np.float32(gaussian(noise, sigma, mode="reflect", truncate=3) * strength)

    def one(image):
        moved = corners + np.random.uniform(-shift, shift, corners.shape).astype(np.float32)  # noqa: NPY002
        affine = cv2.getAffineTransform(corners, moved)
        x = np.float32(image) / np.float32(255)
        x = cv2.warpAffine(x, affine, (width, height), borderMode=cv2.BORDER_REFLECT_101)
        across, down = field(), field()
        at = (places[0] + down, places[1] + across)
        x = x.reshape(image.shape)  # OpenCV drops a single channel
        moved = [map_coordinates(x[..., c], at, order=1, mode="reflect") for c in range(channels)]
        return np.stack(moved, axis=-1)

    return _eight_bits(np.stack([one(image) for image in images]))


def _eight_bits(x):
    return np.around(np.clip(x, 0, 1) * 255).astype(np.uint8)


def _spatter(images, severity):
    function = _published("spatter")

    def one(image):
        try:
            with np.errstate(invalid="raise"):  # 0 / 0: there is no drop to scale
                return function(image, severity)
        except FloatingPointError:
            return image

    return np.stack([one(image) for image in _colour(images)])[..., : images.shape[-1]]


def _colour(images):
    return images if images.shape[-1] == 3 else images.repeat(3, axis=-1)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "gaussian_noise": _at_once("gaussian_noise"),
    "shot_noise": _at_once("shot_noise"),
    "impulse_noise": _impulse_noise,
    "speckle_noise": _at_once("speckle_noise"),
    "gaussian_blur": _enlarged(_one_by_one("gaussian_blur")),
    "defocus_blur": _enlarged(_one_by_one("defocus_blur")),
    "contrast": _one_by_one("contrast"),
    "brightness": _pixel_by_pixel("brightness"),
    "jpeg_compression": _one_by_one("jpeg_compression"),
}

#: In a pilot, which trains many networks, they would take too long.
MORE: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "glass_blur": _enlarged(_glass_blur),
    "zoom_blur": _enlarged(_zoom_blur),
    "fog": _fog,
    "elastic_transform": _enlarged(_elastic_transform),
    "spatter": _enlarged(_spatter, least=SMALL),
    "saturate": _pixel_by_pixel("saturate"),
    "pixelate": _one_by_one("pixelate"),
}
