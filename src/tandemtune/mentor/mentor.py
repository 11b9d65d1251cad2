"""One turn with a mentor: ask, read, judge, and ask once more for what is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import tandemtune.mentor.requests as prompt
from tandemtune.errors import MentorError
from tandemtune.mentor.brief import Brief
from tandemtune.mentor.client import THOUGHTS, Client, Reply, Request, Style
from tandemtune.mentor.judge import judge, normal
from tandemtune.mentor.parse import Reading, continued, read, read_thoughts
from tandemtune.mentor.replies import barred, explained, in_thoughts
from tandemtune.mentor.steering import Course, read_actions, steering_request
from tandemtune.runs.records import Actions


@dataclass(frozen=True, slots=True)
class Proposals:
    """What a mentor proposed in one turn.

    Args:
        accepted: new prompts that may be tried, in the order they were said; at most as many as were wanted, perhaps none.
        refused: the others, each with the reason.
        asks: how often the mentor was asked.
        problems: why answers could not be read, in order, with "it" for the answer, or why a further one did not come.
    """

    accepted: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    asks: int
    problems: tuple[str, ...] = ()

    @property
    def failure(self) -> str | None:
        """Why there is nothing to try; None if there is something."""
        if self.accepted:
            return None
        causes = "; ".join(dict.fromkeys(self.problems))
        return f"no answer could be used: {causes}" if causes else "no answer that may be tried"


class Mentor:
    """A language model that proposes prompts.

    An answer that cannot be read with certainty is not used; the mentor is told why and asked once more, for JSON.

    Args:
        client: who answers; in a run, a `Transcript`.
        style: "chat" for models that follow instructions, "complete" for small ones that continue a list.
        temperature: of its sampling; models that think take none.
        asks: how often it is asked in one turn, at most.
        seed: the seeds of all requests come from this one, the turn and the number of the ask.
        thinking: it is a model that thinks before it answers: it gets 8192 tokens more for that. Only in the style "chat".
        max_completion_tokens: the most tokens of one answer, thoughts included; None: as many as the answer needs, and those to think.
    """

    def __init__(
        self,
        client: Client,
        *,
        style: Style = "chat",
        temperature: float = 0.8,
        asks: int = 2,
        seed: int = 0,
        thinking: bool = False,
        max_completion_tokens: int | None = None,
    ) -> None:
        if style not in {"chat", "complete"} or asks < 1:
            raise ValueError(f"expected style chat or complete and at least one ask, found {style!r} and {asks}")
        if thinking and style != "chat":
            raise ValueError("expected style chat for a mentor that thinks, found 'complete'")
        if max_completion_tokens is not None and max_completion_tokens < 1:
            raise ValueError(f"expected max_completion_tokens of at least 1, found {max_completion_tokens}")
        self._client = client
        self._style = style
        self._temperature = temperature
        self._asks = asks
        self._seed = seed
        self._thinking = thinking
        self._most = max_completion_tokens

    def contact(self) -> None:
        """Find out as cheaply as possible whether the mentor will answer.

        Raises:
            MentorUnavailable: not now.
            MentorRefused: not at all: a wrong key, model or address.
        """
        self._client.contact(self._style, thinking=self._thinking)

    def propose(
        self, brief: Brief, count_tokens: Callable[[str], int], *, turn: int, known: Iterable[str] = ()
    ) -> Proposals:
        """Ask for new prompts.

        Args:
            brief: what the mentor is told.
            count_tokens: counts tokens of the tuned model.
            turn: number of the turn in the run; another turn gets other answers.
            known: prompts there are already, beyond those in the brief.

        Returns:
            What can be tried, and what cannot.

        Raises:
            MentorError: the client had no answer, or may not be asked, and nothing was accepted before.
            AnswerAwaited: the mentor answers through a file, which is not there yet.
        """
        seen = {normal(text) for text in (*known, brief.manual or "", *(each.prompt for each in brief.tried))}
        accepted: list[str] = []
        refused: list[tuple[str, str]] = []
        problems: list[str] = []
        problem: str | None = None
        asks = 0
        while asks < self._asks and len(accepted) < brief.wanted:
            asks += 1
            missing = replace(brief, wanted=brief.wanted - len(accepted))
            request = self._request(missing, _seed(self._seed, turn, asks), tuple(refused), problem)
            try:
                reply = self._client.ask(request)
            except MentorError as error:
                if not accepted:
                    raise
                problems.append(str(error))
                break  # what was said before holds
            reading = self._read(reply, missing.wanted)
            problem = reading.problem
            if problem:
                problem, told = explained(problem, reply, request, "it named a prompt")
                problems.append(told)
            for text in reading.prompts:
                if len(accepted) == brief.wanted:
                    break
                reason = judge(text, brief, seen, count_tokens)
                if reason is None:
                    accepted.append(text)
                else:
                    refused.append((text, reason))
                seen.add(normal(text))
        return Proposals(tuple(accepted), tuple(refused), asks, tuple(problems))

    def steer(self, course: Course, definition: str, *, turn: int) -> tuple[Actions | None, str | None]:
        """Ask how the next round of a search is to be run.

        Args:
            course: how the search has gone.
            definition: what the task is, in a sentence.
            turn: number of the turn in the run; another turn gets other answers.

        Returns:
            The actions, or why no answer could be used.

        Raises:
            MentorError: the client had no answer, or may not be asked.
            AnswerAwaited: the mentor answers through a file, which is not there yet.
        """
        layers = [one.layer for one in course.layers]
        problem: str | None = None
        told: str | None = None
        for ask in range(1, self._asks + 1):
            request = self._with_room(
                steering_request(
                    course,
                    definition,
                    structured="schema" in self._client.offers,
                    temperature=self._temperature,
                    seed=_seed(self._seed, turn, ask, 1),
                    problem=problem,
                    thinking=self._thinking,
                )
            )
            reply = self._client.ask(request)
            actions, problem = read_actions(reply, layers, course.sizes)
            if problem is None:
                return actions, None
            problem, told = explained(problem, reply, request, "its end")
        return None, f"no answer could be used: {told}"

    def _request(self, brief: Brief, seed: int, refused: prompt.Refused, problem: str | None) -> Request:
        offers, temperature = self._client.offers, self._temperature
        if self._style == "complete":
            request = prompt.complete(brief, grammar="grammar" in offers, temperature=temperature, seed=seed)
        else:
            request = prompt.chat(
                brief,
                structured="schema" in offers,
                temperature=temperature,
                seed=seed,
                refused=refused,
                problem=problem,
                thinking=self._thinking,
            )
        return self._with_room(request)

    def _with_room(self, request: Request) -> Request:
        """A request with room for thoughts, where it is a model that thinks."""
        return replace(request, max_tokens=self._most or request.max_tokens + (THOUGHTS if self._thinking else 0))

    def _read(self, reply: Reply, wanted: int) -> Reading:
        """The prompts of an answer, or what is wrong with it."""
        if bar := barred(reply):
            return Reading(problem=bar)
        cut = reply.finish_reason == "length"
        if self._style == "complete":
            return continued(f"-{reply.text}", cut=cut)
        if in_thoughts(reply):
            return read_thoughts(reply.reasoning)
        return read(reply.text, wanted=wanted, cut=cut)


def _seed(*numbers: int) -> int:
    """A seed of 31 bits out of several numbers."""
    text = "/".join(map(str, numbers))
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:4]) >> 1
