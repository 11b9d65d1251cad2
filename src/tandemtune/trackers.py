"""Trackers: experiment trackers that a run reports to while it happens, by ``[run] report_to`` as in transformers.

A tracker is a member of noun "tracker"; its `begin` opens a `Log`. What a tracker keeps on this machine lies in
``RUN/tracking/NAME``. Packages are imported when a run begins.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from tandemtune import plugins
from tandemtune.callbacks import Callback, TurnView
from tandemtune.errors import UsageError
from tandemtune.plugins import Member, register
from tandemtune.runs.records import (
    Costs,
    Evaluation,
    GenerationRecord,
    HandOverRecord,
    ProposalRecord,
    RaceRecord,
    Result,
    StartRecord,
    StepRecord,
)

NOBODY = "none"
PROJECT = "tandemtune"
"""Project or experiment, where the tracker's own environment variable names none."""
LONGEST = 500
"""Characters of a setting that every MLflow server takes."""


class Log:
    """One run in a tracker, open for writing."""

    def write(self, values: Mapping[str, float], step: int) -> None:
        """Note numbers.

        Args:
            values: by name, such as ``dev/loss``; all finite.
            step: turns so far.
        """
        raise NotImplementedError

    def close(self, done: bool) -> None:
        """Send what is left.

        Args:
            done: whether the run is finished, or stopped and may go on.
        """
        raise NotImplementedError


class Tracker(Member):
    """Base of the trackers.

    Attributes:
        package: module that it needs; empty for none.
    """

    noun: ClassVar[str] = "tracker"
    package: ClassVar[str] = ""

    def begin(self, place: Path, name: str, settings: Mapping[str, str]) -> Log:
        """Open a run, or the one that an earlier process opened.

        Args:
            place: a folder for what is kept on this machine; it need not exist.
            name: of the run.
            settings: of the recipe, with paths such as ``method.budget``.
        """
        raise NotImplementedError

    @classmethod
    def check(cls) -> None:
        """Refuse to begin without what it needs.

        Raises:
            UsageError: says what to install.
        """
        if cls.package and find_spec(cls.package) is None:
            raise UsageError(
                f"[run] report_to: {cls.kind} needs {cls.package}, which is not installed: pip install {cls.package} (or "
                "'tandemtune[tracking]' for all trackers), or leave it out"
            )


@register
class TensorBoard(Tracker):
    """Event files in the run's folder."""

    kind: ClassVar[str] = "tensorboard"
    summary: ClassVar[str] = "event files in RUN/tracking/tensorboard; look with `tensorboard --logdir runs`"
    source: ClassVar[str] = "https://www.tensorflow.org/tensorboard"
    package: ClassVar[str] = "tensorboard"

    def begin(self, place: Path, name: str, settings: Mapping[str, str]) -> Log:
        from torch.utils.tensorboard import SummaryWriter

        begun = place.is_dir()
        writer: Any = SummaryWriter(log_dir=str(place))
        if not begun:
            writer.add_text("recipe", "\n".join(f"    {key} = {value}" for key, value in settings.items()))
        return _TensorBoardLog(writer)


