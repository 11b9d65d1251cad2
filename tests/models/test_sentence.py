"""Sentence embeddings: what they are computed from, and what the real model says about sentences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from real import fetched
from tandemtune.errors import ModelError
from tandemtune.models import sentence
from tandemtune.models.sentence import embed

WORDS = ["[PAD]", "[UNK]", "a", "good", "bad", "film", "day"]
TEXTS = ["a good film", "bad", "a day a day a day a day", "film film bad good", "nothing known"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random encoder of two layers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    plain = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(folder)
    return str(folder)


def test_a_vector_is_the_mean_over_the_tokens_of_its_sentence_scaled_to_one(tiny: str) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    tokenizer, model = AutoTokenizer.from_pretrained(tiny), BertModel.from_pretrained(tiny).eval()
    found = embed(TEXTS, model=tiny, batch_size=3)
    assert found.dtype == np.float32
    assert found.shape == (len(TEXTS), 16)
    for text, vector in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0).numpy()
        assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-6)


def test_long_texts_are_cut(tiny: str) -> None:
    assert np.allclose(embed(["a day a day a"], model=tiny, max_tokens=2), embed(["a day"], model=tiny), atol=1e-6)


def test_no_texts_give_no_rows(tiny: str) -> None:
    assert embed([], model=tiny).shape == (0, 16)


def test_a_single_string_and_a_place_without_a_model_are_refused(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"pass \[text\]"):
        embed("a good film", model=tiny)
    with pytest.raises(ModelError, match="cannot be loaded for sentence embeddings"):
        embed(["a"], model=str(tmp_path))


@pytest.mark.assets
def test_the_real_model_gives_the_published_similarities() -> None:
    fetched(sentence.MODEL)
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = embed(texts)
    assert vectors.shape == (3, 384)
    # the similarities in the documentation of sentence-transformers
    published = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    assert np.allclose(vectors @ vectors.T, published, atol=2e-4)


@pytest.mark.assets
def test_paraphrases_are_close_and_the_unrelated_is_far() -> None:
    fetched(sentence.MODEL)
    pairs = [
        ("How old are you?", "What is your age?"),
        ("The film was a waste of time.", "Watching this movie was time badly spent."),
        ("A man is playing a guitar.", "Someone plays the guitar."),
    ]
    left, right = embed([a for a, _ in pairs]), embed([b for _, b in pairs])
    similarity = left @ right.T
    assert similarity.diagonal().min() > 0.65
    assert similarity[~np.eye(len(pairs), dtype=bool)].max() < 0.3
