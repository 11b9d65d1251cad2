"""Racing candidates: does a part of the rows say which ones are worth scoring on all of them?

    python benchmarks/racing.py DATA [--tasks trec snli] [--seeds 13 21] [--generations 5] [--popsize 20]

DATA is a folder with the tasks' files. Candidates are those of two searches (`c-lora`, the first generation of each of some layers, and `es-lora`,
some generations of all layers together), scored on every training row. A race would score a part of the rows, each label with its share, keep the best
quarter of the candidates, and score these on the other rows as well. What it keeps can be told from the losses of single rows, so many draws of
the part cost nothing. Printed: how often the best candidate of all is among those kept, which share of the best quarter is, and what a
generation costs beside scoring all of it. Labelled rows come from `unseen_TASK.train.jsonl` where DATA has it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tandemtune import wiring
from tandemtune.config import load_config
from tandemtune.models.load import kind_of, locate, read_config
from tandemtune.search.schedule import Stage

METHODS = ("c-lora", "es-lora")
PARTS, KEPT, DRAWS = (0.25, 0.5, 0.75), 0.25, 50


def generations(options: argparse.Namespace, task: str, seed: int, method: str) -> Iterator[tuple[Any, Any]]:
    """Losses [P, N] of the candidates of each generation on each training row, and the rows' labels [N]."""
    own = options.data / f"unseen_{task}.train.jsonl"
    files = {"train": str(own)} if own.exists() else {}
    config = load_config(
        {
            "model": {"name": options.model, "dtype": "float32", "threads": 1},
            "task": {"name": task, "data": str(options.data), "seed": seed, "max_tokens": options.tokens, **files},
            "method": {"name": method, "popsize": options.popsize, "layers": "last:50%"},
        }
    )
    kind = kind_of(read_config(locate(options.model), None))
    made = wiring.make_task(config.task, kind)
    problem = wiring.make_problem(wiring.make_scorer(config, made, kind), made.split(config.task.shots, seed))
    origin, train = problem.scorer.parameters.initial(), problem.evaluator.train
    phase = wiring.make_phase(problem, origin, Stage("tune", steps=options.generations))
    for step in range(options.generations):
        _, blocks = phase.turn(step)
        optimizer: Any = phase.optimizer(blocks)
        vectors = phase.up(blocks, optimizer.ask())
        logits = problem.scorer.engine.population_logits(train, origin, vectors)
        labels = train.labels.expand(len(logits), -1)
        losses = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
        optimizer.tell(losses.mean(dim=1).double().numpy())
        yield losses.double().numpy(), train.labels.numpy()


def part_of(labels: NDArray[Any], share: float, generator: np.random.Generator) -> NDArray[Any]:
    """A share of the rows, each label with its own, at least one row of each."""
    drawn = []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        drawn.append(rows[: max(1, round(share * len(rows)))])
    return np.concatenate(drawn)


def kept_of(losses: NDArray[Any], labels: NDArray[Any], share: float) -> tuple[float, float]:
    """How often the best candidate is kept, and the share of the best quarter that is, over draws of the part."""
    generator, count = np.random.default_rng(0), max(1, round(KEPT * len(losses)))
    order = losses.mean(axis=1).argsort(kind="stable")
    best, several = [], []
    for _ in range(DRAWS):
        part = part_of(labels, share, generator)
        kept = set(losses[:, part].mean(axis=1).argsort(kind="stable")[:count].tolist())
        best.append(int(order[0]) in kept)
        several.append(len(kept & set(order[:count].tolist())) / count)
    return float(np.mean(best)), float(np.mean(several))


def main() -> None:
    """Score candidates, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the tasks' files")
    parser.add_argument("--model", default="pypi:flan-t5-small")
    parser.add_argument("--tasks", nargs="+", default=["trec", "snli"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[13, 21])
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--popsize", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=64, help="longest text")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[tuple[str, str, float], list[tuple[float, float]]] = defaultdict(list)
    for method in METHODS:
        for task in options.tasks:
            for seed in options.seeds:
                for losses, labels in generations(options, task, seed, method):
                    for share in PARTS:
                        found[method, task, share].append(kept_of(losses, labels, share))
    print(
        "| method | task | part of the rows | best is kept | of the best quarter | cost |", "|---" * 6 + "|", sep="\n"
    )
    for (method, task, share), pairs in found.items():
        best, several = np.mean(pairs, axis=0)
        print(
            f"| {method} | {task} | {share:g} | {best:.2f} | {several:.2f} | {share + KEPT * (1 - share):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
