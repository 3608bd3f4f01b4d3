"""A folder of photographs, one sub-folder per class, by way of Pillow: what is read of it, and how.

Nothing is passed over without a word: what is left out is counted by class and reason, and so is
what is read otherwise than one might think. An image that can't be read is an error with its path,
unless the user says that such images are to be left out.

Several threads decode. Images that would take more memory than `STREAMED` are decoded once, into a
file in the user's cache, and stay there: the next time that file is found.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import re
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from keras_swapout.datasets import stored
from keras_swapout.datasets.sources import Source, printable, several_sizes, unusable

#: What systems put into folders, besides names that begin with a dot.
SYSTEM = (
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
)
#: Formats that Pillow recognises only, or hands to another program: Ghostscript, for EPS.
NOT_DECODED = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")
#: Formats whose first bytes leave no doubt. Not TIFF, which the raw files of cameras are as well.
CERTAIN = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
#: What people call the parts of a data set.
SPLITS = {
    "train": {"train", "training", "trainset"},
    "validation": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "testset", "eval", "evaluation", "holdout", "pred"},
}
ORIENTATION = ExifTags.Base.Orientation

BESIDE = "beside the classes"  # in place of a class
HIDDEN = "hidden, or the system's"
TRANSPARENT = "with transparency, which is ignored: the colours under it are read"
DEEP = "with 16 bits per channel, scaled to 8"
FRAMES = "with several frames, of which the first is read"
NESTED = "in a folder within that of their class"
UNTURNED = "with EXIF data that can't be read, taken as upright"
BRIGHTEST = "brightest of 16 bits, of 65535"

LARGE = 2**25  # pixels above which memory matters: some 130 MB
SPARE = 8  # a JPEG of that size is decoded to this many times what is asked for, at least
STRIP = 2**20  # pixels that are converted at a time
STREAMED = 2**29  # bytes of all images together above which they stay in a file
DECODING = 1  # another number where another version makes other pixels of the same files
THREADS = min(16, os.cpu_count() or 1)  # each may hold an image of LARGE pixels
_ALONE = threading.Lock()  # of images that are larger, one is decoded at a time
_EIGHT = [(value + 128) // 257 for value in range(2**16)]  # 16 bits to 8: 65535 = 257 * 255


@contextlib.contextmanager
def _of_any_size():
    """No warning of Pillow's from half of what it refuses: that much memory is no matter."""
    with warnings.catch_warnings():  # here, for all: threads have the filters in common
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


@_of_any_size()
def folder(name: str, size: tuple[int, int] | None, skip_unreadable: bool = False) -> Source:
    """The images of a folder, of one size: an array or, above `STREAMED`, `stored.Rows`.

    Args:
        name: the folder, with a sub-folder for each class, or with one for each split ("train" and
            "val", "validation" or "test") that has those.
        size: (height, width) that they are to be resized to, or None.
        skip_unreadable: whether images that can't be read are left out, with a warning.

    Raises:
        ValueError: the splits have different classes; an image can't be read, or with
            `skip_unreadable` none of a class; sizes differ without `size`.
        OSError: there is no file to be written for them.
    """
    parts = {split: _listed(name, top) for split, top in _splits(name).items()}
    classes, left_out = parts["train"][2:]
    files, groups = [], []  # those of all splits, and the class of each, with its split
    for split, (paths, labels, found, others) in parts.items():
        if unknown := sorted(set(found) - set(classes)):
            raise unusable(name, f"its {split} split has classes that training has not: {unknown}")
        prefix = "" if split == "train" else f"{split}/"
        if prefix:
            left_out |= {f"{prefix}{where}": reasons for where, reasons in others.items()}
        files += paths
        groups += [f"{prefix}{found[label]}" for label in labels]

    def check(unread):
        if unread and not skip_unreadable:
            raise _unreadable(name, {files[i][0]: error for i, error in unread.items()})
        left = {group for i, group in enumerate(groups) if i not in unread}
        for lost in sorted(set(groups) - left):
            errors = {files[i][0]: e for i, e in unread.items() if groups[i] == lost}
            raise unusable(name, f"no image of {lost!r} can be read: {_first(errors)}")

    # Of less than two classes nothing is decoded: whoever asked refuses them.
    read = _read(name, files, size, check) if len(classes) > 1 else _Read()
    _warn(name, left_out, read, files)
    for i, error in read.unread.items():
        # Without what is in brackets, which is another for each file.
        why = f"can't be read: {re.sub(r' *[(].*', '', _reason(error))}"
        reasons = left_out.setdefault(groups[i], {})
        reasons[why] = reasons.get(why, 0) + 1

    pairs, names, start, row = {}, {}, 0, 0
    for split, (paths, labels, found, _) in parts.items():
        kept = [i not in read.unread for i in range(start, start + len(paths))]
        labels = np.array([classes.index(found[label]) for label in labels], np.int32)[kept]
        names[split] = [path for (path, _), k in zip(paths, kept, strict=True) if k]
        pairs[split] = stored.part(read.images, slice(row, row + len(labels))), labels
        start, row = start + len(paths), row + len(labels)
    return Source(
        *pairs.pop("train"),
        classes,
        f"the images under {printable(name)}",
        left_out=left_out,
        notes={**read.notes, **read.later},
        files=tuple(path for split in SPLITS for path in names.get(split, ())),
        **pairs,
    )


