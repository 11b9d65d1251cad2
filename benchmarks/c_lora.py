"""C-LoRA against zero-shot and contextual calibration: tasks x models x seeds, as mean +- std.

    python benchmarks/c_lora.py --data FOLDER [--out runs/c-lora] [--seeds 13 21 42] [--only sst2 ...]

FOLDER holds NAME.train.jsonl and NAME.test.jsonl (see `tandemtune ls tasks`). Finished runs are not repeated and stopped ones
are resumed, so the command may be killed and started again.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

SMOL, GEMMA, TINY = "pypi:smollm2-135m-instruct", "pypi:gemma3-270m", "pypi:splade-tiny"
CLOZE = 'task.labels={negative="terrible", positive="great"}'
PLAN: dict[str, tuple[dict[str, str], dict[str, str], list[str]]] = {  # name: [model], [task], overrides
    "sst2": ({"name": SMOL}, {"name": "sst2"}, []),
    "trec": ({"name": SMOL}, {"name": "trec"}, []),
    "agnews": ({"name": SMOL}, {"name": "agnews"}, ["task.max_tokens=64"]),
    "sst2, cloze": ({"name": SMOL}, {"name": "sst2", "template": "{text} It was {mask}"}, [CLOZE]),
    "sst2, Gemma 3 270M": ({"name": GEMMA}, {"name": "sst2"}, []),
    "sst2, masked (4M)": ({"name": TINY}, {"name": "sst2"}, ["method.layers=all"]),
}


def main() -> int:
    """Run the plan and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the tasks' files")
    parser.add_argument("--out", type=Path, default=Path("runs/c-lora"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 21, 42])
    parser.add_argument("--only", nargs="+", default=[], help="rows of the plan")
    parser.add_argument("--tag", default="", help="added to the folders' names")
    parser.add_argument("overrides", nargs="*", help="section.key=value for every run")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, (model, task, extra) in PLAN.items():
        if options.only and name not in options.only:
            continue
        results = []
        for seed in options.seeds:
            slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
            folder = options.out / f"{slug}{options.tag}-{seed}"
            settings = [
                f"{k}={json.dumps(v)}" for k, v in {**model_keys(model), **task_keys(task, options.data, seed)}.items()
            ]
            result = finished(folder, [*settings, *extra, *options.overrides])
            results.append(result)
            print(f"{folder}: {json.dumps(result['tuned'])}", file=sys.stderr, flush=True)
        rows.append(summarise(name, results))
        print(table(rows[-1:], header=len(rows) == 1), flush=True)
    (options.out / f"table{options.tag}.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


def model_keys(model: dict[str, str]) -> dict[str, Any]:
    """Overrides of [model]."""
    return {f"model.{key}": value for key, value in model.items()}


def task_keys(task: dict[str, str], data: Path, seed: int) -> dict[str, Any]:
    """Overrides of [task]."""
    return {**{f"task.{key}": value for key, value in task.items()}, "task.data": str(data), "task.seed": seed}


def finished(folder: Path, overrides: list[str]) -> dict[str, Any]:
    """The result of a run, made, resumed or just read; each run has a process of its own, so that peak memory is its own."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    base = folder.parent / "empty.toml"
    base.write_text("", encoding="utf-8")
    started = (folder / "recipe.json").exists()
    words = ["resume", str(folder)] if started else ["run", str(base), *overrides, "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "tandemtune", *words, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def summarise(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of everything that a table shows."""
    columns = {
        "zero-shot": [r["zero_shot"]["test"] for r in results],
        "zero-shot, calibrated": [r["zero_shot"]["calibrated"]["test"] for r in results],
        "tuned": [r["tuned"]["test"] for r in results],
        "tuned, calibrated": [r["tuned"]["calibrated"]["test"] for r in results],
        "dev loss before": [r["zero_shot"]["dev_loss"] for r in results],
        "dev loss after": [r["tuned"]["dev_loss"] for r in results],
        "candidates": [r["cost"]["candidates"] for r in results],
        "minutes": [r["cost"]["seconds"] / 60 for r in results],
        "peak MB": [r["cost"]["peak_rss_mb"] for r in results],
    }
    spread = {k: (statistics.mean(v), statistics.stdev(v) if len(v) > 1 else 0.0) for k, v in columns.items()}
    return {"name": name, "metric": results[0]["metric"], "seeds": [r["seed"] for r in results], "columns": spread}


def table(rows: list[dict[str, Any]], header: bool = True) -> str:
    """Rows as Markdown."""
    names = list(rows[0]["columns"])
    lines = []
    if header:
        lines = ["| task | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = []
        for name in names:
            mean, std = row["columns"][name]
            whole = name in ("candidates", "peak MB")
            cells.append(
                f"{mean:.0f}"
                if whole
                else f"{mean:.1f} ± {std:.1f}"
                if name == "minutes"
                else f"{mean:.3f} ± {std:.3f}"
            )
        lines.append(f"| {row['name']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
