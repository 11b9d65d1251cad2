"""The interface of answers: what differs between tasks that are answered with labels and tasks that are answered with texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from tandemtune.config.schema import RunConfig, TaskSection
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import PassReading
from tandemtune.models.backbone import Backbone
from tandemtune.models.conversations import in_conversation
from tandemtune.models.layers import LayerStack
from tandemtune.problem import Problem, Scorer
from tandemtune.proposers.base import Standing
from tandemtune.runs.records import Assessment, Result, TemplateScore
from tandemtune.scoring import Reached
from tandemtune.tasks.base import Task
from tandemtune.tasks.table import Table
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import Parameters
from tandemtune.types import Example, Split

Point = Mapping[int, Tensor]


@dataclass(frozen=True)
class PredictedTable:
    """A table with answers.

    Args:
        table: all rows and columns with the answers behind: ``label`` and ``probabilities`` (in CSV a column for each label), where
            a label column that was there is called ``gold``; or ``answer``.
        blank: rows without a text, whose answer is empty.
        scored: rows whose answer was known.
        score: the task's metric on them; None if there are none.
        metric: its name.
        column: the column of the answers.
    """

    table: Table
    blank: int
    scored: int
    score: float | None
    metric: str
    column: str = "label"


class Answers(ABC):
    """What an answer is. One object serves all tasks of its kind.

    Attributes:
        scorer: what a model is asked through.
        engine_type: what reads the views of readouts.
        most_judged: labelled rows that templates are judged by, at most; 0 where they are not judged.
        unjudged: why they are not.
        doing: what happens to rows, in a word.
        use: what a finished run is for, and the input of `tandemtune predict` as an example.
    """

    scorer: ClassVar[type[Scorer]] = Scorer
    engine_type: ClassVar[type[Engine]] = Engine
    unjudged: ClassVar[str] = ""
    doing: ClassVar[str] = "labelling"
    most_judged: ClassVar[int] = 512
    use: ClassVar[tuple[str, str]] = ("label texts", "texts.jsonl")

    def asked(self, task: Task, backbone: Backbone) -> Task:
        """The task as a model is asked it: in its own form of conversation, where that is wanted."""
        return in_conversation(task, backbone.tokenizer, backbone.name, backbone.kind)

    def check(self, section: TaskSection, task: Task, split: Split) -> None:  # noqa: B027  (nothing to refuse is the rule)
        """Refuse settings that do not fit the rows; by default none.

        Raises:
            ConfigError: lists every problem.
        """

    def try_out(self, problem: Problem, test: bool = True) -> None:  # noqa: B027  (nothing to try is the rule)
        """Find out before a run begins whether what judges its answers works; by default there is nothing of a user's in it.

        Args:
            problem: what the run works with.
            test: whether its test rows will be scored.

        Raises:
            UsageError: it does not.
        """

    def end(self, backbone: Backbone, task: Task) -> int | None:
        """The mark behind right answers; by default there is none."""
        return None

    @abstractmethod
    def verbalizer(self, backbone: Backbone, task: Task) -> Verbalizer:
        """Label words resolved against a model; none where answers are no labels."""

    @abstractmethod
    def stack(self, backbone: Backbone, verbalizer: Verbalizer) -> LayerStack:
        """The model as a pipeline of layers that ends in what answers are read from."""

    def engine(
        self, backbone: Backbone, task: Task, verbalizer: Verbalizer, parameters: Parameters, max_memory: float
    ) -> Engine:
        """The evaluation engine over that pipeline, its activations bounded in megabytes."""
        averaging = torch.tensor(verbalizer.weights())
        return Engine(self.stack(backbone, verbalizer), parameters, averaging, max_memory=max_memory)

    @abstractmethod
    def judged(
        self, backbone: Backbone, task: Task, rows: Sequence[Example], config: RunConfig
    ) -> tuple[TemplateScore, PassReading | None]:
        """How a template does on labelled rows before anything is tuned; lower losses are better.

        Args:
            backbone: the model.
            task: with the template.
            rows: labelled rows.
            config: the recipe.

        Returns:
            The score, and what the model tells of the rows, where a readout judges them.

        Raises:
            DataError: the template cannot be used.
            ModelError: the model has no place for it.
        """

    @abstractmethod
    def problem(self, scorer: Scorer, split: Split, beside: Problem | None = None) -> Problem:
        """The evaluator of a scorer over few-shot rows.

        Args:
            scorer: with the recipe of one search.
            split: the rows.
            beside: another search of the same run, whose rows are the same.
        """

    @abstractmethod
    def reached(
        self, problem: Problem, point: Point | None, examples: Sequence[Example] | None, before: Reached | None = None
    ) -> Reached:
        """What a point reaches on every split.

        Args:
            problem: what the run works with.
            point: the setting of what is tuned; None for the pretrained model.
            examples: test rows; None to score none.
            before: what the pretrained model reached, where `point` is a tuned one.
        """

    @abstractmethod
    def standing(self, problem: Problem, point: Point) -> Standing:
        """How a point does on the training rows that candidates are scored on, for a mentor."""

    @abstractmethod
    def majority(self, problem: Problem, examples: Sequence[Example] | None) -> float | None:
        """Test score of the best answer that does not depend on the row; None where there is none."""

    @abstractmethod
    def given(self, scorer: Scorer, point: Point, examples: Sequence[Example]) -> list[tuple[str, dict[str, float]]]:
        """The answers to some rows, and the probability of each label."""

    @abstractmethod
    def table(self, model: Any, table: Table) -> PredictedTable:
        """A table with answers, see `tandemtune.predict.predict_table`."""

    @abstractmethod
    def assessment(self, model: Any, table: Table) -> Assessment:
        """How a model does on rows whose answers are known, see `tandemtune.predict.evaluate_table`."""

    told_in: ClassVar[str] = "labels.json"
    """File of an export that holds what `told` says."""

    @abstractmethod
    def told(self, scorer: Scorer, bias: Mapping[str, float]) -> dict[str, Any]:
        """What has to be known to ask an exported model, beside its template.

        Args:
            scorer: the run's.
            bias: what is added to the logit of each label.
        """

    @abstractmethod
    def how_to_ask(self, scorer: Scorer) -> list[str]:
        """What an export's README says of that, as list entries."""

    @abstractmethod
    def code(self, kind: str, example: Mapping[str, str]) -> list[str]:
        """Lines of Python that ask an exported model: `told`, `tokenizer` and `model` are there.

        Args:
            kind: "masked", "causal" or "seq2seq".
            example: a row to ask it.
        """

    @abstractmethod
    def card_lines(self, problem: Problem, result: Result) -> list[str]:
        """What an adapter's README says about how to ask, as list entries."""
