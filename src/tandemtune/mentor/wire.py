"""What servers send, in whatever form: answers, streams of events, errors and pages."""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from typing import Any

from tandemtune.mentor.client import joined

_EXCERPT = 300  # characters of a server's words that an error repeats
_READ = 8_000_000  # characters of them that are looked at
BROKEN: Any = object()
"""A stream of events that ended before the answer did."""


def document(data: bytes) -> Any:
    """An answer as the JSON value that it is, a stream of events as the value that it makes up, anything else as text.

    Returns:
        The value; `BROKEN` for a stream without an end: none of its pieces gives a reason to finish, and it does not say [DONE].
    """
    text = data.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    chunks, torn, done = [], False, False
    for name, content in _events(text):
        done = done or content == "[DONE]"
        try:
            chunk = json.loads(content)
        except (ValueError, RecursionError):
            torn = torn or content != "[DONE]"
            chunk = content
        if name == "error" and not (isinstance(chunk, dict) and chunk.get("error")):
            chunk = {"error": chunk or "no reason is given"}
        if isinstance(chunk, dict):
            chunks.append(chunk)
    error = next((chunk for chunk in chunks if chunk.get("error")), None)
    whole = joined(chunks)
    if error or not whole:
        return error or text
    ended = done or whole["choices"][0]["finish_reason"]
    return BROKEN if torn or not ended else whole


def first_choice(found: dict[str, Any]) -> dict[str, Any]:
    """The first choice of an answer; {} if there is none."""
    choices = found.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def opened(error: Any) -> Any:
    """An error with the words of whoever stands behind a router, which gives them as text inside its own, as the value that they are."""
    metadata = error.get("metadata") if isinstance(error, dict) else None
    if not isinstance(metadata, dict) or not isinstance(metadata.get("raw"), str):
        return error
    try:
        raw = json.loads(metadata["raw"])
    except (ValueError, RecursionError):
        raw = metadata["raw"]
    return {**error, "metadata": {**metadata, "raw": raw}}


def words(error: Any) -> str:
    """The words of an error in whatever form a server gives it; those of whoever stands behind a router come last."""
    behind = ""
    if isinstance(error, dict):
        metadata = error.get("metadata")
        raw = metadata.get("raw") if isinstance(metadata, dict) else None
        behind = _told(_message(raw.get("error") or raw) if isinstance(raw, dict) else raw)
        error = _message(error)
    said = _told(error)
    return flat(f"{said}: {behind}") if behind else said


def page(text: str) -> str:
    """A text that is no answer, named as a web page where it is one."""
    if not is_page(text):
        return repr(flat(text))
    title = re.search(r"<title[^>]*>([^<]*)", text, re.IGNORECASE)
    named = f" ({flat(title.group(1))})" if title and title.group(1).strip() else ""
    return f"a web page{named}: check the address, which mostly ends in /v1, and the proxy"


def is_page(text: str) -> bool:
    """Whether a text is a web page."""
    return "<html" in text.lower() or "<!doctype" in text.lower()


def flat(text: str) -> str:
    """The beginning of a text, on one line."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text[:_READ]).split())[:_EXCERPT]


def wait_of(retry_after: str | None) -> float | None:
    """Seconds in a Retry-After header, which holds seconds or a date."""
    try:
        seconds = float(retry_after or "")
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after or "").timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _message(error: Any) -> Any:
    return (
        (error.get("message") or error.get("detail") or error.get("error") or error)
        if isinstance(error, dict)
        else error
    )


def _told(said: Any) -> str:
    if isinstance(said, str):
        return page(said) if is_page(said) else flat(said)
    return flat(json.dumps(said, ensure_ascii=False)) if said else ""


def _events(text: str) -> list[tuple[str, str]]:
    """The events of a stream: (name, data). llama.cpp writes errors as lines `error: ...`."""
    found, name = [], ""
    for line in re.split("\r\n|\n|\r", text):  # no other sign ends a line there
        field, colon, value = line.partition(":")
        if not line:
            name = ""
        elif colon and field == "event":
            name = value.strip()
        elif colon and field in {"data", "error"} and value.strip():
            found.append(("error" if field == "error" else name, value.strip()))
    return found
