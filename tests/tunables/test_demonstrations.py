"""Solved examples in front of a prompt: the right tokens in the right places, and only as many as fit."""

from __future__ import annotations

import functools
import itertools
import json

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

import oracle
import tiny
from tandemtune.errors import DataError, RunError
from tandemtune.evaluators.batch import collate
from tandemtune.evaluators.engine import Engine
from tandemtune.models.backbone import Backbone
from tandemtune.tasks.base import Task
from tandemtune.tasks.templates import Template
from tandemtune.tasks.verbalizers import resolve
from tandemtune.tunables.demonstrations import FILE, Demonstration, Demonstrations, demonstrate, separator
from tandemtune.types import Encoded, Example

NAMES = ("bert", "roberta", "gpt2", "llama", "t5", "bart")
TEXTS = ["a great movie", "the plot was dull and the acting terrible", "a review", "they saw news"]
ROWS = [
    Example({"text": "we loved this film"}, "good"),
    Example({"text": "a very fine plot"}, "good"),
    Example({"text": "they hated it"}, "bad"),
    Example({"text": "i never saw so dull a movie"}, "bad"),
]
LIMIT, CONTEXT = 20, 64
TEMPLATE = "{text} it was {mask} ."


def make_task(template=TEMPLATE, words=None):
    words = words or {"bad": ("terrible",), "good": ("great", "fine")}
    return Task("films", Template.parse(template), tuple(words), words, "accuracy", train_source="")


@functools.cache
def backbone(name):
    return tiny.backbone(name)


def solve(home, task=None, rows=ROWS, limit=LIMIT, most=9, context=CONTEXT, seed=0):
    task = task or make_task()
    verbalizer = resolve(home.tokenizer, task.template, task.words)
    return demonstrate(home, task, verbalizer, rows, limit, most, context=context, seed=seed)


def by_hand(home, text):
    """Token ids of words, cut at blanks and looked up one by one."""
    return tuple(home.tokenizer.convert_tokens_to_ids(text.split()))


def filled(home, row):
    """A solved example as a person would write it: behind the text only a masked model reads on."""
    word = {"good": "great", "bad": "terrible"}[row.label]
    return by_hand(home, f"{row.fields['text']} it was {word}" + (" ." if home.kind == "masked" else ""))


def asked(home, text):
    """The words in front of the special tokens, those of the prompt, and those behind."""
    if home.kind == "masked":
        return (2,), by_hand(home, f"{text} it was [MASK] ."), (3,)
    return (), by_hand(home, f"{text} it was"), ()


