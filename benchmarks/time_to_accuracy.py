"""What the engine buys: minutes until a run reaches a dev accuracy, with the engine and with a plain loop.

    python benchmarks/time_to_accuracy.py [--generations 24] [--threads N] [--dtype FORMAT] [--out FOLDER] [section.key=value ...]

The plain loop scores candidate after candidate in float32, each with a whole forward pass over one padded batch. With the same
seed it has to take the same candidates as the engine in float32, generation by generation. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from contenders import FORMATS, naive
from tandemtune import autotune, tune
from tandemtune.problem import Problem
from tandemtune.runs.journal import read_lines
from tandemtune.runs.records import GenerationRecord, from_loss
from tandemtune.runs.store import RunFolder

CONTENDERS = ("engine", "engine, float32", "plain loop")


def main() -> None:
    """Make the three runs, each in a process of its own, and compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--generations", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="auto", choices=FORMATS, help="the engine's; what a run takes if left out")
    parser.add_argument("--out", type=Path, default=Path("runs/time-to-accuracy"))
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if options.one:
        one(options.one, options)
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for name in CONTENDERS:
        if not (folder(options.out, name) / "result.json").exists():
            given = [
                "--generations",
                str(options.generations),
                "--threads",
                str(options.threads),
                "--dtype",
                options.dtype,
                "--out",
                str(options.out),
            ]
            subprocess.run([sys.executable, __file__, *given, "--one", name, *options.overrides], check=True)
    report(options.out)


def folder(out: Path, name: str) -> Path:
    """Where a contender's run lies."""
    return out / name.replace(", ", "-").replace(" ", "-")


def one(name: str, options: argparse.Namespace) -> None:
    """Run one contender."""
    if name == "plain loop":
        build = autotune.build

        def built(*args: Any, **kwargs: Any) -> Problem:
            problem = build(*args, **kwargs)

            def evaluate(point: Any, candidates: Any, generation: int | None = None) -> Any:
                ((block, vectors),) = candidates.items()
                return naive(problem, dict(point), block, vectors).double().cpu().numpy()

            problem.evaluator.evaluate = evaluate  # type: ignore[method-assign]
            return problem

        autotune.build = built
    settings = [
        "method.name=c-lora",
        "task.templates=[]",
        "task.template={text} It was {mask}",
        f"model.dtype={options.dtype if name == 'engine' else 'float32'}",
        f"model.threads={options.threads}",
        "dev_every=2",
    ]
    settings += [f"budget={21 * options.generations}", "test_rows=50", *options.overrides]
    tune("quickstart", folder(options.out, name), overrides=settings, progress="none", overwrite=True)


def report(out: Path) -> None:
    """Minutes until each dev accuracy that all contenders reach, and whether the two float32 runs are one."""
    looks: dict[str, list[tuple[float, float]]] = {}
    taken: dict[str, list[int]] = {}
    for name in CONTENDERS:
        made = RunFolder.open(folder(out, name))
        seconds = {tick["step"]: tick["seconds"] for tick in reversed(read_lines(made.clock))}
        turns = [record for record in made.read_records() if isinstance(record, GenerationRecord)]
        looks[name] = [(seconds[turn.step], turn.dev.score) for turn in turns if turn.dev]
        losses = [[from_loss(loss) for loss in turn.losses] for turn in turns]
        taken[name] = [turn.accepted and found.index(min(found)) for turn, found in zip(turns, losses, strict=True)]
    same = [a == b for a, b in zip(taken["engine, float32"], taken["plain loop"], strict=True)]
    print(
        f"generations in which the float32 engine and the plain loop take the same candidate: {sum(same)} of {len(same)}"
    )
    reached = min(max(score for _, score in found) for found in looks.values())
    goals = sorted({score for _, score in looks["plain loop"] if score <= reached})[-4:]
    print("| dev accuracy | " + " | ".join(f"{name}, minutes" for name in CONTENDERS) + " | plain loop / engine |")
    print("|---" * (len(CONTENDERS) + 2) + "|")
    for goal in goals:
        minutes = [next(s for s, score in looks[name] if score >= goal) / 60 for name in CONTENDERS]
        print(f"| {goal:.3f} | " + " | ".join(f"{m:.2f}" for m in minutes) + f" | {minutes[-1] / minutes[0]:.1f} |")


if __name__ == "__main__":
    main()
