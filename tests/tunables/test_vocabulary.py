"""Between vectors and words: the nearest token is the nearest one, and only words are words."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from tandemtune.errors import ModelError
from tandemtune.models.backbone import Backbone
from tandemtune.tunables import vocabulary as module
from tandemtune.tunables.vocabulary import Vocabulary

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
NAMES = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
BEGINNINGS = ["great", "film", "ok", "a", "good", "terrible", "3d", "no.", "it's", "Ã©tÃ©", "ab", "Movie"]
"""What may stand behind a mark: words, a single letter, digits, punctuation, a word with accents as bytes, again words."""
REST = ["great", "ing", "ly", ".", ",", "s", "12", "x"]


def marked(mark):
    """A tokenizer that writes a mark before a token that begins a word: "Ġ" (byte-level BPE) or "▁" (SentencePiece)."""
    tokens = [*SPECIAL, *REST, mark, *(mark + word for word in BEGINNINGS)]
    inner = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    byte = mark == "Ġ"
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False) if byte else pre_tokenizers.Metaspace()
    inner.decoder = decoders.ByteLevel() if byte else decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **NAMES)


def word_piece():
    """A tokenizer that writes "##" before the rest of a word."""
    tokens = [*SPECIAL, *BEGINNINGS, *("##" + piece for piece in REST), ".", "é"]
    inner = Tokenizer(models.WordPiece({token: index for index, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=inner, **NAMES)


TOKENIZERS = {"Ġ": lambda: marked("Ġ"), "▁": lambda: marked("▁"), "##": word_piece, "whole words": lambda: plain()}


def plain():
    return tiny.tokenizer("masked")


@functools.cache
def home(style="whole words", model="bert"):
    base = tiny.backbone(model)
    return Backbone(style, base.model, TOKENIZERS[style](), base.kind, base.architecture)


def tokens_of(style, vocabulary):
    return home(style).tokenizer.convert_ids_to_tokens(vocabulary.ids.tolist())


@pytest.mark.parametrize("style", ["Ġ", "▁", "##"])
def test_words_begin_a_word_and_hold_letters_only(style):
    mark = "" if style == "##" else style
    expected = [
        mark + word for word in BEGINNINGS if word in ("great", "film", "ok", "good", "terrible", "ab", "Movie")
    ]
    assert tokens_of(style, Vocabulary(home(style), "words")) == expected
    ids = home(style).tokenizer.convert_tokens_to_ids([mark + "great", mark + "terrible"])
    fewer = [token for token in expected if token not in (mark + "great", mark + "terrible")]
    assert tokens_of(style, Vocabulary(home(style), "words", without=ids)) == fewer


@pytest.mark.parametrize("style", ["Ġ", "▁", "##"])
def test_all_is_everything_but_special_tokens(style):
    everything = list(home(style).tokenizer.get_vocab())
    inside = sorted(everything, key=home(style).tokenizer.convert_tokens_to_ids)
    assert tokens_of(style, Vocabulary(home(style), "all")) == [t for t in inside if t not in SPECIAL]
    assert len(Vocabulary(home(style), "all", without=[7, 9]).ids) == len(inside) - len(SPECIAL) - 2


def test_whole_words_of_a_vocabulary_without_marks():
    found = tokens_of("whole words", Vocabulary(home(), "words"))
    assert found == [word for word in tiny.WORDS if word.isalpha() and len(word) > 1]


def test_added_tokens_are_no_words():
    base = home()
    tokenizer = plain()
    assert tokenizer.add_tokens(["shiny"]) == 1
    for allowed in ("words", "all"):
        vocabulary = Vocabulary(Backbone("more", base.model, tokenizer, "masked", base.architecture), allowed)
        assert tokenizer.convert_tokens_to_ids("shiny") not in vocabulary.ids.tolist()


def test_tokens_without_an_embedding_and_embeddings_without_a_token():
    """A model's matrix is often padded, and a tokenizer may know more than the model does."""
    large = Backbone("large", tiny.model("gpt2"), marked("Ġ"), "causal", tiny.backbone("gpt2").architecture)
    assert len(large.tokenizer) < len(large.embedding_weight)
    assert Vocabulary(large, "all").ids.max() == len(large.tokenizer) - 1
    small = Backbone("small", tiny.model("gpt2"), marked("Ġ"), "causal", large.architecture)
    small.model.resize_token_embeddings(16)
    found = Vocabulary(small, "all").ids
    assert found.max() == 15
    assert Vocabulary(small, "all").vectors(found.tolist()).shape == (len(found), 32)


