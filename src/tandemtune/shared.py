"""What several runs of one comparison would compute alike: the pretrained model on the test rows. The first run leaves what it
found in a folder, to the bit, and the others read it there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.features import PassReading
from tandemtune.evaluators.views import View
from tandemtune.evaluators.writing import Text, Writer
from tandemtune.problem import Scorer
from tandemtune.runs.writing import write_atomically
from tandemtune.types import Encoded

FOLDER = "TANDEMTUNE_SHARED"
"""Variable of the environment: the folder; nothing is kept without it."""


def remembered(scorer: Scorer, batch: Batch, views: Sequence[View], compute: Callable[[], PassReading]) -> PassReading:
    """What the pretrained model says of some rows: computed, or read where another run has left it.

    Args:
        scorer: the model.
        batch: the rows.
        views: what is wanted beside label logits.
        compute: computes it.
    """
    place = os.environ.get(FOLDER)
    if not place or not Path(place).is_dir():
        return compute()
    path = Path(place) / f"{_key(scorer, batch, views)}.safetensors"
    names = [f"view {index}" for index in range(len(views))]
    with suppress(OSError, SafetensorError, KeyError):
        found = load_file(path, device=str(scorer.backbone.device))
        return PassReading(found["logits"], {view: found[name] for name, view in zip(names, views, strict=True)})
    reading = compute()
    tensors = {"logits": reading.logits} | {name: reading.views[view] for name, view in zip(names, views, strict=True)}
    content = save({name: tensor.contiguous().cpu() for name, tensor in tensors.items()})
    with suppress(OSError):
        write_atomically(path, lambda file: file.write(content))
    return reading


def remembered_texts(
    scorer: Scorer, writer: Writer, prompts: Sequence[Encoded], compute: Callable[[], list[Text]]
) -> list[Text]:
    """What the pretrained model writes for some prompts: written now, or read where another run has left it.

    Args:
        scorer: the model.
        writer: writes.
        prompts: as the pretrained model reads them.
        compute: writes them.
    """
    place = os.environ.get(FOLDER)
    if not place or not Path(place).is_dir():
        return compute()
    told = (writer.coder.ends, writer.coder.most, writer.coder.stop, writer.groups(prompts, 1))
    key = repr((_model(scorer), told, [prompt.ids for prompt in prompts]))
    path = Path(place) / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    with suppress(OSError, ValueError, TypeError):
        return [Text(tuple(ids), *told) for ids, *told in json.loads(path.read_text(encoding="utf-8"))]
    found = compute()
    with suppress(OSError):
        content = json.dumps([(text.ids, text.tokens, text.end, text.broken) for text in found]).encode()
        write_atomically(path, lambda file: file.write(content))
    return found


def _model(scorer: Scorer) -> tuple[object, ...]:
    """What numbers of a model depend on, whatever the rows are."""
    facts = scorer.facts
    return (
        facts.weights_sha256,
        facts.dtype,
        facts.device,
        facts.threads,
        facts.compiled,
        scorer.config.model.quantize,
    )


def _key(scorer: Scorer, batch: Batch, views: Sequence[View]) -> str:
    """Everything that the numbers depend on, down to how the rows are cut into parts."""
    engine, told = scorer.engine, _model(scorer)
    further = [list(task.words.items()) for task in scorer.task.wordings[1:]]
    found = hashlib.sha256(
        repr((told, scorer.verbalizer.token_ids, scorer.verbalizer.weights(), further, tuple(map(str, views)))).encode()
    )
    for whole in batch.parts():
        _add(found, whole)
    for part in engine.parts(batch):
        found.update(repr(part.spans).encode())
        for tensor in (part.ids, part.answer, part.rows, part.mask):
            _add(found, tensor)
    return found.hexdigest()


def _add(found: hashlib._Hash, tensor: Tensor | None) -> None:
    if tensor is not None:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.cpu().numpy().tobytes())
