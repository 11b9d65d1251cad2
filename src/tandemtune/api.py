"""Python as a first-class way in: the same runs, folders and resumption as on the command line, out of objects or recipes."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tandemtune import plugins
from tandemtune.callbacks import Callback, Callbacks
from tandemtune.errors import RunError, UsageError
from tandemtune.rewards.own import refuse_while_imported
from tandemtune.runs.records import Assessment, ComparedRun, GenerationRecord, JournalRecord, Result, StepRecord
from tandemtune.runs.store import RunFolder

if TYPE_CHECKING:
    from tandemtune.predict import Prediction, TunedModel
    from tandemtune.report.standings import ComparisonTable

Progress = Literal["auto", "terminal", "notebook", "none"]
Rows = str | Path | Sequence[Mapping[str, Any]] | Any
"""A file, a ``hub:`` address, a list of dicts, or a DataFrame."""
_TASK_KEYS = ("test", "dev", "labels", "template")
_PARTS = {
    "optimizer": "method",
    "tunable": "method",
    "subspace": "method",
    "objective": "method",
    "readout": "method",
    "proposer": "alternate",
    "executor": "run",
}


class Run:
    """A run in its folder, finished or not.

    Args:
        path: the run folder.

    Raises:
        RunError: no run lies there.
    """

    def __init__(self, path: str | Path) -> None:
        self._folder = RunFolder.open(Path(path))
        self._kept: tempfile.TemporaryDirectory[str] | None = None

    @property
    def path(self) -> Path:
        """The run folder."""
        return self._folder.path

    @property
    def result(self) -> Result | None:
        """Scores, costs and versions; None while the run has not ended."""
        return self._folder.read_result()

    @property
    def records(self) -> list[JournalRecord]:
        """The journal's records."""
        return self._folder.read_records()

    @property
    def history(self) -> Any:
        """One row for each turn (step, losses, scores, costs): a DataFrame where pandas is there, else a list of dicts."""
        return _frame([_history_row(r) for r in self.records if isinstance(r, GenerationRecord | StepRecord)])

    @cached_property
    def model(self) -> TunedModel:
        """The tuned model, ready to predict; loaded when it is first asked for.

        Raises:
            RunError: the run has not ended, or its base model has changed.
        """
        from tandemtune.predict import load

        return load(self.path)

    def predict(self, inputs: Any) -> list[Prediction]:
        """Label texts, dicts with the template's fields, or a DataFrame; see `TunedModel.predict`."""
        return self.model.predict(_as_inputs(inputs))

    def evaluate(self, rows: Rows) -> Assessment:
        """How the tuned model does on labelled rows: score with interval, loss, confusion matrix, the worst rows.

        Args:
            rows: a file, a list of dicts or a DataFrame with the template's fields and the label column.
        """
        return self.model.evaluate(rows)

    def export(self, to: str | Path, *, merged: bool = False, rank: int | None = None) -> Path:
        """Write the run as a folder that `transformers` and PEFT load by themselves; see `tandemtune.export.export`.

        Args:
            to: the folder to make.
            merged: whole weights, with LoRA adapters merged into them.
            rank: make sure that vLLM can serve the adapter, filled up with zeros to this rank (0 leaves it as it is).
        """
        from tandemtune.export import export

        return export(self.path, to, merged=merged, rank=rank)

    def plot(self, path: str | Path | None = None, chart: str = "loss") -> Any:
        """A chart of the run as a matplotlib figure.

        Args:
            path: write it there, too (SVG or PNG by its suffix).
            chart: which one: "loss", "dev-score", "scores", "classes", "layers", "loss-over-tokens" or "loss-over-time".
        """
        from tandemtune.report.run_page import run_charts

        charts = run_charts(self._folder)
        if chart not in charts:
            raise UsageError(f"no chart {chart!r}{plugins.near(chart, charts)}: this run has {', '.join(charts)}")
        if path is not None:
            charts[chart].save(Path(path))
        return charts[chart].figure()

    def __repr__(self) -> str:
        result = self.result
        if result is None:
            return f"Run({str(self.path)!r}, not finished)"
        tuned, zero = result.tuned, result.zero_shot
        which = ("test", tuned.test, zero.test) if tuned.test is not None else ("dev", tuned.dev, zero.dev)
        return f"Run({str(self.path)!r}, {result.method} on {result.task}: {which[0]} {result.metric} {which[1]} (zero-shot {which[2]}))"

    def _repr_html_(self) -> str:
        from tandemtune.report.run_page import run_html_summary

        return run_html_summary(self._folder)


