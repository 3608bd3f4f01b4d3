import json
import os
import re
import struct
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from keras_swapout import datasets
from keras_swapout.datasets import sources
from keras_swapout.study.report import page

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")
photographs = pytest.importorskip("keras_swapout.datasets.photographs")

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

RNG = np.random.default_rng(0)


def noise(*shape, high=256, dtype=np.uint8):
    return RNG.integers(0, high, shape, dtype)


def save(path, mode="RGB", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(12, 10, 3)).convert(mode).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of ten grey PNG images."""
    for name in "ab":
        for i in range(10):
            save(tmp_path / "set" / name / f"{i}.png", "L")
    return tmp_path / "set"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of the user's cache, where all images are to stay."""
    monkeypatch.setattr(photographs, "STREAMED", 0)
    monkeypatch.setenv("KERAS_SWAPOUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read(folder, **options):
    """What `read` returns, and what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        arrays = datasets.read(folder, **options)
    return arrays, [str(warning.message) for warning in caught]


def decoded(path, mode="RGB", size=None):
    with photographs._opened(path) as image:
        pixels = np.asarray(photographs._pixels(image, mode, size, Counter()))
    return pixels[..., None] if mode == "L" else pixels


def whole(path, mode="RGB"):
    with Image.open(path) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert(mode))
    return pixels[..., None] if mode == "L" else pixels


def test_every_ending_of_pillow_is_read(folder):
    for ending in ("webp", "gif", "tif", "TIFF", "jfif", "ppm", "bmp", "jpeg", "jp2"):
        save(folder / "a" / f"x.{ending}")
    save(folder / "a" / "front" / "left" / "x.png")
    save(folder / "a" / "a folder called x.png" / "x.png")
    save(folder / "a" / "a JPEG called.png", format="JPEG")
    save(folder / "a" / "without an ending", format="JPEG")
    arrays, said = read(folder)
    assert sum(arrays.info.sizes.values()) == 20 + 13
    assert arrays.info.left_out == {} and arrays.info.notes == {photographs.NESTED: 2}
    assert [line.split(". ")[0] for line in said] == [
        f"{folder}: read: 2 of 33 images {photographs.NESTED}"
    ]


def test_what_is_left_out_is_counted_by_class_and_reason(folder):
    for name in (".hidden.png", "._0.png", "Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / "a" / name).write_bytes(b"x")
    save(folder / "a" / ".thumbnails" / "0.png")
    save(folder / "__MACOSX" / "a" / "0.png")
    for name in ("a.txt", "b.TXT", "a.json", "photograph.heic", "nothing"):
        (folder / "b" / name).write_text("{}")
    save(folder / "b" / "0.png_original", format="PNG")
    save(folder / "beside.png")
    arrays, said = read(folder)
    assert arrays.info.classes == ("a", "b") and sum(arrays.info.sizes.values()) == 20
    assert arrays.info.left_out == {
        photographs.BESIDE: {photographs.HIDDEN: 1, "in no class": 1},
        "a": {photographs.HIDDEN: 6},
        "b": {
            "no image that Pillow reads (.txt)": 2,
            "no image that Pillow reads (.json)": 1,
            "no image that Pillow reads (.heic)": 1,
            "no image that Pillow reads (no ending)": 1,
            "an image, but not called one": 1,
        },
    }
    assert len(said) == 1 and "left out: 7 hidden" in said[0] and "(.heic)" in said[0]
    lines = page.described(vars(arrays.info))  # what the studies say of their data
    assert ("left out.b.no image that Pillow reads (.heic)", "1") in lines


def test_a_clean_folder_is_read_without_a_word(folder):
    arrays, said = read(folder)
    assert said == [] and arrays.info.left_out == arrays.info.notes == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_nothing_but_files_is_opened(folder):
    os.mkfifo(folder / "a" / "pipe.png")  # opened, it would wait for ever
    os.mkfifo(folder / "a" / "pipe")
    for name, target in (
        ("a/itself.png", "itself.png"),
        ("a/nowhere.png", "no such file"),
        ("a/up", ".."),
        ("itself", "itself"),
        ("a/good.png", "../b/0.png"),
    ):
        (folder / name).symlink_to(target)
    arrays, _ = read(folder)
    assert sum(arrays.info.sizes.values()) == 21
    assert arrays.info.left_out == {
        photographs.BESIDE: {"in no class": 1},
        "a": {
            "no regular file": 2,
            "a link that leads nowhere": 2,
            "a link to a folder, not followed": 1,
        },
    }


def damaged(path, kind):
    if kind == "text":
        path.write_text("not an image")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "floats":
        Image.fromarray(np.ones((12, 10), np.float32)).save(path, "TIFF")
    elif kind == "below zero":
        Image.fromarray(np.full((12, 10), -3, np.int32)).save(path, "TIFF")
    else:
        content = save(path, format=kind).read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        *((form, "") for form in ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF")),
        ("text", "no image that Pillow reads"),
        ("empty", "no image that Pillow reads"),
        ("floats", "floats, of unknown range"),
        ("below zero", "-3 .. -3, which are no 16 bits"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*16 bits per channel")
def test_an_image_that_cannot_be_read_is_one_error_with_its_path(folder, kind, why):
    damaged(folder / "a" / "bad.png", kind)
    with pytest.raises(ValueError, match=rf"can't read the image\(s\) .*bad\.png \(.*{why}") as one:
        datasets.read(folder)
    assert str(one.value).startswith("Argument `name` can't be used: ")
    assert isinstance(one.value.__cause__, Exception)
    for i in range(4):
        damaged(folder / "b" / f"bad{i}.png", kind)
    with pytest.raises(ValueError, match=r"a/bad.*b/bad0.*b/bad1.* and 2 more\. To leave"):
        datasets.read(folder)


def test_pillows_limit_of_pixels(folder, monkeypatch):
    Image.fromarray(noise(20, 20)).save(folder / "b" / "bomb.png")
    monkeypatch.setattr(photographs, "STRIP", 100)  # far below the limit, as usual
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 150)  # the others have 120
    with pytest.raises(ValueError, match=r"bomb\.png \(more than Pillow's limit of 300 pixels"):
        datasets.read(folder, image_size=8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    assert read(folder, image_size=8)[1] == []  # not Pillow's own warning, which has no path


def test_16_bits_are_scaled_not_clipped(folder):
    cv2 = pytest.importorskip("cv2")
    values = noise(12, 10, high=2**16, dtype=np.uint16)
    expected = np.rint(values / 257)[..., None]
    big_endian = folder / "a" / "big-endian.tif"
    Image.fromarray(values).save(folder / "a" / "16.png")
    Image.fromarray(values).save(folder / "a" / "16.tif")
    Image.fromarray(values.astype(np.int32)).save(folder / "a" / "32.tif")
    tags = {256: 10, 257: 12, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 12, 279: 240}
    entries = b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = values.astype(">u2").tobytes()
    directory = struct.pack(">H", len(tags)) + entries + bytes(4)
    big_endian.write_bytes(b"MM\0*" + struct.pack(">I", 8 + len(data)) + data + directory)
    for name in ("16.png", "16.tif", "32.tif", "big-endian.tif"):
        np.testing.assert_array_equal(decoded(folder / "a" / name, "L"), expected)
    colours = noise(12, 10, 3, high=2**16, dtype=np.uint16)
    cv2.imwrite(str(folder / "b" / "colours.png"), colours[..., ::-1])
    assert np.abs(decoded(folder / "b" / "colours.png") - colours / 257).max() <= 1
    arrays, said = read(folder)
    assert arrays.info.image_shape == (12, 10, 3)
    assert arrays.info.notes == {photographs.DEEP: 5, photographs.BRIGHTEST: values.max()}
    assert len(said) == 1 and f"5 of 25 images {photographs.DEEP}" in said[0]


def test_12_bits_in_16_are_said_to_be_nearly_black(folder):
    values = noise(12, 10, high=2**12, dtype=np.uint16)
    Image.fromarray(values).save(folder / "a" / "dark.png")
    arrays, said = read(folder)
    assert arrays.info.notes == {photographs.DEEP: 1, photographs.BRIGHTEST: values.max()}
    assert len(said) == 2 and f"{values.max()} is the brightest of 16 bits" in said[1]
    json.dumps(arrays.info.notes)


def test_frames_and_transparency_are_said(folder):
    frames = [Image.fromarray(noise(12, 10)) for _ in range(3)]
    for name in ("x.gif", "x.tif", "x.webp"):
        frames[0].save(folder / "a" / name, save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decoded(folder / "a" / "x.tif", "L")[..., 0], frames[0])
    for mode in ("LA", "RGBA"):
        save(folder / "b" / f"{mode}.png", mode)
    info = read(folder)[0].info
    assert info.notes == {photographs.FRAMES: 3, photographs.TRANSPARENT: 2}


def exif(*tags):
    """A block of EXIF data: tags as (number, type, count, value)."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("tag", [(0x011A, 2, 4, 0x41424344), (0x0102, 8, 1, 0xFFFF)])
def test_a_tag_of_another_type_is_no_reason_against_a_photograph(folder, tag):
    upright = (0x0112, 3, 1, 6)  # to be turned by 90 degrees
    path = save(folder / "a" / "odd.png", exif=exif(upright, tag))
    np.testing.assert_array_equal(decoded(path), np.rot90(np.asarray(Image.open(path)), -1))
    assert read(folder, image_size=8)[1] == []


@pytest.mark.parametrize("ending", ["png", "webp"])
def test_exif_data_that_nobody_can_read_are_said(folder, ending):
    path = save(folder / "a" / f"odd.{ending}", exif=b"Exif\0\0garbage")
    np.testing.assert_array_equal(decoded(path), np.asarray(Image.open(path)))
    arrays, said = read(folder)
    assert arrays.info.notes == {photographs.UNTURNED: 1}
    assert [f"1 of 21 images {photographs.UNTURNED}" in line for line in said] == [True]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "1", "CMYK"])
