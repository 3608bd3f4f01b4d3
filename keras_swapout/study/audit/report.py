"""An audit's page, as data; `keras_swapout.study.report.page` makes it HTML."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from keras_swapout.study.audit.brief import answer, details, share
from keras_swapout.study.report.page import Page, Section, Strips, Text, command, how_measured
from keras_swapout.study.report.tables import Cell, Column, Row, Table
from keras_swapout.study.report.words import counted

if TYPE_CHECKING:
    from PIL import Image

    from keras_swapout.consistency.labels import LabelIssues
    from keras_swapout.study.audit.data import AuditData

SIDE = 96  # pixels of a thumbnail, at most
COLOURS = 128  # of a thumbnail: a third of the bytes of all of them
FIRST = 24  # thumbnails, of the most suspicious
MOST, EACH = 80, 8  # by pairs of classes: of all, and of each
SHORT = 14  # characters of a class below a thumbnail
PAIRS = 12  # of classes that are shown without a click

LIMITS = (
    "A label that the network contradicts need not be wrong: samples that are hard, rare or unlike "
    "the others of their class are contradicted too. Somebody has to look.",
    "A wrong label that the network agrees with is not on the list: one that looks right, or one "
    "of many that are wrong in the same way, which it has learnt as if they were right.",
    "The probabilities order the list. They are the network's, and not the share of wrong labels.",
    "The samples are seen as the network sees them, at its size: what shows only in a larger image "
    "decides nothing.",
)
DEFINITION = (
    "Suspicious is a label to whose class the network gives a smaller probability than to another "
    "class, which is what it suggests. They are in the order of the margin, the probability of the "
    "given label less the largest of another class."
)
TRAINED = (
    "The predictions are those of one network on the samples that it was trained on, the mean of "
    "those after each epoch. Two of its sub-models were made to agree (R-Block): they do not "
    "easily agree on what has to be memorised, and what is learnt late counts as little."
)
HELD_OUT = "Each sample was predicted by a network that was trained on the other {} folds."


class Thumbnail(NamedTuple):
    """A suspicious image.

    Attributes:
        pair: given and suggested class.
        said: what is below it.
        url: its data: URL.
    """

    pair: tuple[str, str]
    said: str
    url: str


def gallery(data: AuditData, issues: LabelIssues, probabilities: np.ndarray) -> list[Thumbnail]:
    """Suspicious images, the first ones first.

    Returns:
        The `FIRST` of all, and of each pair of classes at most `EACH`, `MOST` together; nothing
        where the data are no images.
    """
    found: list[Thumbnail] = []
    if data.info.kind != "images":
        return found
    shown = Counter[tuple[str, str]]()
    for rank, i in enumerate(issues.order[: int(issues.flags.sum())], 1):
        suggested = issues.suggested[i]
        pair = data.classes[data.samples.labels[i]], data.classes[suggested]
        if len(found) < MOST and (rank <= FIRST or shown[pair] < EACH):
            said = f"{rank}: {' → '.join(map(_short, pair))}, "
            said += f"{100 * probabilities[i, suggested]:.0f} %"
            found.append(Thumbnail(pair, said, _url(_picture(data, i))))
            shown[pair] += 1
    return found


def _short(name):
    """What fits below a thumbnail; the tables have all of it."""
    return name if len(name) <= SHORT else f"{name[: SHORT - 1]}…"


def _picture(data, i) -> Image.Image:
    """The user's file, upright; where Pillow has trouble, or there is none, what is trained on."""
    from PIL import Image, ImageOps

    if data.files is not None:
        try:
            with Image.open(data.files[i]) as image:
                image.draft("RGB", (2 * SIDE, 2 * SIDE))
                if image.mode[0] not in "IF":  # of more than 8 bits
                    image.thumbnail((2 * SIDE, 2 * SIDE))
                    image = ImageOps.exif_transpose(image)
                    return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
        except Exception:  # as Pillow's plugins raise whatever they like
            pass
    pixels = np.asarray(data.inputs(np.array([i])))[0]
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _url(picture):
    picture.thumbnail((SIDE, SIDE))
    if picture.mode == "RGB":
        picture = picture.quantize(COLOURS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def make_page(results: Mapping[str, Any], pictures: Sequence[Thumbnail]) -> Page:
    """The page of an audit.

    Args:
        results: the contents of results.json.
        pictures: of `gallery`.
    """
    from keras_swapout.study.audit.run import OPTIONS

    found, settings = results["audit"], results["settings"]
    first = pictures[:FIRST]
    by_pair = [
        part
        for pair in found["pairs"]
        if (its := [one for one in pictures if one.pair == (pair["given"], pair["suggested"])])
        for part in (
            f"{pair['given']} → {pair['suggested']}: {len(its):,} of {pair['suspicious']:,}",
            _strips(its),
        )
    ]
    how = HELD_OUT.format(settings["folds"] - 1) if settings["folds"] else TRAINED
    name = results["data"]["name"]
    return Page(
        title=f"Audit of labels{f': {name}' if name else ''}",
        under=f"{counted(found['samples'], 'sample')}, {len(found['classes'])} classes.",
        answer=answer(results),
        details=details(results),
        sections=[
            Section(
                "The most suspicious",
                [
                    _strips(first),
                    Text("The rank in suspicious.csv: given → suggested, how probable.", "notes"),
                ]
                if first
                else [],
            ),
            Section("Given and suggested", [_pairs(found["pairs"][:PAIRS])], terminal=True),
            Section("The other pairs", [_pairs(found["pairs"][PAIRS:])], folded="one by one"),
            Section("Class by class", [_classes(found)], terminal=True),
            Section(
                "Pictures by given and suggested class",
                by_pair,
                folded="the most suspicious of each",
            ),
            *how_measured(
                results,
                [Text(DEFINITION), Text(how)],
                command(["keras-swapout", "audit"], settings, (*OPTIONS, *_OWN)),
                LIMITS,
            ),
        ],
    )


_OWN = ("method", "folds")


def _strips(pictures):
    return Strips([(one.said, [one.url]) for one in pictures])


def _pairs(pairs):
    rows = [
        Row(
            f"{pair['given']} → {pair['suggested']}",
            [
                Cell(f"{pair['suspicious']:,}"),
                Cell(share(pair["suspicious"], pair["samples"])),
                Cell(f"{pair['sure']:.2f}"),
            ],
        )
        for pair in pairs
    ]
    columns = [
        Column("Suspicious", "labels"),
        Column("Share", "of those given so"),
        Column("Probability", "of the suggestion, median"),
    ]
    return Table("Given → suggested", columns, rows)


def _classes(found):
    every = sorted(found["classes"], key=lambda c: -c["suspicious"] / c["samples"])
    rows = [
        Row(
            c["name"],
            [
                Cell(f"{c['samples']:,}"),
                Cell(f"{c['suspicious']:,}"),
                Cell(share(c["suspicious"], c["samples"])),
                Cell(f"{c['suggested']:,}"),
            ],
        )
        for c in every
    ]
    columns = [
        Column("Labels"),
        Column("Suspicious"),
        Column("Share"),
        Column("Suggested", "for others"),
    ]
    return Table("Class", columns, rows)
