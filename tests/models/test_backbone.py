"""Prompts as token ids: the text may be cut, the template and the answer's place never."""

from __future__ import annotations

import functools

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import oracle
import tiny
from tandemtune.errors import DataError, ModelError
from tandemtune.models import architectures
from tandemtune.models.answers import AnswerCoder
from tandemtune.models.backbone import Backbone
from tandemtune.models.layers import LayerStack
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve

SINGLE = "a review : {text} it was {mask} ."
PAIR = "{text} ? {mask} , {text_b} so maybe"
CAUSAL_SINGLE = "a review : {text} it was {mask} ."
CAUSAL_PAIR = "news : {text} question : {text_b} yes or no ? {mask}"
SENTENCES = [
    "it was a great movie and the acting was great",
    "a review of a terrible film, it was dull",
    "is this news? maybe, so the question: great or terrible",
]


@functools.cache
def backbone(name):
    return tiny.backbone(name)


@functools.cache
def byte_level(kind):
    """A backbone with a byte-level tokenizer, whose pieces swallow the blank before a word and split characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    if kind == "masked":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
        )
        names["mask_token"] = "<mask>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    base = tiny.backbone("bert" if kind == "masked" else "gpt2")
    base.model.resize_token_embeddings(len(fast))
    return Backbone("bytes", base.model, fast, kind, base.architecture)


def words_of(home, encoded):
    return home.tokenizer.convert_ids_to_tokens(encoded.ids)


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(word in rest for word in part)


# words of the vocabulary, words out of it, and anything at all
WORD = st.sampled_from([*tiny.WORDS, "[MASK]", "[SEP]", "{mask}", "{text}", "{", "}", "unseen", "[UNK]"])
TEXT = st.one_of(st.lists(WORD, max_size=80).map(" ".join), st.text(max_size=120))


@settings(max_examples=60, deadline=None)
@given(TEXT, st.integers(11, 64))
def test_masked_single(text, limit):
    check_masked(SINGLE, {"text": text}, limit)


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.integers(9, 64))
def test_masked_pair(text, text_b, limit):
    check_masked(PAIR, {"text": text, "text_b": text_b}, limit)


def check_masked(source, fields, limit):
    home, template = backbone("bert"), Template.parse(source)
    encoded = home.encode(template, fields, limit)
    words = words_of(home, encoded)
    assert len(encoded.ids) <= limit
    assert words[encoded.answer] == "[MASK]"
    assert (words[0], words[-1]) == ("[CLS]", "[SEP]")
    before, after = source.split("{mask}")
    assert is_subsequence(literal_tokens_of(before), words[: encoded.answer])
    assert is_subsequence(literal_tokens_of(after), words[encoded.answer + 1 :])
    if source == SINGLE:
        assert words[1:4] == ["a", "review", ":"]
        assert words[encoded.answer - 2 :] == ["it", "was", "[MASK]", ".", "[SEP]"]


def literal_tokens_of(half):
    return [word for word in half.split() if not word.startswith("{")]


@settings(max_examples=60, deadline=None)
@given(TEXT, st.integers(8, 64))
def test_causal_single(text, limit):
    home, template = backbone("gpt2"), Template.parse(CAUSAL_SINGLE)
    encoded = home.encode(template, {"text": text}, limit)
    words = words_of(home, encoded)
    assert len(encoded.ids) <= limit
    assert encoded.answer == len(encoded.ids) - 1
    assert words[:3] == ["a", "review", ":"]
    assert words[-2:] == ["it", "was"]


@settings(max_examples=60, deadline=None)
@given(TEXT, TEXT, st.integers(10, 64))
def test_causal_pair(text, text_b, limit):
    home, template = backbone("gpt2"), Template.parse(CAUSAL_PAIR)
    encoded = home.encode(template, {"text": text, "text_b": text_b}, limit)
    words = words_of(home, encoded)
    assert len(encoded.ids) <= limit
    assert encoded.answer == len(encoded.ids) - 1
    assert words[:2] == ["news", ":"]
    assert words[-4:] == ["yes", "[UNK]", "no", "?"]
    assert is_subsequence(["news", ":", "question", ":", "yes", "no", "?"], words)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60), st.integers(30, 64), st.sampled_from(["masked", "causal"]))
def test_byte_level_pieces_leave_the_template_whole(text, text_b, limit, kind):
    """Here a piece may hold a blank of the template and the first letters of the text, or a third of a character."""
    home = byte_level(kind)
    source = "it was {text} ?\n{text_b}\nis it a great {mask}"
    encoded = home.encode(Template.parse(source), {"text": text, "text_b": text_b}, limit)
    assert len(encoded.ids) <= limit
    shown = home.tokenizer.decode(encoded.ids)
    if kind == "masked":
        assert home.tokenizer.convert_ids_to_tokens(encoded.ids[encoded.answer]) == "<mask>"
        assert shown.startswith("<s>it was ")
        assert shown.endswith("is it a great <mask></s>")
    else:
        assert encoded.answer == len(encoded.ids) - 1
        assert shown.startswith("it was ")
        assert shown.endswith("\nis it a great")
    assert " ?\n" in shown


def test_what_fits_is_not_cut():
    home, template = backbone("bert"), Template.parse(SINGLE)
    encoded = home.encode(template, {"text": "we loved this film"}, 13)
    assert len(encoded.ids) == 13
    assert words_of(home, encoded)[4:8] == ["we", "loved", "this", "film"]


def test_the_end_is_cut_and_no_more_than_needed():
    home, template = backbone("bert"), Template.parse(SINGLE)
    encoded = home.encode(template, {"text": "we loved this film and the acting"}, 12)
    assert len(encoded.ids) == 12
    assert words_of(home, encoded)[4:7] == ["we", "loved", "this"]


@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_characters_of_several_pieces_are_cut_no_more_than_needed(kind):
    home, template = byte_level(kind), Template.parse("{text} it was {mask}")
    for limit in range(20, 41):
        encoded = home.encode(template, {"text": "\U0001f600\u4e2d" * 40}, limit)
        assert limit - 3 <= len(encoded.ids) <= limit
        assert "\ufffd" not in home.tokenizer.decode(encoded.ids)


def test_longest_field_is_cut_first():
    home, template = backbone("bert"), Template.parse(PAIR)
    fields = {"text": "movie " * 20, "text_b": "plot " * 5}
    for limit, expected in ((25, (13, 5)), (17, (5, 5)), (11, (2, 2)), (10, (1, 2)), (9, (1, 1)), (7, (0, 0))):
        words = words_of(home, home.encode(template, fields, limit))
        counts = words.count("movie"), words.count("plot")
        assert sum(counts) == sum(expected)
        assert abs(counts[0] - counts[1]) <= max(1, abs(expected[0] - expected[1]))
        assert len(words) == limit
    swapped = {"text": fields["text_b"], "text_b": fields["text"]}
    words = words_of(home, home.encode(template, swapped, 17))
    assert (words.count("movie"), words.count("plot")) == (5, 5)


def test_two_long_texts_are_cut_in_few_steps(monkeypatch):
    """Not token by token: each step tokenizes the whole prompt again."""
    home, template = backbone("bert"), Template.parse(PAIR)
    calls = []
    own = Backbone._tokenize
    monkeypatch.setattr(Backbone, "_tokenize", lambda *a: calls.append(1) or own(*a))
    encoded = home.encode(template, {"text": "movie " * 400, "text_b": "plot " * 400}, 47)
    words = words_of(home, encoded)
    assert (len(words), words.count("movie"), words.count("plot")) == (47, 20, 20)
    assert len(calls) < 12


def test_field_used_twice_is_cut_in_both_places():
    home, template = backbone("bert"), Template.parse("{text} ? {text} it was {mask}")
    words = words_of(home, home.encode(template, {"text": "movie " * 30}, 20))
    assert len(words) <= 20
    assert words[-4:] == ["it", "was", "[MASK]", "[SEP]"]
    assert words.index("?") - 1 == words.count("movie") / 2


@pytest.mark.parametrize("name, source, length", [("bert", SINGLE, 9), ("gpt2", CAUSAL_SINGLE, 5)])
def test_template_longer_than_the_limit(name, source, length):
    home, template = backbone(name), Template.parse(source)
    assert len(home.encode(template, {"text": "a great movie"}, length).ids) == length
    with pytest.raises(DataError, match="max_tokens"):
        home.encode(template, {"text": "a great movie"}, length - 1)


def test_models_own_limit_binds():
    home = backbone("bert")
    assert home.longest == 64
    encoded = home.encode(Template.parse(SINGLE), {"text": "movie " * 500}, 100_000)
    assert len(encoded.ids) == 64
    with torch.no_grad():
        oracle.all_logits(home.model, torch.tensor([encoded.ids]))


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_longest_prompt_runs(name):
    home = backbone(name)
    template = Template.parse(SINGLE)
    encoded = home.encode(template, {"text": "movie " * 700}, min(home.longest, 600))
    assert len(encoded.ids) == min(home.longest, 600)
    with torch.no_grad():
        oracle.all_logits(home.model, torch.tensor([encoded.ids]))


def test_positions_before_the_first_are_no_room_for_tokens():
    """RoBERTa counts from behind its padding's number, OPT and BART from 2, whatever they are called."""
    assert backbone("roberta").longest == 63
    assert backbone("opt").longest == backbone("bart").longest == backbone("bert").longest == 64
    model = tiny.model("roberta")
    model.config.model_type = "strange"
    model.roberta.embeddings.padding_idx = 4
    assert architectures.find(model).positions == 59


