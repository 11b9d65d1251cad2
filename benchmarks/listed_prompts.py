"""Prompts that a mentor has proposed, out of the transcripts beside this file: a race with them repeats offline, on any machine and with any seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from tandemtune.errors import UsageError
from tandemtune.plugins import register
from tandemtune.proposers.base import Asked, Draft, Proposal, Proposer, TriedWords, Worded

PROMPTS = Path(__file__).parent / "transcripts" / "prompts.json"


class Listed(Worded):
    """The prompts of each round, in their order.

    Args:
        rounds: prompts of each round.
        asked: what a proposer is opened with.
    """

    def __init__(self, rounds: Sequence[Sequence[str]], asked: Asked) -> None:
        super().__init__(asked.vocabulary, asked.length, asked.count, asked.seed)
        self._rounds = rounds

    def propose(self, round: int, tried: Sequence[TriedWords], known: Sequence[TriedWords]) -> Proposal:
        """Those of this round."""
        chosen = self._rounds[round - 1][: self.count] if round <= len(self._rounds) else ()
        words = [self.vocabulary.fit(text, self.length) for text in chosen]
        return Proposal(tuple(Draft(each.text, each.ids) for each in words), failure=None if words else "no more")


@register
class ListedPrompts(Proposer):
    """What a mentor has proposed for a task; `benchmarks/ask_mentors.py` asks."""

    kind: ClassVar[str] = "listed-prompts"
    summary: ClassVar[str] = "what a mentor has proposed for a task, from a transcript"

    who: str = Field(default="strong", description="whose prompts")

    def make(self, asked: Asked) -> Listed:
        """The prompts of this mentor for the task with this definition."""
        known = json.loads(PROMPTS.read_text(encoding="utf-8")).get(self.who, {})
        if asked.brief.definition not in known:
            raise UsageError(f"{PROMPTS} has nothing by {self.who!r} about {asked.brief.definition!r}")
        return Listed(known[asked.brief.definition], asked)
