"""What a reader sees of a page and of the terminal, after checks that it is whole."""

import html.parser
import io
import math
import re
from collections.abc import Mapping

from keras_swapout.study.report.page import render, show
from keras_swapout.study.report.tables import Table

HOSTILE = '<script>alert("1")</script>'
VOID = {"br", "hr", "img", "input", "link", "meta", "use", "path", "line", "rect", "circle"}
LOADS = ("src", "href", "xlink:href", "data", "srcset")


class Reader(html.parser.HTMLParser):
    """Collects text, tags, identifiers and what a browser would fetch."""

    def __init__(self, source):
        super().__init__()
        self.source, self.open, self.tags, self.fetched, self.ids = source, [], [], [], []
        self.text = ""
        self.feed(source)
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [value for key, value in attributes if key == "id"]
        self.fetched += [value for key, value in attributes if key in LOADS]
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
        if "style" not in self.open:
            self.text += data


def read(page):
    """The HTML of a page, or of a file, as a `Reader`: it stands alone and says no NaN or None."""
    source = render(page) if isinstance(page, tuple) else page.read_text(encoding="utf-8")
    reader = Reader(source)
    assert not reader.open
    assert not {"script", "link", "iframe", "object", "embed"} & set(reader.tags)
    assert all(url.startswith(("#", "data:image/png;base64,")) for url in reader.fetched)
    assert not re.search(r"https?://|@import|url\((?!#)", source)
    assert len(reader.ids) == len(set(reader.ids))
    referred = {url[1:] for url in reader.fetched if url[0] == "#"}
    assert referred | set(re.findall(r"url\(#([^)]+)\)", source)) <= set(reader.ids)
    assert not re.search(r"\b(nan|NaN|None|inf|Undefined)\b", reader.text)
    assert not re.search(r"[\s\"]nan\b", source)
    return reader


def printed(page, *widths):
    """What the terminal shows, at the last of the widths: no line too long, no number cut."""
    from rich.console import Console

    for width in widths or (80, 110):
        stream = io.StringIO()
        show(page, Console(file=stream, width=width, no_color=True))
        text = stream.getvalue()
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text and not re.search(r"\b(nan|NaN|None|inf)\b", text)
        joined = " ".join(text.split())
        for sentence in (page.answer, *page.details):
            assert " ".join(sentence.split()) in joined
        for table in shown(page):
            kept = [i for i, column in enumerate(table.columns) if column.terminal]
            for cell in (row.cells[i] for row in table.rows for i in kept):
                assert re.search(rf"(?<!\S){re.escape(cell.text)}(?!\S)", text)
    return text


def shown(page):
    """The tables of the sections that are for the terminal."""
    parts = [part for section in page.sections if section.terminal for part in section.parts]
    return [part for part in parts if isinstance(part, Table)]


def finite(tree):
    """Whether every number in nested dicts, lists and tuples is."""
    if isinstance(tree, Mapping):
        return all(map(finite, tree.values()))
    if isinstance(tree, list | tuple):
        return all(map(finite, tree))
    return not isinstance(tree, float) or math.isfinite(tree)
