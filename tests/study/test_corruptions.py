import doctest

import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason='pip install "keras-swapout[pilot]"')
pytest.importorskip("skimage", reason='pip install "keras-swapout[pilot]"')
pytest.importorskip("cv2", reason='pip install "keras-swapout[pilot]"')

from keras_swapout.study.measuring import corruptions
from keras_swapout.study.measuring.corruptions import (
    CORRUPTIONS,
    MORE,
    corrupt,
    severities,
    suitable,
)

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

NOISE = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")
RANDOM = (*NOISE, "glass_blur", "fog", "elastic_transform", "spatter")


@pytest.fixture(scope="module")
def photographs():
    """Smooth colour images with an edge, like small photographs."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[0:32, 0:32] / 31
    waves = [
        np.sin(rng.uniform(2, 6, 3) * rows[..., None] + rng.uniform(2, 6, 3) * columns[..., None])
        for _ in range(40)
    ]
    images = 128 + 60 * np.stack(waves)
    images[:, 8:24, 12:20] += 50
    return images.round().astype(np.uint8)


@pytest.fixture(scope="module")
def digits():
    bunch = pytest.importorskip("sklearn.datasets").load_digits()
    return np.uint8(bunch.images[:100] * 15)[..., None]


def difference(a, b):
    return np.abs(a.astype(float) - b).mean()


def test_doctest():
    assert doctest.testmod(corruptions).failed == 0


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("kind", ["photographs", "digits"])
def test_each_severity_is_worse_than_the_one_before(name, kind, request):
    images = request.getfixturevalue(kind)
    original = images.copy()
    differences = []
    for severity in severities:
        corrupted = corrupt(images, name, severity, seed=0)
        assert corrupted.shape == images.shape and corrupted.dtype == np.uint8
        differences.append(difference(corrupted, images))
    assert np.all(np.diff([0, *differences]) > 0), differences
    np.testing.assert_array_equal(images, original)


@pytest.mark.parametrize("name", [*CORRUPTIONS, *MORE])
def test_the_seed_decides_and_the_global_state_stays(name, photographs):
    np.random.seed(7)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(7)  # noqa: NPY002
    a, b, c = (corrupt(photographs, name, 3, seed) for seed in (0, 0, 1))
    assert np.random.random() == expected  # noqa: NPY002
    np.testing.assert_array_equal(a, b)
    assert np.array_equal(a, c) == (name not in RANDOM)


@pytest.mark.parametrize("name", RANDOM)
def test_images_have_noise_of_their_own(name, photographs):
    same = photographs[[0, 0]]
    first, second = corrupt(same, name, 3, seed=0)
    assert not np.array_equal(first, second)


def test_gaussian_noise_has_the_published_deviation_on_grey_and_colour():
    for channels in (1, 3):
        images = np.full((50, 32, 32, channels), 128, np.uint8)
        noise = corrupt(images, "gaussian_noise", 1, seed=0) - 128.0
        assert abs(noise.std() / 255 - 0.08) < 0.001


def test_impulse_noise_changes_the_published_share_to_black_or_white():
    images = np.full((50, 32, 32, 1), 128, np.uint8)
    for severity, share in zip(severities, (0.03, 0.06, 0.09, 0.17, 0.27), strict=True):
        noisy = corrupt(images, "impulse_noise", severity, seed=0)
        assert abs(np.mean(noisy == 0) - share / 2) < 0.005
        assert abs(np.mean(noisy == 255) - share / 2) < 0.005
        assert set(np.unique(noisy)) == {0, 128, 255}


def test_contrast_shrinks_towards_each_image_s_mean(photographs):
    x = photographs.astype(float)
    mean = x.mean(axis=(1, 2), keepdims=True)
    result = corrupt(photographs, "contrast", 2, seed=0)
    np.testing.assert_allclose(result, mean + 0.3 * (x - mean), atol=1)


def test_brightness_adds_to_grey_images(digits):
    result = corrupt(digits, "brightness", 3, seed=0)
    np.testing.assert_allclose(result, np.minimum(digits + 0.3 * 255, 255), atol=1)


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur"])
def test_blurs_spread_a_point_in_proportion_to_the_documented_width(name):
    images = np.zeros((1, 33, 33, 1), np.uint8)
    images[0, 16, 16] = 255
    radii = {"gaussian_blur": (0.5, 0.75, 1, 1.5), "defocus_blur": (1, 1.5, 2, 2.5)}[name]
    for severity, width in zip(severities[1:], radii, strict=True):
        light = corrupt(images, name, severity, seed=0)[0, ..., 0].astype(float)
        distance = np.arange(33) - 16
        spread = np.sqrt((light.sum(axis=0) * distance**2).sum() / light.sum())
        # A uniform disk of radius r has a deviation of r / 2 along an axis; a pixel is a square
        # itself, whose light moves over its border even in a narrow blur.
        expected = width if name == "gaussian_blur" else width / 2
        assert expected - 0.2 < spread < expected + 0.25
        assert abs(light.sum() / 255 - 1) < 0.15


def test_large_images_are_not_enlarged():
    from tensorflow_datasets.image_classification import corruptions as published

    image = np.random.default_rng(0).integers(0, 256, (130, 140, 3), np.uint8)
    result = corrupt(image[None], "gaussian_blur", 4, seed=0)
    np.testing.assert_array_equal(result[0], published.gaussian_blur(image, 4))


@pytest.mark.parametrize("name", MORE)
@pytest.mark.parametrize("severity", [1, 4])
@pytest.mark.filterwarnings("ignore")  # of the published functions
def test_those_written_out_are_the_published_ones(name, severity):
    from tensorflow_datasets.image_classification import corruptions as published

    rows, columns = np.mgrid[:224, :224]
    image = np.stack([rows, columns, (rows * columns) % 224], axis=-1).astype(np.uint8)
    result = corrupt(image[None], name, severity, seed=3)[0]
    np.random.seed(3)  # noqa: NPY002
    expected = getattr(published, name)(image, severity)
    # Within rounding: the sums are in another order.
    assert np.abs(result.astype(int) - expected).max() <= 1
    assert np.mean(result != expected) < 0.01


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 3), (64, 40, 1), (130, 150, 3)])
@pytest.mark.filterwarnings("error")
def test_every_suitable_corruption_takes_every_image(shape):
    rng = np.random.default_rng(0)
    for images in (rng.integers(0, 256, (2, *shape), np.uint8), np.zeros((1, *shape), np.uint8)):
        for name in suitable(shape):
            result = corrupt(images, name, 2, seed=0)
            assert result.shape == images.shape and result.dtype == np.uint8
            assert name == "spatter" or not images.any() or not np.array_equal(result, images)


def test_what_is_suitable():
    every = {*CORRUPTIONS, *MORE}
    assert set(suitable((224, 224, 3))) == every
    assert every - set(suitable((128, 300, 1))) == {"saturate"}
    assert every - set(suitable((127, 300, 3))) == {"pixelate"}


def test_no_images():
    assert corrupt(np.zeros((0, 8, 8, 1), np.uint8), "contrast", 1, 0).shape == (0, 8, 8, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fog_of_war", 1), r"name must be one of \['brightness'.*got 'fog_of_war'"),
        (("contrast", 0), r"severity must be one of \(1, 2, 3, 4, 5\), got 0"),
        (("contrast", 2.5), "severity must be one of.*got 2.5"),
    ],
)
def test_bad_arguments(arguments, message, digits):
    with pytest.raises(ValueError, match=message):
        corrupt(digits, *arguments, seed=0)


def test_bad_images(digits):
    for images in (digits[0], digits.astype(np.float32), digits.repeat(2, axis=-1)):
        with pytest.raises(ValueError, match="images must be uint8 of shape"):
            corrupt(images, "contrast", 1, 0)
