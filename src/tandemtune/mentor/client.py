"""What is asked and what is answered, and the interface of whoever answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Style = Literal["chat", "complete"]
THOUGHTS = 8192
"""Tokens that a model may think before it answers, unless a limit is given."""
_LONGEST = 200_000  # characters of an answer that are kept
_TEXT_PARTS = {"text", "output_text", None}  # types of those parts of a message that are its text


@dataclass(frozen=True, slots=True)
class Request:
    """One question.

    Args:
        style: "chat" sends `messages`, "complete" lets the model continue `prompt`.
        max_tokens: longest answer, in the mentor's tokens.
        temperature: 0 takes the likeliest token every time.
        seed: of the mentor's sampling, where it has one.
        messages: (role, text) pairs.
        prompt: text to be continued.
        stop: the answer ends before any of these.
        schema: JSON schema of the answer, for clients that offer "schema".
        grammar: GBNF grammar of the answer, for clients that offer "grammar".
        thinking: the model thinks before it answers: `max_tokens` holds for both together, and it takes no temperature.
        nth: which asking of this very request in the run it is; kept by `Transcript`, no part of the digest.
    """

    style: Style
    max_tokens: int
    temperature: float
    seed: int
    messages: tuple[tuple[str, str], ...] = ()
    prompt: str = ""
    stop: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = None
    grammar: str | None = None
    thinking: bool = False
    nth: int = 1

    def document(self) -> dict[str, Any]:
        """The request as plain JSON, without what it does not use."""
        said: dict[str, Any] = (
            {"messages": [{"role": role, "content": text} for role, text in self.messages]}
            if self.style == "chat"
            else {"prompt": self.prompt}
        )
        optional = {
            "stop": list(self.stop),
            "schema": self.schema,
            "grammar": self.grammar,
            "thinking": self.thinking,
        }
        return {
            "style": self.style,
            **said,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
            **{name: value for name, value in optional.items() if value},
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON form."""
        text = json.dumps(self.document(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("ascii")).hexdigest()

    @property
    def most_prompt_tokens(self) -> int:
        """A bound on the tokens of the question: no token is shorter than a byte; 16 a message for the model's own marks."""
        texts = [self.prompt, *(text for _, text in self.messages)]
        if self.schema:
            texts.append(json.dumps(self.schema))
        return sum(len(text.encode("utf-8", "replace")) + 16 for text in texts)


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer.

    Args:
        text: what was said.
        prompt_tokens: tokens of the question.
        completion_tokens: tokens of the answer.
        finish_reason: "stop", "length" (cut off at the limit), "content_filter", "refusal", or what else the backend says.
        model: the model that answered, as the backend names it.
        without: settings that the backend did not take, and that were left out.
        reasoning: what the model thought before it answered, where the backend gives it apart.
        context: tokens of question and answer together at which the answer was cut off, before its own limit; 0 if it was not.
    """

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    model: str
    without: tuple[str, ...] = ()
    reasoning: str = ""
    context: int = 0


class Client(Protocol):
    """Whoever answers.

    `name` says who, for a reader, and never holds a key. `offers` is what structures an answer: "schema", "grammar". It does not
    change while a run goes on, because requests are built from it.
    """

    @property
    def name(self) -> str: ...

    @property
    def offers(self) -> frozenset[str]: ...

    def ask(self, request: Request) -> Reply:
        """Answer one request.

        Raises:
            MentorUnavailable: not now.
            MentorRefused: not at all.
        """
        ...

    def contact(self, style: Style = "chat", *, thinking: bool = False) -> None:
        """Find out as cheaply as possible whether questions of this kind will be answered; nothing of it is recorded.

        Raises:
            MentorUnavailable: not now.
            MentorRefused: not at all: a wrong key, model or address.
        """
        ...

    def close(self) -> None:
        """Give back connections and memory."""
        ...


def read_reply(document: Any, request: Request, without: tuple[str, ...] = ()) -> Reply | None:
    """Read the JSON answer that OpenAI-compatible backends give, whatever they put in it.

    Args:
        document: the parsed answer.
        request: what was asked; tokens that the backend did not count are estimated from above.
        without: settings that were left out.

    Returns:
        The reply, or None if this is no answer of that kind.
    """
    choices = document.get("choices") if isinstance(document, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return None
    holder = choice.get("message") if request.style == "chat" else choice
    if not isinstance(holder, dict):
        return None
    refusal, finish = _text(holder.get("refusal")), str(choice.get("finish_reason") or "")
    text = _clean(_called(holder) or _text(holder.get("content" if request.style == "chat" else "text")) or refusal)
    reasoning = _clean(_text(holder.get("reasoning_content")) or _text(holder.get("reasoning")))
    usage = document.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return Reply(
        text=text,
        prompt_tokens=_count(counts.get("prompt_tokens"), request.most_prompt_tokens),
        completion_tokens=_count(counts.get("completion_tokens"), len((text + reasoning).encode("utf-8"))),
        finish_reason="refusal" if refusal else _clean(finish),
        model=_clean(str(document.get("model") or "")),
        without=without,
        reasoning=reasoning,
    )


def joined(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The pieces of a streamed answer as the one that comes without streaming; {} if there are none.

    Args:
        chunks: the parsed pieces in order.
    """
    choices = [
        choices[0]
        for chunk in chunks
        if isinstance(choices := chunk.get("choices"), list) and choices and isinstance(choices[0], dict)
    ]
    if not choices:
        return {}
    deltas = [delta for choice in choices if isinstance(delta := choice.get("delta"), dict)]
    text = "".join(_text(choice.get("text")) for choice in choices)
    content = "".join(_text(delta.get("content")) for delta in deltas)
    reasoning = "".join(_text(delta.get("reasoning_content")) or _text(delta.get("reasoning")) for delta in deltas)
    usage = next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None)
    model = next((chunk["model"] for chunk in chunks if chunk.get("model")), "")
    finish = next((end for choice in reversed(choices) if (end := choice.get("finish_reason"))), "")
    message = {"content": content, **({"reasoning_content": reasoning} if reasoning else {})}
    return {
        "choices": [{"text": text, "message": message, "finish_reason": finish}],
        "usage": usage,
        "model": model,
    }


def _text(content: Any) -> str:
    """The text of a message's content: a string, or a list of parts, of which thoughts are none of it."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") in _TEXT_PARTS]
    return "".join(text for text in texts if isinstance(text, str))


def _called(message: Mapping[str, Any]) -> str:
    """The arguments of a message's calls of tools, as JSON; "" if it calls none."""
    calls = message.get("tool_calls")
    functions = [call.get("function") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    given = [
        function.get("arguments")
        for function in (*functions, message.get("function_call"))
        if isinstance(function, dict)
    ]
    texts = [each if isinstance(each, str) else json.dumps(each) for each in given if each]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]" if texts else ""


def _clean(text: str) -> str:
    """A bounded text that can be written as UTF-8."""
    return text[:_LONGEST].encode("utf-8", "replace").decode("utf-8")


def _count(found: Any, otherwise: int) -> int:
    whole = isinstance(found, int | float) and not isinstance(found, bool) and math.isfinite(found) and found >= 0
    return int(found) if whole else otherwise
