"""What a reader of a run's scores should know beside them."""

from __future__ import annotations

from collections.abc import Mapping

from tandemtune import card, scoring
from tandemtune.config import RunConfig
from tandemtune.problem import Problem
from tandemtune.runs.records import Gain, GenerationRecord, ProposalRecord
from tandemtune.runs.store import RunFolder
from tandemtune.search.state import SearchState

OVERRUN = 1.1
"""A search that uses this many times the tokens that it was given says so."""


def notes_of(problem: Problem, found: SearchState, gain: Gain | None, folder: RunFolder) -> tuple[str, ...]:
    """What a reader of the scores should know."""
    config = problem.scorer.config
    tokens = (found.costs.forward + found.costs.backward) / problem.evaluator.depth
    beside = {
        "chose a template": scoring.choosing_tokens(problem),
        "solved the readout": scoring.solving_tokens(problem, gain),
    }
    return (
        *problem.facts.notes,
        *problem.facts.mended,
        *_ended_early(config, found),
        *_used_up(problem, found, folder),
        *_flat(folder),
        *([f"the scores are {card.not_in_peft(reason)}"] if (reason := problem.scorer.only_here) else []),
        *_overrun(config.run.max_forward_tokens, tokens, "forward", beside),
        *_overrun(config.run.max_generated_tokens, found.costs.generated, "generated", {}),
        *(_late(config.run.max_seconds, folder.read_seconds(), problem.seconds) if found.step else []),
        *_mentor_notes(config, folder, found.spent),
        *_grading_notes(problem),
    )


def _ended_early(config: RunConfig, found: SearchState) -> list[str]:
    """That a run has not come to its last stretch, so that another objective chose its point."""
    names = [one.method.name for one in config.stretches]
    if found.stretch + 1 == len(names):
        return []
    return [
        f"the run ended in stretch {found.stretch + 1} of {len(names)} ({names[found.stretch]}), so the point that is kept was chosen by "
        f"the objective {config.stretches[found.stretch].method.objective.kind}"
    ]


def unanswered(folder: RunFolder) -> str:
    """Why nobody ever proposed anything; nothing if somebody did, or nobody was asked."""
    failures = _failures(folder)
    return failures[0] or "" if failures and all(failures) else ""


def _failures(folder: RunFolder) -> list[str | None]:
    """Why nobody proposed anything, for each round; None where somebody did."""
    asked = [record for record in folder.read_records() if isinstance(record, ProposalRecord)]
    return [None if record.actions else record.failure for record in asked]


def _mentor_notes(config: RunConfig, folder: RunFolder, spent: Mapping[str, float]) -> list[str]:
    """That nobody proposed anything, or nobody in some rounds, and what a mentor has cost."""
    notes, failures = [], _failures(folder)
    silent = [why for why in failures if why]
    if why := unanswered(folder):
        notes.append(
            f"{config.alternate.proposer.kind} was asked and never proposed anything ({why}), so this run is the optimizer alone"
        )
    elif silent:
        notes.append(f"{len(silent)} of {len(failures)} rounds had no answer ({silent[0]})")
    if money := spent.get("money"):
        price = config.mentor.price
        dated = f", prices of {price.dated}: check before you rely on it" if price.dated else ""
        notes.append(
            f"the mentor has cost {money:.4f} {price.currency} (a million tokens asked {price.asked:g}, answered {price.answered:g}{dated})"
        )
    return notes


def _grading_notes(problem: Problem) -> list[str]:
    """What grades of a model have cost."""
    ledger = None if problem.grader is None else problem.grader.ledger
    if ledger is None:
        return []
    money = f", {ledger.money:.4f} {problem.scorer.config.mentor.price.currency}" if ledger.money else ""
    return [
        f"{ledger.calls:,} texts were graded by {problem.scorer.config.mentor.mentor}: {ledger.prompt_tokens:,} tokens asked, "
        f"{ledger.completion_tokens:,} answered{money}"
    ]


def _used_up(problem: Problem, found: SearchState, folder: RunFolder) -> list[str]:
    """That choosing a template has left no time for a search."""
    bound = problem.scorer.config.run.max_seconds
    if bound is None or found.step or folder.read_stop_reason() != "max_seconds" or not problem.facts.templates:
        return []
    return [
        f"choosing among {len(problem.facts.templates)} templates took the {bound:g} seconds of max_seconds, so nothing was searched: raise it, or "
        "give the recipe one template"
    ]


def _overrun(given: int | None, searched: float, kind: str, beside: Mapping[str, int]) -> list[str]:
    """That a search has used clearly more tokens of a kind than it was given, since a turn is never cut; or that it has used more with
    what is done before and after it, which nothing bounds.

    Args:
        given: tokens that the recipe allows.
        searched: tokens of the search.
        kind: which ones.
        beside: tokens of what was done beside it, by what they did.
    """
    tokens = searched + sum(beside.values())
    if given is None or tokens <= given * (1.0 if any(beside.values()) else OVERRUN):
        return []
    said = f"{tokens:,.0f} {kind} tokens were used, {tokens / given:,.2f} times the {given:,} of max_{kind}_tokens"
    if any(beside.values()):
        parts = " and ".join(f"{count:,} {what}" for what, count in beside.items() if count)
        said += f", which ends the search alone: {parts}"
    if searched > OVERRUN * given:
        said += ": a turn is never cut, and one turn of this method costs more than was left"
    return [said]


def _late(given: float | None, seconds: float, choosing: float) -> list[str]:
    """That a run has taken clearly longer than it was given: its clock is looked at between turns.

    Args:
        given: seconds that the recipe allows.
        seconds: those of the run, those of choosing a template among them.
        choosing: those.
    """
    if given is None or seconds <= OVERRUN * given:
        return []
    used = "1 second was used" if round(seconds) == 1 else f"{seconds:,.0f} seconds were used"
    said = f"{used}, {seconds / given:,.2f} times the {given:g} of max_seconds"
    beside = f", {choosing:,.0f} of them to choose a template" if choosing else ""
    return [f"{said}{beside}: a turn is never cut, and one turn of this method takes longer than was left"]


def _flat(folder: RunFolder) -> list[str]:
    """What there is to say where nothing that was tried made any difference."""
    turns = [record for record in folder.read_records() if isinstance(record, GenerationRecord)]
    losses = {loss for turn in turns for loss in turn.losses}
    if len(losses) != 1 or sum(len(turn.losses) for turn in turns) < 2:
        return []
    return [
        "every candidate had the same loss, so the search had nothing to follow: what it moves does not change the answers "
        "to these prompts (too short for [method] target to matter?), or the objective does not tell them apart"
    ]
