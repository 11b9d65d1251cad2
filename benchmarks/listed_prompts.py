"""A strong mentor's prompts out of the transcripts beside this file, so that a race with them repeats offline, on any machine and with any seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from tandemtune.errors import UsageError
from tandemtune.mentor.parse import read
from tandemtune.plugins import register
from tandemtune.proposers.base import Asked, Draft, Proposal, Proposer, TriedWords, Worded
from tandemtune.runs.journal import read_lines

TRANSCRIPTS = Path(__file__).parent / "transcripts"


class Listed(Worded):
    """The prompts in their order, new ones in each round.

    Args:
        prompts: all there are.
        asked: what a proposer is opened with.
    """

    def __init__(self, prompts: Sequence[str], asked: Asked) -> None:
        super().__init__(asked.vocabulary, asked.length, asked.count, asked.seed)
        self._prompts = prompts

    def propose(self, round: int, tried: Sequence[TriedWords], known: Sequence[TriedWords]) -> Proposal:
        """The next ones."""
        chosen = self._prompts[(round - 1) * self.count : round * self.count]
        words = [self.vocabulary.fit(text, self.length) for text in chosen]
        return Proposal(tuple(Draft(each.text, each.ids) for each in words), failure=None if words else "no more")


@register
class ListedPrompts(Proposer):
    """What a strong mentor has proposed for a task."""

    kind: ClassVar[str] = "listed-prompts"
    summary: ClassVar[str] = "what a strong mentor has proposed for a task, from a transcript"

    def make(self, asked: Asked) -> Listed:
        """The prompts of the transcript whose question holds the task's definition."""
        for path in sorted(TRANSCRIPTS.glob("prompts-*.jsonl")):
            lines = read_lines(path)
            if any(asked.brief.definition in json.dumps(line, ensure_ascii=False) for line in lines if "asked" in line):
                return Listed(_prompts(lines), asked)
        raise UsageError(f"no transcript in {TRANSCRIPTS} is about {asked.brief.definition!r}")


def _prompts(lines: Sequence[dict[str, Any]]) -> list[str]:
    return [text for line in lines if "answered" in line for text in read(line["reply"]["text"]).prompts]