def test_pixels_are_those_that_pillow_decodes(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(photographs, "STRIP", 100)  # several strips
    for orientation in (1, 3, 6, 7):
        exif = Image.Exif()
        exif[0x0112] = orientation
        form = "TIFF" if mode == "CMYK" else "PNG"
        path = save(tmp_path / str(orientation), mode, format=form, exif=exif)
        for target in ("RGB", "L"):
            expected = whole(path, target)
            np.testing.assert_array_equal(decoded(path, target), expected)
            np.testing.assert_array_equal(decoded(path, target, (5, 4)), expected)
            with monkeypatch.context() as large:
                large.setattr(photographs, "LARGE", 50)
                narrow = decoded(path, target, (5, 4))
            # Pillow resizes the columns first where that is cheaper.
            difference = sources._resize(narrow, (5, 4)) - sources._resize(expected, (5, 4)) * 1.0
            assert narrow.shape[1] == 4 and np.abs(difference).max() <= 1


def test_a_large_image_is_never_held_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "LARGE", 2**16)
    waves = np.sin(np.arange(600)[:, None] / 9) + np.cos(np.arange(800) / 13)
    picture = Image.fromarray(np.uint8(127 + 60 * waves)).convert("RGB")
    for name in ("large.png", "large.jpg"):
        picture.save(tmp_path / name, quality=95)
    png, jpeg = (decoded(tmp_path / name, "RGB", (9, 9)) for name in ("large.png", "large.jpg"))
    assert png.shape == (600, 9, 3) and jpeg.shape == (75, 9, 3)  # 72 is what is spared
    expected = sources._resize(np.asarray(picture), (9, 9)).astype(int)
    np.testing.assert_array_equal(sources._resize(png, (9, 9)), expected)
    assert np.abs(sources._resize(jpeg, (9, 9)) - expected).max() <= 3


