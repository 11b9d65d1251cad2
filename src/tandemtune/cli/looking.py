"""Commands that show what there is: show, report, ls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from tandemtune.cli.app import Overrides, Png, Svg, app, console, echo_json, patient, say
from tandemtune.errors import UsageError

if TYPE_CHECKING:
    from tandemtune.runs.records import TemplateScore

Rows = list[dict[str, str]]


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of tables.")] = False,
) -> None:
    """Show how a run went, finished or not.

    Example: tandemtune show runs/mine
    """
    from tandemtune.report.text import summary, summary_view
    from tandemtune.runs.store import RunFolder

    found = summary(RunFolder.open(folder))
    if as_json:
        echo_json(found.plain())
    else:
        console().print(summary_view(found))


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Run folder, or folder of a comparison.")],
    out: Annotated[Path | None, typer.Option(help="HTML file to write; default FOLDER/report.html.")] = None,
    svg: Svg = None,
    png: Png = None,
) -> None:
    """Write how a run or a comparison went as one HTML page, and its charts as files where you say so.

    Example: tandemtune report runs/mine --svg figures
    """
    from tandemtune.report.charts import save_all
    from tandemtune.report.comparison_page import comparison_charts, comparison_report, read_comparison
    from tandemtune.report.run_page import run_charts, run_page
    from tandemtune.runs.store import RunFolder
    from tandemtune.runs.writing import write_atomically

    place = out or folder / "report.html"
    if place.is_dir() or (place.is_file() and not place.read_bytes().startswith(b"<!DOCTYPE html>")):
        raise UsageError(f"{place} is there already and is no report: choose another --out")
    if out and not out.absolute().parent.is_dir():
        raise UsageError(f"folder {out.absolute().parent} does not exist: make it first")
    many = (folder / "comparison.json").is_file()
    with patient("drawing the charts"):
        text = comparison_report(folder) if many else run_page(RunFolder.open(folder))
        write_atomically(place, lambda file: file.write(text.encode("utf-8")))
        if svg or png:
            charts = comparison_charts(*read_comparison(folder), folder) if many else run_charts(RunFolder.open(folder))
            if svg:
                save_all(charts, svg, "svg")
            if png:
                save_all(charts, png, "png")
            say(f"charts: {', '.join(charts)}")
    typer.echo(place)


@app.command()
def templates(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or one of `tandemtune ls recipes`.")],
    overrides: Overrides = None,
    also: Annotated[
        list[str] | None, typer.Option("--template", help="Judge this template, too; may be given several times.")
    ] = None,
    words: Annotated[
        list[str] | None,
        typer.Option(
            help="Judge each template with these label words, too: LABEL=WORD,...; may be given several times."
        ),
    ] = None,
    mentor: Annotated[
        int,
        typer.Option(
            min=0, help="Ask the recipe's mentor for so many templates with label words, and judge them, too."
        ),
    ] = 0,
    said: Annotated[
        Path,
        typer.Option(help="Folder in which what is said to the mentor is kept; asked again, it answers from there."),
    ] = Path("runs/templates"),
    as_json: Annotated[bool, typer.Option("--json", help="Print data instead of a table.")] = False,
) -> None:
    """Rank templates (and their label words) on a recipe's labelled rows, best first; test rows are never read.

    Label words are judged by the leave-one-out loss of a readout, texts by the metric of what the pretrained model writes.

    Example: tandemtune templates my.toml --template "Review: {text} Sentiment: {mask}"

    Example: tandemtune templates my.toml --words negative=bad,positive=good --words negative=awful,positive=fine

    Example: tandemtune templates my.toml --mentor 8 mentor.client=file
    """
    from tandemtune import autotune, wiring
    from tandemtune.config import load_config
    from tandemtune.config.task import WordedTemplate
    from tandemtune.models import load as loading

    config = load_config(recipe, overrides or []).with_absolute_paths()
    wiring.check(config, say, test=False)
    kind = config.model.kind or loading.kind_of(
        loading.read_config(loading.locate(config.model.name, say), config.model.revision)
    )
    task = wiring.as_searched(config, wiring.make_task(config.task, kind, say))
    split = task.split(
        config.task.shots, config.task.seed, dev_k=config.task.dev_shots, short=config.task.short_classes
    )
    task = wiring.with_length(task, config, len(split.train))
    wanted = wiring.candidate_tasks(config.task, task, kind)
    wanted += wiring.in_each(task, [WordedTemplate(template=text) for text in also or []])
    if words and not task.words:
        raise UsageError("--words: this task is answered with texts, which have no label words: leave it out")
    others = [_worded(text) for text in words or []]
    crossed = [WordedTemplate(template=str(one.template), labels=own) for one in wanted for own in others]
    wanted += [made for made in wiring.in_each(task, crossed) if made not in wanted]
    if mentor:
        autotune.check_proposing(config, task, said, say)
    judge = autotune.Judge(config, task, kind, split, say)
    found = judge.ranked(wanted)
    try:
        if mentor:
            found += autotune.proposed(config, judge, wanted, found, kind, mentor, said, say)
    finally:  # a mentor that fails takes nothing of what was judged with it
        _show_ranking(found, task.name, task.metric, len(judge.rows), as_json)
    if not as_json and (together := judge.together(found)) is not None:
        typer.echo(f'\nWith together = "auto" {autotune.how_many(together)}')


def _worded(text: str) -> dict[str, str | list[str]]:
    """Label words out of LABEL=WORD,..."""
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(label.strip() and equals and word.strip() for label, equals, word in pairs):
        raise UsageError(f"--words {text!r}: expected LABEL=WORD,LABEL=WORD,... with a word for each label")
    return {label.strip(): word.strip() for label, _, word in pairs}


def _show_ranking(found: list[TemplateScore], task: str, metric: str, rows: int, as_json: bool) -> None:
    """Print templates that were judged on so many rows, best first."""
    import math

    found.sort(key=lambda one: math.inf if one.loss is None else one.loss)
    if as_json:
        echo_json([one.model_dump(mode="json") for one in found])
        return
    worded = any(one.labels for one in found)
    title = f"{rows} labelled rows, each judged by all others" if worded else f"what is written for {rows} rows"
    table = Table(title=Text(f"{task}: {title}"))
    numbered = ("loss", "+-", metric, "zero-shot") if worded else ("+-", metric)
    for name in (*numbered, "template", *(["label words"] if worded else [])):
        table.add_column(name, justify="right" if name in numbered else "left", overflow="fold")
    for one in found:
        if one.loss is None:
            table.add_row("-", *[""] * (len(numbered) - 1), Text(f"{one.template!r}: {one.refused}"))
            continue
        of_words = (f"{one.loss:.3f}", f"{one.standard_error or 0:.3f}", f"{one.score:.3f}", f"{one.zero_shot:.3f}")
        words = ", ".join("/".join(w) for w in one.labels.values())
        said = (repr(one.template), *([words] if worded else []))
        table.add_row(*(of_words if worded else of_words[1:3]), *map(Text, said))
    console().print(table)
    if found and found[0].loss is not None:
        typer.echo(
            f"\nThe best one, for a recipe (in place of template, templates and labels there):\n\n{_as_settings(found[0])}"
        )


def _as_settings(best: TemplateScore) -> str:
    """A judged template as settings of a recipe."""
    from tandemtune.report.recipes import as_toml

    words = {label: words[0] if len(words) == 1 else list(words) for label, words in best.labels.items()}
    return as_toml({"task": {"template": best.template, **({"labels": words} if words else {})}})


@app.command()
def ls(
    what: Annotated[str, typer.Argument(help="What to list; `tandemtune ls` alone says what there is.")] = "",
    name: Annotated[
        str, typer.Argument(help="One of them, with all its options; of runs the folder that they lie in.")
    ] = "",
) -> None:
    """List what a recipe may name, with the options of each, or the runs in a folder.

    Example: tandemtune ls optimizers cma-es

    Example: tandemtune ls runs runs/comparison
    """
    if not what:
        for key in _LISTS:
            typer.echo(key)
        return
    if what not in _LISTS:
        from tandemtune.plugins import near

        hint = near(what, _LISTS)
        raise UsageError(f"nothing called {what!r} can be listed{hint}: choose {', '.join(_LISTS)}")
    rows = _LISTS[what]() if not name else _runs(Path(name)) if what == RUNS else _options(what, name)
    if not rows:
        typer.echo("no options" if name and what != RUNS else "none")
        return
    there = console()
    if not there.is_terminal:
        for row in rows:
            typer.echo("\t".join(row.values()))
        return
    table = Table(show_header=True, title=Text(f"{what} {name}".strip()))
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row.values()))
    there.print(table)


def _members(noun: str) -> Callable[[], Rows]:
    def rows() -> Rows:
        from tandemtune import plugins

        return [
            {
                "name": name,
                "what": member.summary,
                "options": ", ".join(key for key, field in member.model_fields.items() if not field.exclude),
                "source": member.source,
            }
            for name, member in plugins.members(noun).items()
        ]

    return rows


def _options(what: str, name: str) -> Rows:
    """The options of one member."""
    from tandemtune import plugins

    noun = what.removesuffix("s")
    if noun not in plugins.PACKAGES or what in ("metrics", "rewards"):
        raise UsageError(f"{what} have no options of their own: leave {name!r} out")
    return [
        {
            "option": key,
            "default": plugins.default_of(field),
            "meaning": plugins.meaning_of(field),
        }
        for key, field in plugins.find(noun, name).model_fields.items()
        if not field.exclude
    ]


def _judges(noun: str, *further: dict[str, str]) -> Callable[[], Rows]:
    """Members that judge, and what else may be named where they may."""

    def rows() -> Rows:
        from tandemtune import plugins

        known: Rows = [
            {"name": name, "what": (getattr(found, "summary", "") or found.__doc__ or "").split("\n")[0]}
            for name, found in plugins.members(noun).items()
        ]
        return [*known, *further]

    return rows


def _methods() -> Rows:
    from tandemtune.config import load_config
    from tandemtune.methods import METHODS

    rows: Rows = []
    for name, method in METHODS.items():
        config = load_config({"model": "m", "task": "sst2", "method": name})
        made = config.method
        order = f"{config.alternate.rounds} rounds with a proposer" if config.alternates else made.order
        rows.append(
            {
                "name": name,
                "what": method.summary,
                "tunable": made.tunable.kind,
                "optimizer": made.optimizer.kind,
                "order": order if made.optimizer.searches or config.alternates else "-",
                "source": method.source,
            }
        )
    return rows


def _assets(*kinds: str) -> Callable[[], Rows]:
    def rows() -> Rows:
        import tandemtune.assets as assets
        from tandemtune.plugins import load_plugins

        load_plugins()
        return [
            {
                "name": asset.name,
                "what": asset.summary,
                "licence": asset.licence,
                "MB": str(asset.download_mb),
            }
            for asset in assets.CATALOGUE.values()
            if asset.kind in kinds
        ]

    return rows


def _tasks() -> Rows:
    import tandemtune.assets as assets
    from tandemtune.tasks.catalogue import TASKS

    known = [
        {"name": name, "what": row.summary, "metric": row.metric, "labels": ", ".join(row.labels)}
        for name, row in TASKS.items()
    ]
    return known + [
        {"name": asset.name, "what": asset.summary, "metric": "accuracy", "labels": labels}
        for asset in assets.CATALOGUE.values()
        if (labels := {"data": "negative, positive", "images": "those of its folders"}.get(asset.kind))
    ]


def _templates() -> Rows:
    from tandemtune.tasks.catalogue import TASKS
    from tandemtune.tasks.known_templates import known_templates

    kinds: tuple[Literal["masked", "causal"], ...] = ("masked", "causal")
    first = [
        {"task": name, "model": kind, "template": repr(str(row.template(kind))), "words": _words(row.words_for(kind))}
        for name, row in TASKS.items()
        for kind in kinds
    ]
    more = [
        {"task": name, "model": "causal", "template": repr(one.template), "words": ", ".join(one.words)}
        for name, several in known_templates().items()
        for one in several
    ]
    return [*first, *more]


def _words(words: Mapping[str, Sequence[str]]) -> str:
    return ", ".join("/".join(several) for several in words.values())


def _recipes() -> Rows:
    from tandemtune.config import recipes

    return [
        {"name": name, "what": path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()}
        for name, path in recipes().items()
    ]


def _runs(folder: Path) -> Rows:
    from tandemtune.runs.listing import listed_runs

    return [
        {
            "name": run.name,
            "method": run.method,
            "task": run.task,
            "seed": run.seed,
            "state": run.state,
            "zero-shot": "" if run.zero_shot is None else f"{run.zero_shot:.3f}",
            "tuned": "" if run.tuned is None else f"{run.tuned:.3f}",
            "of": f"{run.rows} {run.metric}".strip(),
            "when": run.when,
        }
        for run in listed_runs(folder)
    ]


RUNS = "runs"
_LISTS: dict[str, Callable[[], Rows]] = {
    "methods": _methods,
    "optimizers": _members("optimizer"),
    "tunables": _members("tunable"),
    "subspaces": _members("subspace"),
    "objectives": _members("objective"),
    "readouts": _members("readout"),
    "proposers": _members("proposer"),
    "metrics": _judges("metric"),
    "rewards": _judges(
        "reward",
        {"name": "judge", "what": "grades of a language model ([mentor]), by a rubric; in [method] rewards only"},
    ),
    "yardsticks": _members("yardstick"),
    "trackers": _members("tracker"),
    "executors": _members("executor"),
    "templates": _templates,
    "tasks": _tasks,
    "models": _assets("model", "embedding"),
    "mentors": _assets("gguf"),
    "recipes": _recipes,
    RUNS: lambda: _runs(Path(RUNS)) if Path(RUNS).is_dir() else [],
}