@_of_any_size()
def smallest_side(name: str, skip_unreadable: bool = False) -> int:
    """The shortest side of all images of a folder, in pixels.

    Raises:
        ValueError: as `folder`.
    """
    files = [file for top in _splits(name).values() for file in _listed(name, top)[0]]
    headers = dict(zip((path for path, _ in files), _each(_header, files), strict=True))
    unread = {path: found for path, found in headers.items() if isinstance(found, Exception)}
    if unread and not skip_unreadable:
        raise _unreadable(name, unread)
    sides = [min(found[1]) for path, found in headers.items() if path not in unread]
    if not sides:
        raise unusable(name, "there are no images that can be read in its sub-folders")
    return min(sides)


def _splits(name) -> dict[str, Path]:
    """The folders with the classes of each split; the folder itself where it has no splits."""
    try:
        folders = [p for p in sorted(Path(name).iterdir()) if p.is_dir() and not _hidden(p.name)]
        splits = [p for p in folders if _split_of(p)]
        if 2 * len(splits) < len(folders):  # a "bullet train" among many: the name itself must be
            splits = [p for p in folders if any(p.name.casefold() in x for x in SPLITS.values())]
        found = {}
        for path in splits:
            found.setdefault(_split_of(path), []).append(path)
        if "train" not in found or len(found) == 1:
            return {"train": Path(name)}
        within = {p: sum(q.is_dir() for q in p.iterdir()) for p in splits}
    except OSError as error:
        raise unusable(name, f"{error.filename!r} can't be listed: {_reason(error)}") from error
    if len(splits) < len(folders) or len(found) < len(splits) or not all(within.values()):
        raise unusable(
            name,
            f"its sub-folders {[p.name for p in splits]} are splits, and "
            f"{_beside(folders, within)}. Give a folder with one for training and one for "
            "validation, test or both, each with a sub-folder for each class; or one with the "
            "classes alone: it is split here",
        )
    return {split: paths[0] for split, paths in found.items()}


def _beside(folders, within):
    """What is in the way of taking folders as splits; `within` counts the folders in each split."""
    others = [p.name for p in folders if p not in within]
    empty = [p.name for p, count in within.items() if not count]
    if others:
        return f"{others} beside them are not"
    return f"{empty} hold no folders of classes" if empty else "several are of one kind"


def _split_of(path):
    """The split that a folder is called after, or None."""
    words = _words(path.name)
    return next((split for split, names in SPLITS.items() if words & names), None)


def _listed(name, root):
    """[(path of an image, whether it is nested)], their labels, the classes, what is left out."""
    # Those of Pillow's plugins, also of one that was registered, such as that of pillow-heif.
    known = Image.registered_extensions()
    # MPO, what many telephones write, is opened as JPEG.
    endings = {ending for ending, form in known.items() if form in (*_formats(), "MPO")}
    files, labels = [], []
    try:
        entries = sorted(root.iterdir())
        folders = [p for p in entries if p.is_dir() and not _hidden(p.name)]
        beside = [p.name for p in entries if p not in folders]
        left_out = {BESIDE: Counter(HIDDEN if _hidden(n) else "in no class" for n in beside)}
        for label, top in enumerate(folders):
            found, others = _images(top, endings)
            files += [(path, path.parent != top) for path in found]
            labels += [label] * len(found)
            left_out[printable(top.name)] = others
    except OSError as error:
        raise unusable(name, f"{error.filename!r} can't be listed: {_reason(error)}") from error
    left_out = {where: dict(reasons) for where, reasons in left_out.items() if reasons}
    return files, labels, tuple(printable(top.name) for top in folders), left_out


