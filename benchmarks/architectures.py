"""Which architectures of `transformers` can be tuned: each is built tiny from its configuration and put to the test.

python benchmarks/architectures.py --out docs/architectures.md [NAME ...]

A model is supported where the logits of a population of LoRA candidates, of one candidate at a time, and of PEFT with the adapter
that was saved are the same, and where the answer of a model that was trained for seconds to give it is read in the right place.
"""

from __future__ import annotations

import argparse
import copy
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn

from tandemtune.errors import TandemTuneError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.writing import Writer
from tandemtune.models import architectures
from tandemtune.models.answers import AnswerCoder
from tandemtune.models.backbone import Backbone, Kind
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import Verbalizer, resolve
from tandemtune.tunables.lora import LoRATerms
from tandemtune.types import Encoded

GOOD, BAD = ("great", "lovely", "clever", "superb"), ("terrible", "dreary", "clumsy", "boring")
PLAIN = [
    "the",
    "it",
    "was",
    "is",
    "of",
    "and",
    "but",
    "so",
    "very",
    "not",
    "in",
    "to",
    "we",
    "they",
    "i",
    "saw",
    "this",
    "that",
    "film",
    "story",
    "cast",
    "scene",
    "end",
    "song",
    "room",
    ".",
    ",",
]
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = (*MARKS, *PLAIN, *GOOD, *BAD)
WORDS = {"bad": ("terrible",), "good": ("great",)}
RANK, CLOSE, LEARNED = 2, 1e-4, 0.9
RATES, STEPS, SECONDS = (4e-3, 1e-3), 300, 60.0
"""Learning rates that are tried one after the other, steps with each, and seconds of processor time at most (a busy machine decides nothing)."""
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4},
    {"num_hidden_layers": 4, "num_attention_heads": 4},
)
"""What is set otherwise where a small model cannot be built or run."""

_HIDDEN = (
    "hidden_size",
    "d_model",
    "n_embd",
    "dim",
    "emb_dim",
    "dim_model",
    "attention_hidden_size",
    "output_dim",
    "word_embed_proj_dim",
)
_DEPTH = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
    "num_encoder_layers",
)
_HEADS = (
    "num_attention_heads",
    "num_heads",
    "n_head",
    "n_heads",
    "encoder_attention_heads",
    "decoder_attention_heads",
    "num_encoder_attention_heads",
    "num_decoder_attention_heads",
)
_WIDE = (
    "intermediate_size",
    "d_ff",
    "ffn_dim",
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "hidden_dim",
    "n_inner",
    "ffn_hidden_size",
    "dim_ff",
)
_LENGTH = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "n_ctx",
    "max_encoder_position_embeddings",
    "max_decoder_position_embeddings",
)
SMALL: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    **dict.fromkeys(_HIDDEN, 32),
    **dict.fromkeys(_DEPTH, 3),
    **dict.fromkeys(_HEADS, 4),
    **dict.fromkeys(_WIDE, 48),
    **dict.fromkeys(_LENGTH, 64),
    **dict.fromkeys(("head_dim", "d_kv", "kv_channels", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv", "num_query_groups"), 2),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "n_group", "topk_group"), 1),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "shared_intermediate_size",
            "expert_ffn_hidden_size",
        ),
        16,
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "embedding_size"), 16),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(
        (
            "mamba_d_head",
            "mamba_head_dim",
            "linear_key_head_dim",
            "linear_value_head_dim",
            "mamba_d_state",
            "state_size",
            "ssm_state_size",
        ),
        8,
    ),
    **dict.fromkeys(("n_groups", "mamba_n_groups"), 1),
    "lru_width": 32,
    "rotary_dim": 4,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 3,
    "initializer_range": 0.1,
    **dict.fromkeys(
        (
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "resid_pdrop",
            "embd_pdrop",
            "attn_pdrop",
            "dropout_rate",
        ),
        0.0,
    ),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "hidden_dropout"), 0.0),
}
"""What configurations call their sizes."""

