"""Which replies are not read whatever they say, where the answer stands, and what is said of one that was cut off."""

from __future__ import annotations

from tandemtune.mentor.client import Reply, Request
from tandemtune.mentor.requests import quoted


def barred(reply: Reply) -> str | None:
    """Why nothing of a reply is read, with "it" for the answer; None if it may be."""
    if reply.finish_reason == "content_filter":
        return "it was stopped by the endpoint's content filter"
    if reply.finish_reason == "refusal":
        return f"it is a refusal: {quoted(reply.text)}"
    return None


def in_thoughts(reply: Reply) -> bool:
    """Whether the answer can only stand in the thoughts, where some servers give it; thoughts that were cut off hold none."""
    return bool(reply.reasoning) and not reply.text.strip() and reply.finish_reason != "length"


def explained(problem: str, reply: Reply, request: Request, before: str) -> tuple[str, str]:
    """Why a reply could not be used, as the mentor is told and as a person is: of one that was cut off, that it was.

    Args:
        problem: what was found, with "it" for the answer.
        reply: the answer.
        request: what it answers.
        before: what it was cut off before, for example "it named a prompt".
    """
    if reply.finish_reason != "length":
        return problem, problem
    if reply.context:
        told = f"it was cut off where question and answer together had {reply.context} tokens, before {before}"
        return told, f"{told}; give it more room: a larger [mentor] context"
    told = f"it was cut off at {request.max_tokens} tokens before {before}"
    larger = "a larger max_completion_tokens"
    room = larger if request.thinking or request.style == "complete" else f"[mentor] thinking = true, or {larger}"
    return told, f"{told}; give it more room: {room}"
