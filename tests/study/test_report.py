"""The engine of all reports, words to pages, and the page of a pilot."""

import io
import re

import numpy as np
import pytest

for package in ("jinja2", "matplotlib", "rich", "scipy", "statsmodels"):
    pytest.importorskip(package, reason='pip install "keras-swapout[pilot]"')

from pages import HOSTILE, printed, read  # noqa: E402
from rich.console import Console  # noqa: E402

from keras_swapout.study.measuring.comparison import NOT_TESTABLE, against, summary  # noqa: E402
from keras_swapout.study.measuring.measure import Measure  # noqa: E402
from keras_swapout.study.pilot import plots  # noqa: E402
from keras_swapout.study.pilot.compare import compare  # noqa: E402
from keras_swapout.study.pilot.report import make_page  # noqa: E402
from keras_swapout.study.report import page, words  # noqa: E402
from keras_swapout.study.report.answer import answer, how_tested, sentence  # noqa: E402
from keras_swapout.study.report.dots import Group, Mean, dots, in_words  # noqa: E402
from keras_swapout.study.report.drawing import new_figure  # noqa: E402
from keras_swapout.study.report.plots import pooled_bins  # noqa: E402
from keras_swapout.study.report.tables import Cell, Column, Row, Table, cell, column  # noqa: E402

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

ACCURACY = Measure("accuracy", "Accuracy", "accuracy", unit="%", digits=1)
NLL = Measure("nll", "NLL", "nll", higher_is_better=False)
GAP = Measure("gap", "Gap", "gap", higher_is_better=False, caveat="which alone is no gain")


# --- words ---------------------------------------------------------------------------------------


def test_number_texts():
    assert words.value_text(ACCURACY, None) == "–"
    assert words.value_text(ACCURACY, -0.0001) == "0.0 %"
    assert words.value_text(ACCURACY, -0.012, unit=False) == "−1.2"
    assert words.difference_text(ACCURACY, 0.0001) == "0.0"
    assert words.difference_text(ACCURACY, -0.01, points=True) == "−1.0 points"
    assert words.difference_text(NLL, 0.25, points=True) == "+0.250"
    assert words.difference_text(ACCURACY, None) == "–"
    assert words.size_text(ACCURACY, 0.0123) == "1.2 points"
    assert words.interval_text(NLL, -0.1, 0.25) == "−0.100 to 0.250"
    assert words.interval_text(NLL, None, None) == words.p_text(None) == ""
    # Never rounded across the threshold.
    assert words.p_text(0.0497) == "p = 0.050" and words.p_text(0.0994) == "p = 0.099"
    assert ACCURACY.finer(0.0002).digits == 2 and ACCURACY.finer(0.01).digits == 1
    assert ACCURACY.finer(1e-30).digits == 9 and ACCURACY.finer(0.0).digits == 1


def test_lists_and_titles():
    assert words.listed([]) == "" and words.listed(["a"]) == "a"
    assert words.listed(["a", "b", "c"], "or") == "a, b or c"
    assert words.listed(["a, b", "c", "d"]) == "a, b; c and d"
    assert [words.counted(n, "run") for n in (0, 1, 2000)] == ["no runs", "1 run", "2,000 runs"]
    assert [words.lower(title) for title in ("Test accuracy", "NLL", "θ")] == [
        "test accuracy",
        "NLL",
        "θ",
    ]
    assert words.upper("paired") == "Paired" and words.upper("θ of a") == "θ of a"


# --- answers -------------------------------------------------------------------------------------


def compared(groups, measures=(ACCURACY,), over="seeds", pairs=False, reference="", within=True):
    """Comparisons of the groups with the first; a group has a list of values for each measure."""
    first, *others = groups
    found = [
        {
            "first": first,
            "second": name,
            "subject": name.upper(),
            "reference": reference or first.upper(),
            "over": over,
            "paired": pairs,
        }
        for name in others
    ]
    names = [measure.name for measure in measures]
    return against(found, measures, lambda name, m, over: groups[name][names.index(m.name)], within)


BASE, UP, DOWN, SAME = [0.9, 0.91, 0.9], [0.95, 0.96, 0.95], [0.8, 0.81, 0.8], [0.9, 0.9, 0.91]


