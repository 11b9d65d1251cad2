"""A run's page: round by round, and what was said to a mentor and by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tandemtune.errors import RunError
from tandemtune.report.charts import LineChart, Series
from tandemtune.report.numbers import Content, score
from tandemtune.report.page import (
    Block,
    Code,
    Details,
    Grid,
    Heading,
    Quote,
)
from tandemtune.report.recipes import setting
from tandemtune.report.run_view import RunView
from tandemtune.report.stories import decided, entrant
from tandemtune.runs.journal import read_lines
from tandemtune.runs.records import (
    EndRecord,
    GenerationRecord,
    PromptRecord,
    ProposalRecord,
    RaceRecord,
    StartRecord,
    StepRecord,
)


def rounds_so_far(run: RunView) -> list[Block]:
    """The story of a run in which somebody proposes; what the points say in words where nobody does."""
    parts: list[Block] = []
    read: list[tuple[int, PromptRecord]] = []
    proposals = [record for record in run.records if isinstance(record, ProposalRecord)]
    for record in run.records:
        if isinstance(record, StartRecord | GenerationRecord | StepRecord) and record.words is not None:
            read.append((0 if isinstance(record, StartRecord) else record.step, record.words))
        if isinstance(record, ProposalRecord):
            parts += _round(run, record, read)
            read = []
        if isinstance(record, RaceRecord):
            parts.append(_leg(run.metric, record))
    if read and not proposals:
        parts.append("Nobody proposed anything here; the prompts are read as words all the same.")
    elif proposals and isinstance(end := run.records[-1], EndRecord):
        parts += [Heading("The end"), f"The search ended after step {end.step}, stopped by {end.stop_reason}."]
    if read:
        parts.append(_read_table(read, run.metric))
    if len(proposals) > 1:
        parts.insert(0, _rounds_chart(run, proposals))
    if proposals:
        parts.insert(0, _rule(run.recipe))
    return parts


def _leg(metric: str, record: RaceRecord) -> Grid:
    """One leg of a race, best first."""
    ranked = [*record.kept, *(i for i in range(len(record.entrants)) if i not in record.kept)]
    rows: list[list[Content]] = []
    for place in ranked:
        entry = record.entrants[place]
        fate = "goes on" if place in record.kept else "drops out"
        numbers = (entry.train.loss, entry.train.score, entry.dev.loss, entry.dev.score)
        rows.append([entrant(entry), fate, *map(score, numbers)])
    headers = ["entrant", "outcome", "train loss", f"train {metric}", "dev loss", f"dev {metric}"]
    return Grid(headers, rows, f"The race after step {record.step}", {2, 3, 4, 5})


def _rule(recipe: Mapping[str, Any]) -> str:
    """Which proposals are taken, in a sentence."""
    if setting(recipe, "alternate.mode") == "race":
        return (
            "In each round the proposals and the trained prompt take the same steps side by side, and those with the highest losses "
            "on the training and the dev rows drop out until one is left. The point with the lowest dev loss of all is kept."
        )
    first = setting(recipe, "alternate.select") == "first"
    which = "the first proposal" if first else "the proposal with the lowest dev loss"
    accept = str(setting(recipe, "alternate.accept", ""))
    when = {
        "always": ", whether or not it is better than the trained prompt",
        "if_better": ", if its dev loss is below that of the trained prompt",
        "metropolis": ", if its dev loss is below that of the trained prompt, and sometimes if it is not",
    }.get(accept, f", by the rule {accept!r}" if accept else "")
    return f"In each round the search goes on from {which}{when}. The point with the lowest dev loss of all is kept."


def _rounds_chart(run: RunView, proposals: Sequence[ProposalRecord]) -> LineChart:
    alone = not setting(run.recipe, "alternate.round_steps", 1)
    numbers = [record.round for record in proposals]
    trained = Series(
        "where the search stands" if alone else "what the optimizer reached",
        numbers,
        [record.trained_dev.loss for record in proposals],
    )
    pairs = [(record.round, draft.dev.loss) for record in proposals for draft in record.drafts if draft.dev is not None]
    drafts = Series("proposals", [x for x, _ in pairs], [y for _, y in pairs], style="points")
    return LineChart(
        title="Dev loss round by round", x_label="round", y_label="dev loss", series=[trained, drafts], height=300
    )


def _round(run: RunView, record: ProposalRecord, read: Sequence[tuple[int, PromptRecord]]) -> list[Block]:
    """One round, in the order in which it happened."""
    metric, who = run.metric, _who(run.recipe, record.proposer)
    alone = not setting(run.recipe, "alternate.round_steps", 1)
    begun = "The search stands at" if alone else "The optimizer reached"
    dev = record.trained_dev
    parts: list[Block] = [
        Heading(f"Round {record.round}"),
        f"{begun} a dev loss of {score(dev.loss)} ({metric} {score(dev.score)}).",
    ]
    if read:
        parts.append(_read_table(read, metric))
    if record.failure:
        parts.append(f"{who[:1].upper()}{who[1:]} proposed nothing: {record.failure}.")
    rows: list[list[Content]] = []
    for index, draft in enumerate(record.drafts):
        looked = (draft.dev.loss, draft.dev.score) if draft.dev is not None else (None, None)
        outcome = "in the race" if record.raced else "taken" if index == record.taken else "not taken"
        rows.append([draft.text, outcome, *map(score, (draft.loss, draft.score, *looked))])
    if rows:
        headers = ["proposal", "outcome", "train loss", f"train {metric}", "dev loss", f"dev {metric}"]
        parts.append(Grid(headers, rows, f"What {who} proposed", {2, 3, 4, 5}))
    if record.refused:
        refused: list[list[Content]] = [[text, reason] for text, reason in record.refused]
        parts.append(Grid(["refused", "because"], refused, "What was said and could not be tried", set()))
    if record.shown:
        shown: list[list[Content]] = [[entry.text, score(entry.loss), score(entry.score)] for entry in record.shown]
        listed = Grid(["prompt", "train loss", f"train {metric}"], shown, "Worst first", {1, 2})
        parts.append(Details(f"The best prompts of words so far ({len(shown)}), which a proposer may see", [listed]))
    if record.unsteered:
        parts.append(f"{who[:1].upper()}{who[1:]} decided nothing about the next round: {record.unsteered}.")
    if record.actions is not None:
        parts.append(f"The next round: {decided(record.actions)}.")
    return [*parts, _outcome(record)]


def _outcome(record: ProposalRecord) -> str:
    if record.raced and record.drafts:
        return "They are trained side by side with the trained prompt."
    if record.taken is None:
        return "Nothing was taken: the search goes on from where it stood."
    draft = record.drafts[record.taken]
    after = draft.dev.loss if draft.dev is not None else None
    return f"The search goes on from “{draft.text}”: dev loss {score(record.trained_dev.loss)} → {score(after)}."


def _read_table(read: Sequence[tuple[int, PromptRecord]], metric: str) -> Grid:
    """Points read as words."""
    rows: list[list[Content]] = [
        [step, score(words.soft_loss), words.text, *map(score, (words.distance, words.loss, words.score))]
        for step, words in read
    ]
    headers = ["step", "train loss", "nearest words", "distance", "train loss as words", f"train {metric} as words"]
    return Grid(headers, rows, "The trained prompt, read as words", {0, 1, 3, 4, 5})


def _who(recipe: Mapping[str, Any], name: str) -> str:
    known = {
        "mentor": f"the mentor ({setting(recipe, 'mentor.mentor', 'unnamed')})",
        "mutation": "mutation of the best prompts (control)",
        "random": "chance (random words, control)",
        "perturbed": "noise around the trained prompt (control)",
    }
    return known.get(name, name)


def conversations(path: Path) -> list[Block]:
    """What was said to a mentor and by it: to be read, and as it was written down."""
    if not path.exists():
        return []
    raw = path.read_bytes().decode("utf-8", "replace")
    verbatim = Details("conversations.jsonl, verbatim", [Code(raw, "conversations.jsonl")])
    asked: dict[str, int] = {}
    said: list[Block] = []
    try:
        lines = read_lines(path)
        for line in lines:
            said += _said(line, asked)
    except (RunError, AttributeError, KeyError, TypeError):
        return ["The file is damaged, or of another kind; this is what it holds.", verbatim]
    client = lines[0].get("client") if lines else None
    questions = "1 question" if len(asked) == 1 else f"{len(asked)} questions"
    intro: list[Block] = [f"{client} was asked {questions}."] if client else []
    return [*intro, *([Details("Questions and answers", said)] if said else []), verbatim]


def _said(line: Mapping[str, Any], asked: dict[str, int]) -> list[Block]:
    """A line of the transcript for a reader; numbers questions in `asked`."""
    if "asked" in line:
        request = line.get("request")
        if not isinstance(request, Mapping):
            return [f"Question {asked.get(str(line['asked']), '?')} was asked once more."]
        asked[str(line["asked"])] = len(asked) + 1
        messages = request.get("messages") or [{"role": "to be continued", "content": request.get("prompt", "")}]
        settings = ", ".join(f"{key} {request[key]}" for key in ("max_tokens", "temperature", "seed") if key in request)
        texts = [Quote(str(message.get("role")), str(message.get("content"))) for message in messages]
        return [Heading(f"Question {len(asked)}"), settings, *texts]
    if "answered" in line:
        reply = line["reply"]
        title = f"Answer to question {asked.get(str(line['answered']), '?')}"
        counts = (
            f"{reply['prompt_tokens']} tokens asked, {reply['completion_tokens']} answered, {reply['finish_reason']}"
        )
        return [Quote(f"{title} ({counts})", str(reply["text"]))]
    if "failed" in line:
        return [f"Question {asked.get(str(line['failed']), '?')} got no answer: {line.get('why')}"]
    return []
