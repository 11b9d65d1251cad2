"""Rewards, by values that can be worked out by hand or that the library of a paper gives."""

from __future__ import annotations

import math

import pytest

from tandemtune.errors import UsageError
from tandemtune.rewards.base import Written, get
from tandemtune.rewards.words import last_number
from tandemtune.tasks.texts import check_schema

NAMES = ("exact_match", "contains", "token_f1", "number", "bleu", "chrf", "rouge_l", "json_fields")


def written(*rows, **settings):
    """Texts with their references: (completion, reference, ...)."""
    return Written(["" for _ in rows], [row[0] for row in rows], [list(row[1:]) for row in rows], {}, settings)


def each(name, *rows, **settings):
    return get(name).each(written(*rows, **settings))


def test_words_are_compared_without_case_articles_and_punctuation():
    assert each("exact_match", ("The film!", "film"), ("a film", "plot", "Film."), ("film plot", "film")) == [1, 1, 0]
    assert each("contains", ("it was a great film.", "great film"), ("greatest film", "great film")) == [1, 0]
    found = each("token_f1", ("great film", "a great plot"), ("great great", "great"), ("", "film"), ("the", "a"))
    assert found == pytest.approx([1 / 2, 2 / 3, 0, 0])


def test_curly_quotes_are_punctuation_like_straight_ones():
    rows = [("\u201cParis\u201d", "Paris"), ("it\u2019s", "it's"), ("\u2018Paris\u2019", '"Paris"')]
    for name in ("exact_match", "contains", "token_f1"):
        assert each(name, *rows) == [1, 1, 1]


@pytest.mark.parametrize("reference", ["A", "the", "+", "!"])
def test_what_nothing_else_is_left_of_is_compared_as_it_is(reference):
    """Letters to choose from, operators and marks are answers, too."""
    said = f"The answer is {reference}" if reference != "the" else "Its answer is the"
    other = {"A": "the", "the": "a", "+": "-", "!": "?"}[reference]
    rows = [(text, reference) for text in (reference.lower(), said, "", other)]
    assert each("exact_match", *rows) == [1, 0, 0, 0]
    assert each("contains", *rows) == [1, 1, 0, 0]
    assert each("token_f1", *rows) == pytest.approx([1, 2 / 5, 0, 0])


def test_signs_of_languages_without_blanks_are_words():
    """As `rouge_l` has them."""
    weather, today, very = "\u5929\u6c14", "\u4eca\u5929", "\u5f88"
    rows = [
        (today + weather, today + very),
        (f"{today}\u3002", today),
        (f"{very}{weather}", weather),
        ("film", weather),
    ]
    assert each("token_f1", *rows) == pytest.approx([2 * 2 / (4 + 3), 1, 2 * 2 / (3 + 2), 0])
    assert each("exact_match", *rows) == [0, 1, 0, 0]
    assert each("contains", *rows) == [0, 1, 1, 0]
    kana = "\u30c6\u30ec\u30d3"
    assert each("token_f1", (f"the {kana} 3", f"{kana} 3!"), (kana, "\u043c\u0438\u0440")) == [1, 0]


def test_the_last_number_counts():
    rows = [("so 3 + 4 = 7", "7.0"), ("it is 1,200.", "1200"), ("7 or 8", "7"), ("none", "7"), ("-2", "2")]
    assert each("number", *rows) == [1, 1, 0, 0, 0]
    read = {"pages 3-4": 4, "10-7": 7, "2024-05-06": 6, "1e5": 100_000, "1.5e-3 m": 0.0015, "of .5": 0.5}
    read |= {"x=-7": -7, "(\u22122)": -2, "-.5": -0.5, "No.5": 5, "v1.2.3": 3, "3 - 4": 4, "1e999": math.inf}
    assert {text: last_number(text) for text in read} == read
    read = {
        "between 1,2": 2,
        "1,000,000": 1e6,
        "12,345.5": 12345.5,
        "-1,200": -1200,
        "on 3,4 and 5,6": 6,
        "1,2345": 2345,
    }
    read |= {"1234,567": 567, "1,5": 5, "{1,2,3}": 3, "1,000,2": 2, "1,000,": 1000, "7,": 7, "(1,2]": 2, "1,-2": -2}
    assert {text: last_number(text) for text in read} == read
    assert each("number", ("between 1,2", "12"), ("$1,000.50", "1000.5")) == [0, 1]
    assert each("number", ("1e999", "1e999"), ("5", "1e999")) == [1, 0]


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_rows_with_several_references_do_not_change_what_others_are_compared_with(name):
    pytest.importorskip("sacrebleu")
    short, long = "the cat sat on", "the cat sat on the mat and then it slept"
    alone = get(name).score(written((short, long), (short, long)))
    beside = get(name).score(written((short, long), (short, long, long)))
    assert beside == pytest.approx(alone, abs=1e-12) and alone < 0.5


