"""Differences between methods of comparisons that have been made: over all pairs of task and seed, and over tasks.

    python benchmarks/differences.py FOLDER [FOLDER ...] --pairs "A - B" "C - B" [--alone 1] [--tasks trec snli ...]

FOLDER is what `tandemtune compare` wrote, or has written so far. A and B are methods by the names of their folders there, or one with "@readout"
behind it: the readout on the pretrained model that its runs also scored. Of a comparison of several models, MODEL/TASK is a task. The p of a pair is that of a two-sided sign-flip test; those behind the first `--alone` pairs are also corrected together
(Holm). Seeds of one task share its test rows and its template, so beside it stands the p over the tasks' mean differences (with six tasks it
is never below .031), and a 95 % interval by drawing tasks, and seeds within them, again and again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from claims import holm
from tandemtune.report.paired import paired
from tandemtune.runs.records import Result

DRAWS = 10_000
Scores = dict[tuple[str, int], float]


class Ended(NamedTuple):
    """A run of a comparison, and what it reached."""

    task: str
    method: str
    seed: int
    result: Result


def read(folders: Sequence[Path]) -> list[Ended]:
    """Runs that have ended of all comparisons; of one that stands in several folders the last."""
    found: dict[tuple[str, str, str], Ended] = {}
    for folder in folders:
        for path in sorted(folder.rglob("result.json")):
            *names, method, seed = path.parent.relative_to(folder).parts
            task = "/".join(names)
            result = Result.read(json.loads(path.read_text(encoding="utf-8")), path)
            found[task, method, seed] = Ended(task, method, int(seed), result)
    return list(found.values())


def scores_of(runs: Sequence[Ended], name: str) -> Scores:
    """Test score by task and seed of a method, or of the readout that its runs began with."""
    method, _, what = name.partition("@")
    scores = {}
    for run in runs:
        if run.method == method:
            evaluation = run.result.zero_shot_readout if what == "readout" else run.result.tuned
            if evaluation is not None and evaluation.test is not None:
                scores[run.task, run.seed] = evaluation.test
    return scores


def interval(differences: Mapping[tuple[str, int], float]) -> tuple[float, float]:
    """95 % interval of the mean over tasks of their mean differences, tasks and the seeds within them drawn anew."""
    generator, by_task = random.Random(0), _by_task(differences)
    tasks = list(by_task.values())
    means = sorted(
        mean(mean(generator.choices(values, k=len(values))) for values in generator.choices(tasks, k=len(tasks)))
        for _ in range(DRAWS)
    )
    return means[int(0.025 * DRAWS)], means[int(0.975 * DRAWS)]


def _by_task(values: Mapping[tuple[str, int], float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for (task, _), value in values.items():
        found.setdefault(task, []).append(value)
    return found


def differences(runs: Sequence[Ended], pairs: Sequence[str], alone: int) -> str:
    """The table of all pairs, as Markdown."""
    text = [
        "| | pairs | difference | p | p (Holm) | won, lost | tasks won, lost | p over tasks | 95 % |",
        "|" + "---|" * 9,
    ]
    tests, lines = {}, []
    for pair in pairs:
        names = pair.split(" - ")
        if len(names) != 2:
            raise SystemExit(f'expected "A - B", got {pair!r}')
        one, other = (scores_of(runs, name.strip()) for name in names)
        test = paired(one, other)
        if test is None:
            raise SystemExit(f"no task and seed has both methods of {pair!r}: {methods_of(runs)}")
        tests[pair] = test
        lines.append({key: one[key] - other[key] for key in one if key in other})
    corrected = holm(dict(list(tests.items())[alone:]))
    for (pair, test), line in zip(tests.items(), lines, strict=True):
        by_task = {(task, 0): mean(values) for task, values in _by_task(line).items()}
        over = paired(by_task, dict.fromkeys(by_task, 0.0))
        low, high = interval(line)
        assert over is not None
        won, lost = test.wins - test.ties / 2, test.pairs - test.wins - test.ties / 2
        text.append(
            f"| {pair} | {test.pairs} | {test.difference:+.3f} | {test.p:.3f} | {f'{corrected[pair]:.3f}' if pair in corrected else ''} "
            f"| {won:g}, {lost:g} | {over.wins - over.ties / 2:g}, {over.pairs - over.wins - over.ties / 2:g} | {over.p:.3f} "
            f"| {low:+.3f} to {high:+.3f} |"
        )
    return "\n".join(text)


def means(runs: Sequence[Ended], names: Sequence[str]) -> str:
    """Each method's mean +- std by task, and the average over tasks of the seeds that have them all, as Markdown."""
    tasks = list(dict.fromkeys(run.task for run in runs))
    text = [f"| | seeds | {' | '.join(tasks)} | average |", "|" + "---|" * (len(tasks) + 3)]
    for name in names:
        scores = scores_of(runs, name)
        by_task = _by_task(scores)
        seeds = sorted({seed for _, seed in scores})
        whole = [
            mean(scores[task, seed] for task in tasks)
            for seed in seeds
            if all((task, seed) in scores for task in tasks)
        ]
        cells = [f"{told(by_task[task])} ({len(by_task[task])})" if task in by_task else "" for task in tasks]
        text.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} | {told(whole) if whole else ''} |")
    return "\n".join(text)


def told(values: Sequence[float]) -> str:
    """Mean +- std of a sample."""
    return f"{mean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")


def methods_of(runs: Sequence[Ended]) -> str:
    """What there is, for a message."""
    return "there are " + ", ".join(dict.fromkeys(run.method for run in runs))


def main() -> None:
    """Print the means, and the differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--pairs", nargs="+", required=True)
    parser.add_argument(
        "--alone", type=int, default=0, help="how many of the first pairs stand outside Holm's correction"
    )
    parser.add_argument("--tasks", nargs="+")
    options = parser.parse_args()
    runs = [run for run in read(options.folders) if not options.tasks or run.task in options.tasks]
    names = dict.fromkeys(name.strip() for pair in options.pairs for name in pair.split(" - "))
    print(means(runs, list(names)))
    print()
    print(differences(runs, options.pairs, options.alone))


if __name__ == "__main__":
    main()
