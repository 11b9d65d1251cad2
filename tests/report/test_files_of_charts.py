"""Charts as files, by the command line."""

from __future__ import annotations

import shutil

import small
from report import made


def test_a_report_s_charts_are_written_as_files(tmp_path):
    place = shutil.copytree(made.run("c-lora"), tmp_path / "run")
    called = small.call("report", place, "--svg", tmp_path / "figures", "--png", tmp_path / "slides")
    assert called.code == 0 and (place / "report.html").exists(), called.err
    names = called.err.splitlines()[-1].removeprefix("charts: ").split(", ")
    assert {"scores", "classes", "loss"} <= set(names)
    assert sorted(path.name for path in (tmp_path / "figures").iterdir()) == sorted(f"{name}.svg" for name in names)
    assert sorted(path.name for path in (tmp_path / "slides").iterdir()) == sorted(f"{name}.png" for name in names)
    assert (tmp_path / "slides" / "loss.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "figures" / "scores.svg").read_text(encoding="utf-8")
    assert "<text" in text and "zero-shot" in text
