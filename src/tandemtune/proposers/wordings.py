"""Templates and label words that a mentor proposes, as tasks that can be judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tandemtune.errors import DataError, UsageError
from tandemtune.mentor import Client, Misread, Transcript
from tandemtune.mentor.clients import budget_of, client_of, reachable
from tandemtune.mentor.wordings import (
    LONGEST_WORD,
    MASK,
    TriedWording,
    Wording,
    WordingBrief,
    Wordings,
    propose_wordings,
    too_long,
)
from tandemtune.proposers.mentored import QUESTIONS
from tandemtune.runs.journal import read_lines
from tandemtune.runs.records import TemplateScore
from tandemtune.tasks.base import Task
from tandemtune.tasks.templates import Template
from tandemtune.types import Example

Check = Callable[[Wording], str | None]
"""Says why a wording cannot be used; None if it can."""


def check_mentor(section: Any, conversations: Path, tell: Any = None) -> None:
    """Find out whether the mentor of a recipe can be asked for templates; one that has answered before is not contacted.

    Args:
        section: the recipe's ``[mentor]``.
        conversations: the file in which everything is kept that is said.
        tell: told what goes on.

    Raises:
        TandemTuneError: it speaks in another style, or will not answer.
    """
    if section.spoken != "chat":
        raise UsageError(
            "templates are asked for in a conversation: set [mentor] style to chat, or choose another client"
        )
    if not any("answered" in line for line in read_lines(conversations)):
        reachable(section, tell, needed=True)


def ask_for_wordings(
    section: Any,
    conversations: Path,
    brief: WordingBrief,
    seed: int,
    tell: Any = None,
    check: Check = lambda wording: None,
) -> Wordings:
    """Ask the mentor of a recipe for templates and label words.

    Args:
        section: the recipe's ``[mentor]``.
        conversations: the file in which everything is kept that is said; asked again, it answers from there.
        brief: what the mentor is told.
        seed: of its sampling.
        tell: told where a question lies.
        check: what the tuned model has against a wording, which the mentor is told when it is asked once more.

    Raises:
        TandemTuneError: it cannot be asked, or has not answered yet.
    """
    conversations.parent.mkdir(parents=True, exist_ok=True)
    client = client_of(section, conversations.parent / QUESTIONS, tell, then="give the same command again")
    transcript = Transcript(conversations, client, budget=budget_of(section), retries=section.retries)
    try:
        return wordings_of(section, transcript, brief, seed, check)
    finally:
        transcript.close()


def wordings_of(
    section: Any, client: Client, brief: WordingBrief, seed: int, check: Check = lambda wording: None
) -> Wordings:
    """Templates and label words of whoever answers, asked as a recipe's ``[mentor]`` says; see `ask_for_wordings`.

    Raises:
        TandemTuneError: it cannot be asked, or has not answered yet.
    """
    return propose_wordings(
        client,
        brief,
        lambda wording: unusable(wording, brief) or check(wording),
        temperature=section.creativity,
        seed=seed,
        thinking=section.thinking,
        max_completion_tokens=section.max_completion_tokens,
    )


def brief_of(
    task: Task,
    definition: str,
    scores: Sequence[TemplateScore],
    wanted: int,
    behind: bool,
    said: Sequence[int] = (),
    rows: Sequence[Example] = (),
    public: Sequence[Example] = (),
    shown: int = 0,
) -> WordingBrief:
    """What a mentor is told of a task whose wordings were judged.

    Args:
        task: the task.
        definition: it in a sentence.
        scores: judged wordings; those that cannot be used are left out.
        wanted: how many new ones are asked for.
        behind: whether {mask} has to stand at the end.
        said: what the best of them predicts of each row, as numbers of labels.
        rows: the labelled rows.
        public: those of them that a mentor may see at all: training rows.
        shown: how many misread rows the mentor may see.
    """
    tried = [
        TriedWording(
            Wording(one.template, tuple(w[0] for w in one.labels.values())), one.loss, one.score, one.zero_shot
        )
        for one in scores
        if one.loss is not None
    ]
    tried.sort(key=lambda one: -one.loss)
    gold = task.gold(rows)
    confusion = [[0] * len(task.labels) for _ in task.labels]
    for true, guess in zip(gold, said, strict=True):
        confusion[true][guess] += 1
    columns, seen = task.template.fields, {id(row) for row in public}
    wrong = [
        Misread(" / ".join(row.fields[name] for name in columns), task.labels[true], task.labels[guess])
        for row, true, guess in zip(rows, gold, said, strict=True)
        if true != guess and id(row) in seen
    ]
    return WordingBrief(
        definition,
        columns,
        task.labels,
        task.metric,
        tuple(tried),
        wanted,
        behind,
        tuple(map(tuple, confusion)) if rows else (),
        tuple(wrong[:shown]),
    )


def unusable(wording: Wording, brief: WordingBrief) -> str | None:
    """Why a wording cannot be used, as far as can be said without a model; None if it can."""
    try:
        template = Template.parse(wording.template)
    except DataError as error:
        return str(error)
    strange = [name for name in template.fields if name not in brief.columns]
    if strange:
        return f"{{{strange[0]}}} is no column"
    if brief.behind and not wording.template.endswith(MASK):
        return "it does not end with {mask}"
    if too := too_long(wording.template, brief.columns):
        return too
    if len({word.casefold() for word in wording.words}) < len(wording.words):
        return "two labels have the same word"
    if any(len(word) > LONGEST_WORD or "{" in word for word in wording.words):
        return f"a label word is longer than {LONGEST_WORD} characters, or has braces"
    return None


def tasks_of(task: Task, wordings: Sequence[Wording]) -> list[Task]:
    """A task in each of some wordings."""
    return [
        replace(
            task,
            template=Template.parse(one.template),
            words={label: (word,) for label, word in zip(task.labels, one.words, strict=True)},
        )
        for one in wordings
    ]