class _TensorBoardLog(Log):
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def write(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()  # a process may be killed at any time

    def close(self, done: bool) -> None:
        self._writer.close()


@register
class WandB(Tracker):
    """Weights & Biases."""

    kind: ClassVar[str] = "wandb"
    summary: ClassVar[str] = "Weights & Biases; its own variables (WANDB_PROJECT, WANDB_MODE, ...) hold"
    source: ClassVar[str] = "https://docs.wandb.ai"
    package: ClassVar[str] = "wandb"

    def begin(self, place: Path, name: str, settings: Mapping[str, str]) -> Log:
        import wandb

        place.mkdir(parents=True, exist_ok=True)
        known = _known(place)
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        run = wandb.init(
            project=project,
            name=name,
            config=dict(settings),
            dir=str(place),
            id=known,
            resume="allow" if known else None,
        )
        _keep(place, str(run.id))
        return _WandBLog(run)


class _WandBLog(Log):
    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


@register
class MLflow(Tracker):
    """MLflow."""

    kind: ClassVar[str] = "mlflow"
    summary: ClassVar[str] = "MLflow; its own variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME) hold"
    source: ClassVar[str] = "https://mlflow.org/docs/latest"
    package: ClassVar[str] = "mlflow"

    def begin(self, place: Path, name: str, settings: Mapping[str, str]) -> Log:
        import mlflow

        client = mlflow.MlflowClient()
        known = _known(place)
        if known is None:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = client.get_experiment_by_name(experiment)
            where = client.create_experiment(experiment) if found is None else found.experiment_id
            known = str(client.create_run(where, run_name=name).info.run_id)
            _keep(place, known)
            for key, value in settings.items():
                client.log_param(known, key, value[:LONGEST])
        client.update_run(known, status="RUNNING")
        return _MLflowLog(client, known)


class _MLflowLog(Log):
    def __init__(self, client: Any, run: str) -> None:
        self._client, self._run = client, run

    def write(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def close(self, done: bool) -> None:
        self._client.set_terminated(self._run, status="FINISHED" if done else "KILLED")


def _known(place: Path) -> str | None:
    """What a tracker called the run when an earlier process began it."""
    return (place / "id").read_text(encoding="utf-8") if (place / "id").is_file() else None


def _keep(place: Path, name: str) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "id").write_text(name, encoding="utf-8")


# ---- a run that reports -------------------------------------------------------------------------------------------


@contextmanager
def reporting(
    names: Sequence[str],
    place: Path,
    recipe: Mapping[str, Any],
    *,
    metric: str,
    depth: float,
    tell: Callable[[str], None],
) -> Iterator[Callback]:
    """Report to trackers until the context ends, however it ends.

    Args:
        names: of the trackers.
        place: the run's folder.
        recipe: the resolved recipe.
        metric: name of the score.
        depth: layers of the model, in units of the mean layer: what costs are divided by for whole-model tokens.
        tell: told where a tracker fails; the run goes on without it.

    Yields:
        The callback that reports.

    Raises:
        UsageError: a tracker cannot be opened.
    """
    made = Tracking(metric, depth, tell)
    settings = dict(_flat(recipe))
    try:
        for name in names:
            tracker: Tracker = plugins.find("tracker", name)()
            try:
                made.add(name, tracker.begin(place / "tracking" / name, place.name, settings))
            except Exception as error:  # whatever a tracker's package raises where it cannot be reached
                raise UsageError(
                    f"[run] report_to: {name} cannot be opened: {_line(error)}: mend that, or leave it out"
                ) from error
        yield made
    finally:
        made.close()


class Tracking(Callback):
    """Tells logs the numbers of a run, turn by turn.

    Args:
        metric: name of the score.
        depth: what costs are divided by for whole-model tokens.
        tell: told where a log fails.
    """

    def __init__(self, metric: str, depth: float, tell: Callable[[str], None]) -> None:
        self._metric, self._depth, self._tell = metric, depth, tell
        self._logs: dict[str, Log] = {}
        self._step = 0
        self._done = False

    def add(self, name: str, log: Log) -> None:
        """Report to one more log.

        Args:
            name: of its tracker.
            log: it.
        """
        self._logs[name] = log

    def on_start(self, record: StartRecord, resumed: int, seconds: float) -> None:
        self._write({"train/loss": record.train_loss, **self._dev(record.dev)}, resumed > 0)

    def on_turn(self, record: GenerationRecord | StepRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        self._step = record.step
        values = {"train/loss": state.train_loss, **self._dev(record.dev), **self._costs(state.costs, seconds)}
        if isinstance(record, GenerationRecord):
            values["population/best_loss"] = record.best
        else:
            values |= {"train/learning_rate": record.lr, "train/gradient_norm": record.gradient_norm}
        self._write(values, recorded)

    def on_proposal(self, record: ProposalRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        losses = [draft.dev.loss for draft in record.drafts if draft.dev is not None and draft.dev.loss is not None]
        self._write({"proposals/round": record.round, "proposals/best_dev_loss": min(losses, default=None)}, recorded)

    def on_race(self, record: RaceRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        self._step = record.step
        values = {"train/loss": record.train_loss, **self._dev(record.dev), **self._costs(state.costs, seconds)}
        self._write(values, recorded)

    def on_hand_over(self, record: HandOverRecord, state: TurnView, seconds: float, recorded: bool) -> None:
        values = {"train/loss": record.train_loss, **self._dev(record.dev), **self._costs(state.costs, seconds)}
        self._write({"search/stretch": record.stretch, **values}, recorded)

    def on_result(self, result: Result) -> None:
        values: dict[str, float | None] = {}
        for row in result.scores():
            name = f"final/{_name(row.name)}"
            values |= {f"{name}/test_{self._metric}": row.test, f"{name}/dev_{self._metric}": row.dev}
            values[f"{name}/dev_loss"] = row.dev_loss
        values[f"final/most frequent class/test_{self._metric}"] = result.majority
        self._write(values, False)
        self._done = True

    def close(self) -> None:
        """Close all logs."""
        for name in list(self._logs):
            self._tried(name, lambda log: log.close(self._done))

    def _dev(self, dev: Evaluation | None) -> dict[str, float | None]:
        return {} if dev is None else {"dev/loss": dev.loss, f"dev/{self._metric}": dev.score}

    def _costs(self, costs: Costs, seconds: float) -> dict[str, float | None]:
        found: dict[str, float | None] = {
            "cost/candidates": costs.candidates,
            "cost/gradient_steps": costs.gradient_steps,
            "cost/forward_tokens": costs.forward / self._depth,
            "cost/backward_tokens": costs.backward / self._depth,
            "cost/generated_tokens": costs.generated,
            "cost/seconds": seconds,
        }
        return {key: value for key, value in found.items() if value}

    def _write(self, values: Mapping[str, float | None], recorded: bool) -> None:
        """Tell all logs; an earlier process has told them what was recorded before."""
        if recorded:
            return
        finite = {key: float(value) for key, value in values.items() if value is not None and math.isfinite(value)}
        for name in list(self._logs):
            self._tried(name, lambda log: log.write(finite, self._step))

    def _tried(self, name: str, call: Callable[[Log], None]) -> None:
        """Do something with a log; one that fails is left out, since a run is worth more than its picture."""
        try:
            call(self._logs[name])
        except Exception as error:  # whatever a tracker's package raises
            del self._logs[name]
            self._tell(f"note: {name} failed ({_line(error)}); the run goes on without it")


def _flat(recipe: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Every setting that is not open, with its path; a table whose keys a tracker may not take, such as labels, is one."""
    for key, value in recipe.items():
        path = f"{before}.{key}" if before else str(key)
        if isinstance(value, Mapping) and any(_name(str(name)) != name for name in value):
            yield path, json.dumps(value, ensure_ascii=False)
        elif isinstance(value, Mapping):
            yield from _flat(value, path)
        elif value is not None:
            yield path, str(value)


def _name(text: str) -> str:
    """A name out of characters that every tracker takes."""
    return re.sub(r"[^\w\-./ ]+", "", text)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
