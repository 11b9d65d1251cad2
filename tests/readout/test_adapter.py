"""A linear readout beside the model says what it said alone, through PEFT and an unmodified forward pass."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch.testing import assert_close

import tiny
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.features import read, soft_cap, word_logits
from tandemtune.evaluators.views import ANSWER
from tandemtune.models.way_out import logit_scale
from tandemtune.readout import FORMS, Design, as_adapter, choose, solve
from tandemtune.readout.members import (
    BiasReadout,
    KernelReadout,
    LogisticReadout,
    RidgeReadout,
    load_readout,
)
from tandemtune.readout.solving import solve_readout
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.identity import Identity

WORDS = {"bad": ["terrible", "dull"], "good": ["great"], "other": ["fine", "news"]}
TEMPLATE = Template.parse("{text} it was {mask} .")
TEXTS = ["a great movie", "the plot was dull", "i hated this film", "a review", "they saw a film", "good acting"]


def made(name):
    """Backbone, stack, label words, prompts, and what one pass says."""
    backbone = tiny.backbone(name)
    verbalizer = resolve(backbone.tokenizer, TEMPLATE, WORDS)
    stack = backbone.stack(verbalizer)
    prompts = [backbone.encode(TEMPLATE, {"text": text}, 64) for text in TEXTS]
    engine = Engine(stack, Identity(), torch.tensor(verbalizer.weights()))
    reading = read(engine, collate(prompts, [0] * len(prompts), torch.device("cpu")), {})
    return backbone, stack, verbalizer, prompts, reading


def label_logits(model, backbone, verbalizer, prompts):
    """Label logits [N, C] of whole, plain passes."""
    found = []
    for prompt in prompts:
        given = {"input_ids": torch.tensor([prompt.ids])}
        if backbone.kind == "seq2seq":
            given["decoder_input_ids"] = torch.tensor([[backbone.model.config.decoder_start_token_id]])
        with torch.no_grad():
            found.append(model(**given).logits[0, prompt.answer])
    words = torch.stack(found)[:, list(verbalizer.token_ids)]
    return words @ torch.tensor(verbalizer.weights())


@pytest.mark.grid
@pytest.mark.parametrize("form", ["bias", "affine", "logistic", "ridge"])
@pytest.mark.parametrize("name", ["bert", "electra", "gpt2", "opt", "llama", "qwen3", "t5", "bart", *tiny.SCALED])
def test_peft_gives_the_readouts_logits(name, form, tmp_path):
    peft = pytest.importorskip("peft")
    backbone, stack, verbalizer, prompts, reading = made(name)
    features = [reading.views[ANSWER]] if FORMS[form].features else []
    design = Design(features, reading.logits, torch.tensor([0, 1, 2, 0, 1, 2]))
    readout = solve(design, choose(design, FORMS[form], [0.1]))
    said = readout.logits(features, reading.logits)
    scale = logit_scale(backbone.model, stack.head)
    shift = as_adapter.save(readout, backbone, stack, verbalizer, tmp_path, scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.PeftModel.from_pretrained(backbone.model, str(tmp_path)).eval()
    try:
        found = label_logits(tuned, backbone, verbalizer, prompts).double() + shift
    finally:
        tuned.unload()
    assert_close(torch.log_softmax(found, 1), torch.log_softmax(said, 1), atol=1e-3, rtol=1e-4)
    before = reading.logits.double()
    assert_close((found - shift).mean(1) + shift.mean(), before.mean(1), atol=1e-3, rtol=1e-4)
    assert not torch.allclose(torch.log_softmax(found, 1), torch.log_softmax(before, 1), atol=1e-2)


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_label_rows_make_the_label_logits(name):
    _, stack, verbalizer, _, reading = made(name)
    rows, bias = as_adapter.label_rows(stack, verbalizer)
    vectors = reading.views[ANSWER]
    linear = word_logits(stack, vectors, bent=False) @ torch.tensor(verbalizer.weights())
    assert_close(vectors.double() @ rows.T + bias, linear.double(), atol=1e-4, rtol=1e-4)
    assert torch.allclose(linear, reading.logits, atol=1e-4) == (soft_cap(stack) is None)


@pytest.mark.parametrize(
    ("member", "an_adapter"),
    [
        (BiasReadout(), True),
        (RidgeReadout(), True),
        (LogisticReadout(views=["mean"]), False),
        (RidgeReadout(views=["answer@1"]), False),
        (RidgeReadout(views=["answer", "mean"]), False),
        (KernelReadout(), False),
    ],
)
def test_a_readout_is_an_adapter_where_it_changes_the_output_embedding_alone(member, an_adapter, tmp_path):
    backbone, stack, verbalizer, prompts, _ = made("gpt2")
    engine = Engine(stack, Identity(), torch.tensor(verbalizer.weights()))
    batch = collate(prompts, [0, 1, 2, 0, 1, 2], torch.device("cpu"))
    solved = solve_readout(member, engine, batch, {}, tuple(WORDS))
    solved.save({}, tmp_path, backbone, engine, verbalizer, "base")
    told = json.loads((tmp_path / "readout" / "readout.json").read_text(encoding="utf-8"))
    assert (tmp_path / "readout" / "adapter_config.json").is_file() == an_adapter
    assert ("label_bias" in told) == an_adapter and ("no_adapter" in told) == (not an_adapter)
    read_back = load_readout(member, tmp_path)
    assert_close(read_back.logits(engine, batch, {}), solved.logits(engine, batch, {}))
