"""Templates and label words of a strong mentor against the catalogue's and against mutations of these, each judged by a readout.

    python benchmarks/wordings.py DATA [--tasks trec ...] [--seeds 13 21 42 87 100] [--out runs/wordings.jsonl] [--ask FOLDER]

DATA is a folder with the tasks' files. Each wording is one pass over the labelled rows of all seeds; per seed the one with the lowest
leave-one-out loss of a ridge readout is taken, and only those that are taken anywhere are read on the test rows, once, at the end. The mentor's
answers are those in benchmarks/transcripts/wordings-TASK.jsonl, so the table repeats without it. With `--ask` the questions of tasks
without an answer are written to FOLDER, for a person or a chat window; they hold losses on the labelled rows of the first seed, and none of its texts.
OUT keeps what is done; it is not repeated. Labelled rows come from `unseen_TASK.train.jsonl` where DATA has it: the model was trained on the others.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import statistics
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tandemtune.errors import AnswerAwaited, DataError, ModelError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import read
from tandemtune.evaluators.views import ANSWER
from tandemtune.mentor import FileClient, Transcript
from tandemtune.mentor.wordings import Wording, propose_wordings, read_wordings
from tandemtune.models.backbone import Backbone
from tandemtune.models.load import load
from tandemtune.proposers.wordings import brief_of, tasks_of, unusable
from tandemtune.readout import FORMS, Design, choose, leave_one_out, solve
from tandemtune.report.paired import paired
from tandemtune.runs.journal import read_lines
from tandemtune.runs.records import TemplateScore
from tandemtune.tasks.base import Task
from tandemtune.tasks.catalogue import TASKS, build_task
from tandemtune.tasks.fewshot import draw, subsample
from tandemtune.tasks.known_templates import known_templates
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.identity import Identity
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Example

SEEDS, ROWS, MOST_TOKENS, COUNT = (13, 21, 42, 87, 100), 32, 128, 8
TEST_ROWS = 500
"""Test rows that are read, at most."""
NAMES = ("trec", "agnews", "snli", "cb", "rte", "wic")
TRANSCRIPTS = Path(__file__).parent / "transcripts"
SHARE, TOP = 0.4, 50
"""Share of the words that a mutation substitutes, and the likeliest tokens that are drawn from."""


@dataclass
class Bench:
    """One task with a model.

    Args:
        backbone: the model.
        task: its catalogue's wording.
        rows: the labelled rows of all seeds.
        by_seed: numbers of the rows of each seed.
        cache: folder of what the model made of rows.
    """

    backbone: Backbone
    task: Task
    rows: list[Example]
    by_seed: dict[int, list[int]]
    cache: Path

    @classmethod
    def of(cls, backbone: Backbone, name: str, data: Path, seeds: Sequence[int], cache: Path) -> Bench:
        """Draw the rows of all seeds: as many of each class as there are, up to a limit."""
        unseen = {part: str(data / f"unseen_{name}.{part}.jsonl") for part in ("train", "test")}
        files: dict[str, Any] = unseen if all(Path(path).exists() for path in unseen.values()) else {}
        task = build_task(name, kind="seq2seq", data=data, **files)
        drawn = {}
        for seed in seeds:
            pools = {label: [row for row in task.train_rows() if row.label == label] for label in task.labels}
            distinct = {label: len({_key(row) for row in pool}) for label, pool in pools.items()}
            chosen = [draw(pool, [label], min(ROWS, distinct[label]), seed) for label, pool in pools.items()]
            drawn[seed] = [row for rows in chosen for row in rows]
        rows = list({_key(row): row for chosen in drawn.values() for row in chosen}.values())
        place = {_key(row): number for number, row in enumerate(rows)}
        return cls(backbone, task, rows, {s: [place[_key(row)] for row in c] for s, c in drawn.items()}, cache)

    def seen(self, wording: Wording, rows: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [N, h] and label logits [N, C] of some rows in a wording.

        Raises:
            DataError, ModelError: the model cannot use it.
        """
        facts = [self.backbone.name, self.task.name, wording.template, wording.words, [_key(row) for row in rows]]
        path = self.cache / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:20]}.npz"
        if not path.exists():
            (task,) = tasks_of(self.task, [wording])
            self.backbone.check_template(task.template)
            words = resolve(self.backbone.tokenizer, task.template, task.words, alone=True)
            engine = Engine(self.backbone.stack(words), Identity(), torch.tensor(words.weights()))
            prompts = [self.backbone.encode(task.template, row.fields, MOST_TOKENS) for row in rows]
            found = read(engine, collate(prompts, [-1] * len(rows), self.backbone.device, stretch=1.5), {}, [ANSWER])
            self.cache.mkdir(parents=True, exist_ok=True)
            np.savez(path.with_suffix(".part.npz"), view=found.views[ANSWER].numpy(), logits=found.logits.numpy())
            path.with_suffix(".part.npz").rename(path)
        kept = np.load(path)
        return torch.from_numpy(kept["view"]), torch.from_numpy(kept["logits"])

    def judged(self, wording: Wording, seed: int) -> tuple[TemplateScore, list[int]]:
        """A wording by the leave-one-out loss on the rows of a seed, and what it says of each."""
        design, gold, logits = self._design(wording, seed)
        settings = choose(design, FORMS["ridge"])
        said = leave_one_out(design, settings).argmax(dim=-1).tolist()
        labels: dict[str, tuple[str, ...]] = {
            label: (word,) for label, word in zip(self.task.labels, wording.words, strict=True)
        }
        score, plain = self.task.score(said, gold.tolist()), self.task.score(logits.argmax(-1).tolist(), gold.tolist())
        found = TemplateScore(
            template=wording.template, labels=labels, loss=settings.loss, score=score, zero_shot=plain
        )
        return found, said

    def tested(self, wording: Wording, seed: int, test: Sequence[Example]) -> float:
        """The task's score on test rows, by the readout of a seed's rows."""
        design, _, _ = self._design(wording, seed)
        view, logits = self.seen(wording, test)
        said = solve(design, choose(design, FORMS["ridge"])).logits([view], logits)
        return self.task.score(said.argmax(dim=-1).tolist(), self.task.gold(test))

    def _design(self, wording: Wording, seed: int) -> tuple[Design, torch.Tensor, torch.Tensor]:
        view, logits = self.seen(wording, self.rows)
        rows = torch.tensor(self.by_seed[seed])
        gold = torch.tensor(self.task.gold(self.rows))[rows]
        return Design([view[rows]], logits[rows], gold, names=self.task.labels), gold, logits[rows]


