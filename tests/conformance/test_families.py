"""Architectures of `transformers`, built tiny from their configurations: supported, or refused in one line.

`benchmarks/architectures.py` says what supported means, and writes the table of all families; here are some of each kind.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from tandemtune.errors import ModelError, TandemTuneError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.features import read, soft_cap, word_logits
from tandemtune.evaluators.views import ANSWER, MEAN_MIDDLE
from tandemtune.models import architectures, packing
from tandemtune.models.backbone import Backbone
from tandemtune.tunables.lora import LoRATerms

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import architectures as zoo

KINDS = {name: kind for kind, names in zoo.families().items() for name in names}
SUPPORTED = (
    *("mpnet", "modernbert", "roformer", "eurobert"),
    *("bloom", "codegen", "falcon", "gemma3", "gptj", "lfm2", "mamba", "mixtral", "phi3", "qwen3_next", "stablelm"),
    *("m2m_100", "marian", "mbart", "pegasus", "switch_transformers", "umt5"),
)
REFUSED = {
    "albert": "share weights",
    "xlm": "one by one",
    "funnel": "one by one",
    "mobilebert": "not supported",
    "hrm_text": "share weights",
    "bert-generation": "from left to right",
    "led": "one by one",
}


@pytest.mark.parametrize("name", SUPPORTED)
def test_population_one_by_one_and_peft_agree(name):
    made = zoo.model(name, KINDS[name], 0.2)
    home = Backbone(name, made, zoo.tokenizer(), KINDS[name], architectures.find(made, zoo.NAMED.get(name)))
    assert zoo.difference(home) < zoo.CLOSE


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused(name):
    made = zoo.model(name, KINDS[name], 0.2)
    with pytest.raises(ModelError, match=REFUSED[name]) as caught:
        zoo.difference(Backbone(name, made, zoo.tokenizer(), KINDS[name], architectures.find(made)))
    assert len(str(caught.value).splitlines()) == 1


def home_of(name):
    made = zoo.model(name, KINDS[name], 0.2)
    return Backbone(name, made, zoo.tokenizer(), KINDS[name], architectures.find(made, zoo.NAMED.get(name)))


@pytest.mark.few(6)
@pytest.mark.parametrize(
    "name", ["cohere2", "gemma3", "gemma4_unified_text", "gpt_neo", "jamba", "lfm2", "mixtral", "qwen3_5", "umt5"]
)
def test_families_write_what_generate_writes(name):
    """Those with convolutions, recurrences or sizes of single layers, too."""
    assert zoo.writes(home_of(name))


@pytest.mark.parametrize("name", ["mamba", "recurrent_gemma", "rwkv"])
def test_families_that_keep_what_they_read_in_another_way_are_refused(name):
    with pytest.raises(
        ModelError, match=r"cannot write texts here \(.*: choose another model, or a task that is answered with labels"
    ):
        zoo.writes(home_of(name))


def test_a_readout_reads_a_model_that_also_sees():
    """Its configuration has a part for its language model, with the width and the bound of the logits."""
    home = home_of("gemma3")
    assert not hasattr(home.model.config, "hidden_size")
    tunable = LoRATerms(home, 2, range(len(home.layers)))
    scoring = zoo.engine(home, tunable)
    prompts = [home.encode(zoo.template("causal"), {"text": text}, 40) for text, _ in zoo.rows(5, 1)]
    batch = collate(prompts, [0] * len(prompts), home.device)
    reading = read(scoring, batch, tunable.initial(), [ANSWER, MEAN_MIDDLE])
    assert reading.views[MEAN_MIDDLE].shape == (len(prompts), home.width)
    torch.testing.assert_close(word_logits(scoring.stack, reading.views[ANSWER]) @ scoring.averaging, reading.logits)
    home.model.config.get_text_config().final_logit_softcapping = 30.0
    assert soft_cap(scoring.stack) == 30.0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_families_write_what_generate_writes_or_are_refused():
    counts = Counter()
    for name, kind in KINDS.items():
        if kind == "masked":
            continue
        try:
            found = "equal" if zoo.writes(home_of(name)) else "other"
        except (zoo.NotBuiltError, TandemTuneError) as error:
            found = type(error).__name__
        counts[found] += 1
        print(name, found)
    assert counts["other"] == 0 and counts["equal"] >= 100


def test_a_window_is_not_filled_with_what_is_no_word():
    """GPT-Neo's local layers count places: a short prompt beside a long one would lose its beginning."""
    import transformers

    config = transformers.GPTNeoConfig(
        vocab_size=zoo.tokenizer().vocab_size,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=6,
        max_position_embeddings=64,
    )
    torch.manual_seed(0)
    made = transformers.GPTNeoForCausalLM(config).eval().requires_grad_(False)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, 0.3)
    home = Backbone("gpt_neo", made, zoo.tokenizer(), "causal", architectures.find(made))
    assert packing.longest(made) == 6 and zoo.writes(home)


@pytest.mark.parametrize("name", ["bart", "gpt2"])
def test_the_answer_of_a_trained_model_is_read_where_it_gives_it(name):
    """Its tokenizer puts marks round every text, and the decoder learned to write the first of them before its answer."""
    assert zoo.learned(name, KINDS[name], None) >= zoo.LEARNED


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_architectures_are_supported_or_refused():
    verdicts = zoo.sweep([], lambda verdict, seconds: print(verdict))
    assert [one for one in verdicts if one.state == "wrong"] == []
    assert sum(one.state == "supported" for one in verdicts) >= 100
