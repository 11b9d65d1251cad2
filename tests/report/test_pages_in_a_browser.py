"""Pages in a real browser, where one is installed: no message on its console, no page wider than a small window, light and dark."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import made
import pytest

from tandemtune.report.comparison import compared
from tandemtune.report.comparison_page import comparison_page
from tandemtune.report.run_page import run_page
from tandemtune.runs.store import RunFolder

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")]
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"),
)
DARK = ("--blink-settings=preferredColorScheme=0", "--force-dark-mode")
MEASURE = """<script>
if (OPEN) for (const one of document.querySelectorAll('details')) one.open = true;
const room = document.documentElement.clientWidth, wide = [];
for (const one of document.querySelectorAll('main *, header *')) {
  const box = one.getBoundingClientRect();
  if (box.right > room + 0.5 && box.width && !one.parentElement.closest('.scroll, pre, svg, .unseen') && !one.closest('.unseen'))
    wide.push(one.tagName + ': ' + one.textContent.slice(0, 60));
}
const cut = [];
for (const one of document.querySelectorAll('svg text')) {
  const box = one.getBoundingClientRect(), around = one.closest('svg').getBoundingClientRect();
  if (box.width && (box.left < around.left - 2 || box.right > around.right + 2)) cut.push(one.textContent);
}
const scrolling = [];
for (const one of document.querySelectorAll('main > section > .scroll'))
  if (one.scrollWidth > one.clientWidth) scrolling.push(one.getAttribute('aria-label'));
const look = getComputedStyle(document.body);
parent.postMessage(JSON.stringify({room, cut, scrolling, page: document.documentElement.scrollWidth, wide, paper: look.backgroundColor, ink: look.color}), '*');
</script>"""
FRAME = """<!DOCTYPE html><html><head><style>:root{color-scheme:light dark}body{margin:0}iframe{border:0}</style>
<script>onmessage = (event) => { document.title = event.data; };</script></head>
<body><iframe src="measured.html" width="WIDTH" height="900"></iframe></body></html>"""
"""A window that may be narrower than the browser's own."""


def visited(path, tmp_path, width, *flags):
    """The page's elements as the browser has them, and what it wrote on its console."""
    profile = tmp_path / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    called = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            *flags,
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            "--dump-dom",
            path.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return called.stdout, [line for line in called.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    place = tmp_path_factory.mktemp("pages")
    texts = {kind: run_page(RunFolder(made.run(kind))) for kind in ("mentor", "c-lora")}
    texts["stopped"] = run_page(made.write_run(place / "stopped", finished=False))
    out, runs = made.comparison("mixed")
    runs = [*runs[:-1], runs[-1].model_copy(update={"result": None, "failure": "gone"})]
    texts["comparison"] = comparison_page(compared(runs, "prompt tuning", title="A comparison"), runs, out)
    methods = ("c-lora", "c-lora-calibrated", "prompt-tuning", "p-tuning-v2", "bitfit", "random-search", "maao")
    many = [
        made.run_of(method, seed, 0.5 + n / 20 + seed / 99, task)
        for n, method in enumerate(methods)
        for task in ("sst2", "yelp-polarity", "ag-news", "trec", "rte", "snli")
        for seed in (1, 2, 3)
    ]
    texts["large"] = comparison_page(compared(many, "c-lora"), many, out)
    for name, text in texts.items():
        (place / f"{name}.html").write_text(text, encoding="utf-8")
    return place


@pytest.mark.parametrize("name", ["mentor", "c-lora", "stopped", "comparison"])
def test_it_loads_without_a_word(pages, tmp_path, name):
    elements, console = visited(pages / f"{name}.html", tmp_path, 1000)
    assert console == []
    assert "</html>" in elements and elements.count("<section") >= 4 and "<svg" in elements


def test_the_console_is_heard(pages, tmp_path):
    text = (pages / "c-lora.html").read_text(encoding="utf-8")
    (tmp_path / "bad.html").write_text(text.replace("</main>", "<script>1</script></main>"), encoding="utf-8")
    console = visited(tmp_path / "bad.html", tmp_path, 1000)[1]
    assert len(console) == 1 and "Content Security Policy" in console[0], "a page's own policy refuses scripts"


def measured(text, place, opened, dark, width=320):
    """What the page says of itself in a window of some width."""
    text = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    script = MEASURE.replace("OPEN", json.dumps(opened))
    (place / "measured.html").write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    (place / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    flags = ("--virtual-time-budget=5000", *(DARK if dark else ()))
    elements, console = visited(place / "frame.html", place, max(width, 600), *flags)
    assert console == []
    return json.loads(html.unescape(re.search("<title>(.*?)</title>", elements, re.DOTALL)[1]))


@pytest.mark.parametrize("name", ["mentor", "c-lora", "stopped", "comparison"])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_small_window(pages, tmp_path, name, dark):
    text = (pages / f"{name}.html").read_text(encoding="utf-8")
    for opened in (False, True):
        found = measured(text, tmp_path, opened, dark)
        assert found["room"] == 320 and found["page"] <= 320 and found["wide"] == [] == found["cut"]
        assert found["paper"] == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
        assert found["ink"] == ("rgb(230, 233, 237)" if dark else "rgb(27, 31, 36)")


def test_what_does_not_fit_is_found(pages, tmp_path):
    text = (pages / "c-lora.html").read_text(encoding="utf-8")
    found = measured(text.replace("</main>", '<div style="width:400px">wide</div></main>'), tmp_path, False, False)
    assert found["page"] > 400 and found["wide"] == ["DIV: wide"]


@pytest.mark.parametrize("name", ["mentor", "c-lora", "stopped", "comparison", "large"])
def test_nothing_is_cut_off_in_a_usual_window(pages, tmp_path, name):
    text = (pages / f"{name}.html").read_text(encoding="utf-8")
    found = measured(text, tmp_path, False, False, 1280)
    assert found["room"] == 1280 and found["page"] <= 1280
    assert found["wide"] == found["cut"] == found["scrolling"] == []