def catalogue(task: Task) -> list[Wording]:
    """The known wordings of a task; those of SNLI serve CB, too, and WiC has one."""
    own = Wording(str(task.template), tuple(words[0] for words in task.words.values()))
    known = known_templates()
    if task.name == "cb":
        rows = [
            (row.template.replace("{text}", "{premise}").replace("{text_b}", "{hypothesis}"), row.words)
            for row in known["snli"]
        ]
    else:
        rows = [(row.template, row.words) for row in known.get(task.name, ())]
    return list(dict.fromkeys([own, *(Wording(text, tuple(words)) for text, words in rows)]))


def mutations(bench: Bench, parents: Sequence[Wording], count: int) -> list[Wording]:
    """The control: words of known templates substituted by the tuned model's own likelihood."""
    generator = np.random.default_rng([17, len(parents)])
    vocabulary = Vocabulary(bench.backbone, "words")
    found: list[Wording] = []
    for attempt in range(20 * count):
        if len(found) == count:
            break
        parent = parents[attempt % len(parents)]
        made = replace(parent, template=mutated(bench.backbone, vocabulary, parent.template, generator))
        if made not in parents and made not in found:
            found.append(made)
    return found


def mutated(backbone: Backbone, vocabulary: Vocabulary, template: str, generator: np.random.Generator) -> str:
    """A template with some of its own words, never columns, substituted by likely ones."""
    words = [match.span() for match in re.finditer(r"(?<![\w{])[A-Za-z]+(?![\w}])", template)]
    count = max(1, round(SHARE * len(words)))
    tokenizer: Any = backbone.tokenizer
    for start, end in sorted((words[i] for i in generator.choice(len(words), count, replace=False)), reverse=True):
        before, behind = (re.sub(r"[{}]", "", part) for part in (template[:start], template[end:]))
        ids = [tokenizer(part, add_special_tokens=False)["input_ids"] for part in (before, template[start:end], behind)]
        logits = backbone.likely_token([*ids[0], ids[1][0], *ids[2]], len(ids[0]))[vocabulary.ids]
        best = logits.topk(TOP)
        weights = torch.softmax(best.values.double(), dim=0).numpy()
        token = int(vocabulary.ids[best.indices[generator.choice(TOP, p=weights / weights.sum())]])
        template = template[:start] + tokenizer.decode([token]).strip() + template[end:]
    return template


