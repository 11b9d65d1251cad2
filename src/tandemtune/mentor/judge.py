"""Which of a mentor's prompts may be tried, and the words that are said about those that may not."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Set

from tandemtune.mentor.brief import Brief

_SLOT = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MARKUP = re.compile(  # control tokens and tags
    r"<\|.*?\|>|</?[a-z][\w:-]{0,30}(?:\s[^<>]{0,200})?/?>|\[/?(?:INST|ANSWER|PROMPT|MASK|SEP|CLS)\]|◁/?\w+▷|```",
    re.IGNORECASE,
)
_REQUEST = re.compile(r"\bprompts?\b|\bworst first\b|\bbest last\b", re.IGNORECASE)
_TALK = re.compile(  # a model that speaks to its reader: courtesy, refusals, errors, thoughts
    r"^\W*(?:(?:sure|certainly|of course|let's|let me|let us|here are|here is|here's)\b"
    r"|(?:okay|ok|hmm|wait|sorry|apologies|error|traceback|exception)(?=[,.:;!(…]|\W*$|\s(?:but|i|let|we|the user)\b)"
    r"|(?:i'm|i am|we're|we are) (?:(?:very|so|really) )?(?:sorry|afraid|unable|not able)"
    r"|i (?:can't|cannot|can not|won't|will not|must decline|apologi[sz]e))|\bas an ai\b",
    re.IGNORECASE,
)
_JOINERS = {"\u200c", "\u200d"}  # letters of some scripts need them


def normal(text: str) -> str:
    """What two prompts share that differ only in case, white space, quotes or end punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold()
    kept = " ".join(re.sub(r"[\"'“”‘’«»„`]", "", text).split())
    return kept.strip(" .:;,!?…-")


def terms(brief: Brief) -> list[str]:
    """What `judge` asks of a prompt besides its length, its novelty and the words that it must not hold, each as the end of "Each ..."."""
    manual = brief.manual or ""
    found = [f"holds no braces{' but these' if brief.slots else ''} and no tags"]
    if not _REQUEST.search(manual):
        found.append('does not say "prompt"')
    if not talks(manual):
        found.append('does not speak to a reader (no "Here is", no "Sure")')
    return found


def judge(candidate: str, brief: Brief, known: Set[str], count_tokens: Callable[[str], int]) -> str | None:
    """Say why a prompt may not be tried.

    Args:
        candidate: the prompt.
        brief: what the mentor was told.
        known: prompts there are already, each as `normal` gives it.
        count_tokens: counts tokens of the tuned model.

    Returns:
        The reason in a few words, None if it may be tried.
    """
    manual = brief.manual or ""
    if not candidate.strip():
        return "it is empty"
    if any(unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and sign not in _JOINERS for sign in candidate):
        return "it holds control characters"
    if not any(sign.isalpha() for sign in _SLOT.sub("", candidate)):
        return "it has no letters"
    if _MARKUP.search(candidate):
        return "it holds a mark that is no text"
    found = sorted(_SLOT.findall(candidate))
    if found != sorted(brief.slots) or "{" in _SLOT.sub("", candidate) or "}" in _SLOT.sub("", candidate):
        wanted = " ".join(f"{{{slot}}}" for slot in brief.slots)
        return f"expected {wanted}, each once" if wanted else "expected no braces in it"
    leaked = next(
        (w for w in (*brief.label_words, *brief.labels) if _holds(candidate, w) and not _holds(manual, w)), None
    )
    if leaked:
        return f"it gives an answer away: {leaked.strip()!r}"
    if _REQUEST.search(candidate) and not _REQUEST.search(manual):
        return "it repeats the request"
    if talks(candidate) and not talks(manual):
        return "it speaks to its reader"
    if normal(candidate) in known:
        return "it is known already"
    length = count_tokens(candidate)
    if length > brief.limit:
        return f"it has {length} tokens, at most {brief.limit} are allowed"
    return None


def talks(text: str) -> bool:
    """Whether a text begins as words of a model to its reader do: a refusal, an error, a courtesy, a thought."""
    return _TALK.search(text.replace("’", "'")) is not None


def _holds(text: str, word: str) -> bool:
    """Whether a word stands in a text as a whole word."""
    word = word.strip()
    return bool(word) and re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None
