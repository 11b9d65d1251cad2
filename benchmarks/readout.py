"""What a readout makes of a frozen model: calibration, label bias, ridge and kernel readouts, by templates and views.

    python benchmarks/readout.py DATA [--models pypi:flan-t5-small ...] [--tasks sst2 ...] [--seeds 13 21 42 87 100] [--out FILE]

DATA is a folder with the tasks' files. Each (model, task, template) goes through the model once: features of all rows that any
seed draws, and of all test rows, are kept in the cache folder, so seeds cost nothing. FILE.jsonl holds one line for each
(model, task, seed, template) that is done (-8 for eight templates together); those are not repeated. Everything is chosen by the
labelled rows; test rows are only scored. For FLAN-T5 labelled rows come from `unseen_TASK.train.jsonl` where DATA has it: the model
was trained on the others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import read
from tandemtune.evaluators.label_words import calibrate
from tandemtune.evaluators.views import ANSWER, MEAN
from tandemtune.models.backbone import Backbone
from tandemtune.models.load import load
from tandemtune.readout import FORMS, Design, Form, choose, leave_one_out, solve
from tandemtune.readout.design import centred
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import build_task
from tandemtune.tasks.fewshot import draw
from tandemtune.tasks.known_templates import known_templates
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.identity import Identity
from tandemtune.types import Example

PERMUTATIONS = 20
"""Of the labels, for each seed: what a readout reaches where they have nothing to do with the texts."""
MODELS = ("pypi:flan-t5-small", "pypi:smollm2-135m-instruct")
SEEDS, SHOTS, MOST_TOKENS = (13, 21, 42, 87, 100), 16, 128
EMPTY = ("N/A", "", "[MASK]")

TEMPLATES = known_templates()
"""Eight templates for models that answer behind the text, with a word for each label in the catalogue's order; the first is the
catalogue's."""


@dataclass(frozen=True)
class Seen:
    """What one pass over a task's rows with one template gave.

    Args:
        rows: labelled rows of every seed, by its index.
        labels: their labels, and those of the test rows.
        logits, answer, mean: of the labelled and the test rows.
        empty: label logits of inputs without content.
    """

    rows: dict[int, list[int]]
    labels: tuple[Tensor, Tensor]
    logits: tuple[Tensor, Tensor]
    answer: tuple[Tensor, Tensor]
    mean: tuple[Tensor, Tensor]
    empty: Tensor


# features