def proposed(task: Task) -> list[Wording]:
    """What the mentor said of a task, from the transcript; nothing if it was not asked."""
    path = TRANSCRIPTS / f"wordings-{task.name}.jsonl"
    lines = read_lines(path) if path.exists() else []
    found = [one for line in lines if "answered" in line for one in read_wordings(line["reply"]["text"], task.labels)]
    return list(dict.fromkeys(found))


def ask(bench: Bench, folder: Path, seed: int) -> None:
    """Write the question to the mentor, or take its answer into the transcript."""
    judged = []
    for wording in catalogue(bench.task):
        with suppress(DataError, ModelError):  # label words that this tokenizer cuts apart
            judged.append(bench.judged(wording, seed))
    best = min(judged, key=lambda one: one[0].loss or 0.0)
    rows = [bench.rows[number] for number in bench.by_seed[seed]]
    summary = TASKS[bench.task.name].summary
    brief = brief_of(bench.task, summary, [score for score, _ in judged], COUNT, True, best[1], rows)
    place = folder / bench.task.name
    client = FileClient(place, tell=print)
    transcript = Transcript(TRANSCRIPTS / f"wordings-{bench.task.name}.jsonl", client)
    try:
        found = propose_wordings(transcript, brief, lambda one: unusable(one, brief), asks=1)
        print(f"{bench.task.name}: {len(found.accepted)} taken, refused: {found.refused}")
    except AnswerAwaited as awaited:
        print(awaited, file=sys.stderr)


def measured(bench: Bench, out: Path, lines: list[dict[str, Any]]) -> None:
    """Judge what is not judged yet, then read the test rows in the wordings that are taken."""
    known = catalogue(bench.task)
    arms = {
        "catalogue": known,
        "mentor": proposed(bench.task)[:COUNT],
        "mutation": mutations(bench, known, COUNT),
    }
    done = {(line["task"], line["arm"], line["number"], line["seed"]): line for line in lines}

    def keep(line: dict[str, Any]) -> None:
        lines.append(line)
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    for arm, wordings in arms.items():
        for number, wording in enumerate(wordings):
            for seed in bench.by_seed:
                if (bench.task.name, arm, number, seed) in done:
                    continue
                line = {
                    "task": bench.task.name,
                    "arm": arm,
                    "number": number,
                    "seed": seed,
                    "template": wording.template,
                }
                try:
                    score, _ = bench.judged(wording, seed)
                    keep({**line, "words": wording.words, "loss": score.loss, "score": score.score})
                except (DataError, ModelError) as error:
                    keep({**line, "words": wording.words, "loss": None, "refused": str(error)})
            print(f"{bench.task.name} {arm} {number}", file=sys.stderr, flush=True)
    test = subsample(bench.task.test(), TEST_ROWS, 0)
    for seed in bench.by_seed:
        for name, group in GROUPS.items():
            if any((line["task"], line.get("chosen"), line["seed"]) == (bench.task.name, name, seed) for line in lines):
                continue
            best = chosen(lines, bench.task.name, seed, group)
            if best is None:
                continue
            wording = Wording(best["template"], tuple(best["words"]))
            keep(
                {
                    "task": bench.task.name,
                    "arm": "",
                    "number": -1,
                    "seed": seed,
                    "chosen": name,
                    "from": best["arm"],
                    "template": wording.template,
                    "loss": best["loss"],
                    "test": bench.tested(wording, seed, test),
                }
            )


