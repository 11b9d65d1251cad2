"""Sixteen small runs of a comparison: two at a time as processes of this machine, and over two workers of a Ray cluster.

    python benchmarks/ray_compare.py MODEL [--json FILE] [--repeats 1] [--budget 64]

They take turns; results have to be equal but for times, and what is reported is the ratio of wall times, the start of the cluster
apart.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

from rich.console import Console

from tandemtune import compare
from tandemtune.executors.ray import QUIET, connected
from tandemtune.runs.writing import write_json

WORDS = (
    "great film",
    "dull plot",
    "fine acting",
    "a story",
    "that we saw",
    "never",
    "very long",
    "good",
    "bad",
    "so so",
)


def plan(arguments: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Four methods, four seeds."""
    source = random.Random(0)
    for name in ("train", "test"):
        texts = dict.fromkeys(" ".join(source.choices(WORDS, k=6)) for _ in range(200))
        rows = [{"text": text, "label": ("bad", "good")[i % 2]} for i, text in enumerate(texts)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "train": str(place / "train.jsonl"),
        "test": str(place / "test.jsonl"),
        "template": "{text} It was {mask} .",
        "labels": {"bad": "terrible", "good": "great"},
        "shots": 8,
    }
    search = {"method.budget": arguments.budget, "popsize": 8}
    return {
        "title": "sixteen runs",
        "seeds": [1, 2, 3, 4],
        "jobs": 2,
        "all": {"model": {"name": arguments.model, "dtype": "float32", "threads": 1}},
        "tasks": {"words": {"task": task}},
        "methods": {
            "c-lora": {**search, "d": 40},
            "bbt": {**search, "d": 40},
            "lora": {"method.steps": 8},
            "readout": {},
        },
    }


def made(out: Path) -> dict[str, Any]:
    """What all runs have come to, without times."""
    found = {}
    for path in sorted(out.rglob("result.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        for volatile in ("seconds", "peak_rss_mb"):
            del content["cost"][volatile]
        found[str(path.relative_to(out))] = content
    return found


def main() -> None:
    """Run both in turn, print, and write the numbers down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model as recipes name it")
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    parser.add_argument("--repeats", type=int, default=1, help="comparisons of each kind")
    parser.add_argument("--budget", type=int, default=64, help="candidates of each search")
    arguments = parser.parse_args()
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    seconds: dict[str, list[float]] = {"processes": [], "ray": []}
    results = []
    with tempfile.TemporaryDirectory() as folder, connected(None):
        place = Path(folder)
        content = plan(arguments, place)
        for turn in range(arguments.repeats):
            for name, address in (("processes", None), ("ray", "auto")):
                out, begin = place / f"{name}-{turn}", time.perf_counter()
                compare(content, out=out, progress=lambda text: console.print(text, style="dim"), jobs=2, ray=address)
                seconds[name].append(time.perf_counter() - begin)
                results.append(made(out))
    if any(result != results[0] or len(result) != 16 for result in results):
        raise SystemExit("the results differ")
    ratio = statistics.median(r / p for r, p in zip(seconds["ray"], seconds["processes"], strict=True))
    console.print(f"16 runs, results equal; Ray over processes: {ratio:.2f} (of {arguments.repeats})")
    if arguments.json:
        write_json(arguments.json, {"model": arguments.model, "ratio": round(ratio, 3), "seconds": seconds})


console = Console(width=140)
if __name__ == "__main__":
    main()
