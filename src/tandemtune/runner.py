"""A run, from recipe to adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import tandemtune.build as wiring
import tandemtune.card as card
from tandemtune.config import RunConfig, load_config
from tandemtune.errors import DataError, RunError
from tandemtune.mentoring import check_mentor, proposing
from tandemtune.objective.batch import Batch
from tandemtune.objective.objective import calibrate
from tandemtune.parts import Bench, Progress, content_free
from tandemtune.phases import make_phase, make_stages
from tandemtune.runs.files import write_json
from tandemtune.runs.store import RunFolder
from tandemtune.search import Search, Standing
from tandemtune.system import peak_rss_mb, versions
from tandemtune.tasks.fewshot import subsample
from tandemtune.types import Example, Observer

DIGITS = 6


def tune(
    recipe: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    overwrite: bool = False,
    observer: Observer | None = None,
) -> dict[str, Any]:
    """Run a recipe and write its run folder.

    Args:
        recipe: a recipe file, the name of a recipe that comes with the package, or a nested dict.
        out: the folder to make.
        overrides: ``section.key=value`` strings.
        overwrite: replace a run that lies at `out`.
        observer: told what happens.

    Returns:
        What `result.json` holds: scores of the zero-shot and the tuned model, costs, versions.

    Raises:
        TandemTuneError: the recipe, the data or the model cannot be used, or the folder cannot be written.
    """
    observe = observer or _ignore
    config = load_config(recipe, overrides).with_absolute_paths()
    RunFolder.check_free(Path(out), overwrite=overwrite)
    wiring.check(config, _progress(observe))
    check_mentor(config, _progress(observe))
    bench = _prepared(config, {}, observe)  # before the folder is made: what cannot run leaves nothing behind
    folder = RunFolder.create(Path(out), config.model_dump(mode="json"), overwrite=overwrite)
    with folder.locked():
        return _run(folder, bench, observe)


def resume(path: str | Path, *, observer: Observer | None = None) -> dict[str, Any]:
    """Go on with a run that was stopped; it ends as if it never had been.

    Args:
        path: the run folder.
        observer: told what happens.

    Returns:
        What `result.json` holds; at once if the run had ended.

    Raises:
        RunError: no run lies there, another process works on it, or the installed versions have changed.
    """
    folder = RunFolder.open(Path(path))
    done = folder.read_result()
    if done is not None:
        return done
    observe = observer or _ignore
    with folder.locked():
        folder.clean()
        facts = folder.read_facts()
        _refuse_other_versions(folder.path, facts)
        bench = _prepared(load_config(folder.read_recipe()), facts, observe)
        return _run(folder, bench, observe)


def _prepared(config: RunConfig, facts: Mapping[str, Any], observe: Observer) -> Bench:
    """Load and measure everything that a search needs; writes nothing."""
    bench = wiring.build(config, facts=facts, progress=_progress(observe))
    observe("ready", {"facts": bench.facts, "config": config})
    wiring.check_start(bench)
    return bench


def _run(folder: RunFolder, bench: Bench, observe: Observer) -> dict[str, Any]:
    """Search in a folder that this process has locked, and write what was found."""
    if not folder.facts.exists():
        write_json(folder.facts, {"versions": versions(), **bench.facts})
    scorer, config = bench.scorer, bench.scorer.config
    with proposing(bench, folder.conversations) as proposer:
        found = Search(
            bench.objective,
            bench.dev,
            make_stages(config),
            scorer.tunable.initial(),
            lambda origin, stage: make_phase(bench, origin, stage),
            config,
            folder,
            observe,
            bench.rows,
            scorer.vocabulary,
            proposer,
            bench.sample,
        ).run()
    scorer.engine.forget()
    observe("testing", {})
    result = _result(bench, found, folder)
    with folder.replacing_adapter() as place:
        scorer.tunable.save(found.kept, place, config.model.name)
        card.write_readme(place, bench, result)
    write_json(folder.card, card.task_card(bench, result))
    write_json(folder.result, result)
    observe("result", {"result": result})
    return result


def _result(bench: Bench, found: Standing, folder: RunFolder) -> dict[str, Any]:
    """Measure the pretrained and the kept point on train, dev and (once, here) test."""
    scorer = bench.scorer
    config, task = scorer.config, scorer.task
    section = config.task
    examples = None
    if task.test_source is not None:
        try:
            examples = task.test(section.test_rows, section.seed)
            scorer.encoded(examples)
        except DataError as error:
            raise DataError(
                f"{error}. The search is saved: correct the test rows, then `tandemtune resume {folder.path}`"
            ) from None
    depth = sum(scorer.engine.stack.costs)
    return {
        "method": config.method.name,
        "model": config.model.name,
        "task": task.name,
        "metric": task.metric,
        "seed": section.seed,
        "shots": section.shots,
        "zero_shot": _scores(bench, None, examples),
        "tuned": _scores(bench, found.kept, examples),
        "majority": _majority(bench, examples),
        "kept_step": found.kept_step,
        "kept_line": found.kept_line,
        "steps": found.step,
        "cost": {
            "candidates": found.candidates,
            "gradient_steps": found.gradient_steps,
            "forward_tokens": round(found.token_layers / depth),
            "backward_tokens": round(found.backward_token_layers / depth),
            **{f"mentor_{name}": value for name, value in found.spent.items()},
            "seconds": round(folder.read_seconds(), 3),
            "peak_rss_mb": round(max(peak_rss_mb(), folder.read_peak()), 1),
        },
        "rows": {"train": len(bench.split.train), "dev": len(bench.dev), "test": len(examples or ())},
        "stop_reason": str(folder.read_lines()[-1]["stop_reason"]),
        "versions": versions(),
    }


def _scores(bench: Bench, tuned: Mapping[int, Tensor] | None, examples: Sequence[Example] | None) -> dict[str, Any]:
    """Loss and metric of a tuned point (None: the pretrained model) on every split, plain and with contextual calibration."""
    objective, scorer = bench.objective, bench.scorer
    plain, point = tuned is None, tuned or {}
    trained = subsample(bench.split.train, scorer.config.task.scored_rows, scorer.config.task.seed)
    rows = scorer.batch(trained, plain), scorer.batch(bench.split.dev, plain)
    empty = objective.engine.logits(content_free(scorer, plain), point)
    calibrated = scorer.calibrates and not plain  # the pretrained model is shown without and with it anyway

    def logits_of(batch: Batch) -> Tensor:
        logits = objective.engine.logits(batch, point)
        return calibrate(logits, empty) if calibrated else logits

    def divided(logits: Tensor) -> Tensor:
        return logits if calibrated else calibrate(logits, empty)

    found = [logits_of(batch) for batch in rows]
    train, dev = (objective.judged(logits, batch) for logits, batch in zip(found, rows, strict=True))
    train_after, dev_after = (
        objective.judged(divided(logits), batch) for logits, batch in zip(found, rows, strict=True)
    )
    scores: dict[str, Any] = {
        "train_loss": _rounded(train.loss),
        "train": round(train.score, DIGITS),
        "dev_loss": _rounded(dev.loss),
        "dev": round(dev.score, DIGITS),
        "test": None,
        "calibrated": {
            "train_loss": _rounded(train_after.loss),
            "dev_loss": _rounded(dev_after.loss),
            "dev": round(dev_after.score, DIGITS),
            "test": None,
        },
        "prior": [_rounded(p) for p in torch.softmax(empty, dim=-1).mean(dim=0).tolist()],
    }
    if examples is not None:
        test = scorer.batch(examples, plain)
        logits = logits_of(test)
        scores["test"] = round(objective.score_of(logits, test), DIGITS)
        scores["calibrated"]["test"] = round(objective.score_of(divided(logits), test), DIGITS)
    return scores


def _majority(bench: Bench, examples: Sequence[Example] | None) -> float | None:
    """Test score of always answering the class that is most frequent among the test rows."""
    task = bench.scorer.task
    if not examples:
        return None
    gold = [task.label_index(str(example.label)) for example in examples]
    common = max(set(gold), key=lambda label: (gold.count(label), -label))
    return round(task.score([common] * len(gold), gold), DIGITS)


def _refuse_other_versions(path: Path, facts: Mapping[str, Any]) -> None:
    """A run goes on with what it began with, or its numbers would not be those of one run."""
    before, now = facts.get("versions", {}), versions()
    changed = [f"{name} {before[name]} -> {now.get(name, 'none')}" for name in before if before[name] != now.get(name)]
    if changed:
        raise RunError(
            f"{path} was begun with other versions ({', '.join(changed)}), so it cannot end as one run: "
            "install those versions, or start it anew"
        )


def _rounded(value: float) -> float | None:
    """A number as JSON has it: null stands for NaN and infinity."""
    return round(value, DIGITS) if math.isfinite(value) else None


def _progress(observe: Observer) -> Progress:
    return lambda line: observe("progress", {"text": line})


def _ignore(event: str, facts: Mapping[str, Any]) -> None:
    """An observer that does not look."""