def tune(
    recipe: str | Path | Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    *,
    model: str | None = None,
    train: Rows = None,
    test: Rows = None,
    dev: Rows = None,
    labels: Mapping[str, str | Sequence[str]] | None = None,
    template: str | None = None,
    method: str | None = None,
    optimizer: Any = None,
    tunable: Any = None,
    subspace: Any = None,
    objective: Any = None,
    readout: Any = None,
    proposer: Any = None,
    executor: Any = None,
    metric: str | Callable[[list[str], list[str]], float] | None = None,
    callbacks: Sequence[Callback] = (),
    progress: Progress = "auto",
    overrides: Sequence[str | tuple[str, Any]] = (),
    overwrite: bool = False,
    **settings: Any,
) -> Run:
    """Tune a model as a recipe says, as the arguments say, or both (arguments come first).

        run = tune(model="pypi:flan-t5-small", train=rows, labels={"bad": "terrible", "good": "great"},
                   template="{text} It was {mask}.", method="c-lora", optimizer=CMAES(popsize=20))

    Args:
        recipe: a recipe file, the name of a recipe that comes with the package, or a nested dict.
        out: the folder to make; None for a temporary one that goes with the returned object.
        model: ``pypi:KEY``, a local folder or a hub id.
        train: rows with the template's fields and a label: a file, ``hub:NAME``, a list of dicts or a DataFrame; for an image-text model
            a folder of images, or rows with images or their paths.
        test: rows that are scored once, at the end.
        dev: rows that choose the point that is kept; drawn from `train` if left out.
        labels: label -> label word, or several.
        template: for example ``"{text} It was {mask}."``.
        method: a method's name.
        optimizer: a name, or a member such as ``CMAES(popsize=20)``; so `tunable`, `subspace`,
            `objective`, `readout`, `proposer`, `executor`.
        metric: a name, or any function (predictions, gold) -> number over labels.
        callbacks: told what happens, see `tandemtune.Callback`.
        progress: how progress is shown: "auto" picks terminal, notebook or nothing.
        overrides: ``section.key=value`` strings or (key, value) pairs.
        overwrite: replace a run that lies at `out`.
        settings: any other setting by its short name, for example ``budget=500`` or ``shots=8``.

    Returns:
        The finished run.

    Raises:
        TandemTuneError: the recipe, the data or the model cannot be used, or the folder cannot be written.
    """
    from tandemtune.assets.workspace import kept_images
    from tandemtune.config import load_config
    from tandemtune.runner import run as make
    from tandemtune.tasks.in_memory import rows_on_disk

    refuse_while_imported()
    kept = tempfile.TemporaryDirectory(prefix="tandemtune-") if out is None else None
    place = Path(out) if out is not None else Path(str(kept and kept.name)) / "run"
    RunFolder.check_free(place, overwrite=overwrite)
    given: list[tuple[str, Any]] = []
    if model is not None:
        given.append(("model.name", model))
    if method is not None:
        given.append(("method.name", method))
    if metric is not None:
        given.append(("task.metric", metric if isinstance(metric, str) else plugins.address_of(metric)))
    own = {"test": None, "dev": None, "labels": labels, "template": template}
    given += [(f"task.{key}", _plain(value)) for key, value in own.items() if value is not None]
    chosen = {
        "optimizer": optimizer,
        "tunable": tunable,
        "subspace": subspace,
        "objective": objective,
        "readout": readout,
        "proposer": proposer,
        "executor": executor,
    }
    given += [(f"{_PARTS[noun]}.{noun}", part) for noun, part in chosen.items() if part is not None]
    with rows_on_disk(place, {"train": train, "test": test, "dev": dev}, kept_images()) as (paths, folder):
        given += [(f"task.{name}", path) for name, path in paths.items()]
        config = load_config(recipe if recipe is not None else {}, [*given, *settings.items(), *overrides])
        with _shown(progress, callbacks) as callback:
            make(config, place, callback, overwrite=overwrite, data=folder)
    run = Run(place)
    run._kept = kept
    return run


def resume(path: str | Path, *, callbacks: Sequence[Callback] = (), progress: Progress = "auto") -> Run:
    """Go on with a run that was stopped; it ends as if it never had been.

    Args:
        path: the run folder.
        callbacks: told what happens.
        progress: how progress is shown.

    Returns:
        The finished run; at once if it had ended.

    Raises:
        RunError: no run lies there, another process works on it, or what it began with has changed.
    """
    from tandemtune.runner import go_on

    with _shown(progress, callbacks) as callback:
        go_on(Path(path), callback)
    return Run(path)


def finish(path: str | Path, *, callbacks: Sequence[Callback] = (), progress: Progress = "auto") -> Run:
    """Score and keep what an unfinished run has found so far, and search no further.

    Args:
        path: the run folder.
        callbacks: told what happens.
        progress: how progress is shown.

    Returns:
        The finished run; at once if it had ended.

    Raises:
        RunError: no run lies there, another process works on it, or what it began with has changed.
    """
    from tandemtune.runner import go_on

    with _shown(progress, callbacks) as callback:
        go_on(Path(path), callback, by_hand=True)
    return Run(path)


