"""How much it matters where prompt tuning begins: ten starting prompts against seeds, with and without a readout.

    python benchmarks/starts.py DATA [--tasks trec ...] [--seeds 13 21 42] [--steps 60] [--jobs 12] [--minutes 4] [--device cuda]
        [--model FOLDER] [--out runs/starts.jsonl]

DATA is a folder with the tasks' files. Three good prompts, three bad ones and four of random words are trained on the same rows in the
same order. What is compared is the lowest dev loss on the way, and the leave-one-out loss of a ridge readout of the train and dev rows
at that point. Test rows are never read. A mentor that proposes where to begin can gain no more than the spread between starts. FILE
holds one line for each (task, seed, start) that is done; those are not repeated, wherever they were made. Labelled rows come from `unseen_TASK.train.jsonl`
where DATA has it: the model was trained on the others.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tandemtune import wiring
from tandemtune.config import RunConfig, load_config
from tandemtune.models.load import kind_of, locate, read_config
from tandemtune.problem import Problem, Scorer
from tandemtune.readout.members import RidgeReadout
from tandemtune.readout.solving import solve_readout
from tandemtune.runs.records import from_loss
from tandemtune.search.schedule import Stage
from tandemtune.tasks.base import Task
from tandemtune.tasks.fewshot import draw
from tandemtune.tunables.base import INPUT
from tandemtune.types import Example, Split

SEEDS, SHOTS, LENGTH = (13, 21, 42), 16, 8
TASKS = ("trec", "snli", "agnews", "rte", "boolq")
RANDOM = 4
"""Starts of random words beside the written ones."""

WRITTEN = {
    "trec": (
        "What kind of answer does the question want?",
        "Tell what the question asks for.",
        "Classify the question by its answer type.",
    ),
    "agnews": (
        "Which section of the newspaper is this?",
        "Classify the topic of this news article.",
        "Is it world, sport, money or science?",
    ),
    "snli": (
        "Does the second sentence follow from the first?",
        "Read the caption, then judge the claim.",
        "Premise and hypothesis: is it implied?",
    ),
    "cb": (
        "Does the text say that this is true?",
        "Is the writer committed to the claim?",
        "Premise and hypothesis: is it implied?",
    ),
    "rte": (
        "Does the second sentence follow from the first?",
        "Read the text, then judge the claim.",
        "Premise and hypothesis: is it implied?",
    ),
    "boolq": (
        "Does the passage say that it is so?",
        "Read the passage, then answer the question.",
        "Is the answer to the question yes?",
    ),
}
"""Good starting prompts of each task."""
BAD = (
    "Translate this recipe into German, please.",
    "the the the the the the the the",
    "My favourite colour is blue and purple.",
)


def starts(task: str) -> list[tuple[str, str]]:
    """(kind, text) of each start; the texts of random words are drawn from the vocabulary."""
    good = [("good", text) for text in WRITTEN[task]]
    return [*good, *(("bad", text) for text in BAD), *(("random", str(i)) for i in range(RANDOM))]


@dataclass(frozen=True)
class Bench:
    """What all starts have in common.

    Args:
        model: its name or folder.
        data: folder with the tasks' files.
        steps: of each training.
        tokens: longest text.
        device: "cpu" or "cuda".
    """

    model: str
    data: Path
    steps: int
    tokens: int
    device: str

    def recipe(self, name: str) -> RunConfig:
        """Plain prompt tuning of one task."""
        unseen = {part: self.data / f"unseen_{name}.{part}.jsonl" for part in ("train", "test")}
        files = {part: str(path) for part, path in unseen.items()} if all(p.exists() for p in unseen.values()) else {}
        return load_config(
            {
                "model": {"name": self.model, "dtype": "mixed", "threads": 1, "device": self.device},
                "task": {"name": name, "data": str(self.data), "max_tokens": self.tokens, **files},
                "method": {"name": "prompt-tuning", "steps": self.steps, "prompt_tokens": LENGTH, "dev_every": 10},
            }
        )


def rows_of(task: Task, seed: int) -> Split:
    """Train and dev rows: as many of each class as there are, up to so many shots each."""
    parts: list[list[Example]] = [[], []]
    for label in task.labels:
        pool = [row for row in task.train_rows() if row.label == label]
        count = min(2 * SHOTS, len({json.dumps(sorted(row.fields.items())) for row in pool}) // 2 * 2)
        chosen = draw(pool, [label], count, seed)
        parts[0] += chosen[: count // 2]
        parts[1] += chosen[count // 2 :]
    return Split(tuple(parts[0]), tuple(parts[1]))


def vector_of(scorer: Scorer, kind: str, text: str) -> tuple[str, torch.Tensor]:
    """A start as text and as the prompt's vectors."""
    words = scorer.vocabulary
    drawn = (
        words.sample(np.random.default_rng([int(text), 17]), LENGTH) if kind == "random" else words.fit(text, LENGTH)
    )
    return drawn.text, words.vectors(drawn.ids).reshape(-1)


