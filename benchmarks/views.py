"""Which views of a row a readout should choose among: the answer, the mean of the text, and a layer in the middle of the model.

    cd FOLDER    # of the tasks' files
    python PATH/benchmarks/views.py [--seeds 13 21 42 87 100] [--out runs/views.jsonl] [task.data=. model.name=... ...]

The rows are those of `with_readout.toml`, each task's labelled and test rows once through the model for all views together. Views by name
are solved as `method.views` would; a choice among sets of views is made by the leave-one-out loss on labelled rows, as `views = "auto"`
makes it. Test rows are only scored. OUT keeps a line for each model, method of the plan, task and seed; those are not repeated.
Settings behind the options are for every run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from readout import cell as mean_and_spread
from tandemtune import autotune
from tandemtune.comparisons.plan import Cell, read_plan
from tandemtune.evaluators.features import read
from tandemtune.evaluators.views import ANSWER, ANSWER_MIDDLE, MEAN, MEAN_MIDDLE, View
from tandemtune.readout.solving import clearly_better, solved_with
from tandemtune.report.paired import paired

PLAN = Path(__file__).parent / "with_readout.toml"
TODAY = "chosen: answer, or with mean"
BY_F1 = ("mrpc",)
"""Tasks whose score is no accuracy: not in the average."""
SETS: dict[str, tuple[tuple[View, ...], ...]] = {
    "answer": ((ANSWER,),),
    "answer, mean": ((ANSWER, MEAN),),
    "answer, mean@middle": ((ANSWER, MEAN_MIDDLE),),
    "answer, answer@middle": ((ANSWER, ANSWER_MIDDLE),),
    "answer, mean, mean@middle": ((ANSWER, MEAN, MEAN_MIDDLE),),
    "answer, mean, answer@middle": ((ANSWER, MEAN, ANSWER_MIDDLE),),
    TODAY: ((ANSWER,), (ANSWER, MEAN)),
    "chosen: ... or with mean@middle": ((ANSWER,), (ANSWER, MEAN), (ANSWER, MEAN_MIDDLE)),
    "chosen: ... or with answer@middle": ((ANSWER,), (ANSWER, MEAN), (ANSWER, ANSWER_MIDDLE)),
    "chosen: ... or with mean and mean@middle": ((ANSWER,), (ANSWER, MEAN), (ANSWER, MEAN, MEAN_MIDDLE)),
    "chosen: ... or with any of the three": ((ANSWER,), (ANSWER, MEAN), (ANSWER, MEAN_MIDDLE), (ANSWER, ANSWER_MIDDLE)),
    "chosen: answer, or with mean@middle": ((ANSWER,), (ANSWER, MEAN_MIDDLE)),
}
"""What is compared: one set of views by name, or several to choose from."""
Scores = dict[tuple[str, int], float]


def measured(cell: Cell) -> dict[str, dict[str, Any]]:
    """What each choice reaches on the rows of one run: test score, leave-one-out loss and what was chosen."""
    problem = autotune.build(cell.config)
    scorer, section = problem.scorer, cell.config.task
    test = scorer.task.test(section.test_rows, section.seed)
    labelled, unseen = scorer.batch([*problem.split.train, *problem.split.dev]), scorer.batch(test)
    every = list(dict.fromkeys(view for sets in SETS.values() for views in sets for view in views))
    known, asked = (read(scorer.engine, batch, {}, every) for batch in (labelled, unseen))
    member, labels = cell.config.method.readout, scorer.task.labels
    alone = {
        views: solved_with(member, views, known, labelled.labels, labels)
        for views in dict.fromkeys(views for sets in SETS.values() for views in sets)
    }
    found = {}
    for name, sets in SETS.items():
        solved = clearly_better(alone[views] for views in sets)
        said = solved.answers(asked).argmax(dim=1).tolist()
        score = scorer.task.score(said, unseen.labels.tolist())
        found[name] = {"score": score, "loss": solved.loss, "views": list(map(str, solved.views))}
    return found


def table(lines: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """Means and deviations over seeds, and differences to what is chosen today, as Markdown."""
    counted = [task for task in tasks if task not in BY_F1]
    text = ["| | " + " | ".join(tasks) + f" | average of {len(counted)} |", "|---" * (len(tasks) + 2) + "|"]
    by_name: dict[str, Scores] = {
        name: {(line["task"], line["seed"]): line["found"][name]["score"] for line in lines} for name in SETS
    }
    for name, scores in by_name.items():
        cells = [[score for (at, _), score in scores.items() if at == task] for task in tasks]
        seeds = sorted({seed for _, seed in scores})
        averages = [
            statistics.mean(scores[task, seed] for task in counted)
            for seed in seeds
            if all((task, seed) in scores for task in counted)
        ]
        text.append(f"| {name} | " + " | ".join(map(mean_and_spread, [*cells, averages])) + " |")
    text += ["", f"| against {TODAY} | pairs | difference | p | won, lost | otherwise chosen |", "|---" * 6 + "|"]
    for name, scores in by_name.items():
        test = paired(scores, by_name[TODAY])
        if name == TODAY or test is None:
            continue
        won, lost = test.wins - test.ties / 2, test.pairs - test.wins - test.ties / 2
        other = sum(line["found"][name]["views"] != line["found"][TODAY]["views"] for line in lines)
        text.append(
            f"| {name} | {test.pairs} | {test.difference:+.4f} | {test.p:.3f} | {won:.0f}, {lost:.0f} | {other} |"
        )
    return "\n".join(text)


def main() -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--method",
        default="readout, views by loss",
        help="a readout of the plan: with a template that is chosen first, too",
    )
    parser.add_argument("--tasks", nargs="+", help="which of the plan's (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", help="which of the plan's (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/views.jsonl"))
    parser.add_argument("settings", nargs="*", metavar="section.key=value")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    plan = read_plan(PLAN, options.out.parent / "unused", options.settings)
    cells = [cell for cell in plan.cells if cell.method == options.method]
    cells = [cell for cell in cells if cell.task in (options.tasks or [cell.task])]
    cells = [cell for cell in cells if cell.seed in (options.seeds or [cell.seed])]
    model = cells[0].config.model.name
    lines = [line for line in lines if line["model"] == model and line["method"] == options.method]
    done = {(line["task"], line["seed"]) for line in lines}
    for cell in cells:
        if (cell.task, cell.seed) in done:
            continue
        torch.set_num_threads(cell.config.model.threads or 1)
        own = {"model": model, "method": options.method, "task": cell.task, "seed": cell.seed}
        lines.append({**own, "found": measured(cell)})
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(f"{cell.name} is done", file=sys.stderr, flush=True)
    wanted = {(cell.task, cell.seed) for cell in cells}
    shown = [line for line in lines if (line["task"], line["seed"]) in wanted]
    print(f"**{model}, {options.method}**\n\n{table(shown, list(dict.fromkeys(cell.task for cell in cells)))}")


if __name__ == "__main__":
    main()
