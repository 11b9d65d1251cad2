"""What a run works with: the model that can be asked, its few-shot rows, and the evaluator over them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from tandemtune.config import RunConfig
from tandemtune.devices import exact
from tandemtune.errors import ConfigError, DataError, ModelError
from tandemtune.evaluators import statistics
from tandemtune.evaluators.batch import Batch, collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.label_words import LabelWordEvaluator, calibrate
from tandemtune.evaluators.text import TextEvaluator
from tandemtune.mentor.grading import Grader
from tandemtune.models.backbone import Backbone
from tandemtune.models.prompts import SHORTEST, UNBOUNDED, no_room_beside
from tandemtune.readout.members import SolvedReadout
from tandemtune.runs.records import Facts, UnseenClasses
from tandemtune.subspace import LayerStatistics, scales
from tandemtune.tasks.base import Task
from tandemtune.tasks.chat import asked_words
from tandemtune.tasks.fewshot import shared
from tandemtune.tasks.table import Table, read_table
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import INPUT, Parameters, Point
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Encoded, Example, Split

Progress = Callable[[str], None]
CONTENT_FREE = ("N/A", "", "[MASK]")
STRETCH = 1.5
"""Where one point is scored or differentiated, rows up to this many times as long as the shortest run together with it."""


@dataclass
class Scorer:
    """A model that can be asked: task, backbone, label words, parameters and engine; probabilities are those of label logits
    divided by `temperature`."""

    config: RunConfig
    task: Task
    backbone: Backbone
    verbalizer: Verbalizer
    parameters: Parameters
    vocabulary: Vocabulary
    engine: Engine
    facts: Facts
    readout: SolvedReadout | None = None
    temperature: float = 1.0
    tell: Progress | None = None

    evaluator: ClassVar[type[LabelWordEvaluator]] = LabelWordEvaluator
    inputs: ClassVar[tuple[type, ...]] = (str,)

    def label_logits(self, batch: Batch, point: Point, empty: Batch | None = None) -> Tensor:
        """What is answered with: label logits [N, C] of a point, through the readout or calibrated where that is wanted.

        Args:
            batch: the prompts.
            point: the setting of what is tuned.
            empty: prompts without content, encoded as `batch` is; made anew if left out.
        """
        if self.readout is not None:
            return self.readout.logits(self.engine, batch, point)
        logits = self.engine.logits(batch, point)
        if not self.calibrates:
            return logits
        return calibrate(logits, self.engine.logits(content_free(self) if empty is None else empty, point))

    def probabilities(self, logits: Tensor) -> list[list[float]]:
        """Of each label, for label logits [N, C]."""
        found: list[list[float]] = torch.softmax(exact(logits) / self.temperature, dim=-1).tolist()
        return found

    def note(self, **found: Any) -> None:
        """Record what was found out or decided."""
        self.facts = self.facts.model_copy(update=found)

    def move_data(self, config: RunConfig) -> None:
        """Read test rows from where a recipe's files lie now."""
        if config.task.test is not None and config.task != self.config.task:
            self.task = replace(self.task, test_source=config.task.test)
        self.config = self.config.model_copy(update={"task": config.task})

    @property
    def is_pretrained(self) -> bool:
        """Whether nothing stands beside or before the model, so that the tuned point is the pretrained one."""
        return not self.parameters.blocks and len(self.parameters.reserve(Encoded((0,), 0)).ids) == 1

    @property
    def calibrates(self) -> bool:
        """Whether losses and scores are those after contextual calibration; "auto" was decided when the run began."""
        wanted = self.config.method.final_objective.calibrate
        return bool(self.facts.calibrated) if wanted == "auto" else wanted

    @property
    def limit(self) -> int:
        """Tokens of the longest prompt that is not cut: what the recipe allows, or the model beside what is put into it and what may
        be written behind it.

        Raises:
            ConfigError: answers leave no room for a prompt.
        """
        return self.limit_beside(self.task.answer_room)

    def limit_beside(self, behind: int) -> int:
        """The same beside so many tokens of an answer, which a model of one stack reads in one row with its prompt.

        Raises:
            ConfigError: such an answer leaves no room for a prompt, or is longer than a decoder's table of positions.
        """
        left = self._left - (behind if self.backbone.kind == "causal" else 0)
        marks, positions = len(self.backbone.prefix), self.backbone.architecture.answer_positions
        if behind and positions is not None and marks + behind > positions:
            raise ConfigError(
                [
                    f"[task] max_new_tokens: answers of {behind} tokens, behind {marks} that the model's decoder begins with, are more than its "
                    f"{positions} positions: lower it to {positions - marks} or less"
                ]
            )
        if left < SHORTEST and behind:
            raise ConfigError([no_room_beside(behind, self.backbone.longest)])
        return min(self.config.task.max_tokens, left)

    @property
    def room_behind(self) -> int:
        """Tokens of the longest answer that the model has room for behind a prompt."""
        if self.backbone.kind == "causal":
            return self._left - SHORTEST
        positions = self.backbone.architecture.answer_positions
        return UNBOUNDED if positions is None else positions - len(self.backbone.prefix)

    @property
    def _left(self) -> int:
        """Tokens that the model takes beside what is put into a prompt."""
        return self.backbone.longest - (len(self.parameters.reserve(Encoded((0,), 0)).ids) - 1)

    @property
    def has_content_free(self) -> bool:
        """Whether there are prompts without content, to calibrate by."""
        return True

    def encoded(self, examples: Sequence[Example], plain: bool = False) -> tuple[list[Any], list[int]]:
        """Prompts with room for what the parameters put into them (none if `plain`), and labels (-1 where unknown)."""
        labels = [-1 if e.label is None else self.task.label_index(e.label) for e in examples]
        prompts = [self._encoded(example) for example in examples]
        return (prompts if plain else [self.parameters.reserve(prompt) for prompt in prompts]), labels

    def _encoded(self, example: Example) -> Encoded:
        return self.backbone.encode(self.task.template, example.fields, self.limit, self.config.task.truncate)

    def unlabelled(self, split: Split) -> list[Example]:
        """Rows of the training file that are in no split, without their answers, for a KL penalty.

        Raises:
            ConfigError: there are none.
        """
        objective = self.config.method.objective
        rows = self.task.unlabelled(objective.kl_rows, self.config.task.seed, split)
        if not rows:
            raise ConfigError(
                [
                    f"[method] kl_penalty: {objective.kl_penalty} needs rows beside the split, but the training file holds no "
                    "more: set kl_penalty to 0"
                ]
            )
        return rows

    def batch(self, examples: Sequence[Example], plain: bool = False) -> Batch:
        """Encode labelled or unlabelled examples for this model, to be scored at one point; `plain` for the pretrained one."""
        return self.together(*self.encoded(examples, plain))

    def population_batch(self, examples: Sequence[Example]) -> Batch:
        """Encode examples to be scored by a population: rows of one length only side by side."""
        return self.apart(*self.encoded(examples))

    def apart(self, prompts: Sequence[Any], labels: Sequence[int]) -> Batch:
        """Rows of one length only side by side, for a population."""
        return collate(prompts, labels, self.backbone.device)

    def together(self, prompts: Sequence[Any], labels: Sequence[int]) -> Batch:
        """Rows of nearly one length side by side, for one point; a population needs no such help."""
        masked = self.backbone.kind != "causal"
        return collate(prompts, labels, self.backbone.device, stretch=STRETCH, masked=masked)

    def content_free(self, plain: bool = False, apart: bool = False) -> Batch:
        """Rows without content, see `content_free`."""
        examples: list[Example] = []
        for text in CONTENT_FREE:
            example = Example(dict.fromkeys(self.task.template.fields, text))
            with suppress(DataError):
                self.batch([example])
                examples.append(example)
        return self.population_batch(examples) if apart else self.batch(examples, plain)

    def unseen(self, point: Point, before: float | None, behind: float | None) -> UnseenClasses | None:
        """Scores among classes that were left out of the task; None where none were.

        Args:
            point: the best one.
            before: test score of the pretrained model among the task's own classes.
            behind: test score of the best point among them, without a readout.
        """
        return None

    def table(self, source: Any) -> Table:
        """Rows to be labelled.

        Args:
            source: whatever `read_table` takes.

        Raises:
            DataError: it cannot be read.
        """
        return read_table(source)

    @property
    def only_here(self) -> str:
        """Why the readout that scores are made with is in nothing that others can load; empty where it is, or there is none."""
        return "" if self.readout is None else self.readout.no_adapter(self.engine)

    def save_beside(self, point: Point, folder: Path) -> None:
        """Write what else of a run's result others can use, beside its adapter."""

    def snippet(self, base: str) -> list[str]:
        """Code that uses what `save_beside` wrote, without this library; empty where it wrote nothing.

        Args:
            base: the base model's name or folder.
        """
        return []

    def definition(self, train: Batch) -> str:
        """The task in a sentence, for a mentor, where nobody says it better.

        Args:
            train: the training rows.
        """
        if not self.task.words:
            return f"Write the best answer to each text. Answers are scored by {self.task.metric}."
        return f"Tell {', '.join(self.task.labels)} apart."

    @property
    def usage(self) -> str:
        """How a prompt stands beside a text, for a mentor."""
        if self.task.question is None:
            return "[PROMPT] " + str(self.task.template).replace("{mask}", "[ANSWER]")
        system = None if self.task.chat is None else self.task.chat.system
        first = "" if system is None else f"system: {system}\n"
        return f"{first}user: [PROMPT] {asked_words(self.task.question).strip()}\nassistant: [ANSWER]"

    def plain_prompt(self, example: Example) -> Encoded:
        """A prompt without anything that the parameters put into it."""
        prompt: Encoded = self.encoded([example], plain=True)[0][0]
        return prompt

    def cut(self, examples: Sequence[Example]) -> list[int]:
        """By how many tokens the prompts of rows are too long, for those that are."""
        prompts, _ = self.encoded(examples, plain=True)
        return [prompt.lost for prompt in prompts if prompt.lost]


