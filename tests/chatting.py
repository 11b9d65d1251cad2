"""A tiny model that has been taught to chat: a byte-level tokenizer with marks of turns, and forms of conversation of several kinds."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import small
import tandemtune
import tiny
from tandemtune.types import Encoded, Example

MARKS = ["<s>", "<|start|>", "<|end|>", "<|user|>", "<|model|>"]
CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|start|>system\nyou help<|end|>\n{% endif %}"
    "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% if thinking is defined and not thinking %}(no thoughts)\n\n{% endif %}{% endif %}"
)
"""With words of its own for the system, and a model's turn that begins otherwise where it is written."""
MERGED = (
    "{{ '<s>' }}{% set ns = namespace(first='') %}{% for m in messages %}{% if m.role == 'system' %}{% set ns.first = m.content + '\n\n' %}"
    "{% elif m.role == 'user' %}{{ '<|user|>' + ns.first + m.content | trim + '<|end|>\n' }}{% set ns.first = '' %}"
    "{% else %}{{ '<|model|>' + m.content | trim + '<|end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|model|>' }}{% endif %}"
)
"""What the system says stands in the first turn of the user, and the form writes the mark that the tokenizer puts before a text."""
BRACKETS = (
    "{{ '<s>' }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' <|end|>' }}{% endif %}{% endfor %}"
)
"""Turns between blanks; it takes no system."""
FORMS = {"chatml": CHATML, "merged": MERGED, "brackets": BRACKETS}


def folder(place: Path, form: str) -> Path:
    """The model in a folder of its own."""
    inner: Any = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator([" ".join(tiny.WORDS)] * 3 + ["system\nuser\nassistant\n\n"], trainer)
    if form.startswith("{{ '<s>'"):
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<|end|>", pad_token="<|end|>")
    made.chat_template = form
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
    config = LlamaConfig(
        vocab_size=len(made), num_key_value_heads=2, max_position_embeddings=512, eos_token_id=2, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(place)
    made.save_pretrained(place)
    return place


def recipe(place: Path, form: str = CHATML, **changes: Any) -> dict[str, Any]:
    """A recipe of a task with two labels, asked in a conversation."""
    base = {"task__template": "review : {text}\nis it great ? {mask}", "task__chat": True, "task__max_tokens": 96}
    made = small.recipe(place, "llama", **{**base, **changes})
    made["model"]["name"] = str(folder(place / "model", form))
    return made


def written(place: Path, form: str = CHATML, **changes: Any) -> dict[str, Any]:
    """The same with texts as answers."""
    source = random.Random(3)
    for name, count in (("train", 12), ("test", 6)):
        rows = [
            {"text": row["text"], "answer": " ".join(source.choices(tiny.WORDS, k=3))}
            for row in small.rows(count, len(name))
        ]
        small.write_rows(place / f"{name}.jsonl", rows)
    texts = {"task__labels": None, "task__answer": "answer", "task__metric": "token_f1", "task__max_new_tokens": 4}
    return recipe(place, form, **{**texts, **changes})


def prompts(run: Path, texts: Sequence[str], *, plain: bool = False) -> list[Encoded]:
    """What the model of a run is given."""
    return prompts_of(tandemtune.load(run), texts, plain=plain)


def prompts_of(model: tandemtune.TunedModel, texts: Sequence[str], *, plain: bool = False) -> list[Encoded]:
    """What a model is given."""
    return model.scorer.encoded([Example({"text": text}) for text in texts], plain)[0]


def expected(run: Path, messages: Sequence[Mapping[str, str]], **arguments: Any) -> tuple[int, ...]:
    """What its tokenizer makes of a conversation."""
    tokenizer = tandemtune.load(run).scorer.backbone.tokenizer
    made = tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=True, **arguments)
    return tuple(made["input_ids"] if hasattr(made, "keys") else made)


def said(role: str, content: str) -> dict[str, str]:
    """One message."""
    return {"role": role, "content": content}


def shown(run: Path) -> list[dict[str, str]]:
    """The earlier turns of a run."""
    return json.loads((run / "adapter" / "demonstrations.json").read_text())["messages"]