def test_an_answer_over_several_references_names_them():
    ones = compared({"a": [BASE], "b": [UP]}) + compared({"c": [BASE], "d": [DOWN]})
    text, details = answer(ones, ACCURACY)
    assert text.startswith("Better in accuracy: B against A by 5.0 points (")
    assert details[0].startswith("Worse: D against C by 10.0 points (")
    ones = compared({"a": [BASE], "b": [SAME]}) + compared({"c": [BASE], "d": [SAME]})
    text, details = answer(ones, ACCURACY)
    assert text == "No difference in accuracy was measured for B against A or D against C."
    assert len(details) == 1 and "intervals reach" in details[0] and "not ruled out" in details[0]
    assert answer([], ACCURACY) == answer(ones, NLL) == ("", [])


def test_an_answer_says_what_its_interval_is_over():
    images = np.random.default_rng(0).normal(0.5, 0.1, (2, 1234))
    images[1] += 0.1
    text, _ = answer(compared({"a": [images[0]], "b": [images[1]]}, (), "images"), ACCURACY)
    assert text == ""
    ones = compared({"a": [images[0]], "b": [images[1]]}, over="images", pairs=True)
    assert "95 % interval over 1,234 images " in answer(ones, ACCURACY)[0]
    assert how_tested(ones).startswith("Paired t-tests over images, two-sided at alpha = 0.05;")


def test_a_sentence_begins_with_the_first_measure_and_keeps_caveats():
    measures = (ACCURACY, NLL, GAP)
    groups = {"a": [BASE, BASE, UP], "b": [DOWN, SAME, BASE], "c": [UP, BASE, BASE]}
    worse, better = (sentence(one, measures) for one in compared(groups, measures))
    assert worse.startswith("B against A: worse in accuracy by 10.0 points (95 % interval ")
    assert re.search(r"; better in gap by 0\.050 \([^()]*; which alone is no gain\)", worse)
    assert re.search(r"; no difference measured in NLL \(0\.000, 95 % interval [^()]*\)\.$", worse)
    assert better.startswith("C against A: better in accuracy by 5.0 points (")
    assert ", in gap by 0.050 (" in better and "alone" not in better


def test_a_sentence_says_one_reason_once():
    measures = (ACCURACY, NLL, GAP)
    (one,) = compared({"a": [[0.9], [0.5], [0.1]], "b": [[0.9], [0.5], [0.1]]}, measures)
    assert sentence(one, measures) == (
        "B against A: not testable in accuracy, NLL and gap (a test needs two seeds of each, and "
        "there are 1 against 1)."
    )
    (one,) = compared({"a": [BASE, None, None], "b": [UP, None, None]}, measures)
    assert "NLL" not in sentence(one, measures)
    assert sentence(one, (NLL,)) == "B against A: not measured."


def test_how_tested_counts_what_was_tested():
    measures = (ACCURACY, NLL)
    groups = {"a": [BASE, BASE], "b": [UP, BASE], "c": [DOWN, [0.5]], "d": [[0.5], [0.5]]}
    seeds = compared(groups, measures)
    assert "Holm's correction over the 2 comparisons within each measure" in how_tested(seeds)
    everything = how_tested(compared(groups, measures, within=False), within=False)
    assert "Holm's correction over the 3 comparisons;" in everything
    both = how_tested(seeds + compared(groups, measures, "networks", pairs=True))
    assert both.startswith("Welch t-tests over seeds and paired t-tests over networks, two-sided")
    assert how_tested([]) == how_tested(compared({"a": [[0.9]], "b": [[0.8]]})) == ""


# --- tables and pages ----------------------------------------------------------------------------


def test_a_cell_has_the_mean_its_spread_and_the_contrast():
    (one,) = compared({"a": [BASE], "b": [UP]})
    row = one["measures"]["accuracy"]
    found = cell(ACCURACY, summary(UP), row, whose="tuned ")
    assert found.text == "95.3" and found.spread == "0.6" and found.kind == "better"
    assert found.lines == ("tuned +5.0 (3.7 to 6.3)",) and found.p == words.p_text(row["p"])
    (one,) = compared({"a": [[0.9]], "b": [[0.8]]})
    found = cell(ACCURACY, summary([0.8]), one["measures"]["accuracy"])
    assert found == Cell("80.0", "", ("−10.0",), NOT_TESTABLE, "") and found.kind == "same"
    assert cell(ACCURACY, summary([])) == Cell("–")
    assert column(ACCURACY).small == "%, higher is better"
    assert column(NLL, "more sure").small == "lower is more sure"