class Reader:
    """A model that is loaded when the first rows go through it.

    Args:
        name: the model.
        data: folder of the tasks' files.
        cache: folder that features are kept in.
        seeds: whose rows are read.
    """

    def __init__(self, name: str, data: Path, cache: Path, seeds: Sequence[int]) -> None:
        self.name, self.data, self.cache, self.seeds = name, data, cache, tuple(seeds)
        self._backbone: Backbone | None = None

    @property
    def backbone(self) -> Backbone:
        """The model, in float32."""
        if self._backbone is None:
            self._backbone = load(self.name)
        return self._backbone

    def task(self, name: str, template: int) -> Task:
        """A task with one of its templates, and rows that the model has not been trained on where there are some."""
        text, words = TEMPLATES[name][template].template, TEMPLATES[name][template].words
        task = build_task(name, kind="seq2seq", data=self.data, template=text)
        named = dict(zip(task.labels, words, strict=True))
        unseen = {part: self.data / f"unseen_{name}.{part}.jsonl" for part in ("train", "test")}
        usable = "flan" in self.name and all(path.exists() for path in unseen.values())
        files: dict[str, Any] = {part: str(path) for part, path in unseen.items()} if usable else {}
        return build_task(
            name, kind="seq2seq", data=self.data, template=text, words={k: (v,) for k, v in named.items()}, **files
        )

    def seen(self, name: str, template: int) -> Seen:
        """What the model says to all rows, from the cache or from a pass over them."""
        task = self.task(name, template)
        drawn = {seed: labelled(task, seed) for seed in self.seeds}
        rows = list(dict.fromkeys(key(row) for chosen in drawn.values() for row in chosen))
        by_key = {key(row): row for chosen in drawn.values() for row in chosen}
        test = task.test()
        facts = [self.name, name, str(task.template), list(map(list, task.words.items())), MOST_TOKENS, rows, len(test)]
        path = self.cache / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]}.npz"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part.npz")
            np.savez(partial, **self._pass(task, [by_key[one] for one in rows], test))
            partial.rename(path)
        found = {one: torch.from_numpy(array) for one, array in np.load(path).items()}
        cut = [len(rows), len(test)]
        place = {one: index for index, one in enumerate(rows)}
        two = {one: torch.split(found[one], cut) for one in ("logits", "answer", "mean")}
        gold = tuple(torch.tensor(task.gold(part)) for part in ([by_key[one] for one in rows], test))
        return Seen({s: [place[key(r)] for r in c] for s, c in drawn.items()}, gold, **two, empty=found["empty"])  # type: ignore[arg-type]

    def _pass(self, task: Task, rows: Sequence[Example], test: Sequence[Example]) -> dict[str, Any]:
        backbone = self.backbone
        backbone.check_template(task.template)
        words = resolve(backbone.tokenizer, task.template, task.words)
        engine = Engine(backbone.stack(words), Identity(), torch.tensor(words.weights()))
        nothing = [Example(dict.fromkeys(task.template.fields, text)) for text in EMPTY]
        prompts = [backbone.encode(task.template, row.fields, MOST_TOKENS) for row in (*rows, *test, *nothing)]
        masked = backbone.kind != "causal"
        batch = collate(prompts, [-1] * len(prompts), backbone.device, stretch=1.5, masked=masked)
        reading = read(engine, batch, {}, [ANSWER, MEAN])
        logits, empty = torch.split(reading.logits, [len(prompts) - len(EMPTY), len(EMPTY)])
        views = {"answer": reading.views[ANSWER], "mean": reading.views[MEAN]}
        kept = {one: view[: len(logits)].numpy() for one, view in views.items()}
        return {"logits": logits.numpy(), "empty": empty.numpy(), **kept}


def labelled(task: Task, seed: int) -> list[Example]:
    """Train and dev rows of a seed: twice the shots of each class, or all of a class that has fewer."""
    pools = {label: [row for row in task.train_rows() if row.label == label] for label in task.labels}
    distinct = {label: len({key(row) for row in pool}) for label, pool in pools.items()}
    chosen = [draw(pool, [label], min(2 * SHOTS, distinct[label]), seed) for label, pool in pools.items()]
    return [row for rows in chosen for row in rows]


def key(row: Example) -> str:
    """A row as a text."""
    return json.dumps([*sorted(row.fields.items()), row.label])


# readouts


