"""What several runs of one comparison would compute alike: the pretrained model on the test rows. The first run leaves what it
found in a folder, to the bit, and the others read it there."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.features import PassReading, View
from tandemtune.problem import Scorer
from tandemtune.runs.writing import write_atomically

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


def _key(scorer: Scorer, batch: Batch, views: Sequence[View]) -> str:
    """Everything that the numbers depend on, down to how the rows are cut into parts."""
    facts, engine = scorer.facts, scorer.engine
    told = (
        facts.weights_sha256,
        facts.dtype,
        facts.device,
        facts.threads,
        facts.compiled,
        scorer.config.model.quantize,
    )
    further = [list(task.words.items()) for task in scorer.task.wordings[1:]]
    found = hashlib.sha256(
        repr((told, scorer.verbalizer.token_ids, scorer.verbalizer.weights(), further, tuple(map(str, views)))).encode()
    )
    for part in engine.parts(batch):
        found.update(repr(part.spans).encode())
        for tensor in (part.ids, part.answer, part.rows, part.mask):
            _add(found, tensor)
    return found.hexdigest()


def _add(found: hashlib._Hash, tensor: Tensor | None) -> None:
    if tensor is not None:
        found.update(f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.cpu().numpy().tobytes())
