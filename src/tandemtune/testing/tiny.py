"""Tiny random models and a tokenizer of whole words, built on the spot: nothing is downloaded, and a run takes a second."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from tandemtune.evaluators.batch import Batch, collate
from tandemtune.evaluators.engine import Engine
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.tasks.base import Task
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer, resolve
from tandemtune.tunables.base import Parameters
from tandemtune.types import Encoded

_WORDS = (
    "a an the it was is film movie plot acting great terrible good bad fine dull review news question i we they loved hated saw "
    "never always this that and but not very so of to in . , ? : yes no maybe"
)
WORDS = _WORDS.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXTS = ("a great movie", "the plot was dull and the acting terrible", "a review", "they saw news")
LABELS = (1, 0, 1, 0)
_SIZE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48}
_COMMON = {"vocab_size": len(SPECIAL) + len(WORDS), "max_position_embeddings": 64, "pad_token_id": 0, **_SIZE}
_MODELS: dict[Kind, tuple[str, str, dict[str, Any]]] = {
    "masked": ("BertConfig", "AutoModelForMaskedLM", _COMMON),
    "causal": ("LlamaConfig", "AutoModelForCausalLM", {**_COMMON, "num_key_value_heads": 2}),
    "seq2seq": (
        "T5Config",
        "AutoModelForSeq2SeqLM",
        {
            "vocab_size": _COMMON["vocab_size"],
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_decoder_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
            "feed_forward_proj": "gated-gelu",  # smooth, so that differences say what a gradient is
        },
    ),
}


def tiny_backbone(kind: Kind = "masked", seed: int = 0) -> Backbone:
    """A random model of four layers that are 32 numbers wide, with a tokenizer of about 50 words.

    Args:
        kind: "masked" (BERT), "causal" (Llama) or "seq2seq" (T5, two layers each).
        seed: draws the weights.
    """
    import transformers

    config, auto, options = _MODELS[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made: Any = getattr(transformers, auto).from_config(getattr(transformers, config)(**options))
        made.eval().requires_grad_(False)
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.2)
    made.tie_weights()
    return Backbone(f"tiny-{kind}", made, word_tokenizer(kind), kind, architectures.find(made))


def tiny_task(kind: Kind = "masked") -> Task:
    """A task of two labels over one column, ``text``; without rows."""
    template = "{text} it was {mask} ." if kind == "masked" else "{text} it was {mask}"
    words = {"negative": ("terrible",), "positive": ("great",)}
    return Task("tiny", Template.parse(template), tuple(words), words, "accuracy", "")


def verbalizer_of(backbone: Backbone) -> Verbalizer:
    """The label words of the tiny task."""
    task = tiny_task(backbone.kind)
    return resolve(backbone.tokenizer, task.template, task.words)


class TinyDesk:
    """A tunable's parameters beside a tiny model, with an engine over four prompts, and four more that begin alike.

    Args:
        backbone: the model.
        parameters: what is tuned.
    """

    def __init__(self, backbone: Backbone, parameters: Parameters) -> None:
        self.backbone, self.parameters = backbone, parameters
        task, verbalizer = tiny_task(backbone.kind), verbalizer_of(backbone)
        self.token_ids = verbalizer.token_ids
        begun = [f"{max(TEXTS, key=len)} {text}" for text in TEXTS]
        self.prompts, self.alike = (
            [parameters.reserve(backbone.encode(task.template, {"text": text}, 64)) for text in texts]
            for texts in (TEXTS, begun)
        )
        self.engine = Engine(backbone.stack(verbalizer), parameters, torch.tensor(verbalizer.weights()))
        self.batch: Batch = collate(self.prompts, LABELS, torch.device("cpu"))
        parameters.settle(self.engine.stack, [group.ids for group in self.batch.groups])

    def inputs(self, prompt: Encoded) -> dict[str, Tensor]:
        """What the model itself is called with for one prompt."""
        given = {"input_ids": torch.tensor([prompt.ids])}
        if self.backbone.kind == "seq2seq":
            begin: Any = self.backbone.model.config
            given["decoder_input_ids"] = torch.tensor([[begin.decoder_start_token_id]])
        return given

    @torch.no_grad()
    def plain(self, prompts: Sequence[Encoded] = ()) -> Tensor:
        """Logits [N, W] of the label words as the model itself gives them, prompt by prompt, without an engine."""
        rows = [(prompt, self.backbone.model(**self.inputs(prompt)).logits[0]) for prompt in prompts or self.prompts]
        return torch.stack([logits[prompt.answer, list(self.token_ids)] for prompt, logits in rows])


def hooks_of(model: nn.Module) -> list[tuple[int, bool, list[list[int]]]]:
    """Every module with everything that somebody may have hung on it."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [
        (id(module), "forward" in vars(module), [list(getattr(module, name)) for name in names])
        for module in model.modules()
    ]


@cache
def word_tokenizer(kind: Kind) -> Any:
    """A tokenizer whose tokens are `WORDS` and a few marks.

    Args:
        kind: a masked model has marks around a text and a mask.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    inner: Any = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *WORDS])}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    if kind == "masked":
        inner.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
        names["mask_token"] = "[MASK]"
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)