OWN: dict[str, dict[str, Any]] = {
    "t5": {"decoder_start_token_id": 0},
    "mt5": {"decoder_start_token_id": 0},
    "umt5": {"decoder_start_token_id": 0},
    "longt5": {"decoder_start_token_id": 0},
    "switch_transformers": {
        "decoder_start_token_id": 0,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
    },
    "fsmt": {"src_vocab_size": len(VOCABULARY), "tgt_vocab_size": len(VOCABULARY), "langs": ["en", "de"]},
    "falcon": {"new_decoder_architecture": True},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8},
    "gpt_neo": {"num_layers": 3, "attention_types": [[["global", "local", "global"], 1]]},
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8]},
    "rwkv": {"attention_hidden_size": 32},
    "ctrl": {"dff": 48},
    "plbart": {"decoder_start_token_id": 3},
    "t5gemma": {"decoder_start_token_id": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "longformer": {"attention_window": 4},
    "led": {"attention_window": 4},
    "squeezebert": {
        "q_groups": 1,
        "k_groups": 1,
        "v_groups": 1,
        "post_attention_groups": 1,
        "intermediate_groups": 1,
        "output_groups": 1,
    },
    "xlm": {"emb_dim": 32},
}
"""What is special about a few of them."""


NAMED: dict[str, list[str]] = {
    "bloom": ["self_attention.query_key_value"],
    "falcon": ["self_attention.query_key_value"],
    "mamba": ["mixer.in_proj"],
    "mamba2": ["mixer.in_proj"],
    "openai-gpt": ["attn.c_attn"],
    "moshi": ["self_attn.q_proj.linear", "self_attn.k_proj.linear"],
    "falcon_mamba": ["mixer.in_proj"],
    "gpt_neox_japanese": ["attention.query_key_value"],
    "codegen": ["attn.qkv_proj"],
    "deberta": ["attention.self.in_proj"],
    "deepseek_v2": ["self_attn.q_b_proj", "self_attn.kv_b_proj"],
    "deepseek_v3": ["self_attn.q_b_proj", "self_attn.kv_b_proj"],
    "rwkv": ["attention.key", "attention.receptance"],
    "fnet": ["intermediate.dense"],
}
"""Modules that a user has to name, where query and key cannot be told."""


@dataclass(frozen=True)
class Verdict:
    """What came out for one architecture.

    Args:
        name: its model type.
        kind: "masked", "causal" or "seq2seq".
        state: "supported", "refused", "wrong", or "not built" where no tiny model could be made of its configuration.
        said: what LoRA is put on, the refusal, or what went wrong.
    """

    name: str
    kind: Kind
    state: str
    said: str


class NotBuiltError(Exception):
    """No tiny model could be made of a configuration, or it shows nothing."""


def families() -> dict[Kind, list[str]]:
    """Model types of `transformers` by kind, those of other inputs than texts left out."""
    from transformers.models.auto import modeling_auto as auto

    tables: dict[Kind, Any] = {
        "masked": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "causal": auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "seq2seq": auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    }
    both = set(tables["masked"]) | set(tables["seq2seq"])
    tables["masked"] = [name for name in tables["masked"] if name not in tables["seq2seq"]]
    tables["causal"] = [name for name in tables["causal"] if name not in both]
    return {kind: sorted(names) for kind, names in tables.items()}


def model(name: str, kind: Kind, sd: float) -> Any:
    """A tiny model of one architecture that runs, with random weights of a standard deviation."""
    failed: Exception | None = None
    for variant in VARIANTS:
        try:
            made = _model(name, kind, sd, variant)
            if kind == "seq2seq" and not made.config.is_encoder_decoder:
                raise NotBuiltError("it is no encoder with a decoder, but reads sounds before texts")
            ids = torch.tensor([[5, 9, 7, 12, 8, 11, 20, 6]])
            made(input_ids=ids, **({"decoder_input_ids": ids} if kind == "seq2seq" else {}))
            return made
        except Exception as error:  # configurations that sizes alone do not make small
            failed = failed or error
    raise NotBuiltError(str(failed) if isinstance(failed, NotBuiltError) else _line(failed or ValueError()))


def _model(name: str, kind: Kind, sd: float, variant: dict[str, Any]) -> Any:
    config = transformers.CONFIG_MAPPING[name]
    made = config(**_small(config, OWN.get(name, {}), {**SMALL, **variant}))
    auto = {"masked": "AutoModelForMaskedLM", "causal": "AutoModelForCausalLM", "seq2seq": "AutoModelForSeq2SeqLM"}[
        kind
    ]
    torch.manual_seed(0)
    found = getattr(transformers, auto).from_config(made).float().eval().requires_grad_(False)
    if sum(parameter.numel() for parameter in found.parameters()) > 5_000_000:
        raise ValueError("its configuration could not be made small")
    for parameter in found.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, sd)
    found.tie_weights()
    return found


