"""A folder of photographs, one sub-folder per class, by way of Pillow: what is read of it, and how.

Nothing is passed over without a word: what is left out is counted by class and reason, and so is
what is read otherwise than one might think. An image that can't be read is an error with its path.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

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
_EIGHT = [(value + 128) // 257 for value in range(2**16)]  # 16 bits to 8: 65535 = 257 * 255


def folder(name: str, size: tuple[int, int] | None) -> Source:
    """The images of a folder, not yet of one size, but reduced where they are far larger.

    Args:
        name: the folder, with a sub-folder for each class, or with one for each split ("train" and
            "val", "validation" or "test") that has those.
        size: (height, width) that they are to be resized to, or None.

    Raises:
        ValueError: the splits have different classes; an image can't be read; sizes differ without
            `size`.
    """
    parts = {split: _listed(name, top) for split, top in _splits(name).items()}
    classes, left_out = parts["train"][2:]
    for split, (_, _, found, others) in parts.items():
        if unknown := sorted(set(found) - set(classes)):
            raise unusable(name, f"its {split} split has classes that training has not: {unknown}")
        if split != "train":
            left_out |= {f"{split}/{where}": reasons for where, reasons in others.items()}
    everything = [file for part in parts.values() for file in part[0]]
    mode, notes = _headers(name, everything, size)
    _warn(name, left_out, notes, len(everything))

    def images_and_labels(split):
        files, labels, found, _ = parts[split]
        labels = [classes.index(found[label]) for label in labels]
        paths = [path for path, _ in files]
        return _decoded(name, paths, mode, size, notes), np.array(labels, np.int32)

    return Source(
        *images_and_labels("train"),
        classes,
        f"the images under {printable(name)}",
        left_out=left_out,
        notes=notes,
        **{split: images_and_labels(split) for split in parts if split != "train"},
    )


def smallest_side(name: str) -> int:
    """The shortest side of all images of a folder, in pixels.

    Raises:
        ValueError: as `folder`.
    """
    parts = [_listed(name, top) for top in _splits(name).values()]
    sides, unread = [], {}
    for path, _ in (file for part in parts for file in part[0]):
        try:
            with _opened(path) as image:
                sides.append(min(image.size))
        except Exception as error:  # as Pillow's plugins raise whatever they like
            unread[path] = error
    if unread:
        raise _unreadable(name, unread)
    if not sides:
        raise unusable(name, "there are no images in its sub-folders")
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


def _headers(name, files, size):
    """The mode that all images are converted to, and what to say about them, counted."""
    modes, shapes, notes, unread = set(), set(), Counter(), {}
    for path, nested in files:
        try:
            with _opened(path) as image:
                if image.mode == "F":
                    raise ValueError("it holds floats, of unknown range; save it with 8 or 16 bits")
                modes.add(image.mode)
                shapes.add(image.size[::-1])
                notes.update(_remarkable(image))
                notes.update([NESTED] * nested)
        except Exception as error:
            unread[path] = error
    if unread:
        raise _unreadable(name, unread)
    # Before anything is decoded, for that may need more memory than there is. A picture taken
    # upright has the sides of one that was not.
    if size is None and len({tuple(sorted(shape)) for shape in shapes}) > 1:
        raise several_sizes(shapes)
    grey = all(mode in ("1", "L", "LA") or mode[0] == "I" for mode in modes)
    return ("L" if grey else "RGB"), notes


def _remarkable(image):
    if image.format != "PSD" and getattr(image, "is_animated", False):  # layers are no frames
        yield FRAMES
    # Pillow itself takes the high byte of 16-bit colours; what is stored shows before it is loaded.
    if image.mode[0] == "I" or any(";16" in str(tile[3]) for tile in image.tile):
        yield DEEP
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        yield TRANSPARENT


def _warn(name, left_out, notes, count):
    totals = Counter()
    for reasons in left_out.values():
        totals.update(reasons)
    said = {
        "left out": [f"{found} {why}" for why, found in totals.items()],
        "read": [f"{found} of {count} images {how}" for how, found in notes.items()],
    }
    said = [f"{what}: {'; '.join(lines)}" for what, lines in said.items() if lines]
    if said:
        warnings.warn(
            f"{printable(name)}: {'. '.join(said)}. `info.left_out` and `info.notes` have them",
            stacklevel=5,
        )


def _decoded(name, paths, mode, size, notes) -> Iterator[np.ndarray]:
    unread = {}
    for path in paths:
        try:
            with _opened(path) as image:
                pixels = _pixels(image, mode, size, notes)
        except Exception as error:
            unread[path] = error
        else:
            if not unread:  # else only to name all of them at once
                yield pixels[..., None] if mode == "L" else pixels
    if unread:
        raise _unreadable(name, unread)
    if notes[UNTURNED]:
        warnings.warn(
            f"{printable(name)}: {notes[UNTURNED]} of {len(paths)} images {UNTURNED}", stacklevel=4
        )
    brightest = notes[BRIGHTEST]
    if 0 < brightest < 2**14:
        warnings.warn(
            f"{printable(name)}: {brightest} is the {BRIGHTEST}: scaled to 8 bits, little is left "
            "of the grey images. Save them with 8 bits, or spread over all 16",
            stacklevel=4,
        )


def _pixels(image, mode, size, notes):
    """A decoded image, upright, 8 bits per channel. What shows only by now is added to `notes`.

    Of a large one, the rows are resized already. That is what Pillow mostly begins with as well,
    but only with several copies of the whole image in memory.
    """
    width = None
    if size is not None and image.width * image.height > LARGE:
        width, side = size[1], SPARE * max(size)
        image.draft(None, (side, side))  # JPEG alone can do so: to 1/2, 1/4 or 1/8
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
    return np.asarray(narrow)


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
    with warnings.catch_warnings():
        # From half of what Pillow refuses; memory for that much is no matter, and it has no path.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(path, formats=formats or _formats())
    with image:
        yield image


def _formats():
    Image.init()
    return tuple(form for form in Image.OPEN if form not in NOT_DECODED)


def _unreadable(name, unread):
    shown = [f"{printable(path)} ({_reason(error)})" for path, error in unread.items()]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    error = unusable(name, f"can't read the image(s) {', '.join(shown[:3])}{more}")
    error.__cause__ = next(iter(unread.values()))
    return error


def _reason(error):
    if isinstance(error, UnidentifiedImageError):
        return "no image that Pillow reads"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than Pillow's limit of {2 * Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