def test_no_words_at_all():
    base = home()
    for action in (
        lambda found: found.ids,
        lambda found: found.sample(np.random.default_rng(0), 3),
        lambda found: found.nearest(torch.zeros(1, 32), "cosine"),
    ):
        with pytest.raises(ModelError, match=r"vocabulary.*all"):
            action(Vocabulary(base, "words", without=range(1000)))


@pytest.mark.parametrize("model", ["bert", "electra", "opt", "gemma2", "bart"])
def test_vectors_are_what_the_first_layer_gets(model):
    base = home("whole words", model)
    ids = [7, 30, 7]
    found = Vocabulary(base, "words").vectors(ids)
    weight = base.embedding_weight[ids]
    expected = weight * 32**0.5 if model == "gemma2" else weight
    assert torch.allclose(found, expected) and found.dtype == torch.float32 and not found.requires_grad


def nearest_by_hand(vocabulary, vectors, measure):
    """(id, distance) of each vector, in float64, pair by pair."""
    known = vocabulary.vectors(vocabulary.ids.tolist()).double()
    for vector in vectors.double():
        if measure == "cosine":
            apart = [1 - float(vector @ row / (vector.norm() * row.norm())) for row in known]
        else:
            apart = [float((vector - row).norm()) for row in known]
        yield int(vocabulary.ids[int(np.argmin(apart))]), min(apart)


@pytest.mark.parametrize("measure", ["cosine", "l2"])
@pytest.mark.parametrize("model", ["bert", "electra", "gemma2"])
@pytest.mark.parametrize("at_once", [1, 5, 8192])
def test_nearest_is_the_nearest(measure, model, at_once, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", at_once)
    vocabulary = Vocabulary(home("whole words", model), "words")
    width = home("whole words", model).embedding_weight.shape[1]
    vectors = torch.randn(9, width, generator=torch.Generator().manual_seed(1))
    found = vocabulary.nearest(vectors, measure)
    expected = list(nearest_by_hand(vocabulary, vectors, measure))
    assert found.ids == tuple(index for index, _ in expected)
    assert found.distance == pytest.approx(np.mean([distance for _, distance in expected]), abs=1e-5)
    farthest = vocabulary.nearest(-vectors, "cosine")
    assert farthest.ids != found.ids


@pytest.mark.parametrize("measure", ["cosine", "l2"])
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=9), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_tokens_come_back_as_themselves(measure, picks, seed):
    """A prompt's own words are read as these words, also with a little noise; their text is what they decode to."""
    vocabulary = Vocabulary(home(), "words")
    ids = [int(vocabulary.ids[pick % len(vocabulary.ids)]) for pick in picks]
    vectors = vocabulary.vectors(ids)
    exact = vocabulary.nearest(vectors, measure)
    assert exact.ids == tuple(ids) and exact.distance == pytest.approx(0, abs=2e-3)
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed)) * 0.02
    near = vocabulary.nearest(vectors + noise, measure)
    assert near.ids == tuple(ids) and near.text == home().tokenizer.decode(ids) == exact.text
    assert near.distance > 0


def test_cosine_and_l2_are_not_the_same():
    """Far out in one token's direction, but close to a short one."""
    vocabulary = Vocabulary(home(), "words")
    known = vocabulary.vectors(vocabulary.ids.tolist())
    short = int(known.norm(dim=1).argmin())
    vector = known[5:6] * (0.01 / known[5].norm())
    assert vocabulary.nearest(vector, "cosine").ids == (int(vocabulary.ids[5]),)
    assert vocabulary.nearest(vector, "l2").ids == (int(vocabulary.ids[short]),) and short != 5