def every_part(text="text"):
    """A page with every kind of part, and those that have nothing to show."""
    figure = new_figure(2, 1)[0]
    cells = [Cell(text, "0.5", [text, "9" * 80], "better", "p = 0.01"), Cell("1", shade="red")]
    rows = [Row(text, cells, text, "#123456", best=True), Row("other", [Cell("2"), Cell("3")])]
    shown = Table(text, [Column(text, text), Column("hidden", terminal=False)], rows)
    shown = shown._replace(against="Against it", over="seeds")
    nothing = [
        None,
        page.Text(""),
        page.Code(""),
        page.Facts("no facts", []),
        page.Picture("no", "no picture", "no caption", None),
        Table("no rows", [Column("no column")], []),
    ]
    everything = [
        text,
        page.Text(f"{text} lead, {text}", "verdict", f"{text} lead", "#654321"),
        page.Text(f"{text} in small", "notes"),
        page.Text(f"{text} of tests", "test"),
        shown,
        shown._replace(shaded=True, columns=[Column("none", terminal=False)] * 2),
        page.Picture("first", text, text, figure),
        page.Picture("second", text, text, figure),
        page.Facts(text, [(text, text)]),
        page.Code(text),
        page.Strips([(text, ["data:image/png;base64,AAAA"] * 2)]),
        *nothing,
    ]
    sections = [
        page.Section(text, everything, terminal=True),
        page.Section("a folded one", [page.Text(text)], folded=text),
        page.Section("an empty one", nothing),
    ]
    first = page.Picture("answer", text, text, figure, f"{text}, said")
    return page.Page(text, text, text, [text], sections, first)


def test_a_page_of_every_part():
    reader = read(every_part())
    for tag, count in {"h2": 2, "svg": 3, "pre": 1, "img": 2, "details": 1, "summary": 1}.items():
        assert reader.tags.count(tag) == count, tag
    assert reader.tags.count("table") == 3 and "no " not in reader.text
    assert '<p class="verdict"><span class="chip" style="background: #654321"></span>' in (
        reader.source
    )
    assert "<b>text lead</b>, text</p>" in reader.source
    assert '<tr class="best">' in reader.source and 'style="background: red"' in reader.source
    assert "<b>text ± 0.5</b>" in reader.source and "▲ better" in reader.text
    assert '<table class="shades">' in reader.source
    labels = re.findall(r'<svg role="img" aria-label="([^"]*)"', reader.source)
    assert labels == ["text, said", "text", "text"]  # the answer's first
    read(every_part()._replace(picture=None))


def test_a_page_of_hostile_parts():
    reader = read(every_part(HOSTILE))
    assert "<script" not in reader.source
    assert reader.text.count(HOSTILE) >= 25


def test_the_terminal_shows_its_sections_answers_tables_and_verdicts():
    text = printed(every_part("[red]"), 60, 100)
    lines = [line.strip() for line in text.splitlines()]
    assert lines[:3] == ["", "[red]", "[red]"]  # the answer and its detail
    assert "[red] lead, [red]" in lines and "[red] of tests" in lines
    assert "in small" not in text and "hidden" not in text and "folded" not in text
    assert text.count("Against it: ▲ better, ▼ worse") == 1
    assert "± is the standard deviation over seeds." in " ".join(text.split())


def test_a_narrow_terminal_cuts_nothing():
    nll = Measure("nll", "Negative log likelihood", "nll", higher_is_better=False)
    values = [Cell(f"{i}.123", "0.456", verdict="worse") for i in range(5)]
    title = "a_title_longer_than_the_column"
    table = Table("", [column(nll)] * 5, [Row(f"{title}, {title}", values)])
    table = table._replace(against="Against it", over="files")
    made = page.Page("", "", "An answer.", [], [page.Section("", [table], terminal=True)])
    narrow, wide = printed(made, 60), printed(made, 160)
    assert "NLL" in narrow and "0.123 ▼ " in narrow and "0.123 ± 0.456 ▼" in wide
    assert narrow.count("± 0.456") == 5 and "likelihood" in wide and title in wide
    assert title in "".join(line[:26].strip() for line in narrow.splitlines())