def test_sizes_that_differ_are_refused_before_anything_is_decoded(folder, monkeypatch):
    monkeypatch.setattr(photographs, "_pixels", lambda *_: pytest.fail("decoded"))
    Image.fromarray(noise(300, 200)).save(folder / "a" / "large.png")
    with pytest.raises(ValueError, match=r"`image_size` must be given.*2 different.*\(12, 10\)"):
        datasets.read(folder)


@pytest.mark.parametrize(
    ("names", "sizes"),
    [
        (("train", "val", "test"), (16, 4, 4)),
        (("Training", "validation"), (13, 4, 3)),  # no test images: they are taken from training
        (("training_set", "test_set"), (14, 2, 4)),
        (("trainImages", "dev", "testImages"), (16, 4, 4)),
    ],
)
def test_sub_folders_that_are_splits(tmp_path, names, sizes):
    for part, name in enumerate(names):
        for kind, grey in (("bad", 0), ("good", 200)):
            for i in range(2 if part else 8):
                path = save(tmp_path / name / kind / f"{i}.png")
                pixels = np.full((5, 5), grey + part, np.uint8)
                pixels[0, 0] += 10  # constant images are refused
                Image.fromarray(pixels).save(path)
    data = datasets.read(tmp_path, validation=0.15, test=0.2)
    assert data.info.classes == ("bad", "good")
    found = [data.info.sizes[split] for split in ("train", "validation", "test")]
    assert tuple(found) == sizes
    for part, name in enumerate(names):
        split = {"v": data.validation, "d": data.validation, "t": data.test}[name[0].lower()]
        split = split if part else data.train
        assert {int(x.min()) for x in split.images} == {part, 200 + part}
        assert ((split.images.max(axis=(1, 2, 3)) >= 200) == split.labels).all()


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("seg_train", "seg_test", "seg_pred"), "several are of one kind"),
        (("train", "test", "a", "b", "c", "d"), r"\['a', 'b', 'c', 'd'\] beside them are not"),
        (("train", "val", "cats"), r"\['cats'\] beside them are not"),
    ],
)
def test_splits_that_can_not_be_told(tmp_path, names, why):
    for name in names:
        for kind in ("good", "bad"):
            save(tmp_path / name / kind / "0.png")
    with pytest.raises(ValueError, match=rf"sub-folders \[.*\] are splits, and {why}"):
        datasets.read(tmp_path)
    flat = tmp_path / "flat"
    save(flat / "train" / "a" / "0.png")
    save(flat / "test" / "0.png")
    with pytest.raises(ValueError, match=r"\['test'\] hold no folders of classes"):
        datasets.read(flat)
    save(flat / "test" / "b" / "0.png")
    with pytest.raises(ValueError, match=r"test split has classes that training has not: \['b'\]"):
        datasets.read(flat)


