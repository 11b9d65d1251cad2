"""A run's page: what it cost, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from tandemtune.mentor.prices import price_of, priced
from tandemtune.report.history import ticks
from tandemtune.report.numbers import Content, duration, rough
from tandemtune.report.page import (
    Block,
    Code,
    Heading,
    Pairs,
)
from tandemtune.report.recipes import as_toml, proposer, setting, used
from tandemtune.report.run_view import RunView, spent_so_far
from tandemtune.report.text import spent_pairs
from tandemtune.runs.records import (
    ProposalRecord,
    Result,
)


def costs(result: Result) -> list[Block]:
    """What a finished run has cost."""
    cost = result.cost
    pairs: list[tuple[str, Content]] = [
        ("candidates", cost.candidates),
        ("gradient steps", cost.gradient_steps),
        ("steps", result.steps),
        ("forward tokens", cost.forward_tokens),
        ("backward tokens", cost.backward_tokens),
        ("written tokens", cost.generated_tokens),
        ("search", duration(cost.seconds)),
        ("peak memory of the process", f"{rough(cost.peak_rss_mb)} MB"),
        *spent_pairs(cost.proposer),
    ]
    shown = [pair for pair in pairs if pair[1] != 0]
    notes: list[Block] = [
        "Tokens count once for the whole model: a candidate of an upper layer counts for the layers that it runs through. "
        "They cover the search with its evaluations on dev; the scores before and after it come on top."
    ]
    if cost.proposer:
        notes.append("Memory includes a mentor that runs in this process; its tokens are counted apart.")
    return [Pairs(shown), *notes]


def costs_so_far(run: RunView) -> list[Block]:
    """What a run that is not finished has cost."""
    costs, clock = spent_so_far(run.records), ticks(run.folder)
    pairs: list[tuple[str, Content]] = [("candidates", costs.candidates), ("gradient steps", costs.gradient_steps)]
    if run.facts and run.facts.depth:
        pairs.append(("forward tokens", round(costs.forward / run.facts.depth)))
        pairs.append(("backward tokens", round(costs.backward / run.facts.depth)))
    if costs.generated:
        pairs.append(("written tokens", costs.generated))
    if clock:
        pairs.append(("search", duration(clock[-1][1])))
        pairs.append(("peak memory of the process", f"{rough(max(peak for _, _, peak in clock))} MB"))
    spent = [record.spent for record in run.records if isinstance(record, ProposalRecord)]
    pairs += spent_pairs(spent[-1]) if spent else []
    return ["So far:", Pairs(pairs)]


def _prices(recipe: Mapping[str, Any]) -> list[str]:
    """Prices out of the table, which has them under a name that a transcript does not go by."""
    told = recipe.get("mentor", {})
    table = price_of(told.get("mentor", ""), told.get("base_url")) if told.get("client") == "endpoint" else None
    given = (told.get("price_in"), told.get("price_out"))
    if table is None or None not in given:
        return []
    price = priced(*given, told.get("currency", table.currency), table)
    return [f"mentor.price_in={price.asked}", f"mentor.price_out={price.answered}"]


def to_repeat(run: RunView) -> list[Block]:
    """Commands that repeat a run, its settings, and what was decided on this machine."""
    facts, recipe = run.facts, run.recipe
    chosen = [("dtype", "auto", facts.dtype), ("threads", None, facts.threads)] if facts else []
    decided = [f"model.{key}={value}" for key, left, value in chosen if recipe.get("model", {}).get(key) == left]
    words = ["tandemtune", "run", str(run.folder.recipe), *decided]
    out = ["--out", "runs/again"]
    parts: list[Block] = [
        "The same on this machine, with these versions:",
        Code(shlex.join([*words, *out]), "Command that repeats the run"),
    ]
    conversations = run.folder.conversations
    if proposer(recipe) == "mentor" and conversations.exists() and setting(recipe, "mentor.client") != "recorded":
        replay = [*words, "mentor.client=recorded", f"mentor.mentor={conversations}", *_prices(recipe), *out]
        parts.append("The same without asking the mentor again, from what it said then:")
        parts.append(Code(shlex.join(replay), "Command that repeats the run from its transcript"))
    parts += [
        Heading("Settings that this method used"),
        Code(as_toml(used(recipe, facts.unit if facts else "")), "Recipe"),
    ]
    if facts:
        parts.append(Heading("Decided here"))
        labels = facts.label_pieces or facts.labels
        pairs: list[tuple[str, Content]] = [
            ("kind of model", facts.kind),
            ("number format", facts.dtype),
            ("device", facts.device),
            ("threads", facts.threads),
            ("layers", facts.layers),
            ("learning rate", facts.lr),
            ("tokens at a time", facts.chunk_tokens),
            ("memory for activations, MB", facts.max_memory),
            ("calibrated losses", facts.calibrated),
            ("templates read together", facts.together.count if facts.together else None),
            ("label words", "; ".join(f"{label}: {', '.join(pieces)}" for label, pieces in labels.items())),
            ("rows (SHA-256)", facts.rows_sha256 or None),
        ]
        parts.append(Pairs([pair for pair in pairs if pair[1] is not None]))
        parts.append(Code(facts.template, "Template"))
        if run.result is None:
            parts += [f"Note: {note}" for note in facts.notes]
    versions = run.result.versions if run.result else facts.versions if facts else {}
    if versions:
        parts += [Heading("Versions"), Pairs(list(versions.items()))]
    return parts
