"""README and docs: their Python runs, their commands are commands, their links lead somewhere."""

import contextlib
import inspect
import io
import re
import shlex
from pathlib import Path

import keras
import pytest

from keras_swapout.study import cli
from keras_swapout.study.pilot.settings import make_settings

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted(ROOT.glob("docs/**/*.md"))]
REPOSITORY = re.compile(
    r"https://(?:github\.com|raw\.githubusercontent\.com)/keras-swapout/keras-swapout/"
    r"(?:blob/|tree/)?main/([^)#\s]*)(#[^)\s]*)?"
)
WRITTEN = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
SHOWN = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.S | re.M)


def name(page):
    return str(page.relative_to(ROOT))


def shown(page, language):
    """The blocks of a page in a language, each with the line that it begins at."""
    text = page.read_text(encoding="utf-8")
    return [
        (text.count("\n", 0, found.start(2)), found[2])
        for found in SHOWN.finditer(text)
        if found[1] == language
    ]


def commands(page):
    """Those of ours, in blocks and in the text."""
    text = page.read_text(encoding="utf-8")
    found = [line for _, block in shown(page, "console") for line in block.splitlines()]
    found += re.findall(r"`(keras-swapout [^`]*)`", SHOWN.sub("", text))
    every = [re.search(r"keras-swapout (?!\[).*", line) for line in found]
    return [shlex.split(one[0], comments=True)[1:] for one in every if one]


def headings(page):
    """What links can lead to, as GitHub names it."""
    text = SHOWN.sub("", page.read_text(encoding="utf-8"))
    lines = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def efficientnet(real):
    """`EfficientNetB0`, but a small network for it where it would be downloaded and trained."""

    def build(include_top=True, weights="imagenet", input_shape=None, **kwargs):
        if weights != "imagenet":
            return real(include_top, weights, input_shape=input_shape, **kwargs)
        inputs = keras.Input(input_shape)
        x = keras.layers.Conv2D(8, 3, strides=4)(keras.layers.Rescaling(1 / 255)(inputs))
        for _ in range(2):
            fx = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3, padding="same")(x))
            x = keras.layers.Add()([x, keras.layers.Activation("relu")(fx)])
        return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))

    return build


@pytest.mark.parametrize("page", [page for page in PAGES if shown(page, "python")], ids=name)
def test_python_runs(page, tmp_path, monkeypatch):
    """As it stands, but for the number of epochs. A block that imports begins anew."""
    if page.name == "surgery.md" and keras.backend.backend() != "tensorflow":
        pytest.skip("its exports need TensorFlow")
    fit = keras.Model.fit
    monkeypatch.setattr(keras.Model, "fit", lambda *a, **k: fit(*a, **{**k, "epochs": 1}))
    real = keras.applications.EfficientNetB0
    monkeypatch.setattr(keras.applications, "EfficientNetB0", efficientnet(real))
    monkeypatch.chdir(tmp_path)
    space = {}
    for line, block in shown(page, "python"):
        if "import keras_swapout" in block:
            space = {}
        code = compile("\n" * line + block, str(page), "exec")
        with contextlib.redirect_stdout(io.StringIO()):
            exec(code, space)


@pytest.mark.tensorflow
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_are_commands(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.keras").touch()
    for argv in commands(page):
        assert argv[0] in cli.COMMANDS
        if len(argv) == 1 or "--help" in argv:
            continue
        given = vars(cli._parser(argv).parse_args(argv))
        if argv[0] == "pilot":
            known = inspect.signature(make_settings).parameters
            make_settings(**{name: value for name, value in given.items() if name in known})


@pytest.mark.tensorflow
def test_the_readme_is_short():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert shown(README, "python")


@pytest.mark.tensorflow
@pytest.mark.parametrize("page", WRITTEN, ids=name)
def test_links_lead_somewhere(page):
    text = SHOWN.sub("", page.read_text(encoding="utf-8"))
    places = [(ROOT / path, part) for path, part in REPOSITORY.findall(text)]
    near = re.findall(r"\]\((?!https?://)([^)#\s]*)(#[^)\s]*)?\)", text)
    if page == README:
        assert not near, "on the package index only absolute links lead somewhere"
    places += [(page.parent / path if path else page, part) for path, part in near]
    for path, part in places:
        assert path.exists(), path
        assert not part or part[1:] in headings(path), f"{path}{part}"