class Comparison:
    """Runs of a plan and what they say together.

    Args:
        path: folder of all runs.
        table: everything that the tables show, as ``comparison.json`` has it.
        runs: the runs.
    """

    def __init__(self, path: Path, table: ComparisonTable, runs: Sequence[ComparedRun]) -> None:
        self.path, self.table, self.runs = path, table, tuple(runs)

    @property
    def rows(self) -> Any:
        """One row for each run: a DataFrame where pandas is there, else a list of dicts."""
        return _frame([_compared_row(run) for run in self.runs])

    def __repr__(self) -> str:
        done = sum(run.result is not None for run in self.runs)
        return f"Comparison({str(self.path)!r}, {done} of {len(self.runs)} runs)"


def compare(
    plan: str | Path | Mapping[str, Any],
    *,
    out: str | Path,
    overrides: Sequence[str] = (),
    jobs: int | None = None,
    ray: str | None = None,
    gpus: float = 0.0,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Run methods side by side on the same rows and budgets; what has ended is not repeated.

    Args:
        plan: a TOML file of methods, tasks, models and seeds, or its content.
        out: folder of all runs.
        overrides: ``section.key=value`` strings for every run.
        jobs: processes side by side, instead of the plan's.
        ray: make the runs on a Ray cluster: auto, HOST:PORT, or local for this machine alone.
        gpus: accelerators that each run reserves there.
        progress: called with a short line when a run ends.

    Raises:
        ConfigError: lists every problem of the plan.
        RunError: what lies in the folder belongs to another plan.
    """
    from tandemtune.comparisons import check_plan, execute, on_cluster, read_plan
    from tandemtune.report.comparison import write
    from tandemtune.report.comparison_page import write_report

    refuse_while_imported()
    say = progress or (lambda text: None)
    read = read_plan(Path(plan) if isinstance(plan, str) else plan, Path(out), overrides)
    if ray is None:
        read = dataclasses.replace(read, jobs=jobs or read.jobs)
    check_plan(read, say)
    with on_cluster(ray, gpus, jobs) as elsewhere:
        runs = execute(read, say, elsewhere)
    table = write(read, runs)
    write_report(read.out)
    return Comparison(read.out, table, runs)


@contextmanager
def _shown(progress: Progress, callbacks: Sequence[Callback]) -> Iterator[Callback]:
    """All callbacks as one, with the progress display among them."""
    if progress not in ("auto", "terminal", "notebook", "none"):
        raise UsageError(f"progress: expected auto, terminal, notebook or none, got {progress!r}")
    from tandemtune.report.live import progress_callback

    shown = progress_callback(progress)
    with shown if hasattr(shown, "__enter__") else nullcontext():  # type: ignore[union-attr]
        yield Callbacks([*([shown] if shown is not None else []), *callbacks])


def _as_inputs(inputs: Any) -> Any:
    return inputs.to_dict(orient="records") if hasattr(inputs, "to_dict") and hasattr(inputs, "columns") else inputs


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, (tuple, list)) else value


def _history_row(record: GenerationRecord | StepRecord) -> dict[str, Any]:
    generation = isinstance(record, GenerationRecord)
    return {
        "step": record.step,
        "phase": record.phase,
        "layer": record.layer if isinstance(record, GenerationRecord) else None,
        "best": record.best if isinstance(record, GenerationRecord) else None,
        "accepted": record.accepted if generation else None,  # type: ignore[union-attr]
        "train_loss": record.train_loss,
        "dev_loss": record.dev.loss if record.dev else None,
        "dev_score": record.dev.score if record.dev else None,
        "candidates": record.costs.candidates,
        "gradient_steps": record.costs.gradient_steps,
    }


def _compared_row(run: ComparedRun) -> dict[str, Any]:
    result = run.result
    return {
        **{name: getattr(run, name) for name in ("model", "task", "method", "seed", "folder", "failure")},
        "dev": result.tuned.dev if result else None,
        "test": result.tuned.test if result else None,
        "zero_shot_test": result.zero_shot.test if result else None,
        "seconds": result.cost.seconds if result else None,
    }


def _frame(rows: list[dict[str, Any]]) -> Any:
    """Rows as a DataFrame where pandas is there."""
    try:
        import pandas
    except ImportError:
        return rows
    return pandas.DataFrame(rows)


def load(path: str | Path) -> TunedModel:
    """Load a finished run's model; see `tandemtune.predict.load`."""
    from tandemtune.predict import load as load_model

    if not Path(path).exists():
        raise RunError(f"{path} does not exist: `tandemtune run` or `tune` makes a run folder")
    return load_model(path)