def _small(config: Any, own: dict[str, Any], small: dict[str, Any]) -> dict[str, Any]:
    """Settings that make a configuration small, at any depth."""
    known = config()
    names = {*known.to_dict(), *getattr(config, "attribute_map", {}), *own}
    made = {key: value for key, value in small.items() if key in names}
    for key in getattr(known, "sub_configs", {}):
        if getattr(known, key, None) is not None:
            made[key] = _small(type(getattr(known, key)), {}, small)
    return {**made, **own}


def tokenizer() -> Any:
    """Whole words, [CLS] and [SEP] round every text, the latter under no name that a causal model would look for."""
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    roles = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
    }
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **roles)


def examine(name: str, kind: Kind) -> Verdict:
    """Build one architecture and put it to the test."""
    named = NAMED.get(name)
    try:
        made = model(name, kind, 0.2)
        home = Backbone(name, made, tokenizer(), kind, architectures.find(made, named))
        apart = difference(home)
        right = learned(name, kind, named)
    except NotBuiltError as error:
        return Verdict(name, kind, "not built", str(error))
    except TandemTuneError as error:
        return Verdict(name, kind, "refused", _line(error))
    except Exception as error:  # what the library should have refused
        return Verdict(name, kind, "wrong", _line(error))
    if right is None:
        return Verdict(name, kind, "not built", "it learned nothing in seconds")
    if apart > CLOSE or right < LEARNED:
        return Verdict(name, kind, "wrong", f"logits {apart:.1e} apart, {right:.2f} of the answers right")
    modules = dict.fromkeys(p.module for layer in home.architecture.projections for p in layer)
    layers = [bool(layer) for layer in home.architecture.projections]
    some = "" if all(layers) else f" ({sum(layers)} of {len(layers)} layers)"
    how = " when they are named" if named else ""
    return Verdict(name, kind, "supported", ", ".join(f"`{module}`" for module in modules) + some + how)


def engine(home: Backbone, tunable: Any) -> Engine:
    """The engine for the task of this file."""
    words = resolve(home.tokenizer, template(home.kind), WORDS, alone=home.kind == "seq2seq")
    return Engine(home.stack(words), tunable, torch.tensor(words.weights()))


def template(kind: Kind) -> Template:
    """The template of the task of this file."""
    return Template.parse("{text} . it was {mask} ." if kind == "masked" else "{text} . it was {mask}")


def difference(home: Backbone) -> float:
    """How far the logits of a population, of one candidate at a time, and of PEFT lie apart at most, for prompts that begin alike, too,
    where a model can make use of that."""
    tunable = LoRATerms(home, RANK, range(len(home.layers)))
    scoring = engine(home, tunable)
    prompts = [home.encode(template(home.kind), {"text": text}, 40) for text, _ in rows(5, 1)]
    home.check_reading(scoring.stack, prompts[0])
    apart = _difference(home, tunable, scoring, prompts)
    if scoring.stack.shares:
        begin = prompts[0].ids
        alike = [Encoded((*begin, *one.ids), len(begin) + one.answer) for one in prompts]
        apart = max(apart, _difference(home, tunable, scoring, alike))
    return apart


def _difference(home: Backbone, tunable: LoRATerms, scoring: Engine, prompts: list[Encoded]) -> float:
    batch = collate(prompts, [0] * len(prompts), home.device)
    generator = torch.Generator().manual_seed(0)
    point = {block: torch.randn(tunable.dim(block), generator=generator) * 0.5 for block in tunable.blocks}
    apart = 0.0
    for block in tunable.blocks:
        other = torch.randn(tunable.dim(block), generator=generator) * 0.5
        together = scoring.population_logits(batch, point, {block: torch.stack([other, point[block]])})
        alone = torch.stack([scoring.logits(batch, {**point, block: vector}) for vector in (other, point[block])])
        apart = max(apart, float((together - alone).abs().max()))
    expected = _with_peft(home, tunable, point, prompts) @ scoring.averaging
    untuned = scoring.logits(batch, {block: torch.zeros_like(vector) for block, vector in point.items()})
    if float((expected - untuned).abs().max()) < 10 * CLOSE:
        raise NotBuiltError("the adapter changes nothing in it")
    return max(apart, float((together[1] - expected).abs().max()))