@pytest.mark.parametrize(
    "text",
    ["[MASK]", "great [MASK] movie", "{mask}", "{text}", "{}", "}{", "{{mask}}", "[MASK] [MASK] it was [MASK] ."],
)
def test_text_that_looks_like_a_template_does_not_move_the_answer(text):
    home, template = backbone("bert"), Template.parse(SINGLE)
    encoded = home.encode(template, {"text": text}, 64)
    words = words_of(home, encoded)
    assert words[encoded.answer - 2 :] == ["it", "was", "[MASK]", ".", "[SEP]"]
    causal = backbone("gpt2")
    words = words_of(causal, causal.encode(template, {"text": text}, 64))
    assert words[-2:] == ["it", "was"]


def test_mask_before_the_text():
    home, template = backbone("bert"), Template.parse("{mask} : {text}")
    encoded = home.encode(template, {"text": "[MASK] [MASK]"}, 64)
    assert encoded.answer == 1


def test_empty_text():
    home = backbone("bert")
    words = words_of(home, home.encode(Template.parse(SINGLE), {"text": ""}, 64))
    assert words == ["[CLS]", "a", "review", ":", "it", "was", "[MASK]", ".", "[SEP]"]
    words = words_of(backbone("gpt2"), backbone("gpt2").encode(Template.parse(SINGLE), {"text": "  "}, 64))
    assert words == ["a", "review", ":", "it", "was"]