@pytest.mark.parametrize(
    "names",
    [("b", "train"), ("invalid", "valid"), ("bullet train", "cat", "dog", "fox", "test tube")],
)
def test_a_class_may_be_called_like_a_split(tmp_path, names):
    for name in names:
        for i in range(10):
            save(tmp_path / name / f"{i}.png")
    assert read(tmp_path)[0].info.classes == names


def test_names_that_are_no_utf_8_are_escaped(folder):
    name = os.fsdecode(b"gr\xfcn")
    try:
        (folder / "a").rename(folder / name)
        (folder.parent / os.fsdecode(b"n\xfcmmer")).symlink_to(folder)
    except OSError:
        pytest.skip("this file system refuses such names")
    damaged(folder / name / "bad.png", "text")
    folder = folder.parent / os.fsdecode(b"n\xfcmmer")
    with pytest.raises(ValueError, match=r"n\\xfcmmer/gr\\xfcn/bad\.png") as raised:
        datasets.read(folder)
    str(raised.value).encode()
    (folder / name / "bad.png").rename(folder / name / os.fsdecode(b"note.\xff"))
    arrays, said = read(folder)
    assert arrays.info.classes == ("b", r"gr\xfcn") and arrays.info.name.endswith(r"n\xfcmmer")
    assert arrays.info.left_out == {r"gr\xfcn": {r"no image that Pillow reads (.\xff)": 1}}
    (repr(arrays.info) + str(said)).encode()
    (arrays.info.source + arrays.info.name + said[0]).encode()