def test_bleu_of_short_texts_has_its_brevity_penalty():
    pytest.importorskip("sacrebleu")
    rows = [("the cat sat on", "the cat sat on the mat now"), ("a b c d", "a b c d e f g", "a b c d")]
    assert get("bleu").score(written(*rows)) == pytest.approx(math.exp(1 - 11 / 8))


def test_rouge_takes_the_nearest_reference():
    pytest.importorskip("rouge_score")
    assert each("rouge_l", ("a b c", "x y", "a c d e")) == pytest.approx([2 * 2 / (3 + 4)])


def test_rouge_reads_words_of_any_script():
    pytest.importorskip("rouge_score")
    rows = [
        (
            "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
            "\u043f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
        ),
        ("\u4eca\u5929\u5929\u6c14", "\u4eca\u5929\u5f88"),
        ("\u043c\u0438\u0440", "the film"),
    ]
    assert each("rouge_l", *rows) == pytest.approx([1, 2 * 2 / (4 + 3), 0])
    from rouge_score.rouge_scorer import RougeScorer

    one, other = "It\u2019s a so_called \u2013 \u201cfilm\u201d!", "It's \u2013 so called film_a"
    plain = RougeScorer(["rougeL"]).score(other, one)["rougeL"].fmeasure
    assert each("rouge_l", (one, other)) == [plain]


def test_marks_of_letters_are_part_of_their_words():
    """Vowel signs of Hindi, points of Hebrew, accents that are signs of their own."""
    pytest.importorskip("rouge_score")
    said, true = (
        "\u0926\u093f\u0932 \u0915\u0940 \u092c\u093e\u0924",
        "\u0926\u093e\u0932 \u0915\u093e \u092c\u0948\u0924",
    )
    pointed, bare = "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd", "\u05e9\u05dc\u05d5\u05dd"
    rows = [(said, true), (said, said), (f"{said} {pointed}", f"{said} {bare}"), ("a cafe\u0301", "one caf\u00e9")]
    assert each("rouge_l", *rows) == pytest.approx([0, 1, 3 / 4, 1 / 2])
    assert each("exact_match", ("cafe\u0301", "caf\u00e9"), (said, true)) == [1, 0]


def test_json_is_read_whole_and_nothing_else_is():
    pytest.importorskip("jsonschema")
    schema = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    rows = [
        '{"n": 1}',
        '```json\n{"n": 1}\n```',
        '{"n": "1"}',
        '{"n": 1',
        'so {"n": 1}',
        '{"n": NaN}',
        '{"n": Infinity}',
    ]
    assert each("json_schema", *((row, "") for row in rows), answer_schema=schema) == [1, 1, 0, 0, 0, 0, 0]
    null = {"type": ["object", "null"]}
    assert each("json_schema", ("null", ""), ("none", ""), ("", ""), answer_schema=null) == [1, 0, 0]
    found = each("json_fields", ('{"a": " X ", "b": 2}', '{"a": "x", "b": 3, "c": [1]}'), ("[]", "{}"), ("{}", "{}"))
    assert found == pytest.approx([2 / 5, 0, 1])


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("1", "1.0", True),
        ("[1, 2.0]", "[1.0, 2]", True),
        ('["x", "Y"]', '["X", " y "]', True),
        ('{"k": ["A"], "n": 3}', '{"n": 3.0, "k": ["a"]}', True),
        ('"1"', "1.0", True),
        ('["1"]', "[1.0]", True),
        ("-0.0", "0", True),
        ("1e22", "10000000000000000000000", True),
        ("1.5", "1", False),
        ("true", "1", False),
        ("[true]", "[1.0]", False),
        ('["x", "y"]', '["y", "x"]', False),
        ('{"K": 1}', '{"k": 1}', False),
        ("1e999", "1", False),
        ("[" * 900 + "]" * 900, "1", False),
    ],
)
def test_values_are_compared_alike_wherever_they_stand(one, other, alike):
    for pair in ((one, other), (other, one)):
        said, true = (f'{{"a": {value}}}' for value in pair)
        assert each("json_fields", (said, true)) == [float(alike)]


