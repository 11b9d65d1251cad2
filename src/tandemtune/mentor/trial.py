"""Questions like those of a run, about a made-up task: whether a mentor's answers can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tandemtune.errors import MentorError
from tandemtune.mentor.brief import Brief, Tried
from tandemtune.mentor.grading import Grader
from tandemtune.mentor.mentor import Mentor
from tandemtune.mentor.requests import quoted
from tandemtune.mentor.steering import Course, LayerGain
from tandemtune.mentor.wordings import TriedWording, Wording, WordingBrief, Wordings
from tandemtune.rewards.base import Written

_DEFINITION = "Tell whether the writer of a film review liked the film"
_TRIED = (
    Tried("Read this text", 0.91, 0.5),
    Tried("What does the writer feel?", 0.64, 0.72),
    Tried("Did the viewer enjoy the film?", 0.52, 0.78),
)
_INSTEAD = 'take a larger model; a small one may go on with lists, [mentor] style = "complete"'
_COURSE = Course((LayerGain(0, 4, 0.01), LayerGain(1, 4, 0.08, 0.03), LayerGain(2, 4, 0.0)), 1, 4, 6, 1.0, 0.61, 2)
_WORDINGS = WordingBrief(
    definition=_DEFINITION,
    columns=("text",),
    labels=("negative", "positive"),
    metric="accuracy",
    tried=(TriedWording(Wording("{text} It was {mask}", ("bad", "great")), 0.52, 0.78, 0.61),),
    wanted=2,
)
_WRITTEN = Written(["Write a sentence about the sea."], ["The sea is calm today."], [["The sea was calm all day."]])


def try_prompts(mentor: Mentor, *, wanted: int, limit: int) -> Iterator[str]:
    """Ask for prompts, as a round of a run does.

    Args:
        mentor: who is asked.
        wanted: how many prompts.
        limit: tokens that a prompt may have; a word counts as one here, since the tuned model's tokenizer is not asked.

    Returns:
        What came of it, in sentences.

    Raises:
        MentorError: no answer came, none that can be read, or none that might be tried.
    """
    brief = Brief(
        definition=_DEFINITION,
        labels=("negative", "positive"),
        label_words=("bad", "great"),
        metric="accuracy",
        manual=None,
        usage="[PROMPT] Review: {text} Sentiment: [ANSWER]",
        tried=_TRIED,
        wanted=wanted,
        limit=limit,
    )
    found = mentor.propose(brief, lambda text: len(text.split()), turn=0)
    read = len(found.accepted) + len(found.refused)
    if not read:
        raise MentorError(
            f"the mentor answers, but no prompts can be read out of what it says ({found.failure}): {_INSTEAD}"
        )
    if not found.accepted:
        refused = "; ".join(f"{quoted(text)}: {reason}" for text, reason in found.refused[:3])
        raise MentorError(f"the mentor answers, but none of its {read} prompts might be tried ({refused}): {_INSTEAD}")
    asked = "a question like a run's" if found.asks == 1 else f"{found.asks} questions like a run's"
    example = quoted(found.accepted[0])
    yield f"{asked}: {read} prompts were read, {len(found.accepted)} of {wanted} might be tried, for example {example}"
    for text, reason in found.refused[:3]:
        yield f"not to be tried: {quoted(text)}: {reason}"


def try_actions(mentor: Mentor) -> Iterator[str]:
    """Ask how a round of a search is to be run.

    Args:
        mentor: who is asked.

    Returns:
        What came of it, in a sentence.

    Raises:
        MentorError: no answer came, or none that can be read.
    """
    actions, problem = mentor.steer(_COURSE, _DEFINITION, turn=0)
    if actions is None:
        raise MentorError(
            f"the mentor answers, but no decision can be read out of what it says ({problem}): {_INSTEAD}"
        )
    yield "a question about a search's next round: its decision was read"


def try_wordings(ask: Callable[[WordingBrief], Wordings]) -> Iterator[str]:
    """Ask for templates with label words, as `tandemtune templates --mentor` does.

    Args:
        ask: asks for them; a brief -> what was proposed.

    Returns:
        What came of it, in sentences.

    Raises:
        MentorError: no answer came, none that can be read, or none that might be tried.
    """
    found = ask(_WORDINGS)
    refused = [f"{quoted(text)}: {reason}" for text, reason in found.refused[:3]]
    if not found.accepted:
        why = found.problem or "; ".join(refused)
        raise MentorError(f"the mentor answers, but no template of it might be tried ({why}): take a larger model")
    example = quoted(found.accepted[0].template)
    yield f"a question about templates: {len(found.accepted)} of {_WORDINGS.wanted} might be tried, for example {example}"
    for line in refused:
        yield f"not to be tried: {line}"


def try_grades(grader: Grader) -> Iterator[str]:
    """Ask for the grade of a text.

    Args:
        grader: asks for it.

    Returns:
        What came of it, in a sentence.

    Raises:
        MentorError: no answer came, or none that holds a grade.
    """
    grade = grader.grade(grader.question(_WRITTEN, 0))
    yield f"a question about a text's grade: it was read, {grade * grader.highest:g} of {grader.highest}"
