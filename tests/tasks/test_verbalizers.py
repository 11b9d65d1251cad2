"""Label words become the pieces that would really stand at the answer's place."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tandemtune.errors import DataError
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve

SENTENCES = [
    "it was great. great film. a great movie, great",
    "great and terrible: it was terrible. terrible film",
    "was it good? it was good, good film. good",
    "greatest of all",
] * 5


@pytest.fixture(scope="module")
def bpe():
    """Byte-level BPE: a word behind a blank is another piece than the bare word."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=["<unk>", "<mask>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", mask_token="<mask>")


@pytest.fixture(scope="module")
def wordpiece():
    vocabulary = ["[UNK]", "[MASK]", "it", "was", "great", "terrible", "fine", "gre", "##at", "##est", ".", "text"]
    inner = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", mask_token="[MASK]")


def pieces(tokenizer, verbalizer):
    return tokenizer.convert_ids_to_tokens(list(verbalizer.token_ids))


TWO = {"neg": ["terrible"], "pos": ["great"]}


def test_the_tokenizer_of_this_test_has_both_kinds_of_piece(bpe):
    assert bpe("great")["input_ids"] != bpe(" great")["input_ids"]
    assert len(bpe(" great")["input_ids"]) == 1


@pytest.mark.parametrize("source", ["{text} it was {mask}.", "{text} {mask}", "{text}  {mask}", "{text}: so {mask}"])
def test_behind_a_blank(bpe, source):
    verbalizer = resolve(bpe, Template.parse(source), TWO)
    assert pieces(bpe, verbalizer) == ["Ġterrible", "Ġgreat"]
    assert verbalizer.labels == ("neg", "pos")
    assert verbalizer.members == ((0,), (1,))


@pytest.mark.parametrize(
    "source", ["{mask} {text}", "{mask}: {text}", '{text} "{mask}"', "{text}\n{mask}", "{text} ({mask})"]
)
def test_without_a_blank_the_bare_word(bpe, source):
    words = {"a": ["great"], "b": ["film"]}
    verbalizer = resolve(bpe, Template.parse(source), words)
    assert verbalizer.token_ids[0] == bpe("great")["input_ids"][0]
    assert not any(piece.startswith("Ġ") for piece in pieces(bpe, verbalizer))


@pytest.mark.parametrize(
    "source", ["{text} it was {mask}", "{text} {mask}", "{mask} {text}", "{text}: {mask}", "{text}\n{mask}"]
)
def test_equals_the_next_piece_of_the_filled_prompt(bpe, source):
    """Tokenize the whole prompt with the word in the mask's place, and see which piece begins there."""
    template = Template.parse(source)
    verbalizer = resolve(bpe, template, TWO)
    for word, chosen in zip(("terrible", "great"), verbalizer.token_ids, strict=True):
        rendered = template.render({"text": "good film"}, word)
        encoding = bpe(rendered.text, return_offsets_mapping=True)
        start = rendered.mask[0]
        ids = zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
        assert chosen == next(i for i, (_, end) in ids if end > start)


def test_word_pieces(wordpiece):
    verbalizer = resolve(
        wordpiece, Template.parse("{text} It was {mask}."), {"a": ["Great"], "b": ["terrible", "fine"]}
    )
    assert pieces(wordpiece, verbalizer) == ["great", "terrible", "fine"]
    assert verbalizer.members == ((0,), (1, 2))
    assert verbalizer.notes == ()


def test_several_words_are_averaged(wordpiece):
    words = {"a": ["great"], "b": ["terrible", "fine"]}
    weights = resolve(wordpiece, Template.parse("{text} {mask}"), words).weights()
    assert weights == [[1.0, 0.0], [0.0, 0.5], [0.0, 0.5]]


def test_a_word_named_twice_counts_once(wordpiece):
    words = {"a": ["great", "Great", "fine"], "b": ["terrible"]}
    weights = resolve(wordpiece, Template.parse("{text} {mask}"), words).weights()
    assert weights == [[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]]


def test_word_of_several_pieces_is_noted(wordpiece):
    verbalizer = resolve(wordpiece, Template.parse("{text} {mask}"), {"a": ["gre"], "b": ["terrible", "fine"]})
    assert verbalizer.notes == ()
    verbalizer = resolve(wordpiece, Template.parse("{text} {mask}"), {"a": ["greatest"], "b": ["terrible"]})
    assert pieces(wordpiece, verbalizer) == ["great", "terrible"]
    assert len(verbalizer.notes) == 1
    for part in ("'greatest'", "2 pieces", "'great'"):
        assert part in verbalizer.notes[0]


def test_colliding_first_pieces(wordpiece):
    with pytest.raises(DataError) as caught:
        resolve(wordpiece, Template.parse("{text} {mask}"), {"fair": ["great"], "top": ["greatest"]})
    for part in ("'great'", "fair", "'greatest'", "top", "same piece"):
        assert part in str(caught.value)


@pytest.mark.parametrize("word", ["unseen", "", "zzz"])
def test_unknown_word(wordpiece, word):
    with pytest.raises(DataError, match="'odd'") as caught:
        resolve(wordpiece, Template.parse("{text} {mask}"), {"pos": ["great"], "odd": [word]})
    assert repr(word) in str(caught.value)


def test_a_blank_that_is_a_piece_of_its_own_is_no_label_word(bpe):
    template = Template.parse("{text} it was {mask}")
    with pytest.raises(DataError, match=r"'xyz' of label 'neg'.*'Ġ' and 'xyz', and a blank alone") as caught:
        resolve(bpe, template, {"neg": ["xyz"], "pos": ["great"]})
    assert "leave out the blank before {mask}" in str(caught.value)
    close = resolve(bpe, Template.parse("{text} it was:{mask}"), {"neg": ["xyz"], "pos": ["great"]})
    assert pieces(bpe, close)[0] == "x"


@pytest.fixture(scope="module")
def letters():
    """A tokenizer of letters that keeps the blank in one piece with few words only."""
    pieces = ["<unk>", *sorted("▁01adhpsy:"), "▁h", "▁ha", "▁hap", "▁happ", "▁happy"]
    merges = [("▁", "h"), ("▁h", "a"), ("▁ha", "p"), ("▁hap", "p"), ("▁happ", "y")]
    inner = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, merges, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


@pytest.mark.parametrize("words", [{"neg": ["0"], "pos": ["1"]}, {"neg": ["sad"], "pos": ["happy"]}])
@pytest.mark.parametrize("alone", [False, True])
def test_a_word_that_is_cut_behind_its_blank_is_no_label_word(letters, words, alone):
    with pytest.raises(DataError, match=r"cuts the blank before it off.*choose a"):
        resolve(letters, Template.parse("{text} a: {mask}"), words, alone=alone)


def test_without_the_blank_it_is_one(letters):
    assert pieces(letters, resolve(letters, Template.parse("{text} a:{mask}"), {"neg": ["0"], "pos": ["1"]})) == [
        "0",
        "1",
    ]


def test_a_decoders_word_begins_a_text(bpe):
    """Whatever stands before the mask: the decoder begins anew."""
    verbalizer = resolve(bpe, Template.parse("{text} it was {mask}"), TWO, alone=True)
    assert list(verbalizer.token_ids) == [bpe(word)["input_ids"][0] for word in ("terrible", "great")]
    assert not any(piece.startswith("Ġ") for piece in pieces(bpe, verbalizer))
