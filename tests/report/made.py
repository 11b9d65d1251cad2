"""Run folders and comparisons as a runner would write them, made of records and of nothing else."""

from __future__ import annotations

import functools
import json
import math
import random
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tandemtune.runs.records import (
    CalibratedScores,
    ComparedRun,
    Costs,
    EndRecord,
    Evaluation,
    Facts,
    FinalCosts,
    GenerationRecord,
    JournalRecord,
    PredictionRecord,
    PromptRecord,
    ProposalRecord,
    Result,
    RowCounts,
    Scores,
    StartRecord,
    StepRecord,
    SweepPoint,
    TunableFacts,
    to_line,
)
from tandemtune.runs.store import RunFolder
from tandemtune.runs.writing import write_json

LAYERS = 4
LOST = math.inf
LABELS = {"negative": ("bad",), "positive": ("good",)}
STRANGE = '</td></table><script>alert(1)</script><img src=x onerror=alert(2)> & "it\'s" $\\frac{$'
KINDS = ("c-lora", "together", "lora", "mentor", "texts")
RECIPES: dict[str, dict[str, Any]] = {
    "c-lora": {"name": "c-lora", "optimizer": {"kind": "cma-es", "popsize": 20}, "tunable": {"kind": "lora", "r": 2}},
    "together": {"name": "bbt", "optimizer": {"kind": "cma-es", "popsize": 20}, "tunable": {"kind": "prompt"}},
    "lora": {"name": "lora", "optimizer": {"kind": "adamw", "lr": 1e-3}, "tunable": {"kind": "lora", "r": 8}},
    "mentor": {"name": "maao", "optimizer": {"kind": "adamw", "lr": 0.1}, "tunable": {"kind": "prompt", "tokens": 4}},
    "texts": {"name": "ga", "optimizer": {"kind": "genetic"}, "tunable": {"kind": "demonstrations"}},
}


def recipe(kind: str, **task: Any) -> dict[str, Any]:
    """A resolved recipe."""
    rounds = 2 if kind == "mentor" else 0
    return {
        "model": {"name": "/models/small", "dtype": "auto", "threads": None},
        "task": {"name": "mails", "train": "train.csv", "metric": "accuracy", "positive": None, "seed": 5, **task},
        "method": {"budget": 400, "steps": None, "dev_every": 1, **RECIPES[kind]},
        "alternate": {
            "rounds": rounds,
            "round_steps": 3,
            "select": "best",
            "accept": "if_better",
            "proposer": {"kind": "mentor"},
        },
        "mentor": {"client": "endpoint", "mentor": "strange <mentor>", "price": None},
        "run": {"seed": 5},
    }


def facts(kind: str) -> Facts:
    """What was decided when the run began."""
    return Facts(
        kind="masked",
        dtype="float32",
        device="cpu",
        threads=1,
        layers=LAYERS,
        depth=LAYERS,
        tunable=TunableFacts(parameters=1234, layers=tuple(range(LAYERS))),
        template="{text} it was {mask} .",
        labels=LABELS,
        pieces=("it", "was"),
        label_pieces=LABELS,
        notes=("3 texts were cut",),
        versions={"torch": "2.13", "tandemtune": "0.1.0"},
        planned=20 if kind in ("lora", "mentor") else 400,
        unit="steps" if kind in ("lora", "mentor") else "candidates",
    )


def prompt(text: str, loss: float | None, dev: Evaluation | None = None) -> PromptRecord:
    """Words that were scored."""
    return PromptRecord(text=text, ids=(1, 2), loss=loss, score=0.6, distance=0.25, soft_loss=0.5, dev=dev)


