"""From what a mentor said to candidate prompts. Takes any text; whether a candidate may be tried is decided in `judge`.

One rule in three forms comes first: what is named "prompt" is a prompt and nothing else is, be it a key of JSON, a tag or the label of a line.
Without such names there has to be exactly one list: JSON, marked lines, or as many plain lines as were announced or asked for. Whatever
can be read in two ways is not read at all: a mentor that is asked again costs less than a thought that is tried as a prompt.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tandemtune.mentor.judge import talks
from tandemtune.mentor.structured import Unclear, prompts_by_key, prompts_of_list
from tandemtune.mentor.thoughts import THOUGHT, final_answer

_MOST = 200  # candidates that are looked at
_LINE = 500  # characters of one that are kept
_ANSWER = 200_000  # characters that are looked at

_FENCE = re.compile(
    r"^[ \t>]*(?:```|~~~)[ \t]*([\w+-]*)[^\n`]*\n(.*?)(?:^[ \t>]*(?:```|~~~)[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_FENCE_MARK = re.compile(r"^[ \t>]*(?:```|~~~)[^`\n]*$", re.MULTILINE)
_PLAIN_FENCE = {"", "text", "txt", "plaintext", "markdown", "md", "prompt", "prompts"}
_TAG = re.compile(
    r"<(prompt|ins|instruction|candidate|option|item|li)([ _-]?\d{1,3}|)(?:\s[^<>]{0,100})?>([^<]*)</\1\2>",
    re.IGNORECASE,
)
_MARK = re.compile(
    r"""
    (?P<bullet> [-–—•▪◦] | [*+>](?=\s) ) (?: \s* \[[\ xX]?\] )? \s*           # with a box to tick
    |
    (?: \*\* | __ )?
    (?:
        \(? (?P<number> \d{1,3} ) \s? (?: [.)、．](?!\d) | [:：](?=\s|$|\*) )  # 1. 1) (1) 1:
        | (?P<circled> [①-⑳] )
        | \(? (?P<letter> [a-hA-H] ) [.)](?=\s|\*)                           # a) (a) A.
        | (?P<word> [^\W\d_]{1,20} ) \s? \#? (?: (?P<count> \d{1,3} ) | (?P<sign> [A-H] ) )
          (?: \*\* | __ )? (?: \s? [.):：](?!\d) | $ )                       # Option 1: Option A.
    )
    (?: \*\* | __ )? [:：]? \s*
    """,
    re.VERBOSE,
)
_LABEL = re.compile(
    r"(?:\*\*|__)?(?:(?:new|final|best|improved|better|optimi[sz]ed|revised)\s)?prompt(?:\s?#?(?:(?P<count>\d{1,3})|[A-H]\b))?"
    r"(?:\*\*|__)?\s?(?:[.):：]|$)(?:\*\*|__)?\s*",
    re.IGNORECASE,
)
_OTHER_LABEL = re.compile(r"\W*[^\W\d_]+(?: [^\W\d_]+)?\W{0,3}[:：]\W{0,3}\s*\S")
_LIST_NUMBER = re.compile(r"\(?\d{1,3}[.)](?!\d)\s*|[-–—•]\s+")
_NOTE = re.compile(
    r"\s*[(\[][^()\[\]]{0,60}\b(?:loss|accuracy|acc|score|f1|words?|tokens?)\b[^()\[\]]{0,60}[)\]]\s*$", re.IGNORECASE
)
_BARE_NOTE = re.compile(
    r"\s*[-–—,;|]?\s*\b(?:loss|accuracy|score|f1)\s*[=:≈]?\s*\d[\d.]*\s*%?(?:\s*[,;]\s*[^,;()]{1,40}?\s-?\d[\d.]*\s*%?)?$",
    re.IGNORECASE,
)
_BOLD = re.compile(r"(\*\*|__)(?P<bold>(?:(?!\1).)+)\1(?P<colon>\s?[:：])?\s*(?P<behind>.*)")
_QUOTES = {'"': '"', "'": "'", "“": "”", "‘": "’", "«": "»", "`": "`", "„": "“", "「": "」"}
_COMMENT = re.compile(r"\s*(?:[-–—:;,(]|$)")
_COMMENT_BEHIND = re.compile(r"[?!.:]\s+[-–—]\s|[?!]\s+\(")
_THOUGHT_WORD = re.compile(rf"\b{THOUGHT}\b", re.IGNORECASE)
_QUOTED_BEHIND = re.compile(r"[:：]\s*[\"“«].*[\"”»]$")
_NUMBER_WORDS = "one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_NUMBERS = {word: number for number, word in enumerate(_NUMBER_WORDS.split("|"), start=1)}


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in an answer.

    Args:
        prompts: candidates in order, white space flattened; at most some hundred of bounded length.
        problem: why nothing was read, with "it" for the answer; None if there are candidates.
    """

    prompts: tuple[str, ...] = ()
    problem: str | None = None


