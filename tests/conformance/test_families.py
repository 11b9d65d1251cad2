"""Architectures of `transformers`, built tiny from their configurations: supported, or refused in one line.

`benchmarks/architectures.py` says what supported means, and writes the table of all families; here are some of each kind.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tandemtune.errors import ModelError
from tandemtune.models import architectures
from tandemtune.models.backbone import Backbone

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
