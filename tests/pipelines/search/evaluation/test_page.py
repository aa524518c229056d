"""The page of an evaluation: whole, self-contained, and not to be broken by names."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

from tests.support.commands import call


class Page(HTMLParser):
    """Notes tags that are not closed, and what would be loaded."""

    EMPTY = ("meta", "br")

    def __init__(self, text):
        super().__init__()
        self.open, self.loaded, self.tags = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_command_writes_the_page_and_the_numbers(job_file, built, tmp_path):
    out = tmp_path / "new" / "out"
    done = call("evaluate", job_file, "--beir", built[1], "--out", out, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((out / "evaluation.json").read_text())
    text = (out / "evaluation.html").read_text()
    page = Page(text)
    assert (page.open, page.loaded) == ([], [])
    assert "script" not in page.tags
    assert "url(" not in text
    assert "@import" not in text
    assert page.tags.count("polyline") == 2
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(drawing)
        assert "nan" not in drawing


def test_names_cannot_break_the_page(built, found):
    from pipelines.search.evaluation import page

    bad = {**found, "table": "<b>&x", "notes": ["<script>alert(1)</script>"]}
    assert "script" not in Page(page.render(bad)).tags
    assert "&lt;b&gt;&amp;x" in page.render(bad)