def read(text: str, *, wanted: int | None = None, cut: bool = False) -> Reading:
    """Find the prompts in an answer.

    Args:
        text: what was said.
        wanted: how many prompts were asked for; plain lines without marks are read only where their number is known.
        cut: it ended at the length limit, so its last line may be half a prompt.

    Returns:
        The prompts, or why there are none.
    """
    said = text[:_ANSWER]
    text = final_answer(said).strip()
    if not text:
        return Reading(problem="it holds nothing but thoughts" if said.strip() else "it is empty")
    try:
        return _reading(_found(text, wanted, cut))
    except Unclear as unclear:
        return Reading(problem=str(unclear))
    except RecursionError:
        return Reading(problem="it is nested too deeply")


def read_thoughts(text: str) -> Reading:
    """Find the prompts in thoughts that some servers give in place of the answer: only JSON with the key, and only at their end."""
    try:
        return _reading(prompts_by_key(final_answer(text[-_ANSWER:]), last=True))
    except (Unclear, RecursionError):
        return _reading([])


def continued(text: str, *, cut: bool = False) -> Reading:
    """Read the lines with which a model continued a list.

    Args:
        text: the continuation, from the first line's mark on.
        cut: it ended at the length limit.

    Returns:
        The marked lines.
    """
    lines = [line.strip() for line in text[:_ANSWER].split("\n", 2 * _MOST)[: 2 * _MOST]]
    if cut:
        lines.pop()
    return _reading([line[found.end() :] for line in lines if (found := _MARK.match(line))])


def _reading(found: Sequence[str]) -> Reading:
    flat = (_bare(" ".join(each[: 4 * _LINE].split())) for each in found[:_MOST])
    prompts = tuple(each[:_LINE] for each in flat if each)
    return Reading(prompts) if prompts else Reading(problem="it holds no prompts")


def _found(text: str, wanted: int | None, cut: bool) -> list[str]:
    """The prompts, by the first form that the answer has."""
    named = prompts_by_key(text) or [body for _, _, body in _TAG.findall(text)] or _labelled(text, cut)
    if named:
        return [prompt for each in named for prompt in _lines_of(each)]
    text, fenced = _fenced(text)
    if listed := prompts_of_list(text):
        return [prompt for each in listed for prompt in _lines_of(each)]
    if text.lstrip().startswith(("{", "[", "<", "|")):
        raise Unclear("it holds no prompts under a key `prompts`")
    rows = _rows(text, cut)
    return _marked(rows) or _plain(rows, wanted, fenced)


def _lines_of(text: str) -> list[str]:
    """The prompts of one string: its marked lines where it is a list, else itself."""
    rows = _rows(text.strip(), cut=False)
    return (_marked(rows) if len(rows) > 1 else []) or [text]