def measured(seen: Seen, seed: int, task: Task, whole: bool) -> dict[str, dict[str, float]]:
    """Every readout of one seed: the task's score and the cross-entropy on the test rows, and what chose it.

    Args:
        seen: the model's passes.
        seed: whose labelled rows are used.
        task: for its metric.
        whole: whether the slower logistic forms are solved, too.
    """
    rows = torch.tensor(seen.rows[seed])
    gold, test = seen.labels[0][rows], seen.labels[1]
    logits = seen.logits[0][rows], seen.logits[1]
    views = {"answer": (seen.answer[0][rows], seen.answer[1]), "mean": (seen.mean[0][rows], seen.mean[1])}
    found: dict[str, dict[str, float]] = {}

    def note(name: str, said: Tensor, **more: float) -> None:
        loss = float(functional.cross_entropy(said.double(), test))
        found[name] = {"score": task.score(said.argmax(1).tolist(), test.tolist()), "loss": loss, **more}

    def solved(name: str, form: Form, named: Sequence[str] = (), labels: Tensor = gold, **options: Any) -> None:
        kept = options.pop("kept", slice(None))
        design = Design([views[one][0][kept] for one in named], logits[0][kept], labels[kept], **options)
        settings = choose(design, form)
        without = leave_one_out(design, settings)
        right = (without.argmax(1) == labels[kept]).double().mean()
        said = solve(design, settings).logits([views[one][1] for one in named], logits[1])
        note(name, said, loo=settings.loss, loo_accuracy=float(right), noise=settings.noise)

    known = (logits[0].argmax(1) == gold).double().mean()
    note("zero-shot", logits[1], labelled=float(known), mutual=mutual_information(logits[0]))
    note("contextual calibration", calibrate(logits[1], seen.empty))
    note("batch calibration, test rows", calibrate(logits[1], logits[1]))
    note("batch calibration, labelled rows", calibrate(logits[1], logits[0]))
    solved("bias", FORMS["bias"])
    solved("label log-probabilities alone", Form("squares", False, "log-probabilities", False))
    solved("ridge", FORMS["ridge"], ["answer"])
    solved("kernel", FORMS["kernel"], ["answer"])
    solved("ridge on features alone", Form("squares", True, None, False), ["answer"])
    solved("ridge, mean view alone", Form("squares", True, None, False), ["mean"])
    solved("ridge, two views", FORMS["ridge"], ["answer", "mean"])
    if whole:
        solved("affine", FORMS["affine"])
        solved("logistic, from the words", FORMS["logistic"], ["answer"])
        solved("logistic, from zero", Form("logistic", True, "logits", False), ["answer"])
        solved("ridge, prior of the rows", FORMS["ridge"], ["answer"], prior="train")
        half = torch.cat([(gold == label).nonzero().flatten()[:SHOTS] for label in range(len(task.labels))])
        solved("ridge, 16 rows a class", FORMS["ridge"], ["answer"], kept=half)
        permuted = []
        for one in range(PERMUTATIONS):
            order = torch.randperm(len(gold), generator=torch.Generator().manual_seed(seed * PERMUTATIONS + one))
            solved("ridge, labels permuted", FORMS["ridge"], ["answer"], labels=gold[order])
            permuted.append(found["ridge, labels permuted"])
        found["ridge, labels permuted"] = {name: statistics.mean(row[name] for row in permuted) for name in permuted[0]}
    return found


def mutual_information(logits: Tensor) -> float:
    """Between rows and predicted labels (Sorensen et al., arXiv 2203.11364), of label logits [N, C] calibrated by their own mean."""
    p = torch.softmax(calibrate(logits, logits).double(), dim=1)
    mean = p.mean(dim=0)
    return float(-(mean * mean.log()).sum() + (p * p.clamp_min(1e-30).log()).sum(dim=1).mean())


def together(seen: Sequence[Seen], seed: int, task: Task, losses: Sequence[float]) -> dict[str, dict[str, float]]:
    """One readout of the three templates with the lowest losses: their kernels summed."""
    best = sorted(range(len(seen)), key=losses.__getitem__)[:3]
    rows = torch.tensor(seen[0].rows[seed])
    gold, test = seen[0].labels[0][rows], seen[0].labels[1]
    views = [(seen[i].answer[0][rows], seen[i].answer[1]) for i in best]
    views += [(centred(seen[i].logits[0][rows]), centred(seen[i].logits[1])) for i in best]
    first = seen[best[0]]
    design = Design([view for view, _ in views], first.logits[0][rows], gold)
    shares = [tuple([(1 - a) / 3] * 3 + [a / 3] * 3) for a in (0.0, 0.125, 0.25, 0.5, 1.0)]
    settings = choose(design, Form("squares", True, None, False), shares=shares)
    said = solve(design, settings).logits([view for _, view in views], first.logits[1])
    loss = float(functional.cross_entropy(said, test))
    score = task.score(said.argmax(1).tolist(), test.tolist())
    return {"three best templates together": {"score": score, "loss": loss, "loo": settings.loss}}


# tables


