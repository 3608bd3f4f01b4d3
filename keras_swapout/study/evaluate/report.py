"""An evaluation's page, as data; `study.report.page` writes it and prints its tables."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from keras_swapout.study.evaluate.compare import INFERENCE
from keras_swapout.study.evaluate.measures import COMPARED, DECIDE, MEASURES
from keras_swapout.study.measuring.ways import DETERMINISTIC, RECALIBRATED
from keras_swapout.study.report import plots
from keras_swapout.study.report.dots import Group, Mean, differences
from keras_swapout.study.report.drawing import COLOURS, DASHES, MARKERS, Style
from keras_swapout.study.report.page import (
    Facts,
    Page,
    Picture,
    Section,
    Strips,
    Text,
    command,
    how_measured,
    shades,
)
from keras_swapout.study.report.tables import Row, Table, cell, column
from keras_swapout.study.report.words import counted

if TYPE_CHECKING:
    from keras_swapout.study.evaluate.data import Images

# The settings that the command line takes, in the order to show them.
OPTIONS = (
    "data",
    "samples",
    "split",
    "limit",
    "image_size",
    "scale",
    "mean",
    "std",
    "corruption_images",
    "severities",
    "batch_size",
    "import",
)
SIDE = 96  # pixels of an example on the page, at most

LIMITS = (
    "“No difference measured” does not mean that there is none: the interval beside it says how "
    "large a difference may still be.",
    "An interval over images says what other images of the same kind would show of these trained "
    "networks. Training again gives other networks, and only several seeds of each model tell how "
    "much that changes.",
    "The corruptions are synthetic. They are a stand-in for worse images, not a sample of yours: "
    "the examples above show whether they look like what your cameras do.",
    "The mean over corruptions and severities gives each of them the same weight. If some matter "
    "more to you, read their columns.",
    "Images that were trained on, or by which a model was chosen, flatter it. That the options "
    "give the split of the training can't be checked from a model file.",
    "The correction is for the number of comparisons, not for the number of measures.",
    "Times are of this machine, this batch size and this framework.",
)


def make_page(results: Mapping[str, Any], examples: Mapping[str, Any] | None = None) -> Page:
    """The page of an evaluation.

    Args:
        results: of `keras_swapout.study.evaluate.evaluate`.
        examples: of `examples`, or None to leave them out.
    """
    comparison, drawn = results["comparison"], styles(results["rows"])
    models, name = results["models"], results["data"]["name"]
    files = [file for model in models.values() for file in model["files"]]
    settings = {k: v for k, v in results["settings"].items() if k != "models"}
    again = {**settings, "import": results["imports"] or None}
    facts = [
        Facts(
            "Models",
            [
                (model, f"{one['parameters']:,} parameters; {', '.join(one['files'])}")
                for model, one in models.items()
            ],
        ),
        Facts("Ways of inference", _ways(results)),
        Facts("Corruptions", _corruptions(results["corruptions"])),
    ]
    several = len(files) > len(models)
    # One model in one way is compared with nothing: its accuracy by severity then comes first.
    first, *pictures = [*_differences(comparison, drawn), *_pictures(results, drawn, several)]
    sizes = results["data"]["sizes"]
    corruptions = len(results["corruptions"]["sources"])
    severities = len(settings["severities"])
    return Page(
        title=f"Evaluation{f': {name}' if name else ''}",
        under=f"{counted(len(models), 'model')}"
        + (f" in {len(files)} files" if several else "")
        + (
            f", {counted(sizes['evaluated'], 'image')}, {sizes['corrupted']:,} of them under "
            f"{corruptions} corruptions in {severities} severit{'ies' if severities > 1 else 'y'}."
            if corruptions
            else f", {counted(sizes['evaluated'], 'sample')}."
        ),
        answer=comparison["answer"],
        details=comparison["details"],
        sections=[
            *_numbers(results, drawn, several),
            Section(
                "Comparison by comparison",
                [Text(one["sentence"], "verdict") for one in comparison["comparisons"]],
                terminal=True,
                folded="a sentence for each",
            ),
            Section("Pictures", pictures, folded="severities, calibration, abstention"),
            Section("What the corruptions do", _examples(examples), folded="an image under each"),
            *how_measured(
                {**results, "settings": settings},
                facts,
                command(["keras-swapout", "evaluate", *files], again, OPTIONS),
                LIMITS,
            ),
        ],
        picture=first,
    )


def styles(rows: Mapping[str, Mapping[str, str]]) -> dict[str, Style]:
    """The look of every row: a colour for each model, dashes and marker for each way.

    Of one model the ways have colours of their own.

    Example:

    >>> drawn = styles({"a, x": {"model": "a", "way": "x"}, "a, y": {"model": "a", "way": "y"}})
    >>> drawn["a, x"].colour == drawn["a, y"].colour
    False
    """
    models = list(dict.fromkeys(row["model"] for row in rows.values()))
    ways = list(dict.fromkeys(row["way"] for row in rows.values()))
    found = {}
    for name, row in rows.items():
        model, way = models.index(row["model"]), ways.index(row["way"])
        found[name] = Style(
            name,
            COLOURS[(model if len(models) > 1 else way) % len(COLOURS)],
            DASHES[way % len(DASHES)],
            MARKERS[way % len(MARKERS)],
        )
    return found


def examples(images: Images) -> dict[str, Any]:
    """One image, clean and under each corruption at three severities, as PNG.

    Returns:
        {"clean": a data: URL, "severities", "corrupted": {name: [data: URLs]}}.
    """
    severities = images.options.severities
    shown = sorted({severities[0], severities[len(severities) // 2], severities[-1]})
    return {
        "clean": _png(images.images[images.chosen[0]]),
        "severities": shown,
        "corrupted": {
            name: [_png(images.corrupted(name, severity, count=1)[0]) for severity in shown]
            for name in images.corruptions
        },
    }


def _png(image):
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _examples(found):
    if not found:
        return []
    strips = [("clean", [found["clean"]])]
    strips += [(name.replace("_", " "), urls) for name, urls in found["corrupted"].items()]
    levels = ", ".join(map(str, found["severities"]))
    word = "severities" if len(found["severities"]) > 1 else "severity"
    note = f"One of the images, in {word} {levels} from left to right."
    return [Strips(strips), Text(note, "notes")]


def _differences(comparison, drawn):
    """What shows the answer: each difference with its interval; nothing where there is none."""
    comparisons = comparison["comparisons"]
    measure = next(
        (m for m in DECIDE if all(m.name in one["measures"] for one in comparisons)), None
    )
    groups = []
    for kind in ("model", "way") if measure else ():
        rows = [
            Mean(
                one["subject"],
                drawn[one["second"]].colour,
                row["difference"],
                None if row["low"] is None else (row["low"], row["high"]),
            )
            for one in comparisons
            if one["kind"] == kind
            and (row := one["measures"][measure.name])["difference"] is not None
        ]
        against = next((one["reference"] for one in comparisons if one["kind"] == kind), "")
        groups += [Group(f"against {against}", rows, 0.0)] if rows else []
    each = "The dot is the difference and the bar its 95 % interval."
    return [differences("what differs", each, groups, measure)] if groups else []


def _numbers(results, drawn, several):
    comparison = results["comparison"]
    present = {measure["name"] for measure in comparison["measures"]}
    measures = [m for m in MEASURES if m.name in present]
    against = {one["second"]: one["measures"] for one in comparison["comparisons"]}
    first_model = next(iter(results["models"]))

    def table(shown):
        return Table(
            "Model, way of inference",
            list(map(column, shown)),
            [
                Row(
                    name,
                    [
                        cell(m, row["measures"][m.name], against.get(name, {}).get(m.name))
                        for m in shown
                    ],
                    counted(row["runs"], "run") if several else "",
                    drawn[name].colour,
                )
                for name, row in comparison["rows"].items()
            ],
            against=f"A way against {INFERENCE}, a model against {first_model}",
            over="the files of a model",
        )

    first = [m for m in measures if m in COMPARED or m.name in ("ece", "time")]
    notes = ["Mean ± standard deviation over the files of a model."] if several else []
    if comparison["comparisons"]:
        notes.append(
            "Below it the difference with its 95 % interval in brackets and the verdict with its "
            "adjusted p-value: of a way from deterministic inference with the same model, of a "
            f"model from {next(iter(drawn))}."
        )
    notes.append(
        "The negative log likelihood is in nats. “Under corruption” is the mean over all "
        "corruptions and severities."
    )
    rest = [m for m in measures if m not in first]

    def explained(shown):
        return [Text(f"{m.title}: {m.note}.", "notes") for m in shown if m.note]

    main = [table(first), Text(" ".join(notes), "notes"), Text(comparison["test"], "test")]
    return [
        Section("The numbers", [*main, *explained(first)], terminal=True),
        Section(
            "Calibration, and knowing what is wrong",
            [table(rest), *explained(rest)] if rest else [],
            terminal=True,
            folded=f"{len(rest)} measures more",
        ),
    ]


def _pictures(results, drawn, several):
    runs = {row: [run for run in results["runs"] if run["row"] == row] for row in drawn}
    rows, sizes = results["comparison"]["rows"], results["data"]["sizes"]
    ece = {row: one["measures"].get("ece", {}).get("mean") for row, one in rows.items()}
    band = ", with a band of one standard deviation over the files of a model" if several else ""
    first = next(iter(drawn))
    table = shades("Model, way of inference", runs, drawn, first)
    return [
        Picture(
            "severities",
            "Accuracy against severity",
            f"The mean over {len(results['corruptions']['sources'])} corruptions{band}; clean "
            f"images are all {sizes['evaluated']:,}, corrupted ones {sizes['corrupted']:,} of "
            "them.",
            plots.severities(runs, drawn),
        ),
        "Corruption by corruption",
        table,
        Text(
            f"Accuracy (%), mean over severities; blue is above {first} and orange below, the "
            "stronger the further. No single cell is tested.",
            "notes",
        ),
        Picture(
            "calibration",
            "Calibration",
            "On the dashed diagonal a model is right as often as it claims, below it, it is "
            "overconfident; a dot grows with its bin's share of the clean images, and bins with "
            f"fewer than {plots.FEW} images are left out (ECE: expected calibration error).",
            plots.calibration(runs, drawn, ece),
        ),
        Picture(
            "risk_coverage",
            "Errors against coverage",
            "If the images that a model is least sure of, by its predictive entropy, go to a "
            "person, this is the error rate on the rest of the clean images; lower is better, and "
            "further right is more work done by the model.",
            plots.risk_coverage(runs, drawn),
        ),
    ]


def _ways(results):
    lines = [(DETERMINISTIC, "one pass without noise, as model.predict")]
    if any(row["way"] == RECALIBRATED for row in results["rows"].values()):
        training = results["data"]["sizes"]["train"]
        said = (
            "likewise, with the statistics of batch normalisation estimated again from the "
            f"{training:,} training images without noise"
        )
        lines.append((RECALIBRATED, said))
    elif results["settings"]["split"] == "all":
        said = (
            "left out: with --split all there are no training images to estimate the statistics "
            "of batch normalisation from"
        )
        lines.append((RECALIBRATED, said))
    said = (
        "mean of T sub-models, each with masks as in training and batch normalisation as at "
        "inference; for models with a stochastic layer"
    )
    return [*lines, ("stochastic", said)]


def _corruptions(found):
    """Source to the corruptions that come from it, and what was left out."""
    sources: dict[str, list[str]] = {}
    for name, source in found["sources"].items():
        sources.setdefault(source, []).append(name.replace("_", " "))
    lines = [(source, ", ".join(names)) for source, names in sources.items()]
    left = [("left out", f"{n.replace('_', ' ')}: {why}") for n, why in found["left_out"].items()]
    return lines + left