def test_the_terminal_without_unicode():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    page.show(every_part("Swapout Θ −1 ×"), Console(file=stream, width=100))
    stream.flush()
    assert b"+/- 0.5" in raw.getvalue() and b"Swapout ? -1 x" in raw.getvalue()


def test_rows_without_cells_are_headings():
    rows = [Row("One kind", ()), Row("a", [Cell("1.5", "0.5")]), Row("Another", ())]
    made = page.Page("", "", "", [], [page.Section("", [Table("", [Column("x")], rows)], True)])
    assert '<th scope="rowgroup" colspan="2">One kind</th>' in read(made).source
    stream = io.StringIO()
    page.show(made, Console(file=stream, width=120))
    lines = [line.split() for line in stream.getvalue().splitlines()]
    assert ["One", "kind"] in lines and ["a", "1.5", "±", "0.5"] in lines


def test_dots_intervals_and_what_they_are_seen_against():
    rows = [Mean("a", "#0072b2", 0.9, (0.85, 0.95), [0.88, 0.92]), Mean("b", "#d55e00", 0.7, None)]
    groups = [Group("", rows, 0.9), Group("nothing", [])]
    (axes,) = dots(groups, ACCURACY).axes
    values = [c.get_offsets()[:, 0].tolist() for c in axes.collections]
    assert values == [pytest.approx([88, 92]), pytest.approx([70])]
    assert [90, 90] in [pytest.approx(list(line.get_xdata())) for line in axes.lines]
    low, high = axes.get_xlim()
    assert low < 70 and 95 < high <= 101
    assert in_words(groups[:1], ACCURACY) == (
        "Accuracy. a: 90.0 % (95 % interval 85.0 to 95.0). b: 70.0 %."
    )
    assert dots([], ACCURACY) is None and dots(groups[1:], ACCURACY) is None
    far = Mean("c", "#0072b2", 0.1, (-9.0, 9.2), [0.05, 0.15])  # runs out of the picture
    assert dots([Group("", [far], 0.0)], NLL, True).axes[0].get_xlim()[1] < 1


