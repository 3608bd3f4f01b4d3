import html.parser
import io
import re

import numpy as np
import pytest

for package in ("jinja2", "matplotlib", "rich", "scipy"):
    pytest.importorskip(package, reason='pip install "keras-swapout[pilot]"')

from rich.console import Console  # noqa: E402

from keras_swapout.study.pilot import plots  # noqa: E402
from keras_swapout.study.pilot.compare import compare  # noqa: E402
from keras_swapout.study.pilot.report import print_table, write_report  # noqa: E402
from keras_swapout.study.report.plots import pooled_bins  # noqa: E402

pytestmark = pytest.mark.tensorflow  # nothing here depends on the backend

HOSTILE = '<script>alert("1")</script>'
VOID = {"br", "hr", "img", "input", "link", "meta", "use", "path", "line", "rect", "circle"}


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
    ratio = {"train_step_ms": 10.0, "train_step_ratio": 1.05, "train_step_ratio_low": 1.0}
    ratio |= {"train_step_ratio_high": 1.1, "inference_ms": 3.0, "inference_ratio": 1.0}
    ratio |= {"inference_ratio_low": 0.97, "inference_ratio_high": 1.02}
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
        "timing": {"batch_size": 64, "methods": {name: dict(ratio) for name in gains}},
    }


FIVE = {
    "plain": 0,
    "residual_dropout": -0.05,
    "stochastic_depth": 0,
    "skip_forward": 0.04,
    "swapout": 0.01,
}


class Reader(html.parser.HTMLParser):
    """Collects text, tags and what a browser would fetch; checks that tags close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.fetched, self.ids, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for key, value in attributes if key == "id"]
        names = ("src", "href", "xlink:href", "data", "srcset")
        self.fetched += [value for key, value in attributes if key in names]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    page = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    return page, reader, re.sub(r"\s+", " ", "".join(reader.text))


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    results = make_results(FIVE)
    comparison = compare(results)
    path = write_report(results, comparison, tmp_path_factory.mktemp("pilot") / "new" / "folder")
    return results, comparison, path


def printed(results, width=110, **options):
    stream = io.StringIO()
    print_table(results, compare(results), Console(file=stream, width=width, **options))
    return stream.getvalue()


def test_page_says_everything(five):
    results, comparison, path = five
    _, _, text = read(path)
    assert path.name == "report.html"
    assert comparison["answer"] in text and comparison["test"] in text
    for sentence in comparison["details"]:
        assert sentence in text
    for name, method in comparison["methods"].items():
        assert method["title"] in text and method["verdict"] in text
        assert results["methods"][name]["formula"] in text
    for words in ("somebody's digits, CC BY 4.0", "1,000 train", "recipe.momentum", "3.12"):
        assert words in text
    assert "200 images of it" in text
    assert "better" in text and "worse" in text


def test_page_stands_alone(five):
    page, reader, _ = read(five[2])
    assert not {"script", "link", "iframe", "object", "embed", "img"} & set(reader.tags)
    assert all(value.startswith("#") for value in reader.fetched)
    assert not re.search(r"https?://|@import|url\((?!#)", page)
    assert len(reader.ids) == len(set(reader.ids))
    # What the figures refer to is there.
    referred = {value[1:] for value in reader.fetched} | set(re.findall(r"url\(#([^)]+)\)", page))
    assert referred <= set(reader.ids)


def test_page_has_the_figures(five):
    _, reader, text = read(five[2])
    assert reader.tags.count("svg") == 5
    for words in ("Test accuracy (%)", "Severity of the corruption", "Confidence (%)", "Epoch"):
        assert words in text
    assert "gaussian noise" in text


def test_page_is_the_same_each_time(tmp_path):
    results = make_results({"plain": 0}, seeds=1)
    first, second = (
        write_report(results, compare(results), tmp_path / name).read_bytes() for name in "ab"
    )
    assert first == second


def test_the_command_to_repeat_it(tmp_path):
    results = make_results({"plain": 0})
    settings = {"data": "my images", "methods": ["plain"], "seeds": 3, "batch_size": 64}
    results["settings"] = settings | {"limit": None, "momentum": 0.9}
    _, _, text = read(write_report(results, compare(results), tmp_path))
    command = "keras-swapout pilot --data 'my images' --methods plain --seeds 3 --batch-size 64"
    assert f"{command} " in text


def test_hostile_names_are_escaped(tmp_path):
    results = make_results({"plain": 0, "swapout": 0.04})
    results["data"]["name"] = results["data"]["source"] = HOSTILE
    results["data"]["classes"] = [HOSTILE]
    results["settings"]["command"] = f"keras-swapout pilot {HOSTILE}"
    results["environment"][HOSTILE] = HOSTILE
    results["methods"]["swapout"] = {"title": f"{HOSTILE} $x_1$ [red]", "formula": HOSTILE}
    page, reader, text = read(write_report(results, compare(results), tmp_path))
    assert "<script" not in page and "script" not in reader.tags
    assert text.count(HOSTILE) >= 8
    terminal = printed(results, width=200)
    assert "[red]" in terminal and HOSTILE in terminal


SCENES = {
    "one method": lambda: make_results({"plain": 0}),
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
def test_scenes(scene, tmp_path):
    results = SCENES[scene]()
    comparison = compare(results)
    page, _, text = read(write_report(results, comparison, tmp_path))
    assert comparison["answer"] in text
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", re.sub(r"gpu\s*None", "", text))
    assert not re.search(r"[\s\"]nan\b", page)
    terminal = printed(results)
    assert "nan" not in terminal.split() and "None" not in terminal


def test_interrupted_and_damaged_runs(tmp_path):
    results = make_results({"plain": 0, "swapout": 0})
    results["runs"] = results["runs"][:-2]
    run = results["runs"][1]
    run["test"]["accuracy"] = float("nan")
    run["history"]["loss"][3:] = [float("nan")] * 5
    run["history"]["val_accuracy"] = []
    del results["runs"][2]["calibration"], results["runs"][3]["corruption"]
    del results["timing"]["methods"]["swapout"]
    _, _, text = read(write_report(results, compare(results), tmp_path))
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


def test_terminal_table():
    results = make_results(FIVE)
    text = printed(results)
    assert "▲" in text and "▼" in text and "±" in text
    comparison = compare(results)
    joined = re.sub(r"\s+", " ", text)
    assert comparison["answer"] in joined
    for method in comparison["methods"].values():
        assert re.sub(r"\s+", " ", method["verdict"]) in joined


@pytest.mark.parametrize("width", [80, 110])
def test_terminal_keeps_its_numbers_whole(width):
    text = printed(make_results(FIVE), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    means = re.findall(r"\d\d\.\d(?:\s|$)", text)
    assert len(means) >= 10


def test_terminal_without_unicode():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    results = make_results(FIVE)
    results["methods"]["swapout"]["title"] = "Swapout Θ"
    print_table(results, compare(results), Console(file=stream, width=100))
    stream.flush()
    assert b"+/-" in raw.getvalue() and b"Swapout ?" in raw.getvalue()
