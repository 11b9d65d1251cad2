"""A journal as lines of text: what was proposed, raced and handed over, round by round."""

from __future__ import annotations

from collections.abc import Sequence

from tandemtune.report.numbers import score
from tandemtune.runs.records import (
    Actions,
    EndRecord,
    GenerationRecord,
    HandOverRecord,
    JournalRecord,
    ProposalRecord,
    RaceEntry,
    RaceRecord,
    StartRecord,
    StepRecord,
)

_RESTARTS = {"no": "from here", "best": "from the best point", "start": "from the pretrained layers"}
_ENTRANTS = {"continuing": "the trained prompt", "proposed": "{!r}", "residual": "{!r} with what was learned"}


def story(records: Sequence[JournalRecord]) -> list[str]:
    """Round by round: what the optimizer reached, what it says in words, what was proposed, and what was taken; or the texts
    that a search of texts went through.

    Args:
        records: a journal.

    Returns:
        Nothing if nobody proposed anything in it and no texts were searched.
    """
    several = any(isinstance(r, HandOverRecord) for r in records)
    if not several and not any(
        isinstance(r, ProposalRecord) or (isinstance(r, GenerationRecord) and r.text) for r in records
    ):
        return []
    told: list[str] = []
    text = ""
    for record in records:
        match record:
            case ProposalRecord():
                told += proposal_story(record)
            case RaceRecord():
                told += race_story(record)
            case HandOverRecord():
                told.append(hand_over_story(record))
            case EndRecord():
                told.append(f"end after step {record.step}: {record.stop_reason}")
            case StartRecord() | GenerationRecord() | StepRecord() if record.words is not None:
                words = record.words
                place = "start" if isinstance(record, StartRecord) else f"step {record.step}"
                told.append(
                    f"{place}: train loss {score(words.soft_loss)}; in words {words.text!r} "
                    f"(distance {score(words.distance)}, train loss as words {score(words.loss)})"
                )
        if isinstance(record, GenerationRecord) and record.text and record.text != text:
            text = record.text
            told.append(f"step {record.step}: the best text is now {text!r} (train loss {score(record.train_loss)})")
    return told


def proposal_story(record: ProposalRecord) -> list[str]:
    """What was proposed in one round, and what came of it, as lines of text."""
    dev = record.trained_dev
    story = [f"round {record.round}: the trained prompt has a dev loss of {score(dev.loss)} ({score(dev.score)})"]
    if record.failure:
        story.append(f"  {record.proposer} proposed nothing: {record.failure}")
    for index, draft in enumerate(record.drafts):
        looked = f": dev loss {score(draft.dev.loss)} ({score(draft.dev.score)})" if draft.dev is not None else ""
        mark = " -> taken" if index == record.taken else ""
        story.append(f"  {record.proposer} proposed {draft.text!r}{looked}{mark}")
    if record.refused:
        text, reason = record.refused[0]
        story.append(f"  refused: {len(record.refused)}, for example {text!r} ({reason})")
    if record.unsteered:
        story.append(f"  {record.proposer} decided nothing about the next round: {record.unsteered}")
    if record.actions is not None:
        story.append(f"  the next round: {decided(record.actions)}")
    if record.raced:
        story.append("  they race the trained prompt")
    elif record.taken is None:
        story.append("  the search goes on from the trained prompt")
    return story


def race_story(record: RaceRecord) -> list[str]:
    """A leg of a race as lines of text."""
    best = record.entrants[record.kept[0]]
    left = len(record.kept)
    fate = f"{left} of {len(record.entrants)} go on" if left > 1 else f"the search goes on from {entrant(best)}"
    return [
        f"race {record.round}, step {record.step}: {fate}; lowest: {entrant(best)}, dev loss {score(best.dev.loss)} "
        f"({score(best.dev.score)})"
    ]


def hand_over_story(record: HandOverRecord) -> str:
    """A line about a search that takes over."""
    return (
        f"{record.phase} takes over after step {record.step} ({record.reason}), at the point of step {record.kept_step}: by its objective "
        f"train loss {score(record.train_loss)}, dev loss {score(record.dev.loss)}, dev score {score(record.dev.score)}"
    )


def decided(actions: Actions) -> str:
    """How the next round is run, for a reader."""
    layers = (
        f"layer{'s' * (len(actions.layers) != 1)} {', '.join(map(str, actions.layers))}"
        if actions.layers
        else "all layers"
    )
    return f"{layers}, {_RESTARTS[actions.restart]}, {actions.steps} steps"


def entrant(entry: RaceEntry) -> str:
    """Who takes part in a race, for a reader."""
    return _ENTRANTS[entry.name].format(entry.text)