def _words(name):
    """{"seg", "train"} of "seg_train", "segTrain" and "seg-train2"."""
    return {word.casefold() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)}


def _images(top, endings):
    """The images in a folder and the folders in it, sorted, and reasons to leave out the others."""

    def refuse(error):
        raise error

    found, others = [], Counter()
    for root, folders, names in os.walk(top, onerror=refuse):
        paths = [Path(root, name) for name in names]
        reasons = [_reason_against(path, endings) for path in paths]
        found += [path for path, reason in zip(paths, reasons, strict=True) if not reason]
        others.update(filter(None, reasons))
        others.update(HIDDEN for name in folders if _hidden(name))
        folders[:] = [name for name in folders if not _hidden(name)]
        # They may lead back here.
        others.update(
            "a link to a folder, not followed"
            for name in folders
            if os.path.islink(Path(root, name))
        )
    return sorted(found), others


def _reason_against(path, endings):
    """Why a file doesn't count as an image, or None."""
    if _hidden(path.name):
        return HIDDEN
    if not os.path.exists(path):  # also one that leads to itself
        return "a link that leads nowhere"
    if not path.is_file():  # a pipe, a device: opening it might never end
        return "no regular file"
    ending = path.suffix.lower()
    if ending in endings:
        return None
    try:
        with _opened(path, CERTAIN):
            # A backup or a thumbnail beside the photograph would be in it twice.
            return "an image, but not called one" if ending else None
    except Exception:  # as Pillow's plugins raise whatever they like
        return f"no image that Pillow reads ({printable(ending) or 'no ending'})"


def _hidden(name):
    return name[0] == "." or name.casefold() in SYSTEM


@dataclasses.dataclass
class _Read:
    """What becomes of some files: images, what to say about them, counted, and {number: error}."""

    images: Any = dataclasses.field(default_factory=lambda: np.zeros((0, 1, 1, 1), np.uint8))
    notes: Counter = dataclasses.field(default_factory=Counter)  # what headers show
    later: Counter = dataclasses.field(default_factory=Counter)  # what shows in decoded images
    unread: dict[int, Exception] = dataclasses.field(default_factory=dict)


def _read(name, files, size, check) -> _Read:
    """Decodes all files, or finds what they were decoded to.

    Args:
        name: of the folder.
        files: [(path, whether it is nested)].
        size: to resize to, or None.
        check: is given `_Read.unread`, once all headers are read and once all is decoded, and may
            refuse it.
    """
    place = _place(files, size)
    read = _found(place, files, size)
    if read is not None:
        check(read.unread)
        _say_streamed(name, len(files), read.images.size, place)
        return read
    read, headers = _Read(), {}
    for i, header in enumerate(_each(_header, files)):
        (read.unread if isinstance(header, Exception) else headers)[i] = header
    check(read.unread)
    if not headers:
        return read
    shapes = {shape for _, shape, _ in headers.values()}
    # Before anything is decoded, for that may need more memory than there is. A picture taken
    # upright has the sides of one that was not.
    if size is None and len({tuple(sorted(shape)) for shape in shapes}) > 1:
        raise several_sizes(shapes)
    # Also by the headers of those that can't be decoded, which is known too late.
    grey = all(mode in ("1", "L", "LA") or mode[0] == "I" for mode, _, _ in headers.values())
    images = _all_decoded(files, list(headers), "L" if grey else "RGB", size, read, check)
    height, width = size or shapes.pop()
    needed = len(headers) * height * width * (1 if grey else 3)
    if needed > STREAMED:
        _say_streamed(name, len(files), needed, place)
        stored.write(place, images, needed)
        read.images = stored.Rows(place)
    else:
        read.images = np.stack(list(images))
    for i, (_, _, notes) in headers.items():
        read.notes.update(notes if i not in read.unread else ())
    if needed > STREAMED:
        record = {"shape": read.images.shape, "unread": list(read.unread)}
        record |= {"notes": read.notes, "later": read.later}
        stored.write_text(place.with_suffix(".json"), json.dumps(record))  # last: it is whole
    return read