def _fenced(text: str) -> tuple[str, bool]:
    """What stands in the last fence, if it is the largest, too; and whether there is one."""
    fences = [(name.lower(), body) for name, body in _FENCE.findall(text) if body.strip()]
    if not fences:
        return _FENCE_MARK.sub("", text), False
    name, body = fences[-1]
    if any(len(other.splitlines()) > len(body.splitlines()) for _, other in fences):
        raise Unclear("it holds several code blocks")
    if name not in _PLAIN_FENCE and not prompts_of_list(body):
        raise Unclear("its code block holds no prompts")
    return body, True


@dataclass(frozen=True, slots=True)
class _Row:
    """A line: its number among all lines, its kind of mark ("" for none), the mark's count, and what stands behind the mark."""

    place: int
    kind: str
    count: int | None
    text: str


def _rows(text: str, cut: bool) -> list[_Row]:
    lines = text.split("\n", 2 * _MOST)[: 2 * _MOST]
    if cut:
        lines.pop()
    stripped = [(place, re.sub(r"^#{1,6}\s+", "", line.strip())) for place, line in enumerate(lines) if line.strip()]
    rows = [(_row(place, line), line) for place, line in stripped]
    kinds = Counter(row.kind for row, _ in rows)  # a word with a number is a mark only where another line has it, too
    return [
        _Row(row.place, "", None, line) if row.kind[:1].isalpha() and kinds[row.kind] == 1 else row
        for row, line in rows
    ]


def _row(place: int, line: str) -> _Row:
    mark = _MARK.match(line)
    if mark is None:
        return _Row(place, "", None, line)
    behind = line[mark.end() :]
    if mark["bullet"]:
        inner = _row(place, behind)
        return inner if inner.kind else _Row(place, mark["bullet"], None, behind)
    if mark["circled"]:
        return _Row(place, " circled", ord(mark["circled"]), behind)
    letter, number = mark["letter"] or mark["sign"], mark["number"] or mark["count"]
    kind = f"{(mark['word'] or '').casefold()} {'letter' if letter else 'number'}"
    return _Row(place, kind, ord(letter) if letter else int(number), behind)


def _labelled(text: str, cut: bool) -> list[str]:
    """Prompts of lines that are labelled "Prompt", with a number or without; where a label stands alone, the line below."""
    rows = [_labelled_row(row) for row in _rows(_FENCE_MARK.sub("", text), cut)]
    labels = [index for index, row in enumerate(rows) if row.kind == "label"]
    _check_counts([rows[index] for index in labels])
    found = []
    for index, end in pairwise([*labels, len(rows)]):
        row = rows[index]
        below = _block(rows[index + 1 : end], row.place) or ([] if row.text else _block(rows[index + 1 : end]))
        texts = [each for each in (row.text, *(other.text for other in below)) if each]
        if not texts or not all(_OTHER_LABEL.match(each) for each in texts[1:]):
            raise Unclear("it says more than the prompt below a label")
        found.append(_item(texts[0]))
    return found


def _labelled_row(row: _Row) -> _Row:
    if row.kind.startswith("prompt "):
        return _Row(row.place, "label", row.count, row.text)
    label = _LABEL.match(row.text)
    if label is None:
        return row
    return _Row(row.place, "label", int(label["count"]) if label["count"] else None, row.text[label.end() :])


def _block(rows: Sequence[_Row], place: int | None = None) -> list[_Row]:
    """The rows that follow each other without an empty line, from the line behind `place` on."""
    found: list[_Row] = []
    for row in rows:
        before = found[-1].place if found else place
        if before is not None and row.place != before + 1:
            break
        found.append(row)
    return found