GROUPS = {
    "the catalogue's first": ("first",),
    "catalogue": ("catalogue",),
    "mutation": ("mutation",),
    "mentor": ("mentor",),
    "catalogue and mutation": ("catalogue", "mutation"),
    "catalogue and mentor": ("catalogue", "mentor"),
}
"""Among which wordings the lowest leave-one-out loss chooses."""
PAIRS = (
    ("mentor", "mutation"),
    ("catalogue and mentor", "catalogue and mutation"),
    ("catalogue and mentor", "catalogue"),
    ("catalogue", "the catalogue's first"),
)
"""What is tested against what, over all tasks and seeds."""


def chosen(lines: Sequence[Mapping[str, Any]], task: str, seed: int, group: Sequence[str]) -> Mapping[str, Any] | None:
    """The wording with the lowest loss of a seed."""
    first = group == ("first",)
    here = [
        line
        for line in lines
        if (line["task"], line["seed"]) == (task, seed)
        and line.get("loss") is not None
        and "chosen" not in line
        and ((line["arm"], line["number"]) == ("catalogue", 0) if first else line["arm"] in group)
    ]
    return min(here, key=lambda line: line["loss"]) if here else None


def table(lines: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> str:
    """Leave-one-out loss and test score of what is chosen, mean and standard deviation over seeds, as Markdown."""
    text = ["| chosen among | " + " | ".join(tasks) + " | mean |", "|---" * (len(tasks) + 2) + "|"]
    for what in ("loss", "test"):
        for name in GROUPS:
            cells, means = [], []
            for task in tasks:
                values = [line[what] for line in lines if (line["task"], line.get("chosen")) == (task, name)]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.3f} ± {spread:.3f}" if values else "")
                means += [statistics.mean(values)] if values else []
            whole = f"{statistics.mean(means):.3f}" if len(means) == len(tasks) else ""
            text.append(f"| {what}: {name} | " + " | ".join([*cells, whole]) + " |")
    for one, other in PAIRS:
        found = paired(_scores(lines, tasks, one), _scores(lines, tasks, other))
        if found is not None:
            said = f"{found.difference:+.3f}, p = {found.p:.3f}, {found.wins:g} of {found.pairs}"
            text.append(f"\ntest, {one} against {other}: {said}")
    return "\n".join(text)


def _scores(lines: Sequence[Mapping[str, Any]], tasks: Sequence[str], name: str) -> dict[tuple[str, int], float]:
    """Test scores by task and seed of what is chosen among some wordings."""
    here = [line for line in lines if line.get("chosen") == name and line["task"] in tasks]
    return {(line["task"], line["seed"]): line["test"] for line in here}


def _key(row: Example) -> str:
    return json.dumps([*sorted(row.fields.items()), row.label])


def main() -> None:
    """Ask, or judge what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the tasks' files")
    parser.add_argument("--model", default="pypi:flan-t5-small")
    parser.add_argument("--tasks", nargs="+", default=list(NAMES), choices=list(NAMES))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--cache", type=Path, default=Path("runs/wordings-cache"))
    parser.add_argument("--out", type=Path, default=Path("runs/wordings.jsonl"))
    parser.add_argument("--ask", type=Path, help="write questions to this folder, and take the answers that lie there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    backbone = load(options.model, dtype="mixed")
    for name in options.tasks:
        bench = Bench.of(backbone, name, options.data, options.seeds, options.cache)
        if options.ask is None:
            measured(bench, options.out, lines)
        else:
            ask(bench, options.ask, options.seeds[0])
    if options.ask is None:
        print(table(lines, options.tasks))


if __name__ == "__main__":
    main()