# what is shown


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_the_template_with_the_word_in_its_place(name):
    home = backbone(name)
    found = solve(home)
    assert {shown.fields["text"]: shown.ids for shown in found} == {
        row.fields["text"]: filled(home, row) for row in ROWS
    }
    assert [shown.label for shown in found] in (["good", "bad"] * 2, ["bad", "good"] * 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_behind_its_demonstrations(name):
    """Token by token, special tokens once, and the answer where it was."""
    home = backbone(name)
    shown = solve(home, most=3)
    tunable = Demonstrations(home, shown)
    plain = home.encode(Template.parse(TEMPLATE), {"text": TEXTS[0]}, LIMIT)
    prompt = tunable.reserve(plain)
    begin, own, end = asked(home, TEXTS[0])
    rows = {row.fields["text"]: row for row in ROWS}
    expected = sum((filled(home, rows[s.fields["text"]]) for s in shown), ())
    assert prompt.ids == begin + expected + own + end
    assert len(shown) == 3 and tunable.describe()["tokens"] == len(expected)
    if home.kind == "seq2seq":
        assert prompt.answer == 0, "the answer is the decoder's"
    else:
        assert prompt.answer == plain.answer + len(expected)
        assert prompt.ids[prompt.answer] == plain.ids[plain.answer]
    assert tunable.reserve(Encoded((0,), 0)).answer == (0 if begin or home.kind == "seq2seq" else len(expected))


@pytest.mark.parametrize("name", NAMES)
def test_the_engine_reads_the_answer_at_its_place(name):
    """Label logits are those of the model's own pass over tokens laid down by hand."""
    home, task = backbone(name), make_task()
    verbalizer = resolve(home.tokenizer, task.template, task.words)
    shown = solve(home, most=2)
    tunable = Demonstrations(home, shown)
    engine = Engine(home.stack(verbalizer), tunable, torch.tensor(verbalizer.weights()))
    prompts = [tunable.reserve(home.encode(task.template, {"text": text}, LIMIT)) for text in TEXTS]
    measured = engine.logits(collate(prompts, [0] * len(TEXTS), torch.device("cpu")), tunable.initial())
    front = sum((shown_one.ids for shown_one in shown), ())
    bad, great, fine = by_hand(home, "terrible great fine")
    for text, row in zip(TEXTS, measured, strict=True):
        begin, own, end = asked(home, text)
        ids = begin + front + own + end
        place = {"masked": ids.index(4) if 4 in ids else -1, "causal": len(ids) - 1, "seq2seq": 0}[home.kind]
        with torch.no_grad():
            whole = oracle.all_logits(home.model, torch.tensor([ids]))[0, place]
        assert_close(row, torch.stack([whole[bad], (whole[great] + whole[fine]) / 2]), atol=1e-5, rtol=1e-5)
    bare = collate([home.encode(task.template, {"text": t}, LIMIT) for t in TEXTS], [0] * 4, torch.device("cpu"))
    assert (engine.logits(bare, {}) - measured).abs().max() > 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_no_demonstrations_leave_the_prompt_itself(name):
    home = backbone(name)
    plain = home.encode(Template.parse(TEMPLATE), {"text": TEXTS[0]}, LIMIT)
    for shown in (solve(home, most=0), solve(home, rows=[])):
        tunable = Demonstrations(home, shown)
        assert tunable.reserve(plain) == plain
        assert tunable.describe()["demonstrations"] == tunable.describe()["tokens"] == 0


def test_nothing_is_tuned():
    home = backbone("bert")
    tunable = Demonstrations(home, solve(home))
    assert tunable.blocks == () and tunable.initial() == {}
    told = tunable.describe()
    assert (told["layers"], told["parameters"], told["demonstrations"]) == ([], 0, 4)
    json.dumps(told)
    assert tunable.same_below(2, {}, {})
    before = oracle.traces(home.model)
    with tunable.applied({}):
        assert oracle.traces(home.model) == before


# how many, and in which order


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("context", [20, 26, 30, 36, 40, 200])
def test_only_as_many_as_leave_room(name, context):
    home = backbone(name)
    found, all_of_them = solve(home, context=context), solve(home, context=1000, limit=LIMIT)
    most = min(context, home.longest)
    count = 0
    while count < 4 and sum(len(shown.ids) for shown in all_of_them[: count + 1]) + LIMIT <= most:
        count += 1
    assert found == all_of_them[:count]
    longest = home.encode(Template.parse(TEMPLATE), {"text": "very " * 99}, LIMIT)
    assert len(longest.ids) == LIMIT
    assert len(Demonstrations(home, found).reserve(longest).ids) <= max(most, LIMIT)


def test_the_models_own_bound_holds_too():
    rows = [Example({"text": f"{'very ' * 6}{word}"}, label) for label in ("good", "bad") for word in ("dull", "fine")]
    home = backbone("gpt2")
    assert home.longest == 64
    assert len(solve(home, rows=rows, limit=40, context=10_000)) == 2  # 24 tokens are left, one takes 10
    assert solve(home, rows=rows, limit=64, context=10_000) == solve(home, rows=rows, limit=10_000) == []


def test_a_long_text_loses_its_end_and_the_template_nothing():
    rows = [Example({"text": "so very very very dull and bad"}, "bad")]
    for name, limit, words in (("bert", 8, "so very it was terrible ."), ("t5", 5, "so very very it was terrible")):
        home = backbone(name)
        assert [shown.ids for shown in solve(home, rows=rows, limit=limit)] == [by_hand(home, words)]
        assert solve(home, rows=rows, limit=limit)[0].fields == rows[0].fields


def test_the_seed_draws_rows_in_turn():
    home = backbone("t5")
    rows = [
        Example({"text": f"{a} {b}"}, label) for label, a in (("good", "fine"), ("bad", "dull")) for b in tiny.WORDS
    ]
    found = [solve(home, rows=rows, most=7, context=1000, seed=seed) for seed in range(6)]
    assert found == [solve(home, rows=rows, most=7, context=1000, seed=seed) for seed in range(6)]
    for shown in found:
        labels = [one.label for one in shown]
        assert all(a != b for a, b in itertools.pairwise(labels)) and len(set(labels)) == 2
        assert len({one.fields["text"] for one in shown}) == 7
        assert all(one.fields["text"].startswith({"good": "fine", "bad": "dull"}[one.label]) for one in shown)
    assert len({tuple(one.fields["text"] for one in shown) for shown in found}) == 6
    assert {shown[0].label for shown in found} == {"good", "bad"}


def test_a_row_without_a_known_label_is_refused():
    with pytest.raises(DataError, match="label None"):
        solve(backbone("t5"), rows=[Example({"text": "a film"})])


# tokenizers


def lines(begin=False, end=False):
    """A byte-level tokenizer that knows line breaks and writes words of several pieces; its texts may begin and end with marks."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("Ġ", "g")]
    tokens = ["<s>", "</s>", *letters, *("".join(pair) for pair in merges)]
    inner = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    form = "<s> " * begin + "$A" + " </s>" * end
    inner.post_processor = processors.TemplateProcessing(single=form, special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(
    ("name", "begin", "end"),
    [("gpt2", False, False), ("gpt2", True, False), ("gpt2", True, True), ("t5", False, True), ("bart", True, True)],
)
def test_lines_whole_words_and_marks_only_around_everything(name, begin, end):
    """With a tokenizer that has line breaks, the prompt is the text that one would write."""
    tokenizer, base = lines(begin, end), tiny.backbone(name)
    base.model.resize_token_embeddings(len(tokenizer))
    home = Backbone("bytes", base.model, tokenizer, base.kind, base.architecture)
    task = make_task("{text}\nIt was {mask}", {"bad": ("awful",), "good": ("great",)})
    rows = [Example({"text": "ab"}, "good")]
    tunable = Demonstrations(home, solve(home, task, rows, limit=30, context=1000))
    assert tunable.describe()["demonstrations"] == 1
    prompt = tunable.reserve(home.encode(task.template, {"text": "cd"}, 30))
    text = "ab\nIt was great\ncd\nIt was"
    stop = [1] if base.kind == "seq2seq" else []
    assert list(prompt.ids) == [0] * begin + tokenizer(text, add_special_tokens=False)["input_ids"] + stop
    assert prompt.answer == (len(home.prefix) - 1 if base.kind == "seq2seq" else len(prompt.ids) - 1)


def test_what_stands_between():
    assert separator(tiny.tokenizer("causal")) == separator(tiny.tokenizer("masked")) == ()
    found = separator(lines())
    assert len(found) == 1 and lines().decode(list(found)) == "\n"
    words = Tokenizer(models.WordLevel({"<unk>": 0, " ": 1, "a": 2}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    assert separator(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")) == (1, 1)


# files


@pytest.mark.parametrize("name", ["bert", "gpt2", "t5"])
def test_a_folder_is_enough(name, tmp_path):
    home = backbone(name)
    tunable = Demonstrations(home, solve(home))
    tunable.save({}, tmp_path / "new" / "adapter", "base")
    assert tunable.load(tmp_path / "new" / "adapter") == {}
    read = Demonstrations.read(home, tmp_path / "new" / "adapter")
    plain = home.encode(Template.parse(TEMPLATE), {"text": TEXTS[1]}, LIMIT)
    assert read.reserve(plain) == tunable.reserve(plain) != plain
    assert read.demonstrations == tunable.demonstrations
    read.save({}, tmp_path / "again", "base")
    assert (tmp_path / "again" / FILE).read_bytes() == (tmp_path / "new" / "adapter" / FILE).read_bytes()
    content = json.loads((tmp_path / "again" / FILE).read_text(encoding="utf-8"))
    assert sorted((row["fields"]["text"], row["label"]) for row in content["demonstrations"]) == sorted(
        (row.fields["text"], row.label) for row in ROWS
    )


def test_other_demonstrations_are_refused(tmp_path):
    home = backbone("bert")
    shown = solve(home)
    Demonstrations(home, shown).save({}, tmp_path, "base")
    with pytest.raises(RunError, match="expected 3, found 4"):
        Demonstrations(home, shown[:3]).load(tmp_path)
    with pytest.raises(RunError, match="number 1 is another example"):
        Demonstrations(home, shown[::-1]).load(tmp_path)
    changed = [*shown[:3], Demonstration(shown[3].ids[1:], shown[3].fields, shown[3].label)]
    with pytest.raises(RunError, match="number 4 is another example"):
        Demonstrations(home, changed).load(tmp_path)
    with pytest.raises(RunError, match="another model"):
        Demonstrations(backbone("gpt2"), solve(backbone("gpt2"))).load(tmp_path)
    with pytest.raises(RunError, match="another model"):
        Demonstrations.read(backbone("gpt2"), tmp_path)
    content = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    content["demonstrations"][0]["ids"][0] = 10_000
    (tmp_path / FILE).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RunError, match="another model"):
        Demonstrations.read(home, tmp_path)


@pytest.mark.parametrize("content", [None, "", "{}", "[]", '{"place": 1, "separator": [], "demonstrations": [{}]}'])
def test_what_cannot_be_read(content, tmp_path):
    home = backbone("bert")
    if content is not None:
        (tmp_path / FILE).write_text(content, encoding="utf-8")
    for read in (Demonstrations(home, []).load, lambda folder: Demonstrations.read(home, folder)):
        with pytest.raises(RunError, match=r"demonstrations\.json cannot be read"):
            read(tmp_path)


@pytest.mark.parametrize(("truncate", "seen"), [("end", "i never"), ("start", "a movie"), ("middle", "i movie")])
def test_long_demonstrations_lose_the_part_that_the_recipe_names(truncate, seen):
    home, task = backbone("gpt2"), make_task()
    verbalizer = resolve(home.tokenizer, task.template, task.words)
    limit = len(by_hand(home, "it was")) + 2
    (shown,) = demonstrate(home, task, verbalizer, ROWS[3:], limit, 1, context=CONTEXT, truncate=truncate)
    assert shown.ids == by_hand(home, f"{seen} it was terrible")