def records(kind: str, seed: int = 0) -> list[JournalRecord]:
    """A journal of 20 turns."""
    source = random.Random(f"{kind} {seed}")
    words = prompt("we saw it", 0.9) if kind == "mentor" else None
    found: list[JournalRecord] = [
        StartRecord(
            event="start", schema=2, phase=kind, train_loss=0.8, dev=Evaluation(loss=0.82, score=0.5), words=words
        )
    ]
    train = 0.8
    costs = Costs()
    for step in range(1, 21):
        dev = None
        if step % 2 == 0:
            loss = 0.35 + 0.5 * math.exp(-step / 6) + source.uniform(-0.02, 0.02) + (0.01 * max(0, step - 14))
            dev = Evaluation(loss=round(loss, 6), score=round(0.9 - 0.5 * loss, 6))
        costs = Costs(
            candidates=costs.candidates + (0 if kind in ("lora", "mentor") else 20),
            gradient_steps=costs.gradient_steps + (1 if kind in ("lora", "mentor") else 0),
            forward=costs.forward + 4000,
            backward=costs.backward + (4000 if kind in ("lora", "mentor") else 0),
        )
        if kind in ("lora", "mentor"):
            words = prompt(f"prompt {step} <i>", 0.7) if kind == "mentor" and step % 5 == 0 else None
            batch = round(0.3 + 0.5 * math.exp(-step / 6) + source.uniform(-0.1, 0.1), 6)
            found.append(
                StepRecord(
                    event="step",
                    step=step,
                    phase=kind,
                    loss=batch,
                    gradient_norm=1.0,
                    lr=0.01,
                    costs=costs,
                    dev=dev,
                    words=words,
                )
            )
            if kind == "mentor" and step in (6, 12):
                found.append(proposal(step // 6, costs))
            continue
        losses = [round(train + source.gauss(0.02, 0.05), 6) for _ in range(19)]
        best = min(losses)
        accepted = best < train
        found.append(
            GenerationRecord(
                event="generation",
                step=step,
                phase=kind,
                sweep=1 + (step - 1) // LAYERS,
                layer=(step - 1) % LAYERS if kind == "c-lora" else None,
                losses=(*losses, None),
                incumbent=train,
                best=best,
                accepted=accepted,
                train_loss=min(best, train),
                costs=costs,
                dev=dev,
                text=f"text {step // 7}" if kind == "texts" else None,
            )
        )
        train = min(best, train)
    return [*found, EndRecord(event="end", step=20, stop_reason="budget")]


def proposal(number: int, costs: Costs) -> ProposalRecord:
    """A round: of the first nothing is taken, of the second the second draft."""
    drafts = (
        prompt(STRANGE, 0.95, Evaluation(loss=0.94, score=0.41)),
        prompt("a good film", 0.41, Evaluation(loss=0.4, score=0.72)),
    )
    return ProposalRecord(
        event="proposal",
        round=number,
        proposer="mentor",
        trained_loss=0.6,
        trained_dev=Evaluation(loss=0.61, score=0.61),
        drafts=drafts,
        taken=1 if number == 2 else None,
        costs=costs,
        shown=(prompt("we saw it", 0.9),),
        refused=(("very " * 30, "longer than the prompt"), (STRANGE, "is markup")),
        spent={"calls": number, "prompt_tokens": 120.0 * number, "completion_tokens": 40.0 * number, "money": 0.001},
    )


def scores(test: float | None, dev: float, loss: float | None) -> Scores:
    """What a point reaches; calibration takes a hundredth."""
    after = CalibratedScores(
        train_loss=loss,
        dev_loss=None if loss is None else loss + 0.02,
        dev=dev - 0.01,
        test=None if test is None else test - 0.01,
    )
    return Scores(train_loss=loss, train=0.9, dev_loss=loss, dev=dev, calibrated=after, prior=(0.5, 0.5), test=test)


def result(kind: str = "c-lora", test: float | None = 0.8, **changes: Any) -> Result:
    """What a run reached; `changes` are of the result, or of its cost."""
    cost = {
        "candidates": 400,
        "gradient_steps": 0,
        "forward_tokens": 20_000,
        "backward_tokens": 0,
        "seconds": 75.0,
        "peak_rss_mb": 512.25,
    }
    if kind in ("lora", "mentor"):
        cost |= {"candidates": 0, "gradient_steps": 20, "backward_tokens": 20_000}
    if kind == "mentor":
        cost["proposer"] = {"calls": 2, "prompt_tokens": 240, "completion_tokens": 80, "open_tokens": 0}
    content: dict[str, Any] = {
        "method": RECIPES[kind]["name"],
        "model": "/models/small",
        "task": "mails",
        "metric": "accuracy",
        "seed": 5,
        "shots": 16,
        "zero_shot": scores(None if test is None else 0.6, 0.5, 0.8),
        "tuned": scores(test, 0.75, 0.4),
        "majority": None if test is None else 0.55,
        "kept_step": 14,
        "kept_record": 14,
        "steps": 20,
        "rows": RowCounts(train=32, dev=32, test=0 if test is None else 40),
        "stop_reason": "budget",
        "versions": {"torch": "2.13"},
    }
    for key, value in changes.items():
        (cost if key in cost else content)[key] = value
    return Result(**content, cost=FinalCosts(**cost))


def predictions(right: int = 32, rows: int = 40) -> list[PredictionRecord]:
    """Test rows; the wrong ones come first, and are the more confident the earlier they come."""
    found = []
    for place in range(rows):
        gold = "positive" if place % 4 else "negative"
        label = gold if place >= rows - right else ("negative" if gold == "positive" else "positive")
        p = round(0.95 - 0.01 * place, 6) if gold != label else 0.8
        other = "negative" if label == "positive" else "positive"
        fields = {"text": f"mail {place} {STRANGE if place == 0 else ''}"}
        found.append(
            PredictionRecord(fields=fields, gold=gold, label=label, probabilities={label: p, other: round(1 - p, 6)})
        )
    return found


def write_run(
    place: Path, kind: str = "c-lora", *, seed: int = 0, finished: bool = True, told: bool = True, **changes: Any
) -> RunFolder:
    """A run's folder.

    Args:
        place: where.
        kind: one of `KINDS`.
        seed: of its losses.
        finished: whether there is a result.
        told: whether there are predictions.
        changes: of the result.
    """
    folder = RunFolder.create(place, recipe(kind))
    write_json(folder.facts, facts(kind).plain())
    lines = records(kind, seed)
    write_journal(folder, lines if finished else lines[:9])
    for record in lines:
        if isinstance(record, GenerationRecord | StepRecord):
            folder.tick(step=record.step, seconds=record.step * 3.75, peak_rss_mb=512.25)
    if kind == "mentor":
        said = [
            {"client": "strange <mentor>", "offers": []},
            {"asked": "k", "request": {"messages": [{"role": "user", "content": f"better? {STRANGE}"}], "seed": 1}},
            {
                "answered": "k",
                "reply": {"text": STRANGE, "prompt_tokens": 10, "completion_tokens": 4, "finish_reason": "stop"},
            },
        ]
        folder.conversations.write_text("".join(json.dumps(line) + "\n" for line in said), encoding="utf-8")
    if finished:
        write_json(folder.result, result(kind, **changes).plain())
        if told:
            write_predictions(folder, predictions())
    return folder


def write_journal(folder: RunFolder, lines: list[JournalRecord]) -> None:
    """Replace a run's journal."""
    folder.journal.write_text("".join(to_line(line) + "\n" for line in lines), encoding="utf-8")


def write_predictions(folder: RunFolder, rows: list[PredictionRecord]) -> None:
    """Replace a run's predictions."""
    text = "".join(json.dumps(row.plain(), ensure_ascii=False) + "\n" for row in rows)
    folder.predictions.write_text(text, encoding="utf-8")


def run_of(
    method: str, seed: int, test: float | None, task: str = "t", model: str = "", *, dev: float = 0.7, **changes: Any
) -> ComparedRun:
    """A run of a comparison; an infinite test score stands for a lost run. `changes` are of the run, its result or its cost."""
    own = {key: changes.pop(key) for key in ("sweep", "unknown", "folder", "failure") if key in changes}
    place = {"method": method, "task": task, "model": model, "seed": seed, "folder": "x", **own}
    if test is not None and math.isinf(test):
        return ComparedRun(**{"failure": "lost", **place})
    found = result(**{"zero_shot": scores(0.5, 0.45, 0.8), "majority": 0.4, "tuned": scores(test, dev, 0.4), **changes})
    return ComparedRun(**place, result=found)


def write_comparison(place: Path, kind: str) -> list[ComparedRun]:
    """Runs of a comparison, their folders written: "sweep" (one task) or "mixed" (two tasks)."""
    source = random.Random(kind)
    methods = (
        {f"d={d}": "together" for d in (8, 16, 200)}
        if kind == "sweep"
        else {"c-lora": "c-lora", "prompt tuning": "lora", "maao <mutation>": "together"}
    )
    found = []
    for task in ("first",) if kind == "sweep" else ("first", "second & last"):
        for number, (method, run_kind) in enumerate(methods.items()):
            for seed in (1, 2, 3):
                folder = place / slug(task) / slug(method) / str(seed)
                test = round(0.6 + 0.08 * number + source.uniform(-0.04, 0.04), 4)
                changes: dict[str, Any] = {
                    "tuned": scores(test, round(0.62 + 0.05 * number, 4), 0.4),
                    "seconds": 60.0 * (number + 1) + seed,
                    "forward_tokens": 10_000_000 * 4**number,
                    "peak_rss_mb": 400.0 + 100 * ((number + 1) % 3),
                }
                folder.parent.mkdir(parents=True, exist_ok=True)
                write_run(folder, run_kind, seed=seed, told=False, **changes)
                found.append(
                    ComparedRun(
                        method=method,
                        task=task,
                        model="",
                        seed=seed,
                        folder=str(folder),
                        result=RunFolder(folder).read_result(),
                    )
                )
    return found


def swept(run: ComparedRun, value: Any) -> ComparedRun:
    """A run as a plan's sweep has it."""
    return run.model_copy(update={"sweep": SweepPoint(of="c-lora", key="method.d", value=value)})


def slug(name: str) -> str:
    """A folder's name."""
    return re.sub("[^A-Za-z0-9.=]+", "-", name).strip("-")


@functools.cache
def place() -> Path:
    """A folder for what all tests read; it is left to the system's temporary folder until the process ends."""
    _kept.append(tempfile.TemporaryDirectory(prefix="tandemtune-reports-"))
    return Path(_kept[-1].name)


_kept: list[Any] = []


@functools.cache
def run(kind: str) -> Path:
    """The folder of a finished run of a kind; not to be changed."""
    return write_run(place() / kind, kind).path


def copy(kind: str, to: Path) -> Path:
    """A copy of a finished run, to be changed."""
    return Path(shutil.copytree(run(kind), to / "run"))


@functools.cache
def comparison(kind: str) -> tuple[Path, tuple[ComparedRun, ...]]:
    """The folder and the runs of a comparison: "sweep" or "mixed"; not to be changed."""
    out = place() / f"comparison-{kind}"
    return out, tuple(write_comparison(out, kind))
