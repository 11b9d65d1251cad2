"""Tiny random image-text models as folders, and folders of small pictures whose classes can be told apart."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tandemtune.models import conse
from tandemtune.models.image_text import ImageTextBackbone, assembled
from tandemtune.models.load import load

WORDS = [
    "a",
    "an",
    "the",
    "photo",
    "picture",
    "image",
    "of",
    "this",
    "is",
    "one",
    "red",
    "green",
    "blue",
    "dark",
    "light",
    "colour",
    "colored",
    "square",
    "dull",
    "bright",
    "very",
    "not",
    ".",
    ",",
    "small",
    "big",
    "thing",
    "two",
    "words",
    "long",
    "name",
    "here",
    "in",
    "on",
    "it",
]
CLASSES = {"red": (200, 40, 40), "green": (40, 180, 60), "deep_blue": (40, 60, 200)}
_TEXT = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
_VISION = {**_TEXT, "num_hidden_layers": 2, "image_size": 16, "patch_size": 8}
_MARKS = ["[PAD]", "[UNK]", "<s>", "</s>"]


def tokenizer(begins: bool = True) -> Any:
    """Whole words between marks; SigLIP's has none in front."""
    vocabulary = {
        word: index for index, word in enumerate([*_MARKS[:3], *WORDS, "deep", _MARKS[3]])
    }  # CLIP: </s> is the last
    inner: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    marks = [("<s>", 2), ("</s>", len(vocabulary) - 1)]
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if begins else "$A </s>", special_tokens=marks if begins else marks[1:]
    )
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "eos_token": "</s>",
        **({"bos_token": "<s>"} if begins else {}),
    }
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def _clip() -> Any:
    size = len(tokenizer())
    text = {
        **_TEXT,
        "vocab_size": size,
        "max_position_embeddings": 24,
        "eos_token_id": size - 1,
        "bos_token_id": 2,
        "pad_token_id": 0,
    }
    config = transformers.CLIPConfig(text_config=text, vision_config=_VISION, projection_dim=20)
    return transformers.CLIPModel(config)


def _siglip() -> Any:
    text = {
        **_TEXT,
        "vocab_size": len(tokenizer()),
        "max_position_embeddings": 16,
        "projection_size": 32,
        "pad_token_id": 0,
    }
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=_VISION))


def _chinese_clip() -> Any:
    text = {**_TEXT, "vocab_size": len(tokenizer()), "max_position_embeddings": 24, "pad_token_id": 0}
    config = transformers.ChineseCLIPConfig(text_config=text, vision_config=_VISION, projection_dim=20)
    return transformers.ChineseCLIPModel(config)


def _conse() -> Any:
    text = {**_TEXT, "vocab_size": len(tokenizer()), "max_position_embeddings": 24, "pad_token_id": 0}
    made = conse.ConSEModel(conse.ConSEConfig(text_config=text))
    made.anchors.normal_()
    return made


MODELS = {"clip": _clip, "siglip": _siglip, "chinese-clip": _chinese_clip, "conse": _conse}


@functools.cache
def whole(name: str = "clip") -> Any:
    """A tiny random image-text model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = MODELS[name]()
        for key, parameter in made.named_parameters():
            if parameter.ndim > 1 and "vision" not in key:
                parameter.data.normal_(0.0, 0.2)
    return made.eval().requires_grad_(False)


def processor() -> Any:
    """Sixteen pixels a side."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def backbone(name: str = "clip") -> ImageTextBackbone:
    """A tiny model in memory."""
    return assembled(f"tiny-{name}", whole(name), tokenizer(name != "siglip"), processor())


@functools.cache
def model_folder(name: str = "clip") -> Path:
    """A tiny model as a local folder, made once and removed at the end."""
    place = Path(tempfile.mkdtemp(prefix="tandemtune-tiny-")) / name
    owner = os.getpid()
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(place.parent, ignore_errors=True))
    whole(name).save_pretrained(place)
    tokenizer(name != "siglip").save_pretrained(place)
    processor().save_pretrained(place)
    settings = place / "preprocessor_config.json"
    told = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps({**told, "image_processor_type": "CLIPImageProcessor"}), encoding="utf-8")
    return place


def write_pictures(root: Path, count: int, seed: int, classes: Mapping[str, tuple[int, int, int]] = CLASSES) -> Path:
    """A folder of class folders, each with so many pictures of its colour with noise."""
    generator = np.random.default_rng(seed)
    for name, colour in classes.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noise = generator.integers(-40, 41, (12, 12, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{seed}-{number:03}.png")
    return root


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few bytes that says it has so many pixels a side."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    )


def recipe(place: Path, model: str = "clip", **changes: Any) -> dict[str, dict[str, Any]]:
    """A recipe over pictures in `place` (made if they are not there); `section__key=value` changes it."""
    for name, seed in (("train", 1), ("test", 2)):
        if not (place / name).exists():
            write_pictures(place / name, 10, seed)
    made: dict[str, dict[str, Any]] = {
        "model": {"name": str(model_folder(model)), "dtype": "float32", "threads": 1},
        "task": {"name": "colours", "train": str(place / "train"), "test": str(place / "test"), "shots": 4, "seed": 5},
        "method": {
            "name": "prompt-tuning",
            "steps": 6,
            "prompt_tokens": 4,
            "prompt_text": "a photo of a",
            "dev_every": 2,
        },
        "run": {"checkpoint_seconds": 0.0},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        table = made.setdefault(section, {})
        if value is None:
            table.pop(name, None)
        else:
            table[name] = value
    return made


__all__ = ["CLASSES", "backbone", "load", "model_folder", "recipe", "whole", "write_pictures"]