def test_a_folder_that_cannot_be_listed(folder, monkeypatch):
    walk = os.walk

    def denied(top, onerror):
        if Path(top).name == "b":
            onerror(PermissionError(13, "Permission denied", str(top)))
        return walk(top)

    monkeypatch.setattr(photographs.os, "walk", denied)
    with pytest.raises(
        ValueError, match=r"`name` can't be used: '.*b' can't be listed: Permission"
    ):
        datasets.read(folder)


def same(found, expected):
    """Asserts that two `datasets.Arrays` hold the same, in files or in memory."""
    assert found.info == expected.info
    for split, other in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(split.images[:], other.images)
        np.testing.assert_array_equal(split.labels, other.labels)


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_decode_what_one_would_in_order(folder, monkeypatch, threads):
    monkeypatch.setattr(photographs, "THREADS", threads)
    paths = [save(folder / kind / f"x{i}.jpg", quality=90) for kind in "ab" for i in range(30)]
    source = sources.reader(str(folder), (7, 9))(str(folder))
    expected = [sources._resize(whole(path), (7, 9)) for path in sorted([*folder.rglob("*.*")])]
    assert set(paths) < set(folder.rglob("*.*")) and len(expected) == 80
    np.testing.assert_array_equal(source.images, expected)
    assert source.labels.tolist() == [0] * 40 + [1] * 40