def table(lines: Sequence[Mapping[str, Any]], model: str, tasks: Sequence[str]) -> str:
    """Means and standard deviations over seeds, as Markdown: the first template, then what choosing among them does."""
    found: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
    for line in lines:
        if line["model"] == model:
            found.setdefault((line["task"], line["seed"]), {})[line["template"]] = line["found"]
    here = [task for task in tasks if any(name == task for name, _ in found)]
    rows: dict[str, dict[str, list[float]]] = {}

    def add(name: str, task: str, value: float) -> None:
        rows.setdefault(name, {}).setdefault(task, []).append(value)

    for (task, _), by_template in sorted(found.items()):
        for name, values in by_template.get(0, {}).items():
            add(name, task, values["score"])
    for (task, _), by_template in sorted(found.items()):
        tried = [by_template[t] for t in sorted(by_template) if t >= 0]
        if len(tried) < 2 or task not in here:
            continue
        for form in ("zero-shot", "ridge", "ridge, two views"):
            scores = [one[form]["score"] for one in tried]
            add(f"{form}: mean of {len(tried)} templates", task, statistics.mean(scores))
            if form == "zero-shot":
                for chooser, fact in (
                    ("zero-shot accuracy on labelled rows", "labelled"),
                    ("mutual information", "mutual"),
                ):
                    picked = max(tried, key=lambda one, fact=fact: one["zero-shot"][fact])  # type: ignore[misc]
                    add(f"zero-shot: template by {chooser}", task, picked["zero-shot"]["score"])
                    add(f"ridge: template by {chooser}", task, picked["ridge"]["score"])
            else:
                add(
                    f"{form}: template by leave-one-out",
                    task,
                    min(tried, key=lambda one: one[form]["loo"])[form]["score"],
                )
            add(f"{form}: best of {len(tried)} in hindsight", task, max(scores))
        every = [(one[form]["loo"], one[form]["score"]) for one in tried for form in ("ridge", "ridge, two views")]
        add("template and views by leave-one-out", task, min(every)[1])
        for name, values in by_template.get(-len(tried), {}).items():
            add(name, task, values["score"])
    text = [f"**{model}**", "", "| | " + " | ".join(here) + " |", "|---" * (len(here) + 1) + "|"]
    for name, by_task in rows.items():
        cells = [cell(by_task.get(task, [])) for task in here]
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(text)


def cell(values: Sequence[float]) -> str:
    """Mean and standard deviation, without the leading zero."""
    if not values:
        return ""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}".replace("0.", ".")


def main() -> None:
    """Make what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the tasks' files")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--tasks", nargs="+", default=list(TEMPLATES), choices=list(TEMPLATES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--templates", type=int, default=8, help="how many of each task's templates")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "tandemtune-readout")
    parser.add_argument("--out", type=Path, default=Path("runs/readout.jsonl"))
    parser.add_argument("--encode", action="store_true", help="only put the rows through the models")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = ("model", "task", "seed", "template")
    done = {tuple(line[one] for one in known): line["found"] for line in lines}

    def keep(place: tuple[str, str, int, int], found: dict[str, Any]) -> None:
        done[place] = found
        lines.append({**dict(zip(known, place, strict=True)), "found": found})
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(lines[-1]) + "\n")
        print(f"{place}: ridge {found.get('ridge', found)}", file=sys.stderr, flush=True)

    for model in options.models:
        reader = Reader(model, options.data, options.cache, options.seeds)
        for template in range(options.templates):
            for task in options.tasks:
                places = [(model, task, seed, template) for seed in options.seeds]
                if all(place in done for place in places):
                    continue
                seen = reader.seen(task, template)
                if options.encode:
                    print(f"{model}: {task} with template {template} is read", file=sys.stderr, flush=True)
                for place in places if not options.encode else ():
                    if place not in done:
                        keep(place, measured(seen, place[2], reader.task(task, template), template == 0))
        for task in options.tasks if options.templates > 2 and not options.encode else ():
            every = [reader.seen(task, template) for template in range(options.templates)]
            for seed in options.seeds:
                losses = [done[model, task, seed, template]["ridge"]["loo"] for template in range(options.templates)]
                if (model, task, seed, -options.templates) not in done:
                    keep((model, task, seed, -options.templates), together(every, seed, reader.task(task, 0), losses))
    for model in options.models:
        print(table(lines, model, options.tasks), end="\n\n")


if __name__ == "__main__":
    main()