def test_label_words_and_special_tokens_are_never_nearest():
    base = home()
    great, mask = base.tokenizer.convert_tokens_to_ids(["great", "[MASK]"])
    vocabulary = Vocabulary(base, "all", without=[great])
    for measure in ("cosine", "l2"):
        for index in (great, mask, base.tokenizer.pad_token_id):
            assert vocabulary.nearest(vocabulary.vectors([index]), measure).ids[0] in set(vocabulary.ids.tolist())
            assert vocabulary.nearest(vocabulary.vectors([index]), measure).ids != (index,)


@pytest.mark.parametrize("measure", ["cosine", "l2"])
def test_vectors_that_are_no_numbers(measure):
    """Nothing is nearest to them, but what they are read as is still a word."""
    vocabulary = Vocabulary(home(), "words")
    vectors = torch.zeros(3, 32)
    vectors[1:] = torch.tensor([[torch.nan], [torch.inf]])
    found = vocabulary.nearest(vectors, measure)
    assert set(found.ids) <= set(vocabulary.ids.tolist())


def test_sd_is_that_of_the_allowed_embeddings():
    vocabulary = Vocabulary(home("whole words", "gemma2"), "words")
    assert vocabulary.sd == pytest.approx(float(vocabulary.vectors(vocabulary.ids.tolist()).std()))
    assert vocabulary.sd > 4 * float(home("whole words", "gemma2").embedding_weight.std())


@pytest.mark.parametrize(
    ("text", "length", "words"),
    [
        ("a great movie", 3, "a great movie"),
        ("a great movie", 2, "a great"),
        ("  a great movie ", 1, "a"),
        ("a great movie", 7, "a great movie a great movie a"),
        ("fine", 4, "fine fine fine fine"),
    ],
)
def test_a_text_is_cut_or_repeated(text, length, words):
    found = Vocabulary(home(), "words").fit(text, length)
    assert found.text == words and found.distance == 0
    assert found.ids == tuple(home().tokenizer.convert_tokens_to_ids(words.split()))
    assert len(found.ids) == length


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_text_without_tokens(text):
    with pytest.raises(ValueError, match="has no tokens"):
        Vocabulary(home(), "words").fit(text, 3)


def test_exact_ids_are_kept():
    """What is scored are these tokens; their text tokenized anew may give others."""
    base = home("Ġ")
    ids = base.tokenizer.convert_tokens_to_ids(["great", "ing", "Ġgreat", "Ġfilm"])
    found = Vocabulary(base, "words").words(ids, 0.25)
    assert (found.ids, found.text, found.distance) == (tuple(ids), "greating great film", 0.25)
    assert base.tokenizer(found.text)["input_ids"] != ids
    leading = Vocabulary(base, "words").words(ids[2:])
    assert leading.text == "great film", "no blank before the first word"


def test_tokens_of_a_text_are_counted_without_marks():
    vocabulary = Vocabulary(home(), "words")
    assert [vocabulary.count(text) for text in ("a great movie", " fine ", "")] == [3, 1, 0]


def test_samples_are_seeded_and_allowed():
    vocabulary = Vocabulary(home(), "words", without=[14, 15])
    one, same, other = (vocabulary.sample(np.random.default_rng(seed), 6) for seed in (1, 1, 2))
    assert one == same and one != other and len(one.ids) == 6 and one.distance == 0
    assert one.text == home().tokenizer.decode(list(one.ids))
    drawn = set(vocabulary.sample(np.random.default_rng(0), 2000).ids)
    assert drawn == set(vocabulary.ids.tolist())


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_exact_tokens_are_found_again(name):
    home = tiny.backbone(name)
    vocabulary = Vocabulary(home, "words")
    ids = (7, 12, 7, 3)
    assert vocabulary.exact(vocabulary.vectors(ids)).ids == ids
    with pytest.raises(ValueError, match="no embeddings"):
        vocabulary.exact(vocabulary.vectors(ids) + 0.01)