def test_a_page_is_written_whole(tmp_path):
    path = page.write(every_part(), tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "report.html"
    assert path.read_text(encoding="utf-8") == page.render(every_part())
    assert list(path.parent.iterdir()) == [path]


# --- a pilot's page ------------------------------------------------------------------------------


def make_results(gains, seeds=3, size=360, rng_seed=0):
    """Results as a pilot writes them; `gains` adds to each method's test accuracy."""
    rng = np.random.default_rng(rng_seed)
    edges = np.linspace(0, 1, 16)
    centres = (edges[1:] + edges[:-1]) / 2
    epochs = np.arange(1, 9)
    runs = []
    for name, gain in gains.items():
        for seed in range(seeds):
            accuracy = float(round((0.9 + gain + rng.normal(0, 0.004)) * size) / size)
            count = np.r_[[0] * 5, rng.multinomial(size, np.full(10, 0.1))]
            corruption = {
                kind: {str(k): float(accuracy - 0.05 * k + rng.normal(0, 0.01)) for k in (1, 3, 5)}
                for kind in ("gaussian_noise", "contrast")
            }
            runs.append(
                {
                    "method": name,
                    "seed": seed,
                    "seconds": 12.0,
                    "epochs": len(epochs),
                    "parameters": 1000,
                    "test": {"accuracy": accuracy, "nll": 0.3 - gain, "ece": 0.02},
                    "train": {"accuracy": 0.99, "nll": 0.02},
                    "calibration": {
                        "edges": edges.tolist(),
                        "count": count.tolist(),
                        "confidence": [
                            float(c) if n else None for c, n in zip(centres, count, strict=True)
                        ],
                        "accuracy": [
                            float(c) if n else None for c, n in zip(centres, count, strict=True)
                        ],
                    },
                    "corruption": corruption,
                    "corruption_accuracy": float(
                        np.mean([list(v.values()) for v in corruption.values()])
                    ),
                    "history": {
                        "loss": np.exp(-epochs / 2.0).tolist(),
                        "val_accuracy": (accuracy - np.exp(-epochs)).tolist(),
                    },
                }
            )
    ratio = {"train_step_ratio": 1.05, "train_step_ratio_low": 1.0, "train_step_ratio_high": 1.1}
    return {
        "settings": {"epochs": 8, "recipe": {"momentum": 0.9}, "corruption_images": 200},
        "environment": {"keras": "3.12", "gpu": None},
        "data": {
            "name": "digits",
            "classes": [str(i) for i in range(10)],
            "image_shape": [8, 8, 1],
            "sizes": {"train": 1000, "validation": 200, "test": size},
            "source": "somebody's digits, CC BY 4.0",
            "mean": [77.9],
            "std": [95.8],
        },
        "methods": {
            name: {"title": name.replace("_", " ").capitalize(), "formula": f"Y = {name}"}
            for name in gains
        },
        "runs": runs,
        "timing": {"methods": {name: dict(ratio) for name in gains}},
    }


FIVE = {
    "plain": 0,
    "residual_dropout": -0.05,
    "stochastic_depth": 0,
    "skip_forward": 0.04,
    "swapout": 0.01,
}


def pilot_page(results):
    return make_page(results, compare(results))


@pytest.fixture(scope="module")
def five():
    results = make_results(FIVE)
    comparison = compare(results)
    return results, comparison, make_page(results, comparison)


def test_page_says_everything(five):
    results, comparison, made = five
    reader = read(made)
    assert made.answer in reader.text and comparison["test"] in reader.text
    for sentence_ in comparison["details"]:
        assert sentence_ in reader.text
    for name, method in comparison["methods"].items():
        assert method["title"] in reader.text and method["verdict"] in reader.text
        assert results["methods"][name]["formula"] in reader.text
    for part in ("somebody's digits, CC BY 4.0", "1,000 train", "recipe.momentum", "3.12"):
        assert part in reader.text
    assert "200 images of it" in reader.text
    assert "▲ better" in reader.text and "▼ worse" in reader.text
    assert "not a sample of yours" in reader.text  # the limits
    assert reader.tags.count("svg") == 4
    for part in ("Test accuracy (%)", "Severity of the corruption", "Confidence (%)", "Epoch"):
        assert part in reader.text
    assert "gaussian noise" in reader.text


def test_terminal_says_verdicts_and_how_they_were_tested(five):
    _, comparison, made = five
    text = printed(made)
    assert "▲" in text and "▼" in text and "±" in text
    joined = " ".join(text.split())
    for said in (comparison["test"], *(m["verdict"] for m in comparison["methods"].values())):
        assert " ".join(said.split()) in joined
    assert "Against plain: ▲ better" in joined


def test_one_table_for_all_shares_of_wrong_labels():
    results = make_results({"plain": 0, "swapout": 0.04})
    wrong = make_results({"plain": -0.2, "swapout": 0.0}, rng_seed=1)["runs"]
    results["runs"] += [{**run, "noise": 0.3, "memorised": {"given": 0.5}} for run in wrong]
    made = pilot_page(results)
    (table,) = [part for part in made.sections[0].parts if isinstance(part, Table)]
    assert [row.title for row in table.rows if not row.cells] == [
        "With the labels as they are",
        "With 30 % of the training labels wrong",
    ]
    titles = ["Plain", "Swapout"]
    assert [row.title for row in table.rows if row.cells] == titles * 2
    assert all(len(row.cells) in (0, len(table.columns)) for row in table.rows)
    assert not made.sections[0].folded and all(s.folded for s in made.sections[1:-1])
    reader = read(made)
    assert reader.text.index("seed by seed") < reader.text.index("The numbers")


def test_the_same_page_each_time_and_the_command_to_repeat_it():
    results = make_results({"plain": 0}, seeds=1)
    settings = {"data": "my images", "methods": ["plain"], "seeds": 3, "batch_size": 64}
    results["settings"] = settings | {"limit": None, "momentum": 0.9}
    reader = read(pilot_page(results))
    command = "keras-swapout pilot --data 'my images' --methods plain --seeds 3 --batch-size 64"
    assert f"{command} " in reader.text
    assert page.render(pilot_page(results)) == reader.source


def test_hostile_names_are_escaped():
    results = make_results({"plain": 0, "swapout": 0.04})
    results["data"]["name"] = results["data"]["source"] = HOSTILE
    results["data"]["classes"] = [HOSTILE]
    results["settings"]["data"] = HOSTILE
    results["environment"][HOSTILE] = HOSTILE
    results["methods"]["swapout"] = {"title": f"{HOSTILE} $x_1$ [red]", "formula": HOSTILE}
    made = pilot_page(results)
    reader = read(made)
    assert "<script" not in reader.source
    assert reader.text.count(HOSTILE) >= 8
    terminal = printed(made, 200)
    assert "[red]" in terminal and HOSTILE in terminal


SCENES = {
    "one seed": lambda: make_results({"plain": 0, "swapout": 0}, seeds=1),
    "no plain": lambda: make_results({"swapout": 0, "skip_forward": 0}),
    "no runs": lambda: make_results(FIVE, seeds=0),
    "bare": lambda: {
        "methods": {"plain": {}, "swapout": {}},
        "runs": [{"method": "plain", "seed": 0, "test": {"accuracy": 0.9}}],
    },
    "twelve": lambda: make_results(
        {"plain": 0} | {f"method_{i}_with_a_rather_long_name": 0 for i in range(11)}, seeds=2
    ),
}


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.filterwarnings("error")
def test_scenes(scene):
    made = pilot_page(SCENES[scene]())
    assert made.answer in read(made).text
    printed(made)


def test_interrupted_and_damaged_runs():
    results = make_results({"plain": 0, "swapout": 0})
    results["runs"] = results["runs"][:-2]
    run = results["runs"][1]
    run["test"]["accuracy"] = float("nan")
    run["history"]["loss"][3:] = [float("nan")] * 5
    run["history"]["val_accuracy"] = []
    del results["runs"][2]["calibration"], results["runs"][3]["corruption"]
    del results["timing"]["methods"]["swapout"]
    text = read(pilot_page(results)).text
    assert "Only 1 of 3 runs finished." in text and "left out" in text


def test_pyplot_is_not_touched(five):
    import matplotlib
    from matplotlib import _pylab_helpers

    before = dict(matplotlib.rcParams)
    for draw in plots.FIGURES.values():
        draw(five[0], five[1])
    assert not _pylab_helpers.Gcf.figs
    assert dict(matplotlib.rcParams) == before


def test_twelve_methods_look_different_and_the_same_everywhere():
    results = make_results({"plain": 0} | {f"m{i}": 0 for i in range(11)}, seeds=1)
    drawn = plots.styles(results)
    assert len({style.colour for style in drawn.values()}) == 12
    assert drawn["plain"].colour == plots.PLAIN
    figure = plots.seeds(results, compare(results))
    seen = {tuple(np.round(c.get_facecolor()[0], 3)) for c in figure.axes[0].collections}
    assert len(seen) == 12


def test_pooled_bins_are_weighted():
    first = {"edges": [0, 0.5, 1], "count": [0, 1], "confidence": [None, 0.6]}
    second = {"edges": [0, 0.5, 1], "count": [0, 3], "confidence": [None, 1.0]}
    runs = [{"calibration": first | {"accuracy": [None, 0.0]}}]
    runs += [{"calibration": second | {"accuracy": [None, 1.0]}}, {}]
    count, confidence, accuracy = pooled_bins(runs)
    assert count.tolist() == [0, 4]
    assert np.isnan(confidence[0]) and confidence[1] == pytest.approx(0.9)
    assert accuracy[1] == pytest.approx(0.75)
    with pytest.raises(ValueError, match="bins"):
        pooled_bins([*runs, {"calibration": first | {"edges": [0, 1]}}])


def test_accuracy_against_severity_starts_clean():
    results = make_results({"plain": 0})
    line = plots.severities(results, compare(results)).axes[0].lines[0]
    assert list(line.get_xdata()) == [0, 1, 3, 5]
    clean = np.mean([run["test"]["accuracy"] for run in results["runs"]])
    third = np.mean([by["3"] for run in results["runs"] for by in run["corruption"].values()])
    assert line.get_ydata()[0] == pytest.approx(100 * clean)
    assert line.get_ydata()[2] == pytest.approx(100 * third)