@torch.no_grad()
def writes(home: Backbone) -> bool:
    """Whether texts are those that `generate` writes one by one, and a population's those of its candidates, one at a time.

    Raises:
        ModelError: it cannot write.
    """
    ends, most = [3, 9, 12, 14, 20], 8
    whole: Any = home.model
    whole.generation_config.eos_token_id = ends
    ask = Template.parse("{text} it was {mask}")
    tunable = LoRATerms(home, RANK, range(len(home.layers)))
    stack = home.passages(Verbalizer((), (6, 7), ()))
    writer = Writer(Engine(stack, tunable, torch.zeros(2, 0)), AnswerCoder(home, ask, most))
    prompts = [home.encode(ask, {"text": text}, 40) for text, _ in rows(6, 1)]
    plain = {block: torch.zeros(tunable.dim(block)) for block in tunable.blocks}
    for prompt, text in zip(prompts, writer.write(prompts, plain)[0], strict=True):
        ids, begin = torch.tensor([prompt.ids]), torch.tensor([home.prefix])
        settings: dict[str, Any] = {"do_sample": False, "max_new_tokens": most, "pad_token_id": 0}
        if home.prefix:
            settings["decoder_input_ids"] = begin
        written = whole.generate(ids, attention_mask=torch.ones_like(ids), **settings)[0].tolist()
        written = written[len(home.prefix or prompt.ids) :]
        forced = getattr(whole.generation_config, "forced_eos_token_id", None)
        if text.ids != tuple(written[:-1] if written[-1] in (*ends, forced) else written):
            return False
    generator = torch.Generator().manual_seed(0)
    for block in tunable.blocks:
        several = torch.randn(3, tunable.dim(block), generator=generator)
        together = writer.write(prompts, plain, {block: several})
        alone = [writer.write(prompts, {**plain, block: vector})[0] for vector in several]
        if [[text.ids for text in each] for each in together] != [[text.ids for text in each] for each in alone]:
            return False
    return True


@torch.no_grad()
def _with_peft(home: Backbone, tunable: LoRATerms, point: dict[int, Tensor], prompts: list[Any]) -> Tensor:
    """Logits [N, W] of the plain model with the saved adapter, text by text."""
    from peft import PeftModel

    with tempfile.TemporaryDirectory() as folder:
        tunable.save(point, Path(folder), home.name)
        changed: Any = PeftModel.from_pretrained(copy.deepcopy(home.model), folder)
    words = list(resolve(home.tokenizer, template(home.kind), WORDS).token_ids)
    decoder = {"decoder_input_ids": torch.tensor([home.prefix])} if home.prefix else {}
    each = (
        changed(input_ids=torch.tensor([prompt.ids]), **decoder).logits[0, prompt.answer, words] for prompt in prompts
    )
    return torch.stack(list(each))


def learned(name: str, kind: Kind, named: list[str] | None) -> float | None:
    """Share of right answers that the library reads in a model that was trained to give them, by the means of `transformers`
    alone; None for a model that did not learn it."""
    words = tokenizer()
    made = next((one for rate in RATES if _trained(one := model(name, kind, 0.1), words, kind, rate)), None)
    if made is None:
        return None
    home = Backbone("trained", made, words, kind, architectures.find(made, named))
    scoring = engine(home, LoRATerms(home, RANK, range(len(home.layers))))
    asked = rows(20, 2)
    batch = collate(
        [home.encode(template(kind), {"text": text}, 40) for text, _ in asked], [0] * len(asked), home.device
    )
    found = scoring.logits(batch, scoring.tunable.initial()).argmax(dim=1).tolist()
    return float(sum(guess == int(word == "great") for guess, (_, word) in zip(found, asked, strict=True)) / len(asked))


def _trained(made: Any, words: Any, kind: Kind, rate: float) -> bool:
    """Whether a model learned to answer, in training and outside."""
    made.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(made.parameters(), lr=rate)
    draw, every, begin = random.Random(0), rows(300, 3), time.process_time()
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = _loss(made, words, kind, draw.sample(every, 32))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if loss.item() < 0.02 or time.process_time() - begin > SECONDS:
            break
    made.eval().requires_grad_(False)
    with torch.no_grad():
        return _loss(made, words, kind, rows(50, 4)).item() < 0.1