def test_empty_causal_prompt():
    with pytest.raises(DataError, match="empty prompt"):
        backbone("gpt2").encode(Template.parse("{text} {mask}"), {"text": " "}, 64)


def test_missing_field():
    with pytest.raises(DataError, match="text_b"):
        backbone("bert").encode(Template.parse(PAIR), {"text": "a"}, 64)


@pytest.mark.parametrize(
    "source", ["{text} {mask} movie", "{mask} {text}", "{text} {mask}, so {text}", "{text} {mask} 1"]
)
def test_causal_template_that_goes_on_is_refused(source):
    with pytest.raises(ModelError, match="left to right"):
        backbone("gpt2").check_template(Template.parse(source))
    backbone("bert").check_template(Template.parse(source))


@pytest.mark.parametrize("source", ["{text} {mask}", "{text} it was {mask}.", '{text} "{mask}" !', "{text} {mask}\n"])
def test_causal_template_may_end_in_punctuation(source):
    backbone("gpt2").check_template(Template.parse(source))


def test_causal_prompt_ends_without_a_blank():
    home = byte_level("causal")
    encoded = home.encode(Template.parse("{text} it was {mask}."), {"text": "a film,"}, 64)
    assert home.tokenizer.decode(encoded.ids) == "a film, it was"


def with_special_ends(kind, single):
    tokenizer = tiny.tokenizer(kind)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens({"bos_token": "[CLS]", "eos_token": "[SEP]"})
    base = backbone("gpt2")
    return Backbone("ends", base.model, tokenizer, kind, base.architecture)


