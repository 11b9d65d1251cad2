"""What an answer is: everything of a run that depends on it, in one object for each kind of task.

`base`    the interface
`labels`  label words: the likelihoods of a few words at one place
`images`  labels of images: the class whose text an image is most like
`joined`  label words in several wordings at once
`choices` whole answers of any number of tokens, by their likelihood
`texts`   texts of any length: likelihoods of references, or rewards of what is written; `text_rows` has their rows, and
          `references` says what speaks against some
"""

from __future__ import annotations

from tandemtune.answers.base import Answers
from tandemtune.answers.choices import ChoiceAnswers
from tandemtune.answers.images import ImageAnswers
from tandemtune.answers.joined import JoinedAnswers
from tandemtune.answers.labels import LabelAnswers
from tandemtune.answers.texts import TextAnswers
from tandemtune.tasks.base import Task

_KINDS: dict[str, Answers] = {
    "labels": LabelAnswers(),
    "images": ImageAnswers(),
    "joined": JoinedAnswers(),
    "choices": ChoiceAnswers(),
    "texts": TextAnswers(),
}


def answers_of(task: Task) -> Answers:
    """What an answer of a task is."""
    return _KINDS[task.answers]
