"""The ways in which the built-in assets are prepared."""

from __future__ import annotations

from pathlib import Path

import tandemtune.assets.conse as conse
import tandemtune.assets.convert as convert
import tandemtune.assets.data as data
import tandemtune.assets.emoji as emoji
import tandemtune.assets.t5 as t5
from tandemtune.assets.entries import Preparation


def _t5(raw: Path, made: Path) -> None:
    t5.write_folder(raw / "encoder.onnx", raw / "decoder.onnx", raw / "tokenizer.json", made)


def _gguf(raw: Path, made: Path) -> None:
    convert.convert(raw / "model.gguf", made)


def _reviews(raw: Path, made: Path) -> None:
    data.build(raw / "ratings.tsv", made)


GGUF = Preparation(
    run=_gguf,
    says="converting it from GGUF (once, up to a minute)",
    needs=("gguf", "accelerate", "sentencepiece"),
    install="pip install 'tandemtune[gguf]'",
)
"""``model.gguf`` to an ordinary folder of float32 weights."""

T5_ONNX = Preparation(
    run=_t5,
    says="converting it from ONNX (once, some seconds)",
    needs=("onnx",),
    install="pip install 'tandemtune[onnx]'",
)
"""``encoder.onnx``, ``decoder.onnx`` and ``tokenizer.json`` of a quantized T5 to an ordinary float32 folder."""

REVIEWS = Preparation(run=_reviews, says="sorting its rows")
"""``ratings.tsv`` to ``train.jsonl`` and ``test.jsonl``."""

EMOJIS = Preparation(run=emoji.build, says="sorting its pictures")
"""A list of emojis and their pictures in two styles to a folder for each class, for training and for test."""

TWO_TOWERS = Preparation(run=conse.join, says="joining its two towers (once, about a minute)")
"""An image classifier, its class names and a sentence encoder to one image-text model."""
