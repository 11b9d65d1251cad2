"""Make the pictures of README and documentation: `python docs/make_pictures.py RUN LOG`.

    tandemtune run quickstart --out runs/quickstart 2>&1 | tee quickstart.log
    python docs/make_pictures.py runs/quickstart quickstart.log

Args:
    RUN: folder of a finished run, whose report is drawn.
    LOG: what the command said, line by line; its folder is shown as runs/quickstart. Without it there is no recording.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tandemtune.report.predictions import confusion, labels_of
from tandemtune.report.run_page import run_charts
from tandemtune.report.run_view import RunView
from tandemtune.report.text import result_table
from tandemtune.runs.store import RunFolder

PICTURES = Path(__file__).parent / "pictures"
SHOWN = "runs/quickstart"
COMMAND = f"tandemtune run quickstart --out {SHOWN}"
WIDTH = 800
FONT = "system-ui, -apple-system, 'Segoe UI', sans-serif"
INK, DIM, EDGE, PAPER = "#1f2933", "#5b6773", "#9aa5b1", "#ffffff"
BLUE, GREEN, AMBER = "#dbe9f6", "#dcefe0", "#fbeecb"
HEAD = f'<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0L8 4L0 8z" fill="{DIM}"/></marker>'


def main(arguments: Sequence[str]) -> None:
    if not 1 <= len(arguments) <= 2:
        sys.exit(__doc__)
    folder = RunFolder.open(Path(arguments[0]))
    PICTURES.mkdir(exist_ok=True)
    _write("report", report(folder))
    _write("engine", engine())
    _write("tandem", tandem())
    if len(arguments) == 2:
        _write("terminal", recording(folder, Path(arguments[1]).read_text(encoding="utf-8")))


# ---- pictures of a run ---------------------------------------------------------------------------------------------


def report(folder: RunFolder) -> str:
    """The first charts of a run's report, one below the other."""
    run, charts = RunView.read(folder), run_charts(folder)
    parts = [text(20, 34, run.title, size=18, weight=600)]
    y = 60
    for name in ("scores", "classes"):
        if name in charts:
            chart = charts[name]
            parts.append(text(20, y + 6, chart.title, size=14, weight=600))
            parts.append(str(chart.svg(760)[0]).replace("<svg ", f'<svg x="20" y="{y + 14}" ', 1))
            y += 14 + chart.size(760) + 26
    rows = [row for row in run.predictions if row.gold is not None]
    if rows:
        labels = labels_of(rows, run.facts.labels if run.facts else {})
        parts.append(text(20, y + 6, "Confusion matrix of the test rows", size=14, weight=600))
        matrix, height = _matrix(labels, confusion(rows, labels), 20, y + 20)
        parts, y = [*parts, *matrix], y + 20 + height + 20
    return svg(WIDTH, y, f"Report of a run: {run.title}", parts)


def _matrix(labels: Sequence[str], counts: Sequence[Sequence[int]], x: int, y: int) -> tuple[list[str], int]:
    """Counts of gold (rows) against predicted labels, shaded by their share of a row; and how high that is."""
    wide, high, side = 120, 34, 130
    parts = [
        text(x + side + wide * (i + 0.5), y + 14, f"said {name}", DIM, 12, "middle") for i, name in enumerate(labels)
    ]
    for i, (name, row) in enumerate(zip(labels, counts, strict=True)):
        top = y + 22 + high * i
        parts.append(text(x, top + 22, f"is {name}", DIM, 12))
        for j, count in enumerate(row):
            share = count / max(sum(row), 1)
            left = x + side + wide * j
            parts.append(
                f'<rect x="{left}" y="{top}" width="{wide - 2}" height="{high - 2}" fill="#2a6fb0" fill-opacity="{share:.2f}"/>'
            )
            parts.append(text(left + wide / 2, top + 21, str(count), PAPER if share > 0.5 else INK, 14, "middle"))
    return parts, 22 + high * len(labels)


def recording(folder: RunFolder, log: str) -> str:
    """A terminal with the command and what it said.

    Args:
        folder: the run, whose table is shown in the terminal's own style.
        log: what was printed; of several runs in one log that of `folder`.
    """
    lines = log.splitlines()
    ends = [i for i, line in enumerate(lines) if line.startswith("the run lies in ")]
    end = next((i for i in ends if f" {folder.path};" in lines[i] or f" {SHOWN};" in lines[i]), None)
    if end is None:
        sys.exit(f"the log does not say that a run lies in {folder.path} or in {SHOWN}")
    begin = max([i + 1 for i in ends if i < end], default=0)
    ours = [line.replace(str(folder.path), SHOWN) for line in lines[begin : end + 1]]
    table = next(i for i, line in enumerate(ours) if line.startswith("┏"))
    result = folder.read_result()
    assert result is not None
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text.assemble(("$ ", "bold green"), (COMMAND, "bold")))
    for line in ours[: table - 1]:
        console.print(Text(line, "dim" if not line.startswith(("template '", "start")) else ""))
    console.print(result_table(result))
    console.print(Text(ours[-1].partition(";")[0]))
    drawn = console.export_svg(title="tandemtune", unique_id="recording")
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)  # nothing is fetched
    return "\n".join(line.rstrip() for line in drawn.splitlines())