def test_results_are_only_a_little_ahead(monkeypatch):
    monkeypatch.setattr(photographs, "THREADS", 3)
    taken = []
    items = (taken.append(i) or i for i in range(100))
    results = photographs._each(lambda i: 1 // (i - 50), items)
    assert next(results) == -1 and len(taken) < 20
    assert [type(x) for x in list(results)[49:51]] == [ZeroDivisionError, int] and len(taken) == 100


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_more_than_memory_should_hold_is_the_same_from_a_file(tmp_path, cache, monkeypatch, mode):
    for part, kind, count in (("train", "a", 12), ("train", "b", 9), ("test", "a", 1)):
        for i in range(count):
            save(tmp_path / "set" / part / kind / f"{i}.png", mode)
    save(tmp_path / "set" / "test" / "b" / "16.png", "I;16" if mode == "L" else "RGBA")
    folder = tmp_path / "set"
    with monkeypatch.context() as large:
        large.setattr(photographs, "STREAMED", 2**29)
        held, said_then = read(folder, image_size=(6, 7))
        assert type(held.train.images) is np.ndarray and not cache.exists()
    first, said = read(folder, image_size=(6, 7))
    same(first, held)
    assert all(isinstance(split.images, datasets.Rows) for split in first[:3])
    assert said[0].startswith(f"{folder}: 23 images would take ") and str(cache) in said[0]
    assert said[1:] == said_then and len(said_then) == (2 if mode == "L" else 1)
    monkeypatch.setattr(photographs, "_decoded", lambda *_, **__: pytest.fail("decoded again"))
    again, said_again = read(folder, image_size=(6, 7))
    same(again, held)
    assert said_again == said and len(list(cache.iterdir())) == 2


def test_a_file_is_not_taken_for_that_of_other_photographs(folder, cache):
    for change in (
        lambda: save(folder / "a" / "0.png", "L"),
        lambda: save(folder / "b" / "new.png", "L"),
        lambda: (folder / "a" / "0.png").rename(folder / "b" / "moved.png"),
        lambda: next(cache.glob("*.json")).write_text("{"),
        lambda: [path.write_bytes(path.read_bytes()[:999]) for path in cache.glob("*.npy")],
    ):
        read(folder)
        change()
        found = read(folder)[0]
        expected = Counter(whole(path, "L").tobytes() for path in folder.rglob("*.png"))
        assert (
            sum((Counter(x.tobytes() for x in s.images) for s in found[:3]), Counter()) == expected
        )
    assert read(folder, image_size=5)[0].info.image_shape == (5, 5, 1)


def test_what_is_interrupted_is_begun_anew(folder, cache, monkeypatch):
    decoded, calls = photographs._decoded, []

    def interrupted(path, **options):
        calls.append(path)
        if len(calls) == 12:
            raise KeyboardInterrupt
        return decoded(path, **options)

    monkeypatch.setattr(photographs, "_decoded", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(folder)
    assert list(cache.iterdir()) == []
    assert sum(read(folder)[0].info.sizes.values()) == 20


@pytest.mark.parametrize("streamed", [False, True])
def test_what_cannot_be_read_is_left_out_if_the_user_says_so(folder, cache, monkeypatch, streamed):
    monkeypatch.setattr(photographs, "STREAMED", 0 if streamed else 2**29)
    expected, _ = read(folder)
    late = save(folder / "a" / "5x.png", "L")  # which shows when it is decoded
    late.write_bytes(late.read_bytes()[:99])
    for name in ("a/6x.png", "a/7x.tif", "b/0x.png"):
        damaged(folder / name, "text" if name.endswith("png") else "floats")
    for _ in range(2):  # from the file the second time
        with pytest.raises(
            ValueError, match=r"can't read the image.* skip_unreadable=True, on the "
        ):
            datasets.read(folder)
        found, said = read(folder, skip_unreadable=True)
        for split, other in zip(found[:3], expected[:3], strict=True):
            np.testing.assert_array_equal(split.images[:], other.images[:])
            np.testing.assert_array_equal(split.labels, other.labels)
        reasons = found.info.left_out["a"]
        assert reasons["can't be read: no image that Pillow reads"] == 1 and len(reasons) == 3
        assert sum(reasons.values()) == 3
        assert found.info.left_out["b"] == {"can't be read: no image that Pillow reads": 1}
        assert len(said) == 1 + streamed and "4 of 24 images left out: can't read" in said[-1]
        named = r"6x\.png \(no image that Pillow reads\), .*7x\.tif \(it holds floats.* and 1 more$"
        assert re.search(named, said[-1])
        page.described(vars(found.info))
    # Who repairs an image, with the time of the old one, finds it.
    path = folder / "b" / "0x.png"
    before, size = path.stat(), path.stat().st_size
    monkeypatch.setattr(photographs, "_place", lambda *_: cache / "same.npy")
    read(folder, skip_unreadable=True)
    save(path, "L")
    assert (
        before.st_size == size
        and sum(read(folder, skip_unreadable=True)[0].info.sizes.values()) == 21
    )
    assert photographs.smallest_side(folder, skip_unreadable=True) == 10
    with pytest.raises(ValueError, match="skip_unreadable=True"):
        photographs.smallest_side(folder)


@pytest.mark.parametrize("kind", ["text", "PNG"])
def test_a_class_of_which_no_image_can_be_read_is_an_error(folder, kind):
    for path in (folder / "b").iterdir():
        damaged(path, kind)
    with pytest.raises(ValueError, match=r"no image of 'b' can be read: .*0\.png \(.* and 7 more"):
        datasets.read(folder, skip_unreadable=True)
    for value in ("yes", 1, None):
        with pytest.raises(TypeError, match=r"`skip_unreadable` must be True or False"):
            datasets.read(folder, skip_unreadable=value)
    with pytest.raises(TypeError, match=r"`skip_unreadable` must be True or False"):
        datasets.load(folder, skip_unreadable="yes")