def test_eos_that_the_tokenizer_appends_is_stripped_for_causal():
    home = with_special_ends("causal", "[CLS] $A [SEP]")
    encoded = home.encode(Template.parse(CAUSAL_SINGLE), {"text": "a movie"}, 64)
    words = words_of(home, encoded)
    assert words == ["[CLS]", "a", "review", ":", "a", "movie", "it", "was"]
    assert encoded.answer == 7
    assert len(home.encode(Template.parse(CAUSAL_SINGLE), {"text": "movie " * 50}, 20).ids) == 20


def test_eos_that_the_text_spells_out_is_text_and_no_mark():
    home = with_special_ends("causal", "[CLS] $A [SEP]")
    encoded = home.encode(Template.parse("a review : {text} {mask}"), {"text": "a movie [SEP]"}, 64)
    assert home.tokenizer.sep_token_id not in encoded.ids
    assert words_of(home, encoded)[2:5] == ["review", ":", "a"]
    assert len(encoded.ids) > len(home.encode(Template.parse("a review : {text} {mask}"), {"text": "a movie"}, 64).ids)


def test_a_tokenizer_without_offsets_is_refused():
    base = backbone("bert")
    slow = type("Slow", (), {"is_fast": False, "mask_token_id": 4})()
    with pytest.raises(ModelError, match="fast tokenizer"):
        Backbone("slow", base.model, slow, "masked", base.architecture)


def test_a_masked_model_needs_a_mask_token():
    base = backbone("bert")
    with pytest.raises(ModelError, match="no mask token"):
        Backbone("odd", base.model, tiny.tokenizer("causal"), "masked", base.architecture)


def with_gap(name, mask):
    """A tiny encoder-decoder whose tokenizer has T5's sentinel or a mask, and ends a text with a mark."""
    tokenizer = tiny.tokenizer("causal")
    tokenizer.add_special_tokens({"mask_token": "[MASK]"} if mask else {"additional_special_tokens": ["<extra_id_0>"]})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A [SEP]", special_tokens=[("[SEP]", 3)]
    )
    base = tiny.backbone(name)
    if not mask:
        base.model.resize_token_embeddings(len(tokenizer))
    return Backbone("gap", base.model, tokenizer, "seq2seq", base.architecture)


@torch.no_grad()
def plain_logits(home, ids, begin=None):
    more = {} if begin is None else {"decoder_input_ids": torch.tensor([begin])}
    return home.model(input_ids=torch.tensor([ids]), **more).logits[0]


def text_ids():
    return tiny.tokenizer("causal").convert_tokens_to_ids(["we", "loved", "this", "great", "film"])