def _marked(rows: Sequence[_Row]) -> list[str]:
    """Items of the only list; none if no line is marked."""
    places = [index for index, row in enumerate(rows) if row.kind]
    if not places:
        return []
    items = [rows[index] for index in places]
    heading = rows[places[0] - 1].text.rstrip("*_ ") if places[0] else ""
    if heading.endswith((":", "：")) and _THOUGHT_WORD.search(heading):
        raise Unclear("it holds nothing but thoughts")
    if len({row.kind for row in items}) > 1:
        raise Unclear("it holds lists of several kinds")
    _check_counts(items)
    inside = [rows[one + 1 : other] for one, other in pairwise(places)]
    if not any(row.text for row in items):  # marks that stand alone: the text is the line below
        below = [*inside, _block(rows[places[-1] + 1 :])]
        if any(len(each) != 1 for each in below):
            raise Unclear("it has several lines below a mark")
        return [_item(row.text) for (row,) in below]
    if any(inside) or (len(items) == 1 and _block(rows[places[0] + 1 :], items[0].place)):
        raise Unclear("it holds other lines between the items of its list")
    return [_item(row.text, row.count) for row in items]


def _check_counts(rows: Sequence[_Row]) -> None:
    if any(other.count is not None and other.count != (one.count or 0) + 1 for one, other in pairwise(rows)):
        raise Unclear("it holds several lists")


def _plain(rows: Sequence[_Row], wanted: int | None, fenced: bool) -> list[str]:
    """Lines without marks, where their number is the one that a heading announces, or the one that was asked for."""
    if not rows or any(row.text.startswith(("|", "<", "{", "[")) for row in rows):
        raise Unclear("it is no list of prompts")
    if fenced:
        return [row.text for row in rows]
    if rows[0].text.endswith((":", "：")):
        announced = _announced(rows[0].text)
        lists = [block for block in (rows[1:], _block(rows[1:])) if block and len(block) == announced]
    else:
        lists = [rows] if len(rows) == wanted and wanted > 1 and not any(talks(row.text) for row in rows) else []
    if not lists:
        raise Unclear("it is no list of prompts")
    return [row.text for row in lists[0]]


def _announced(heading: str) -> int | None:
    found = [
        int(word) if word.isdecimal() else _NUMBERS[word]
        for word in re.findall(r"\w+", heading.casefold())
        if word.isdecimal() or word in _NUMBERS
    ]
    return found[0] if len(found) == 1 else None


def _item(text: str, count: int | None = None) -> str:
    """The prompt of one item: what is quoted where a comment follows, and what stands behind a title in bold."""
    bold = _BOLD.fullmatch(text)
    if bold and bold["behind"]:
        if not (bold["colon"] or bold["bold"].rstrip().endswith((":", "："))):
            raise Unclear("an item has a part in bold and another that is not")
        text = bold["behind"]
    if count is not None and re.search(rf"(?:\s|\\n)\(?{count + 1}[.)]\s", text):
        raise Unclear("it has several items on one line")
    closing = _QUOTES.get(text[:1])
    end = text.find(closing, 1) if closing else -1
    commented = end > 0 and _COMMENT.match(text, end + 1) is not None
    if closing and commented and closing not in text[end + 1 :]:
        return text[1:end]
    if commented or _QUOTED_BEHIND.search(text):
        raise Unclear("an item has a part in quotation marks and another that is not")
    if _COMMENT_BEHIND.search(_without_notes(text)):
        raise Unclear("an item has a comment behind it")
    return text


def _without_notes(text: str) -> str:
    """A prompt without a note on its loss or length."""
    return _BARE_NOTE.sub("", _NOTE.sub("", text))


def _bare(line: str) -> str:
    """A prompt without list marks, notes, emphasis and quotes around it."""
    line = line.replace("**", "").strip()
    while mark := _LIST_NUMBER.match(line):
        line = line[mark.end() :]
    line = _without_notes(line)
    if line.endswith(('",', "',")):
        line = line[:-1]
    while len(line) >= 2 and _QUOTES.get(line[0]) == line[-1] and line[0] not in line[1:-1]:
        line = line[1:-1].strip()
    return line