def _loss(made: nn.Module, words: Any, kind: Kind, batch: list[tuple[str, str]]) -> Tensor:
    """The loss as `transformers` computes it from texts and answers, which are all of one length."""
    answers = [word for _, word in batch]
    asked = [f"{text} . it was" for text, _ in batch]
    if kind == "seq2seq":
        given = words(asked, return_tensors="pt")["input_ids"]
        return made(input_ids=given, labels=words(answers, return_tensors="pt")["input_ids"]).loss  # type: ignore[no-any-return]
    if kind == "masked":
        given = words([f"{text} [MASK] ." for text in asked], return_tensors="pt")["input_ids"]
        meant = words([f"{text} {word} ." for text, word in zip(asked, answers, strict=True)], return_tensors="pt")[
            "input_ids"
        ]
        labels = meant.masked_fill(given != words.mask_token_id, -100)
        return made(input_ids=given, labels=labels).loss  # type: ignore[no-any-return]
    given = words([f"{text} {word}" for text, word in zip(asked, answers, strict=True)], return_tensors="pt")[
        "input_ids"
    ]
    logits = made(input_ids=given).logits[:, -3].float()  # before the word and [SEP]
    return nn.functional.cross_entropy(logits, given[:, -2])


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts of seven words with one telling word, and their answers; all different."""
    draw = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < 2 * count:
        good = len(found) % 2 == 1
        text = draw.choices(PLAIN, k=6)
        text.insert(draw.randrange(7), draw.choice(GOOD if good else BAD))
        found.setdefault(" ".join(text), "great" if good else "terrible")
    return list(found.items())


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{'' if isinstance(error, TandemTuneError) else f'{type(error).__name__}: '}{lines[0] if lines else ''}"[
        :400
    ]


WRITTEN = (
    "Whole texts that models write are not among these checks: tests compare them with `generate` for 8 causal and 2 "
    "sequence-to-sequence tiny models ([generation.md](generation.md#how-a-population-writes)). "
    "`tests/conformance/test_families.py` (`make test-slow`) does the same for each of these families: 131 write the same tokens, "
    "alone and as a population, and the others that can be built are refused."
)


def table(verdicts: list[Verdict]) -> Iterator[str]:
    """The page of the docs."""
    count = {
        state: sum(one.state == state for one in verdicts) for state in ("supported", "refused", "not built", "wrong")
    }
    yield "# Architectures"
    yield ""
    yield (
        "Made by `python benchmarks/architectures.py --out docs/architectures.md` with transformers "
        f"{transformers.__version__}: every masked, causal and sequence-to-sequence family that an Auto class makes without code of "
        "its own is built tiny from its configuration, with random weights. Supported means: the logits of a population, of one "
        "candidate at a time and of PEFT with the saved adapter agree, and the answer of a model that was trained to give it is "
        "read in the right place. A model that is refused stops a run before it begins, with the line below. "
        f"{WRITTEN}"
    )
    yield ""
    yield (
        f"{count['supported']} supported, {count['refused']} refused, {count['wrong']} wrong; {count['not built']} could not be "
        "built tiny from sizes alone, or learned nothing in seconds. The table is a measurement and no list that the library reads: "
        "a model that is not in it is found out about in the same way when it is loaded."
    )
    for state, column in (("supported", "LoRA is put on"), ("refused", "what a run says"), ("wrong", "what is wrong")):
        chosen = [one for one in verdicts if one.state == state]
        if chosen:
            yield from ("", f"## {state.capitalize()}", "", f"| model type | kind | {column} |", "|---|---|---|")
            yield from (f"| {one.name} | {one.kind} | {one.said.replace('|', '/')} |" for one in chosen)
    rest = [one.name for one in verdicts if one.state == "not built"]
    if rest:
        yield from ("", "## Not put to the test", "", f"{', '.join(rest)}.")


def sweep(names: list[str], told: Callable[[Verdict, float], None]) -> list[Verdict]:
    """Examine all families, or those named."""
    found: list[Verdict] = []
    for kind, members in families().items():
        for name in members:
            if not names or name in names:
                begin = time.perf_counter()
                found.append(examine(name, kind))
                told(found[-1], time.perf_counter() - begin)
    return found


def main() -> int:
    """Write the table; exit code 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="model types; all if left out")
    parser.add_argument("--out", type=Path, help="file to write the table to")
    options = parser.parse_args()
    torch.set_num_threads(1)

    def told(one: Verdict, seconds: float) -> None:
        print(f"{one.kind} {one.name} ({seconds:.0f} s): {one.state}: {one.said}", flush=True)

    verdicts = sweep(options.names, told)
    if options.out:
        options.out.write_text("\n".join(table(verdicts)) + "\n", encoding="utf-8")
    return int(any(one.state == "wrong" for one in verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