def _all_decoded(files, numbers, mode, size, read, check) -> Iterator[np.ndarray]:
    """The images of some of the files, of one shape. What shows only by now goes into `read`."""
    decode = functools.partial(_decoded, mode=mode, size=size)
    shapes = set()
    for i, found in zip(numbers, _each(decode, [files[i][0] for i in numbers]), strict=True):
        if isinstance(found, Exception):
            read.unread[i] = found
            continue
        pixels, notes = found
        if BRIGHTEST in notes:  # no sum, but the highest of all
            notes[BRIGHTEST] = max(0, notes[BRIGHTEST] - read.later[BRIGHTEST])
        read.later.update(notes)
        shapes.add(pixels.shape)
        if len(shapes) == 1:  # else only to name all that is wrong at once
            yield pixels
    check(read.unread)
    if len(shapes) > 1:
        raise several_sizes(shapes)


def _place(files, size):
    """The file for what these are decoded to: another for all that would be decoded otherwise."""
    digest = hashlib.sha256(repr((DECODING, PIL.__version__, size)).encode())
    for path, _ in files:
        try:
            found = os.stat(path)
            state = found.st_size, found.st_mtime_ns
        except OSError:
            state = None
        digest.update(os.fsencode(os.path.abspath(path)) + repr(state).encode())
    return stored.cache() / f"{digest.hexdigest()[:32]}.npy"


def _found(place, files, size) -> _Read | None:
    """What an earlier run has decoded, or None."""
    try:
        record = json.loads(place.with_suffix(".json").read_text(encoding="utf-8"))
        images = stored.Rows(place)
        numbers, notes, later = record["unread"], record["notes"], record["later"]
        if record["shape"] != list(images.shape):
            return None
    except (OSError, ValueError, KeyError):
        return None

    def decode(file):
        return _header(file), _decoded(file[0], "RGB", size)

    unread = dict(zip(numbers, _each(decode, [files[i] for i in numbers]), strict=True))
    if not all(isinstance(found, Exception) for found in unread.values()):
        return None  # somebody has given us the rights since, or a disk answers again
    return _Read(images, Counter(notes), Counter(later), unread)


