"""One turn with a mentor: ask, read, judge, and ask once more for what is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import tandemtune.mentor.prompt as prompt
from tandemtune.mentor.brief import Brief
from tandemtune.mentor.client import Client, Request, Style
from tandemtune.mentor.judge import judge, normal
from tandemtune.mentor.parse import parse


@dataclass(frozen=True, slots=True)
class Proposals:
    """What a mentor proposed in one turn.

    Args:
        accepted: new prompts that may be tried, in the order they were said; at most as many as were wanted, perhaps none.
        refused: the others, each with the reason.
        asks: how often the mentor was asked.
    """

    accepted: tuple[str, ...]
    refused: tuple[tuple[str, str], ...]
    asks: int


class Mentor:
    """A language model that proposes prompts.

    Args:
        client: who answers; in a run, a `Transcript`.
        style: "chat" for models that follow instructions, "complete" for small ones that continue a list.
        temperature: of its sampling.
        asks: how often it is asked in one turn, at most.
        seed: the seeds of all requests come from this one, the turn and the number of the ask.
        thinking: tokens that a model that thinks aloud may spend before it answers.
    """

    def __init__(
        self,
        client: Client,
        *,
        style: Style = "chat",
        temperature: float = 0.8,
        asks: int = 2,
        seed: int = 0,
        thinking: int = 0,
    ) -> None:
        if style not in {"chat", "complete"} or asks < 1:
            raise ValueError(f"expected style chat or complete and at least one ask, found {style!r} and {asks}")
        self._client = client
        self._style = style
        self._temperature = temperature
        self._asks = asks
        self._seed = seed
        self._thinking = thinking

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
            MentorError: the client had no answer, or may not be asked.
        """
        seen = {normal(text) for text in (*known, brief.manual or "", *(each.prompt for each in brief.tried))}
        accepted: list[str] = []
        refused: list[tuple[str, str]] = []
        asks = 0
        while asks < self._asks and len(accepted) < brief.wanted:
            asks += 1
            missing = replace(brief, wanted=brief.wanted - len(accepted))
            reply = self._client.ask(self._request(missing, _seed(self._seed, turn, asks), tuple(refused)))
            said = f"-{reply.text}" if self._style == "complete" else reply.text
            for text in parse(said, cut=reply.finish_reason == "length"):
                if len(accepted) == brief.wanted:
                    break
                reason = judge(text, brief, seen, count_tokens)
                if reason is None:
                    accepted.append(text)
                else:
                    refused.append((text, reason))
                seen.add(normal(text))
        return Proposals(tuple(accepted), tuple(refused), asks)

    def _request(self, brief: Brief, seed: int, refused: prompt.Refused) -> Request:
        offers, temperature = self._client.offers, self._temperature
        if self._style == "complete":
            return prompt.complete(brief, grammar="grammar" in offers, temperature=temperature, seed=seed)
        structured = "schema" in offers
        return prompt.chat(
            brief, structured=structured, temperature=temperature, seed=seed, refused=refused, thinking=self._thinking
        )


def _seed(*numbers: int) -> int:
    """A seed of 31 bits out of several numbers."""
    text = "/".join(map(str, numbers))
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:4]) >> 1