@pytest.mark.parametrize("name", tiny.MASKED)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_how_likely_a_token_is_to_a_masked_model(name, place):
    """At the mask in its place, between the tokenizer's own marks; what stood there before does not matter."""
    home, ids = backbone(name), text_ids()
    read = [2, *ids[:place], 4, *ids[place + 1 :], 3]
    expected = plain_logits(home, read)[place + 1]
    assert torch.allclose(home.likely_token(ids, place), expected, atol=1e-6)
    ids[place] = 9
    assert torch.allclose(home.likely_token(ids, place), expected, atol=1e-6)
    ids[(place + 1) % 5] = 9
    assert not torch.allclose(home.likely_token(ids, place), expected, atol=1e-3)


@pytest.mark.parametrize("name", tiny.CAUSAL)
def test_how_likely_a_token_is_to_a_causal_model(name):
    """After what stands before it; in the first place after the tokenizer's first mark, if it has one."""
    home, ids = backbone(name), text_ids()
    for place in (1, 4):
        expected = plain_logits(home, ids[:place])[-1]
        assert torch.allclose(home.likely_token(ids, place), expected, atol=1e-6)
    assert home.likely_token(ids, 0).shape == (52,)
    marked = with_special_ends("causal", "[CLS] $A")
    for place in (0, 3):
        expected = plain_logits(marked, [2, *ids[:place]])[-1]
        assert torch.allclose(marked.likely_token(ids, place), expected, atol=1e-6)


@pytest.mark.parametrize("place", [0, 2, 4])
@pytest.mark.parametrize("name", tiny.SEQ2SEQ)
def test_how_likely_a_token_is_to_an_encoder_with_a_decoder(name, place):
    """T5 answers behind the sentinel that it read in the text; BART writes the text again and comes to its mask."""
    home, ids = with_gap(name, mask=name == "bart"), text_ids()
    gap = home.tokenizer.convert_tokens_to_ids("[MASK]" if name == "bart" else "<extra_id_0>")
    start = home.model.config.decoder_start_token_id
    begin = [start, *ids[:place]] if name == "bart" else [start, gap]
    expected = plain_logits(home, [*ids[:place], gap, *ids[place + 1 :], 3], begin)[-1]
    assert torch.allclose(home.likely_token(ids, place), expected, atol=1e-6)


def test_likelihoods_are_plain_numbers():
    found = backbone("bert").likely_token(text_ids(), 1)
    assert found.dtype == torch.float32 and found.shape == (52,) and not found.requires_grad


# marks that a text spells out


def with_added(kind, *tokens):
    """A tiny backbone whose tokenizer was given more tokens."""
    words = tiny.tokenizer(kind)
    words.add_tokens(list(tokens))
    base = tiny.backbone({"masked": "bert", "causal": "gpt2", "seq2seq": "t5"}[kind])
    base.model.resize_token_embeddings(len(words))
    return Backbone("added", base.model, words, kind, base.architecture)


@pytest.mark.parametrize("kind", ["masked", "causal", "seq2seq"])
@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("mark", ["<think>", "<filename>", "[INST]", "<|user|>", "<extra_id_0>"])
def test_marks_in_a_text_are_words_whatever_they_were_added_as(kind, special, mark):
    home = with_added(kind, AddedToken(mark, special=special))
    index = home.tokenizer.convert_tokens_to_ids(mark)
    for text in (mark, f"a{mark}film", f"{mark}{mark} {mark} was", f"a film {mark}", f"<{mark}>"):
        encoded = home.encode(Template.parse("{text} it was {mask}"), {"text": text}, 64)
        assert index not in encoded.ids
    wanted = home.encode(Template.parse(f"{mark} {{text}} it was {{mask}}"), {"text": f"a {mark}"}, 64)
    assert wanted.ids.count(index) == 1, "the template may hold marks"


