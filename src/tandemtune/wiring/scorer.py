"""From a recipe and its task to the model with parameters beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tandemtune import devices
from tandemtune.answers import answers_of
from tandemtune.config.schema import RunConfig
from tandemtune.errors import ConfigError, ModelError
from tandemtune.models import load as loading
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.models.conversations import Opening, begins_otherwise
from tandemtune.models.fingerprint import fingerprint
from tandemtune.models.lean import keep_freed_memory
from tandemtune.models.quantized import packed_maps, stops_gradients
from tandemtune.problem import Progress, Scorer
from tandemtune.runs.records import Facts, TunableFacts
from tandemtune.system import default_threads
from tandemtune.tasks.base import Task
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import Given, Parameters
from tandemtune.tunables.vocabulary import Vocabulary
from tandemtune.types import Example
from tandemtune.wiring.stages import most_generations

FULL_LIMIT = 2000
"""Longest vector of parameters that a full covariance is learned of."""


def load_backbone(config: RunConfig, kind: Kind, dtype: str, device: str) -> Backbone:
    """The model of a recipe.

    Raises:
        TandemTuneError: it cannot be loaded.
    """
    section = config.model
    return loading.load(
        section.name,
        kind=kind,
        dtype=dtype,
        device=device,
        target=section.target,
        revision=section.revision,
        quantize=section.quantize,
    )


def make_scorer(
    config: RunConfig,
    task: Task,
    kind: Kind,
    known: Facts | None = None,
    progress: Progress | None = None,
    rows: Sequence[Example] | Path = (),
    dtype: str | None = None,
) -> Scorer:
    """Load the model of a recipe and prepare it for a task.

    Args:
        config: the recipe.
        task: the task of that recipe.
        kind: "masked", "causal" or "seq2seq".
        known: what was decided before: number format, threads, device.
        progress: called with a short line when something slow begins.
        rows: training rows that may be shown as demonstrations, or the folder of a run that has shown some.
        dtype: number format, above what the recipe or `known` say.

    Raises:
        TandemTuneError: the model cannot be loaded, or does not fit the template, the label words or the layers.
    """
    section = config.model
    threads = (known.threads if known else 0) or section.threads or default_threads()
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if section.tf32 else "highest")
    device = (known.device if known else "") or devices.find_device(section.device)
    dtype = dtype or (known.dtype if known else "") or (section.dtype if section.dtype != "auto" else "float32")
    if progress:
        progress(f"loading {section.name} ({dtype})")
    backbone = load_backbone(config, kind, dtype, device)
    for one in config.stretches:
        _check_gradients(one, backbone)
    keep_freed_memory()  # what loading freed is gone by now
    sha256 = fingerprint(backbone.weights)
    answers = answers_of(task)
    task = answers.asked(task, backbone)
    backbone.check_template(task.template)
    verbalizer = answers.verbalizer(backbone, task)
    method = config.method
    vocabulary = Vocabulary(backbone, method.tunable.allowed_words, verbalizer.token_ids)
    parameters = method.tunable.make(
        Given(
            backbone,
            vocabulary,
            task,
            verbalizer,
            method.optimizer,
            method.subspace,
            config.task.seed,
            most_generations(config),
            config.task.max_tokens,
            rows,
            config.task.truncate,
            Opening.of(backbone, task) if method.tunable.in_turn(config) else None,
        )
    )
    for one in config.stretches:
        _check_covariance(one, parameters)
        _check_parts(one, parameters)
    memory = config.run.max_memory or (known.max_memory if known else None) or devices.default_memory(device)
    engine = answers.engine(backbone, task, verbalizer, parameters, memory)
    method.readout.check_views(engine, len(engine.stack), engine.stack.encoder_layers)
    decided: dict[str, Any] = {
        "kind": kind,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "layers": len(backbone.layers),
        "depth": round(sum(engine.stack.costs), 6),
        "max_memory": memory,
        "weights_sha256": sha256,
        "plugins": config.plugins(),
        "answer_end": known.answer_end if known else answers.end(backbone, task),
        "lr": learning_rate(config, vocabulary),
        **_facts_of_task(task, backbone, verbalizer),
        **_facts_of_parameters(parameters),
    }
    facts = known.model_copy(update=decided) if known else Facts(**decided)
    return answers.scorer(config, task, backbone, verbalizer, parameters, vocabulary, engine, facts, tell=progress)


def _facts_of_task(task: Task, backbone: Backbone, verbalizer: Verbalizer) -> dict[str, Any]:
    """How a task is put to a model: its template, label words and their pieces."""
    pieces = backbone.tokenizer.convert_ids_to_tokens
    return {
        "template": str(task.template),
        "labels": {label: tuple(words) for label, words in task.words.items()},
        "pieces": tuple(pieces(list(verbalizer.token_ids))),
        "label_pieces": {
            label: tuple(pieces([verbalizer.token_ids[i] for i in members]))
            for label, members in zip(verbalizer.labels, verbalizer.members, strict=True)
        },
        "notes": (*verbalizer.notes, *filter(None, [begins_otherwise(backbone, task)])),
    }


def _facts_of_parameters(parameters: Parameters) -> dict[str, Any]:
    described = parameters.describe()
    parts = TunableFacts(
        parameters=described.pop("parameters"), layers=tuple(described.pop("layers")), details=described
    )
    return {"tunable": parts}


def learning_rate(config: RunConfig, vocabulary: Vocabulary) -> float | None:
    """The learning rate that a recipe's search begins with; None where its optimizer has none."""
    optimizer = config.method.optimizer
    if optimizer.uses in ("none", "text"):
        return None
    given = optimizer.lr_given
    return config.method.tunable.lr(optimizer, vocabulary) if given is None else given


def _check_covariance(config: RunConfig, parameters: Parameters) -> None:
    """Refuse a full covariance of more parameters than can be decomposed between two generations."""
    method = config.method
    if getattr(method.optimizer, "covariance", "") != "full" or method.subspace.projects:
        return
    sizes = [parameters.dim(block) for block in method.tunable.searched(parameters)]
    longest = sum(sizes) if method.order == "together" else max(sizes)
    if longest > FULL_LIMIT:
        raise ConfigError(
            [
                f"[method] subspace: none makes vectors of {longest} numbers, too long for a full covariance (at most "
                f"{FULL_LIMIT}): set covariance to separable, or subspace to random"
            ]
        )


def _check_gradients(config: RunConfig, backbone: Backbone) -> None:
    """Refuse gradients that would end in a quantized map."""
    maps = packed_maps(backbone.layers) if config.follows_gradient else []
    stops = stops_gradients(maps, backbone.embedding_weight.dtype)
    if stops:
        raise ModelError(
            f"the layers of {backbone.name} are quantized ({stops}), and no gradient goes through them here: choose a method that needs "
            "forward passes only, such as c-lora-calibrated, or a model that is not quantized"
        )


def _check_parts(config: RunConfig, parameters: Parameters) -> None:
    """Refuse a search vector that cannot be cut for a layer that has some of the named modules only."""
    method = config.method
    if not config.in_subspace or parameters.directions is not None:
        return
    tunable, d = method.tunable, method.subspace.d
    counts = {len(tunable.matrices(parameters, block)) for block in tunable.searched(parameters)}
    if any(d % count for count in counts):
        whole = math.lcm(*counts)
        raise ConfigError(
            [
                f"[method] d: {d} cannot be cut into {' and '.join(map(str, sorted(counts)))} equal parts, of layers that have so many "
                f"factors of [model] target: choose a multiple of {whole}, for example {max(1, round(d / whole)) * whole}"
            ]
        )