def trained(problem: Problem, start: torch.Tensor, steps: int) -> dict[str, Any]:
    """Losses of one prompt that is trained: at the start, the lowest on the way, the last."""
    evaluator, scorer = problem.evaluator, problem.scorer
    point = {INPUT: start}
    stage = Stage("tune", steps=steps)
    phase = wiring.make_phase(problem, point, stage)
    optimizer: Any = phase.optimizer((INPUT,))
    found = evaluator.measure(point, "dev")
    best, lowest, began = point, from_loss(found.loss), from_loss(found.loss)
    every = scorer.config.method.dev_every
    for step in range(steps):
        gradient = evaluator.gradient({INPUT: torch.from_numpy(optimizer.ask()[0]).float()}, (INPUT,), step)
        optimizer.tell(np.array([gradient.loss]), gradient.blocks[INPUT].numpy()[np.newaxis])
        if (step + 1) % every == 0:
            point = {INPUT: torch.from_numpy(optimizer.point)}
            found = evaluator.measure(point, "dev")
            if from_loss(found.loss) < lowest:
                best, lowest = point, from_loss(found.loss)
    labelled = scorer.batch([*problem.split.train, *problem.split.dev])
    loss = {
        name: solve_readout(RidgeReadout(), scorer.engine, labelled, where, scorer.task.labels).loss
        for name, where in (("readout_start", {INPUT: start}), ("readout", best))
    }
    return {"start_dev": began, "dev": lowest, "last_dev": from_loss(found.loss), "last_score": found.score, **loss}


@functools.lru_cache(maxsize=1)
def scorer_of(bench: Bench, name: str) -> Scorer:
    """The model with one task; a process keeps the last one."""
    config = bench.recipe(name)
    kind = kind_of(read_config(locate(bench.model), None))
    return wiring.make_scorer(config, wiring.make_task(config.task, kind), kind)


@functools.lru_cache(maxsize=1)
def problem_of(bench: Bench, name: str, seed: int) -> Problem:
    """One task with the rows of one seed."""
    scorer = scorer_of(bench, name)
    seeded = scorer.config.model_copy(update={"task": scorer.config.task.model_copy(update={"seed": seed})})
    return wiring.make_problem(replace(scorer, config=seeded), rows_of(scorer.task, seed))


def measure(bench: Bench, wanted: tuple[str, int, int]) -> dict[str, Any]:
    """Train one start of one task on the rows of one seed."""
    torch.set_num_threads(1)
    name, seed, number = wanted
    problem = problem_of(bench, name, seed)
    sort, said = starts(name)[number]
    text, vector = vector_of(problem.scorer, sort, said)
    line = {"task": name, "seed": seed, "start": number, "kind": sort, "text": text}
    return {**line, **trained(problem, vector, bench.steps)}


def spreads(lines: Sequence[Mapping[str, Any]], what: str) -> dict[str, float]:
    """Standard deviations: between starts on the same rows, between seeds of one start, of the starts' means over seeds.

    Args:
        lines: of one task; seeds without every start are left out.
        what: the loss that is looked at.

    Returns:
        What needs several seeds is NaN where there is one.
    """
    table: dict[int, dict[int, float]] = {}
    for line in lines:
        table.setdefault(line["start"], {})[line["seed"]] = line[what]
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in table.values())))
    grid = np.array([[table[start][seed] for seed in seeds] for start in sorted(table)])
    if len(seeds) < 2:
        alone = {"seeds": float("nan"), "lasting": float("nan")}
        return {"mean": grid.mean(), "starts": grid.std(ddof=1), **alone, "best": grid.mean() - grid.min()}
    rest = grid - grid.mean(0) - grid.mean(1, keepdims=True) + grid.mean()
    between, noise = grid.mean(1).var(ddof=1), (rest**2).sum() / max(1, (len(grid) - 1) * (len(seeds) - 1))
    return {
        "mean": float(grid.mean()),
        "starts": float(grid.std(axis=0, ddof=1).mean()),
        "seeds": float(grid.std(axis=1, ddof=1).mean()),
        "lasting": float(max(0.0, between - noise / len(seeds)) ** 0.5),
        "best": float((grid.mean(0) - grid.min(0)).mean()),
    }


def table(lines: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """The spreads of all tasks and the means by kind of start, as Markdown."""
    text = [
        "| task | loss | mean | sd between starts | sd between seeds | sd of starts beyond chance | best start below the mean | good / bad / random |",
        "|---" * 8 + "|",
    ]
    names = {
        "start_dev": "dev, untrained",
        "dev": "dev, trained",
        "readout_start": "readout, untrained",
        "readout": "readout, trained",
    }
    for task in tasks:
        here = [line for line in lines if line["task"] == task]
        counts = Counter(line["seed"] for line in here)
        here = [line for line in here if counts[line["seed"]] == len(starts(task))]
        for what, name in names.items() if here else ():
            found = spreads(here, what)
            kinds = [
                statistics.mean(line[what] for line in here if line["kind"] == k) for k in ("good", "bad", "random")
            ]
            numbers = [found[key] for key in ("mean", "starts", "seeds", "lasting", "best")]
            cells = [
                task,
                name,
                *(f"{number:.3f}" if number == number else "" for number in numbers),
                " / ".join(f"{k:.3f}" for k in kinds),
            ]
            text.append("| " + " | ".join(cells) + " |")
    return "\n".join(text)


def main() -> None:
    """Train what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the tasks' files")
    parser.add_argument("--model", default="pypi:flan-t5-small")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(WRITTEN))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=96, help="longest text")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so many")
    parser.add_argument("--out", type=Path, default=Path("runs/starts.jsonl"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    done = {(line["task"], line["seed"], line["start"]) for line in lines}
    wanted = [(name, seed, n) for seed in options.seeds for name in options.tasks for n in range(len(starts(name)))]
    rest = [one for one in wanted if one not in done]
    bench = Bench(options.model, options.data, options.steps, options.tokens, options.device)
    until = time.monotonic() + 60 * options.minutes
    with ExitStack() as stack:
        found: Iterable[dict[str, Any]] = map(functools.partial(measure, bench), rest)
        if options.jobs > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(options.jobs))
            found = pool.imap_unordered(functools.partial(measure, bench), rest, chunksize=2)
        for line in found:
            lines.append(line)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(json.dumps(line), file=sys.stderr, flush=True)
            if time.monotonic() > until:
                break
    print(table(lines, options.tasks))


if __name__ == "__main__":
    main()