@pytest.mark.parametrize("kind", ["causal", "seq2seq"])
def test_a_special_token_that_an_answer_spells_out_is_words_and_other_marks_stay(kind):
    home = with_added(kind, AddedToken("<|end|>", special=True), AddedToken("<call>", special=False))
    home.model.generation_config.eos_token_id = home.tokenizer.convert_tokens_to_ids("<|end|>")
    coder = AnswerCoder(home, Template.parse("{text} it was {mask}"), 64)
    special, call = home.tokenizer.convert_tokens_to_ids(["<|end|>", "<call>"])
    for text in ("<|end|>", "a film<|end|> was", "<|end|><|end|>", "<<|end|>>"):
        ids = coder.encode(text)
        assert ids[-1] == special and special not in ids[:-1]
        assert len(coder.whole(text)) > 1
    assert call in coder.encode("a <call> film"), "decoding leaves it in, so a model may be taught to write it"


def test_a_mark_that_only_normalization_makes_is_a_word():
    words = tiny.tokenizer("causal")
    words.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    words.add_tokens([AddedToken("<think>", normalized=True)])
    base = tiny.backbone("gpt2")
    base.model.resize_token_embeddings(len(words))
    home = Backbone("folded", base.model, words, "causal", base.architecture)
    index = words.convert_tokens_to_ids("<think>")
    for text in ("a <THINK>", "a \uff1cthink\uff1e"):
        assert index in words(text)["input_ids"]
        assert index not in home.encode(Template.parse("{text} it was {mask}"), {"text": text}, 64).ids


def test_a_mark_of_a_tokenizer_that_sees_no_blanks_is_no_mark_either():
    words = tiny.tokenizer("causal")
    words.backend_tokenizer.normalizer = normalizers.Replace(" ", "")
    words.add_tokens([AddedToken("<think>", normalized=True)])
    base = tiny.backbone("gpt2")
    base.model.resize_token_embeddings(len(words))
    home = Backbone("joined", base.model, words, "causal", base.architecture)
    encoded = home.encode(Template.parse("{text} {mask}"), {"text": "a<think>"}, 64)
    assert words.convert_tokens_to_ids("<think>") not in encoded.ids


def test_a_mark_half_of_which_stands_in_the_template_is_no_mark():
    home = with_added("causal", AddedToken("<think>"))
    encoded = home.encode(Template.parse("<{text}> it was {mask}"), {"text": "think"}, 64)
    assert home.tokenizer.convert_tokens_to_ids("<think>") not in encoded.ids


def test_added_words_blanks_and_unknown_words_stay_what_they_are():
    home = with_added("causal", AddedToken("covid"), AddedToken("\n\n"), AddedToken("  "))
    ids = home.tokenizer.convert_tokens_to_ids(["covid", "\n\n", "[UNK]"])
    encoded = home.encode(Template.parse("{text} it was {mask}"), {"text": "covid\n\nzzz"}, 64)
    assert list(encoded.ids[:3]) == ids


def test_tokens_that_the_model_does_not_know_are_named():
    base = backbone("gpt2")
    words = tiny.tokenizer("causal")
    words.add_tokens(["covid"])
    home = Backbone("beyond", base.model, words, "causal", base.architecture)
    home.encode(Template.parse("{text} it was {mask}"), {"text": "a film"}, 64)
    with pytest.raises(ModelError, match=r"makes token 52 \('covid'\).*knows 52 tokens"):
        home.encode(Template.parse("{text} it was {mask}"), {"text": "covid"}, 64)
    verbalizer = resolve(words, Template.parse("{text} it was {mask}"), {"bad": ["covid"], "good": ["great"]})
    with pytest.raises(ModelError, match="token 52"):
        home.stack(verbalizer)


# where the answer stands


@pytest.mark.parametrize("named", [True, False])
def test_any_mark_that_the_tokenizer_appends_is_stripped_for_causal(named):
    home = with_special_ends("causal", "[CLS] $A [SEP]")
    if not named:
        home.tokenizer.eos_token = home.tokenizer.sep_token = None
    encoded = home.encode(Template.parse(CAUSAL_SINGLE), {"text": "a movie"}, 64)
    assert words_of(home, encoded) == ["[CLS]", "a", "review", ":", "a", "movie", "it", "was"]
    two = with_special_ends("causal", "$A [SEP] [CLS]").encode(Template.parse(CAUSAL_SINGLE), {"text": "a movie"}, 64)
    assert len(two.ids) == 7


