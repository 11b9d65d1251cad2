"""Tiny random models of every listed architecture, and a word-level tokenizer, built on the spot."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone

WORDS = [
    "a",
    "an",
    "the",
    "it",
    "was",
    "is",
    "film",
    "movie",
    "plot",
    "acting",
    "great",
    "terrible",
    "good",
    "bad",
    "fine",
    "dull",
    "review",
    "news",
    "question",
    "sports",
    "world",
    "business",
    "i",
    "we",
    "they",
    "loved",
    "hated",
    "saw",
    "never",
    "always",
    "this",
    "that",
    "and",
    "but",
    "not",
    "very",
    "so",
    "of",
    "to",
    "in",
    ".",
    ",",
    "?",
    ":",
    "yes",
    "no",
    "maybe",
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SIZE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
COMMON = {"vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 64, "pad_token_id": 0, **SIZE}
GROUPED = {**COMMON, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 8, "sliding_window": 8}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", COMMON),
    "roberta": ("RobertaConfig", COMMON),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": COMMON["vocab_size"], "dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 48},
    ),
    "electra": ("ElectraConfig", {**COMMON, "embedding_size": 16}),
    "deberta-v2": (
        "DebertaV2Config",
        {
            **COMMON,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "conv_kernel_size": 3,
            "conv_act": "gelu",
        },
    ),
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": COMMON["vocab_size"],
            "n_embd": 32,
            "n_layer": 4,
            "n_head": 4,
            "n_positions": 64,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
    ),
    "opt": (
        "OPTConfig",
        {**{k: v for k, v in COMMON.items() if k != "intermediate_size"}, "ffn_dim": 48, "word_embed_proj_dim": 16},
    ),
    "gpt_neox": ("GPTNeoXConfig", COMMON),
    "llama": ("LlamaConfig", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", {**GROUPED, "head_dim": 8}),
    "gemma2": ("Gemma2Config", GEMMA),
    "gemma3_text": ("Gemma3TextConfig", GEMMA),
    "t5": (
        "T5Config",
        {
            "vocab_size": COMMON["vocab_size"],
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
            "feed_forward_proj": "gated-gelu",
            "relative_attention_num_buckets": 8,
        },
    ),
    "bart": (
        "BartConfig",
        {
            "vocab_size": COMMON["vocab_size"],
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 3,
        },
    ),
}
SCALED: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere": ("CohereConfig", {**GROUPED, "logit_scale": 0.0625}),
    "granite": ("GraniteConfig", {**GROUPED, "logits_scaling": 8.0}),
}
"""Models whose logits are a multiple of what their output embedding makes; not among those that all suites run."""
MASKED = ("bert", "roberta", "distilbert", "electra", "deberta-v2")
SEQ2SEQ = ("t5", "bart")
CAUSAL = tuple(name for name in CONFIGS if name not in (*MASKED, *SEQ2SEQ))


def tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """A word-level tokenizer; for masked models with [CLS] and [SEP] around the text."""
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if kind == "masked":
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names["mask_token"] = "[MASK]"
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def model(name: str, seed: int = 0) -> torch.nn.Module:
    """A random model of one architecture, with weights large enough that its outputs differ."""
    config_name, options = (CONFIGS | SCALED)[name]
    config = getattr(transformers, config_name)(**options)
    auto = {
        "masked": transformers.AutoModelForMaskedLM,
        "causal": transformers.AutoModelForCausalLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
    }[kind_of(name)]
    torch.manual_seed(seed)
    made = auto.from_config(config).eval().requires_grad_(False)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.2)
    made.tie_weights()
    if name == "bart":
        made.final_logits_bias.normal_()
    return made


def kind_of(name: str) -> str:
    """The kind of a tiny model."""
    return "masked" if name in MASKED else "seq2seq" if name in SEQ2SEQ else "causal"


def backbone(name: str, seed: int = 0) -> Backbone:
    """A tiny random backbone."""
    made = model(name, seed)
    kind = kind_of(name)
    return Backbone(f"tiny-{name}", made, tokenizer(kind), kind, architectures.find(made))