@dataclass
class Problem:
    """Everything that a run works with: a scorer, its few-shot rows and the evaluator over them.

    Args:
        scorer: scores points and rows.
        split: the labelled rows.
        evaluator: scores candidates on the training rows; of several stretches that of the last one, which judges the result.
        seconds: that choosing a template took.
        grader: who grades texts, where a language model does.
        several: the stretches of the run, each with a recipe and an evaluator of its own; empty where there is one.
    """

    scorer: Scorer
    split: Split
    evaluator: LabelWordEvaluator | TextEvaluator
    seconds: float = 0.0
    grader: Grader | None = None
    several: tuple[Problem, ...] = ()

    @property
    def stretches(self) -> tuple[Problem, ...]:
        """The stretches of the run, one after another."""
        return self.several or (self,)

    @property
    def labelled(self) -> LabelWordEvaluator:
        """The evaluator of a task that is answered with labels."""
        assert isinstance(self.evaluator, LabelWordEvaluator)
        return self.evaluator

    @property
    def facts(self) -> Facts:
        """What was found out or decided on this machine."""
        return self.scorer.facts

    @cached_property
    def scales(self) -> dict[int, list[float]]:
        """Scales of the random projections of each block that is searched, measured where the run begins.

        Raises:
            ModelError: the model gives no numbers on the training rows.
        """
        scorer, method = self.scorer, self.scorer.config.method
        rule, measured = method.tunable.statistics(scorer.parameters, self, method.subspace.scale)
        result: dict[int, list[float]] = {}
        for block, known in measured.items():
            numbers = (known.hidden_sd, *known.x_rms.values(), *known.y_sd.values())
            if not all(math.isfinite(n) and n > 0 for n in numbers):
                raise ModelError(
                    f"{scorer.backbone.name} gives no usable numbers on training rows in {scorer.facts.dtype} (layer "
                    f"{block}: {known}): set [model] dtype to float32, or choose a model whose weights are whole"
                )
            result[block] = scales(
                rule,
                known,
                scorer.parameters.names_of(block),
                self.factors(block),
                d=method.subspace.d,
                alpha=method.subspace.alpha,
                sigma=method.optimizer.step_size,
            )
        return result

    @property
    def searched(self) -> tuple[int, ...]:
        """Blocks that the optimizer moves."""
        return self.scorer.config.method.tunable.searched(self.scorer.parameters)

    def factors(self, block: int) -> tuple[tuple[int, int], ...]:
        """Matrices that a block's search vector is cut into equal parts for."""
        return self.scorer.config.method.tunable.matrices(self.scorer.parameters, block)

    def layer_statistics(self, blocks: Sequence[int]) -> dict[int, LayerStatistics]:
        """What enters and leaves the projections of some layers on the training rows, where the run begins."""
        scorer, train = self.scorer, self.evaluator.train
        return statistics.measure(scorer.engine, scorer.backbone, train, scorer.parameters.initial(), blocks)

    def hidden_sd(self, block: int) -> float:
        """Spread of what enters a layer on the training rows; of the embeddings for the input."""
        if block == INPUT:
            return self.scorer.vocabulary.sd
        states = self.scorer.engine.states(self.evaluator.train, self.scorer.parameters.initial(), block)
        return statistics.clipped_sd(torch.cat([s.flatten() for s in states]))


