"""What a run works with: the parts of a recipe, wired, and the batches made of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch

from tandemtune.config import RunConfig
from tandemtune.errors import DataError, ModelError
from tandemtune.models.backbone import Backbone
from tandemtune.objective import statistics
from tandemtune.objective.batch import Batch, collate
from tandemtune.objective.engine import Engine
from tandemtune.objective.objective import Objective
from tandemtune.subspace import LayerStatistics, Rule, scales
from tandemtune.tasks.base import Task
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import INPUT, Tunable
from tandemtune.tunables.beside import LoRABesidePrompt
from tandemtune.tunables.lora import LoRA
from tandemtune.tunables.prompt import Prompt
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Encoded, Example, Split

Progress = Callable[[str], None]
CONTENT_FREE = ("N/A", "", "[MASK]")
STRETCH = 1.5
"""Where one point is scored or differentiated, rows up to this many times as long as the shortest run together with it."""


@dataclass
class Scorer:
    """A model that can be asked: task, backbone, label words, tunable and engine."""

    config: RunConfig
    task: Task
    backbone: Backbone
    verbalizer: Verbalizer
    tunable: Tunable
    vocabulary: Vocabulary
    engine: Engine
    facts: dict[str, Any]

    @property
    def calibrates(self) -> bool:
        """Whether losses and scores are those after contextual calibration; "auto" was decided when the run began."""
        wanted = self.config.method.calibrate
        return bool(self.facts.get("calibrated")) if wanted == "auto" else wanted

    def encoded(self, examples: Sequence[Example], plain: bool = False) -> tuple[list[Encoded], list[int]]:
        """Prompts with room for what the tunable puts into them (none if `plain`), and labels (-1 where unknown)."""
        labels = [-1 if e.label is None else self.task.label_index(e.label) for e in examples]
        room = len(self.tunable.reserve(Encoded((0,), 0)).ids) - 1
        limit = min(self.config.task.max_tokens, self.backbone.longest - room)
        prompts = [self.backbone.encode(self.task.template, example.fields, limit) for example in examples]
        return (prompts if plain else [self.tunable.reserve(prompt) for prompt in prompts]), labels

    def batch(self, examples: Sequence[Example], plain: bool = False) -> Batch:
        """Encode labelled or unlabelled examples for this model, to be scored at one point; `plain` for the pretrained one."""
        return self.together(*self.encoded(examples, plain))

    def together(self, prompts: Sequence[Encoded], labels: Sequence[int]) -> Batch:
        """Rows of nearly one length side by side, for one point; a population needs no such help."""
        masked = self.backbone.kind != "causal"
        return collate(prompts, labels, self.backbone.device, stretch=STRETCH, masked=masked)


@dataclass
class Bench:
    """Everything that a run works with: a scorer, its few-shot rows and the objective over them."""

    scorer: Scorer
    split: Split
    objective: Objective
    dev: Batch
    content_free: Batch
    facts: dict[str, Any]

    @cached_property
    def _prompts(self) -> tuple[list[Encoded], list[int]]:
        return self.scorer.encoded(self.split.train)

    @cached_property
    def scales(self) -> dict[int, list[float]]:
        """Scales of the random projections of each block that is searched, measured where the run begins."""
        return _scales(self)

    @property
    def searched(self) -> tuple[int, ...]:
        """Blocks that the optimizer moves; the words beside LoRA come from proposals."""
        tunable = self.scorer.tunable
        return tunable.lora.blocks if isinstance(tunable, LoRABesidePrompt) else tunable.blocks

    def shapes(self, block: int) -> tuple[tuple[int, int], ...]:
        """What a block's search vector is cut into equal parts for: the factors of LoRA, or the whole block."""
        tunable = self.scorer.tunable
        if isinstance(tunable, LoRA | LoRABesidePrompt | Prompt):
            return tuple(tunable.shapes(block))
        return ((1, tunable.dim(block)),)

    @property
    def sample(self) -> Callable[[int], Batch] | None:
        """The training rows of a generation, where each is scored on some rows only."""
        size = self.scorer.config.method.subsample
        return None if size is None or size >= len(self.split.train) else lru_cache(maxsize=1)(self._sampled)

    def _sampled(self, step: int) -> Batch:
        """Seeded rows of one generation, as many of each label as can be."""
        config = self.scorer.config
        prompts, labels = self._prompts
        generator = np.random.default_rng([config.task.seed, step, 8])
        waiting = {
            label: generator.permutation([i for i, o in enumerate(labels) if o == label]) for label in set(labels)
        }
        ranked = sorted((place, i) for members in waiting.values() for place, i in enumerate(members.tolist()))
        first = [i for _, i in ranked[: config.method.subsample]]
        return collate([prompts[i] for i in first], [labels[i] for i in first], self.scorer.backbone.device)

    def rows(self, step: int) -> Batch:
        """The training rows of a gradient step: seeded epochs without repetition, cut into batches."""
        config = self.scorer.config
        prompts, labels = self._prompts
        size = min(config.method.batch_size, len(prompts))
        epoch, place = divmod(step, len(prompts) // size)
        order = np.random.default_rng([config.task.seed, epoch, 5]).permutation(len(prompts)).tolist()
        chosen = order[place * size : (place + 1) * size]
        return self.scorer.together([prompts[i] for i in chosen], [labels[i] for i in chosen])


def _scales(bench: Bench) -> dict[int, list[float]]:
    scorer, train = bench.scorer, bench.objective.train
    method, tunable = scorer.config.method, scorer.tunable
    origin = tunable.initial()
    rule: Rule = method.scale
    if isinstance(tunable, Prompt):
        spreads = {
            block: scorer.vocabulary.sd
            if block == INPUT
            else statistics.clipped_sd(torch.cat([s.flatten() for s in scorer.engine.states(train, origin, block)]))
            for block in bench.searched
        }
        # a prompt's vectors are hidden states themselves
        rule = "normal" if method.scale == "normal" else "hidden_state"
        measured = {block: LayerStatistics(sd, {}, {}) for block, sd in spreads.items()}
    elif isinstance(tunable, LoRA | LoRABesidePrompt):
        measured = statistics.measure(scorer.engine, scorer.backbone, train, origin, bench.searched)
    else:
        rule, measured = "normal", {block: LayerStatistics(1.0, {}, {}) for block in bench.searched}
    result: dict[int, list[float]] = {}
    for block, known in measured.items():
        if not all(math.isfinite(n) and n > 0 for n in (known.hidden_sd, *known.x_rms.values(), *known.y_sd.values())):
            raise ModelError(
                f"{scorer.backbone.name} gives no usable numbers on training rows in {scorer.facts['dtype']} (layer "
                f"{block}: {known}): set [model] dtype to float32, or choose a model whose weights are whole"
            )
        shapes = bench.shapes(block)
        result[block] = scales(rule, known, tunable.names, shapes, d=method.d, alpha=method.alpha, sigma=method.sigma)
    return result


def content_free(scorer: Scorer, plain: bool = False, apart: bool = False) -> Batch:
    """Prompts without content; one of a template and tokenizer that make no token of it is left out.

    Args:
        scorer: encodes them.
        plain: as the pretrained model reads them.
        apart: rows of one length only side by side, for a population.
    """
    examples: list[Example] = []
    for text in CONTENT_FREE:
        example = Example(dict.fromkeys(scorer.task.template.fields, text))
        with suppress(DataError):
            scorer.batch([example])
            examples.append(example)
    return collate(*scorer.encoded(examples), scorer.backbone.device) if apart else scorer.batch(examples, plain)
