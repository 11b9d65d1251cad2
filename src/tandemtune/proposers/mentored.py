"""A language model as mentor, told the task and the trajectory (arXiv 2405.19732)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, ClassVar

from tandemtune.errors import MentorError
from tandemtune.mentor import (
    Brief,
    Client,
    Course,
    Mentor,
    Transcript,
)
from tandemtune.mentor import Tried as MentorTried
from tandemtune.mentor.clients import AT_ONCE, budget_of, client_of, reachable
from tandemtune.mentor.trial import try_actions, try_prompts
from tandemtune.plugins import register
from tandemtune.proposers.base import (
    Asked,
    Draft,
    Proposal,
    Proposer,
    Source,
    Standing,
    Steered,
    TriedWords,
    Worded,
)
from tandemtune.tunables.base import Point
from tandemtune.tunables.vocabulary import Vocabulary

QUESTIONS = "mentor"
"""Folder of questions and answers inside a run's folder."""


class Mentored(Worded):
    """A language model that is told the task and the trajectory (arXiv 2405.19732).

    Args:
        vocabulary: the tuned model's words.
        length: tokens of a prompt.
        count: candidates to ask for.
        seed: of the run.
        mentor: asks and judges.
        transcript: what the mentor asks through; it keeps the ledger.
        brief: what the mentor is told besides the trajectory.
        standing: how the tuned model does at a point.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        length: int,
        count: int,
        seed: int,
        mentor: Mentor,
        transcript: Transcript,
        brief: Brief,
        standing: Callable[[Point], Standing] | None = None,
    ) -> None:
        super().__init__(vocabulary, length, count, seed)
        self._mentor, self._transcript, self._brief = mentor, transcript, brief
        self._standing = standing

    def look(self, point: Point) -> bool:
        """See how the tuned model does on the training rows where the search stands; whether it was asked for that."""
        if self._standing is None:
            return False
        found = self._standing(point)
        self._brief = replace(
            self._brief, confusion=found.confusion, probabilities=found.probabilities, misread=found.misread
        )
        return found.looked

    def propose(self, round: int, tried: Sequence[TriedWords], known: Sequence[TriedWords]) -> Proposal:
        """Tell it what was tried, worst first, and take what may be tried next."""
        shown = tuple(
            MentorTried(
                entry.words.text,
                entry.loss,
                entry.score,
                entry.trained,
                entry.words.distance,
                entry.probabilities,
                entry.steps,
                entry.residual,
            )
            for entry in tried
        )
        brief = replace(self._brief, tried=shown, wanted=self.count, limit=self.length)
        texts = [entry.words.text for entry in known]
        try:
            found = self._mentor.propose(brief, self.vocabulary.count, turn=round, known=texts)
        except MentorError as error:
            return Proposal((), failure=str(error), spent=self._spent())
        words = [self.vocabulary.fit(text, self.length) for text in found.accepted]
        drafts = tuple(Draft(text, w.ids) for text, w in zip(found.accepted, words, strict=True))
        return Proposal(drafts, found.refused, found.failure, self._spent())

    def steer(self, round: int, course: Course) -> Steered:
        """Tell it what each layer has brought, and take what it decides about the next round."""
        try:
            actions, problem = self._mentor.steer(course, self._brief.definition, turn=round)
        except MentorError as error:
            return Steered(None, str(error), self._spent())
        return Steered(actions, problem, self._spent())

    def _spent(self) -> dict[str, float]:
        return asdict(self._transcript.ledger)


@register
class MentorProposer(Proposer):
    """A language model that is told the trajectory; ``[mentor]`` says which one and how it is asked."""

    kind: ClassVar[str] = "mentor"
    summary: ClassVar[str] = "a language model that is told the task and the trajectory"
    source: ClassVar[str] = "arXiv 2405.19732"
    informed: ClassVar[bool] = True
    steers: ClassVar[bool] = True
    asks_mentor: ClassVar[bool] = True

    @contextmanager
    def open(self, asked: Asked) -> Iterator[Source]:
        """Connect to the mentor; the transcript is closed when the context ends."""
        told = asked.mentor
        questions = asked.conversations.parent / QUESTIONS
        transcript = Transcript(
            asked.conversations,
            lambda: client_of(told, questions, asked.tell),
            budget=budget_of(told),
            retries=told.retries,
        )
        try:
            mentor = mentor_of(told, transcript, asked.seed)
            yield Mentored(
                asked.vocabulary,
                asked.length,
                asked.count,
                asked.seed,
                mentor,
                transcript,
                asked.brief,
                asked.standing,
            )
        finally:
            transcript.close()

    def problems(self, recipe: Any) -> Iterator[str]:
        """A list to be continued holds no decisions."""
        yield from super().problems(recipe)
        if recipe.alternates and recipe.alternate.actions and recipe.mentor.spoken != "chat":
            yield "[mentor] style: actions are asked for in a conversation: set style to chat, or [alternate] actions to false"

    def check(self, recipe: Any, progress: Callable[[str], None] | None = None) -> None:
        """Fetch a local model, look for packages, keys and files, and ask an endpoint a question of a few tokens.

        An endpoint that cannot be reached is refused, unless the recipe itself says that the run may go on without.
        """
        reachable(recipe.mentor, progress)

    def try_out(self, recipe: Any) -> Iterator[str]:
        """Ask for prompts and decisions about a made-up task; whoever answers through files or has answered before is not asked."""
        told = recipe.mentor
        if told.client not in AT_ONCE:
            return
        client = client_of(told)
        try:
            mentor, tunable = mentor_of(told, client, recipe.task.seed), recipe.method.tunable
            if tunable.takes_words:
                limit = max(1, getattr(tunable, "prompt_tokens", 1))
                yield from try_prompts(mentor, wanted=recipe.alternate.proposals, limit=limit)
            if recipe.alternate.actions:
                yield from try_actions(mentor)
        finally:
            client.close()


def mentor_of(section: Any, client: Client, seed: int) -> Mentor:
    """How whoever answers is asked, as a recipe's ``[mentor]`` says."""
    return Mentor(
        client,
        style=section.spoken,
        temperature=section.creativity,
        seed=seed,
        thinking=section.thinking,
        max_completion_tokens=section.max_completion_tokens,
    )