def _each(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """function(item) of each, or the exception that it raises, in order, by several threads.

    They are only a few items ahead, as results may be large.
    """

    def result(item):
        try:
            return function(item)
        except Exception as error:  # as Pillow's plugins raise whatever they like
            return error.with_traceback(None)  # which would keep the image

    with ThreadPoolExecutor(THREADS) as pool:
        ahead = deque()
        try:
            for item in items:
                ahead.append(pool.submit(result, item))
                if len(ahead) > 4 * THREADS:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def _header(file):
    """The mode and (height, width) of an image, and what to say about it."""
    path, nested = file
    with _opened(path) as image:
        if image.mode == "F":
            raise ValueError("it holds floats, of unknown range; save it with 8 or 16 bits")
        return image.mode, image.size[::-1], [*_remarkable(image), *[NESTED] * nested]


def _remarkable(image):
    if image.format != "PSD" and getattr(image, "is_animated", False):  # layers are no frames
        yield FRAMES
    # Pillow itself takes the high byte of 16-bit colours; what is stored shows before it is loaded.
    if image.mode[0] == "I" or any(";16" in str(tile[3]) for tile in image.tile):
        yield DEEP
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        yield TRANSPARENT


def _warn(name, left_out, read, files):
    """Says what was found, to who called `datasets.read`."""
    totals = Counter()
    for reasons in left_out.values():
        totals.update(reasons)
    count = len(files) - len(read.unread)
    said = {
        "left out": [f"{found} {why}" for why, found in totals.items()],
        "read": [f"{found} of {count} images {how}" for how, found in read.notes.items()],
    }
    said = [f"{what}: {'; '.join(lines)}" for what, lines in said.items() if lines]
    lines = []
    if said:
        lines.append(f"{'. '.join(said)}. `info.left_out` and `info.notes` have them")
    if read.unread:
        errors = {files[i][0]: error for i, error in read.unread.items()}
        lines.append(f"{len(errors)} of {len(files)} images left out: can't read {_first(errors)}")
    if unturned := read.later[UNTURNED]:
        lines.append(f"{unturned} of {count} images {UNTURNED}")
    brightest = read.later[BRIGHTEST]
    if 0 < brightest < 2**14:
        lines.append(
            f"{brightest} is the {BRIGHTEST}: scaled to 8 bits, little is left of the grey images. "
            "Save them with 8 bits, or spread over all 16"
        )
    for line in lines:
        warnings.warn(f"{printable(name)}: {line}", stacklevel=6)


def _say_streamed(name, count, size, place):
    warnings.warn(
        f"{printable(name)}: {count:,} images would take {size / 1e9:.2g} GB of memory: they are "
        f"decoded once and stay on the disk, in {printable(place)}",
        stacklevel=7,
    )


def _decoded(path, mode, size):
    """The pixels (height, width, channels) of a file, and notes."""
    notes = Counter()
    with _opened(path) as image:
        pixels = _pixels(image, mode, size, notes)
    if size is not None:
        # All channels at once: the same bits as one by one.
        pixels = pixels.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(pixels)
    return (pixels[..., None] if mode == "L" else pixels), notes


def _pixels(image, mode, size, notes):
    """An image decoded, upright, 8 bits per channel. What shows only by now is added to `notes`.

    Of a large one, the rows are resized already. That is what Pillow mostly begins with as well,
    but only with several copies of the whole image in memory.
    """
    if image.width * image.height <= LARGE:
        return _converted(image, mode, None, notes)
    with _ALONE:
        if size is None:
            return _converted(image, mode, None, notes)
        side = SPARE * max(size)
        image.draft(None, (side, side))  # JPEG alone can do so: to 1/2, 1/4 or 1/8
        return _converted(image, mode, size[1], notes)


def _converted(image, mode, width, notes):
    notes.update([UNTURNED] * (not _upright(image)))
    narrow = Image.new(mode, (width or image.width, image.height))
    # In strips: converted whole, there would be a second image of that size.
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        if image.mode[0] == "I":
            strip = strip.convert("I")
            darkest, most = strip.getextrema()
            if darkest < 0 or most >= 2**16:
                raise ValueError(f"it holds {darkest} .. {most}, which are no 16 bits")
            strip, notes[BRIGHTEST] = strip.point(_EIGHT, "L"), max(notes[BRIGHTEST], most)
        strip = strip.convert(mode).resize((narrow.width, strip.height), Image.Resampling.BILINEAR)
        narrow.paste(strip, (0, top))
    return narrow


def _upright(image):
    """Turns an image as its EXIF says, in place. Whether that could be read."""
    image.load()  # here, where it may fail
    try:
        exif = image.getexif()
        # Pillow writes the tags anew once it has turned an image, which odd ones are not fit for.
        for tag in set(exif) - {ORIENTATION}:
            del exif[tag]
    except Exception:  # a photograph may be whole and what programs wrote beside it not
        return False
    ImageOps.exif_transpose(image, in_place=True)
    return True


@contextlib.contextmanager
def _opened(path, formats=None):
    with Image.open(path, formats=formats or _formats()) as image:
        yield image


def _formats():
    Image.init()
    return tuple(form for form in Image.OPEN if form not in NOT_DECODED)


def _unreadable(name, unread):
    error = unusable(
        name,
        f"can't read the image(s) {_first(unread)}. To leave them out: skip_unreadable=True, on "
        "the command line --skip-unreadable",
    )
    error.__cause__ = next(iter(unread.values()))
    return error


def _first(unread):
    """The first three of some paths with their errors, in words."""
    shown = [f"{printable(path)} ({_reason(error)})" for path, error in list(unread.items())[:3]]
    more = f" and {len(unread) - 3} more" if len(unread) > 3 else ""
    return f"{', '.join(shown)}{more}"


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return "no image that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than Pillow's limit of {2 * Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
