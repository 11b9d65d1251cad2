"""Label words as answers, in several wordings at once."""

from __future__ import annotations

import json
from typing import ClassVar

from tandemtune.answers.labels import LabelAnswers
from tandemtune.joined_scorer import JoinedScorer
from tandemtune.problem import Problem, Scorer
from tandemtune.runs.records import Result


class JoinedAnswers(LabelAnswers):
    """The likelihoods of label words behind several templates, read together."""

    scorer: ClassVar[type[Scorer]] = JoinedScorer

    def card_lines(self, problem: Problem, result: Result) -> list[str]:
        """The first template's label words, then the other templates with theirs."""
        lines = super().card_lines(problem, result)
        for task in problem.scorer.task.wordings[1:]:
            words = ", ".join(f"{label}: {' / '.join(found)}" for label, found in task.words.items())
            text = json.dumps(str(task.template), ensure_ascii=False)
            lines.append(f"- read together with the template: `{text}`, label words {words}")
        return lines