@dataclass(frozen=True)
class DrawnRows:
    """The training rows of one turn: seeded, so that a resumed run draws the same.

    Args:
        scorer: encodes.
        prompts: all training rows.
        labels: of each.
    """

    scorer: Scorer
    prompts: Sequence[Any]
    labels: Sequence[int]

    def for_generation(self, number: int) -> Batch:
        """Rows of one generation."""
        first = self.of_generation(number)
        return self.scorer.apart([self.prompts[i] for i in first], [self.labels[i] for i in first])

    def of_generation(self, number: int) -> list[int]:
        """Which rows a generation is scored on, each label with its share."""
        config = self.scorer.config
        generator = np.random.default_rng([config.task.seed, number, 8])
        waiting = {
            label: generator.permutation([i for i, other in enumerate(self.labels) if other == label])
            for label in set(self.labels)
        }
        several = [members.tolist() for members in waiting.values()]
        wanted, sizes = cast(int, config.method.subsample), list(map(len, several))
        ties = [members[wanted * len(members) // sum(sizes)] for members in several]  # who would be next
        counts = shared(wanted, sizes, ties)
        ranked = sorted(
            (place, i) for members, n in zip(several, counts, strict=True) for place, i in enumerate(members[:n])
        )
        return [i for _, i in ranked]

    def for_step(self, number: int) -> Batch:
        """Rows of a gradient step."""
        chosen = self.of_step(number)
        return self.scorer.together([self.prompts[i] for i in chosen], [self.labels[i] for i in chosen])

    def of_step(self, number: int) -> list[int]:
        """Which rows a gradient step sees: seeded epochs without repetition, cut into batches."""
        config = self.scorer.config
        size = min(getattr(config.method.optimizer, "batch_size", len(self.prompts)), len(self.prompts))
        epoch, place = divmod(number, len(self.prompts) // size)
        order = np.random.default_rng([config.task.seed, epoch, 5]).permutation(len(self.prompts)).tolist()
        return cast(list[int], order[place * size : (place + 1) * size])


def content_free(scorer: Scorer, plain: bool = False, apart: bool = False) -> Batch:
    """Prompts without content; one of a template and tokenizer that make no token of it is left out.

    Args:
        scorer: encodes them.
        plain: as the pretrained model reads them.
        apart: rows of one length only side by side, for a population.
    """
    return scorer.content_free(plain, apart)


def digest(*batches: Batch) -> str:
    """What tells one set of encoded rows from another."""
    found = hashlib.sha256()
    for batch in batches:
        for tensor in batch.parts():
            found.update(f"{tuple(tensor.shape)}".encode())
            found.update(tensor.cpu().numpy().tobytes())
    return found.hexdigest()