@pytest.mark.parametrize("fence", ["```json", "```JSON", "```Json", "```"])
def test_a_fence_is_read_in_any_letters(fence):
    assert each("json_fields", (f'{fence}\n{{"a": 1}}\n```', '{"a": 1}')) == [1]


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("date", "2024-02-29", "2023-02-29"),
        ("email", "a@b.org", "nobody"),
        ("ipv4", "127.0.0.1", "127.0.0.256"),
        ("ipv6", "::1", ":::1"),
        ("uuid", "a2bd05ba-8c8f-4d48-9b6f-0f7b2a1c3d4e", "a2bd05ba"),
        ("regex", "a+", "a{99999999999}"),
        ("regex", "(a)", "(" * 3000),
        ("a format of nobody's", "a", None),
    ],
)
def test_formats_of_a_schema_are_checked(name, right, wrong):
    pytest.importorskip("jsonschema")
    schema = {"type": "object", "properties": {"a": {"format": name}}}
    rows = [(f'{{"a": "{one}"}}', "") for one in (right, wrong) if one is not None]
    assert check_schema(schema) == ""
    assert each("json_schema", *rows, answer_schema=schema) == [1.0, 0.0][: len(rows)]


def test_what_no_schema_can_check_does_not_keep_to_it():
    pytest.importorskip("jsonschema")
    half, tree = {"multipleOf": 0.5}, {"type": "array", "items": {"$ref": "#"}}
    assert each("json_schema", ("1e999", ""), ("1.5", ""), answer_schema=half) == [0, 1]
    assert each("json_schema", ("[" * 300 + "]" * 300, ""), ("[[]]", ""), answer_schema=tree) == [0, 1]


DRAFT4 = {
    "$schema": "http://json-schema.org/draft-04/schema#",
    "type": "object",
    "properties": {"n": {"$ref": "#/definitions/positive"}},
    "definitions": {"positive": {"type": "number", "minimum": 0, "exclusiveMinimum": True}},
}


def test_a_schema_is_read_as_the_draft_that_it_names():
    pytest.importorskip("jsonschema")
    assert check_schema(DRAFT4) == ""
    assert each("json_schema", ('{"n": 1}', ""), ('{"n": 0}', ""), answer_schema=DRAFT4) == [1, 0]
    without = {key: value for key, value in DRAFT4.items() if key != "$schema"}
    assert "True is not of type 'number'" in check_schema(without)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "$ref '#/$defs/b' leads to nothing in the schema"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#b"}}}, "$ref '#b' leads to nothing in the schema"),
        ({"$ref": "#/own/a", "own": {"a": {"items": {"$ref": "#/own/b"}}}}, "$ref '#/own/b' leads to nothing"),
        (
            {"properties": {"a": {"$ref": "https://example.org/b.json"}}},
            "nothing is fetched: put what lies there under",
        ),
        ({"$ref": "b.json#/a"}, "leads out of the schema"),
        ({"$ref": "#/own/a", "own": {"a": {"type": "text"}}}, "'text' is not valid under any of the given schemas"),
        ({"$ref": "#"}, "leads to itself without end"),
    ],
    ids=str,
)
def test_a_schema_that_cannot_be_used_is_told_before(schema, says):
    pytest.importorskip("jsonschema")
    assert says in check_schema(schema)


def test_references_inside_a_schema_are_followed():
    pytest.importorskip("jsonschema")
    tree = {"type": "object", "properties": {"in": {"$ref": "#"}, "$ref": {"const": {"$ref": "#/no"}}}}
    meta = {"$ref": "https://json-schema.org/draft/2020-12/schema"}
    assert [check_schema(one) for one in (tree, meta)] == ["", ""]
    assert each("json_schema", ('{"in": {"in": 1}}', ""), ('{"in": {}}', ""), answer_schema=tree) == [0, 1]
    assert each("json_schema", ('{"type": "x"}', ""), ('{"type": "object"}', ""), answer_schema=meta) == [0, 1]


@pytest.mark.parametrize("name", NAMES)
def test_they_stay_within_their_bounds(name):
    for package in ("sacrebleu", "rouge_score"):
        pytest.importorskip(package)
    reward = get(name)
    rows = [("", "x"), ("the cat sat on the mat", "the cat sat on the mat", "no"), ('{"a": 1}', '{"a": 1}'), ("3", "")]
    for some in (rows, rows[1:2]):
        values = [*reward.each(written(*some)), reward.score(written(*some))]
        assert all(reward.lower <= value <= reward.upper for value in values)
    assert reward.each(written(rows[1])) == [1.0] or name in ("number", "json_fields")
    with pytest.raises(UsageError, match="no rows to score"):
        reward.score(written())