def writes_first(home, token):
    """The decoder writes one token first, whatever it has read."""
    bias = torch.zeros(1, home.model.config.vocab_size)
    bias[0, token] = 1e4
    home.model.final_logits_bias = bias


def test_what_a_decoder_has_written_before_its_answer():
    def bart(single="[CLS] $A [SEP]"):
        made = with_special_ends("seq2seq", single)
        return Backbone("bart", tiny.model("bart"), made.tokenizer, "seq2seq", backbone("bart").architecture)

    forced = bart()
    forced.model.generation_config.forced_bos_token_id = 9
    assert forced.prefix == (3, 9)
    wrote = bart()
    writes_first(wrote, 2)
    assert wrote.prefix == (3, 2), "the mark that the tokenizer puts before a target, too"
    assert wrote.encode(Template.parse("{text} it was {mask}"), {"text": "a"}, 64).answer == 1
    never = bart()
    writes_first(never, 20)
    assert never.prefix == (3,)
    plain = bart("$A [SEP]")
    writes_first(plain, 2)
    assert plain.prefix == (3,), "that tokenizer has no such mark"


def test_a_decoder_that_does_not_say_what_it_begins_with_is_refused():
    home = Backbone("odd", tiny.model("bart"), tiny.tokenizer("causal"), "seq2seq", backbone("bart").architecture)
    home.model.config.decoder_start_token_id = home.model.generation_config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        _ = home.prefix


def checked(home, forced=None):
    if forced is not None:
        home.model.generation_config.forced_bos_token_id = forced
    template = Template.parse("{text} it was {mask}")
    stack = home.stack(resolve(home.tokenizer, template, {"bad": ["terrible"], "good": ["great"]}))
    home.check_reading(stack, home.encode(template, {"text": "a film"}, 64))
    return home, stack, template


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_scores_are_those_of_the_models_own_answer(name):
    home, stack, template = checked(tiny.backbone(name), 9 if name == "bart" else None)
    read = home.encode(template, {"text": "a film"}, 64)
    if name not in tiny.MASKED and name != "t5":  # whose decoder is given one mark only
        elsewhere = torch.tensor([read.answer - 1])
        stack.logits = lambda ids, answer: LayerStack.logits(stack, ids, elsewhere)
        with pytest.raises(ModelError, match="wrong place"):
            home.check_reading(stack, read)


def test_a_model_that_looks_ahead_is_no_causal_one():
    model = transformers.BertLMHeadModel(transformers.BertConfig(**tiny.COMMON)).eval()
    home = Backbone("ahead", model, tiny.tokenizer("causal"), "causal", architectures.find(model))
    with pytest.raises(ModelError, match="from left to right"):
        checked(home)


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_a_long_text_loses_the_part_that_is_wanted(name):
    """The template stays whole, and what is left of the text is its beginning, its end, or both."""
    home = tiny.backbone(name)
    template = Template.parse("{text} . it was {mask}")
    words = [tiny.WORDS[i % 40] for i in range(60)]
    for limit in (12, 13, 20):
        for truncate in ("end", "start", "middle"):
            ids = home.encode(template, {"text": " ".join(words)}, limit, truncate).ids
            assert len(ids) <= limit
            shown = [w for w in home.tokenizer.convert_ids_to_tokens(list(ids)) if not w.startswith("[")]
            assert shown[-3:] == [".", "it", "was"]
            kept = shown[:-3]
            count = len(kept)
            head = count if truncate == "end" else 0 if truncate == "start" else count // 2
            assert count >= limit - 6
            assert kept[:head] == words[:head] and kept[head:] == words[60 - (count - head) :], (truncate, kept)