# ---- diagrams -------------------------------------------------------------------------------------------------------


def engine() -> str:
    """How a population is scored."""
    parts = [
        box(20, 50, 160, 74, ["rows", "template, label words"], BLUE),
        box(230, 50, 220, 74, ["layers below", "the changed one: computed", "once for all candidates"], GREEN),
        box(
            500,
            50,
            280,
            74,
            ["the changed layer", "all candidates as one batch", "prompts end to end, no padding"],
            AMBER,
        ),
        box(500, 184, 280, 60, ["layers above", "the same batch goes on"], AMBER),
        box(500, 304, 280, 60, ["head", "label words only, at the answer"], AMBER),
        box(230, 304, 220, 60, ["objective", "a loss for each candidate"], BLUE),
        box(20, 304, 160, 60, ["optimizer", "ask / tell"], BLUE),
        box(230, 184, 220, 60, ["subspace, tunable", "z → LoRA, prompt, bias ..."], GREEN),
        arrow([(180, 87), (228, 87)]),
        arrow([(450, 87), (498, 87)]),
        arrow([(640, 124), (640, 182)]),
        arrow([(640, 244), (640, 302)]),
        arrow([(500, 334), (452, 334)]),
        arrow([(230, 334), (182, 334)]),
        arrow([(100, 304), (100, 214), (228, 214)]),
        arrow([(450, 214), (475, 214), (475, 108), (498, 108)]),
        text(205, 325, "losses", DIM, 12, "middle"),
        text(110, 205, "candidates z", DIM, 12),
        text(20, 26, "A generation in the evaluation engine", size=16, weight=600),
        text(20, 396, "The model's own layers are called from outside; no weight is written to.", DIM, 13),
    ]
    return svg(
        WIDTH, 416, "The engine: layers below the changed one are computed once, candidates go on as one batch", parts
    )


def tandem() -> str:
    """How an optimizer and a mentor take turns."""
    parts = [
        text(20, 26, "An optimizer and a mentor in turns", size=16, weight=600),
        box(20, 60, 220, 84, ["the doer", "tunes numbers for a round:", "LoRA or a prompt"], BLUE),
        box(290, 60, 220, 84, ["draft with losses", "words, best ones so far,", "what is confused"], GREEN),
        box(560, 60, 220, 84, ["the mentor", "a language model (or a control)", "proposes words"], AMBER),
        box(560, 230, 220, 70, ["scores", "by the tuned model,", "on train and dev rows"], GREEN),
        box(290, 230, 220, 70, ["accept?", "always, or if dev is better"], GREEN),
        box(20, 230, 220, 70, ["the next round", "begins at these words"], BLUE),
        box(290, 370, 220, 60, ["kept: lowest dev loss", "of the whole run"], BLUE),
        arrow([(240, 102), (288, 102)]),
        arrow([(510, 102), (558, 102)]),
        arrow([(670, 144), (670, 228)]),
        arrow([(560, 265), (512, 265)]),
        arrow([(290, 265), (242, 265)]),
        arrow([(100, 230), (100, 146)]),
        arrow([(400, 300), (400, 368)]),
        arrow([(400, 230), (400, 188), (190, 188), (190, 146)]),
        text(266, 257, "yes", DIM, 12, "middle"),
        text(205, 180, "no: it goes on where it was", DIM, 12),
        text(20, 456, "Every question and answer is journalled; a run that was killed pays for none twice.", DIM, 13),
    ]
    return svg(WIDTH, 476, "The tandem loop: the optimizer tunes, the mentor proposes words, dev rows choose", parts)


# ---- shapes ---------------------------------------------------------------------------------------------------------


def svg(width: int, height: float, title: str, parts: Sequence[str]) -> str:
    """A drawing on a white card, which reads in light and in dark pages."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:g}" width="{width}" height="{height:g}" '
        f'role="img" color="{INK}" font-family="{FONT}"><title>{escape(title)}</title><defs>{HEAD}</defs>'
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def text(
    x: float, y: float, said: str, fill: str = INK, size: int = 14, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(said)}</text>"
    )


def box(x: int, y: int, width: int, height: int, lines: Sequence[str], fill: str) -> str:
    """A box with a bold first line."""
    top = y + height / 2 - 9 * (len(lines) - 1) + 5
    said = [
        text(x + width / 2, top + 18 * i, line, INK, 14 if i == 0 else 13, "middle", 600 if i == 0 else 400)
        for i, line in enumerate(lines)
    ]
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{fill}" stroke="{EDGE}"/>' + "".join(
        said
    )


def arrow(points: Sequence[tuple[int, int]]) -> str:
    way = " ".join(f"{x},{y}" for x, y in points)
    return f'<polyline points="{way}" fill="none" stroke="{DIM}" stroke-width="1.6" marker-end="url(#tip)"/>'


def _write(name: str, content: str) -> None:
    (PICTURES / f"{name}.svg").write_text(content.rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
