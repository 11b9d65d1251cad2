"""Whole tables: what was written is read back, however programs write it."""

from __future__ import annotations

import csv
import io
import json
import math
import sys

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tandemtune.errors import DataError
from tandemtune.tasks.files import read_examples, texts_of
from tandemtune.tasks.table import Table, read_table, write_table
from tandemtune.types import Example

LABELS = ("negative", "positive")
FRENCH = [
    "Le café était très mauvais",
    "Une soirée réussie, à refaire dès l'été",
    "Où est l'élève ? Ça va",
    "naïf, déçu",
]
POLISH = ["Zażółć gęślą jaźń, bardzo źle", "Świetna książka, polecam każdemu", "Nie działa, oddałem pieniądze"]
RUSSIAN = ["Очень плохой фильм, жаль времени", "Отличная книга, советую всем", "Не работает, вернул деньги"]
GREEK = ["Πολύ κακή ταινία, χάσιμο χρόνου", "Εξαιρετικό βιβλίο, το συνιστώ"]
CHINESE = ["这部电影很差，浪费时间", "很好的书，推荐给大家", "不能用，退款"]
JAPANESE = ["とても悪い映画でした", "素晴らしい本、おすすめです", "壊れていました"]
ENGLISH = ["It\u2019s \u201cgreat\u201d \u2013 really", "the price was £20", "plain"]

quick = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
marks = st.sampled_from([*",;\t|\"'\n\r\\ =é\u0301\u2028字", '""', '"x"', ", ", '\\"', "\r\n", "\r\r\n", "sep=;"])
cells = st.one_of(st.text(characters, max_size=6), st.lists(marks, max_size=5).map("".join), st.just(""))
names = st.one_of(
    st.text(characters, min_size=1, max_size=6), st.lists(marks, min_size=1, max_size=3).map("".join)
).map(str.strip)


@st.composite
def tables(draw, cells=cells, least=0):
    columns = draw(st.lists(names.filter(bool), min_size=1, max_size=4, unique=True))
    rows = draw(st.lists(st.tuples(*[cells] * len(columns)), min_size=least, max_size=5))
    return Table.of([dict(zip(columns, row, strict=True)) for row in rows]) if rows else None


def same(one: Table, other: Table) -> bool:
    return one.columns == other.columns and [*map(dict, one.rows)] == [*map(dict, other.rows)]


def texts(path, **options):
    found = read_examples(path, fields=("text",), label="label", labels=LABELS, **options)
    return [(row.fields["text"], row.label) for row in found]


def rows_of(sentences, count=40):
    return [(f"{sentences[i % len(sentences)]} {i}", LABELS[i % 2]) for i in range(count)]


def as_csv(rows, separator=",", newline="\n", header=("text", "label"), **more):
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator, lineterminator=newline, **more).writerows([header, *rows])
    return buffer.getvalue()


# --- written and read back ------------------------------------------------------------------------------


@quick
@given(table=tables(least=1), suffix=st.sampled_from([".csv", ".tsv"]))
def test_text_tables_are_read_back(tmp_path, table, suffix):
    path = tmp_path / f"a{suffix}"
    write_table(path, table)
    assert same(read_table(path), table)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**53), 2**53), st.floats(allow_nan=False), cells),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(names, inner, max_size=2)),
    max_leaves=4,
)


@quick
@given(table=tables(json_values, least=1), suffix=st.sampled_from([".jsonl", ".json", ".ndjson"]))
def test_json_is_read_back_with_its_types(tmp_path, table, suffix):
    path = tmp_path / f"a{suffix}"
    write_table(path, table)
    assert same(read_table(path), table)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(table=tables(st.one_of(st.none(), cells), least=1))
def test_parquet_is_read_back(tmp_path, table):
    pytest.importorskip("pyarrow")
    write_table(tmp_path / "a.parquet", table)
    assert same(read_table(tmp_path / "a.parquet"), table)


@quick
@given(
    rows=st.lists(st.tuples(cells, st.sampled_from(LABELS)), min_size=2, max_size=6),
    separator=st.sampled_from(",;\t|"),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]),
    told=st.booleans(),
    suffix=st.sampled_from([".csv", ".tsv"]),
)
def test_every_dialect_of_csv_is_read(tmp_path, rows, separator, newline, encoding, told, suffix):
    content = as_csv(rows, separator, newline, quoting=csv.QUOTE_ALL)
    if told:
        content = f"sep={separator}{newline}{content}"
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content.encode(encoding))
    table = read_table(path)
    assert table.columns == ("text", "label")
    assert [(row["text"], row["label"]) for row in table.rows] == rows


@pytest.mark.parametrize("separator", list(",;\t|"))
@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_quotes_only_where_they_are_needed(tmp_path, separator, suffix):
    rows = [
        ("a, b; c | d", "positive"),
        ('said "hi"', "negative"),
        ("two\nlines", "negative"),
        ("tab\tbed", "positive"),
    ]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(as_csv(rows, separator).encode())
    assert texts(path) == rows


@pytest.mark.parametrize(
    "content",
    [
        'text, label\n"a, b", "positive"\nplain, negative\n',
        'text,label\n"a, b", "positive"\nplain, negative\n',
        'text,label\n"a, b", positive\nplain, negative\n',
        "text ; label\na, b;positive\nplain; negative\n",
        "sep=;\ntext;label\na, b;positive\nplain;negative\n",
        "SEP=;;\r\ntext;label\r\na, b;positive\r\nplain;negative\r\n",
        '\n\ntext,label\r\r\n"a, b",positive\r\r\nplain,negative\r\r\n\r\r\n',
        'text,label,,\n"a, b",positive,,\nplain,negative,,\n,,,\n,,,\n',
        'text,label\n\n"a, b",positive\n,\nplain,negative\n\n\n',
        "text\tlabel\ra, b\tpositive\rplain\tnegative\r",
    ],
)
def test_files_of_spreadsheets_and_hands(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())
    assert texts(path) == [("a, b", "positive"), ("plain", "negative")]


def test_quotes_that_are_escaped_with_a_backslash(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('id,text,label\n1,"said \\"hi, you\\"",positive\n2,"C:\\\\new",negative\n')
    assert texts(path) == [('said "hi, you"', "positive"), ("C:\\\\new", "negative")]


def test_a_tab_in_a_quoted_cell_and_stray_quotes(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"start\tpositive\nend"\tnegative\n')
    assert texts(path) == [('"start', "positive"), ('end"', "negative")]
    path.write_text('text\tlabel\n"one\tcell"\tpositive\n"two\nlines"\tnegative\n')
    assert texts(path) == [("one\tcell", "positive"), ("two\nlines", "negative")]


def test_blanks_around_texts_are_kept_where_only_texts_have_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('label,text\npositive, x \nnegative,"  "" y, """\n')
    assert texts(path) == [(" x ", "positive"), ('  " y, "', "negative")]


def test_lists_of_objects(tmp_path):
    rows = [{"text": "a", "label": "positive"}, {"text": "b", "label": "negative"}]
    for number, content in enumerate(
        [json.dumps(rows), json.dumps(rows, indent=1), "\n[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"]
    ):
        for suffix in (".json", ".jsonl"):
            path = tmp_path / f"{number}{suffix}"
            path.write_text(content)
            assert texts(path) == [("a", "positive"), ("b", "negative")]


def test_json_lines_with_line_ends_of_old_macs(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "label": "positive"}\r{"text": "b", "label": "negative"}\r')
    assert texts(tmp_path / "a.jsonl") == [("a", "positive"), ("b", "negative")]


# --- encodings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentences", "encoding"),
    [
        (FRENCH, "latin-1"),
        (FRENCH, "cp1252"),
        (FRENCH, "mac-roman"),
        (ENGLISH, "cp1252"),
        (POLISH, "cp1250"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (GREEK, "cp1253"),
        (CHINESE, "gb18030"),
        (JAPANESE, "cp932"),
        (CHINESE, "utf-16-le"),
        (CHINESE, "utf-16-be"),
        (RUSSIAN, "utf-16-le"),
        (FRENCH, "utf-16-be"),
        (CHINESE, "utf-8-sig"),
    ],
)
@pytest.mark.parametrize("count", [12, 300])
def test_older_encodings_are_told_apart(tmp_path, sentences, encoding, count):
    rows = rows_of(sentences, count)
    path = tmp_path / "a.csv"
    path.write_bytes(as_csv(rows, newline="\r\n").encode(encoding))
    assert texts(path) == rows
    assert bool(read_table(path).notes) != encoding.startswith("utf")


@pytest.mark.parametrize("sentence", ["café", "Super Gerät", "mañana", "naïve", "£5", "it\u2019s", "Größe"])
def test_a_single_accent_of_a_western_file(tmp_path, sentence):
    path = tmp_path / "a.csv"
    path.write_bytes(as_csv([(sentence, "positive"), ("plain", "negative")]).encode("cp1252"))
    assert texts(path)[0][0] == sentence


@quick
@given(st.text(characters, min_size=1, max_size=30).filter(lambda text: not text.isascii()), st.data())
def test_damaged_utf8_is_never_taken_for_something_else(tmp_path, text, data):
    content = as_csv([(f"a {text} é ü ñ ö ß", "positive")] * 3, quoting=csv.QUOTE_ALL).encode()
    letters = [at for at, byte in enumerate(content) if byte >= 0xC2]
    at = data.draw(st.sampled_from(letters))
    assume(content.count(content[at : at + 2]) < len(letters))
    (tmp_path / "a.csv").write_bytes(content[:at] + b"?" + content[at + 1 :])
    with pytest.raises(DataError, match=r"a\.csv, line \d+, byte \d+: .*not valid UTF-8"):
        read_table(tmp_path / "a.csv")


# --- all rows, all columns -------------------------------------------------------------------------------


def test_blank_rows_are_rows(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,a\n\n,\n4,\n5,e\n\n")
    table = read_table(tmp_path / "a.csv")
    assert [dict(row) for row in table.rows] == [
        {"id": "1", "text": "a"},
        {"id": "", "text": ""},
        {"id": "", "text": ""},
        {"id": "4", "text": ""},
        {"id": "5", "text": "e"},
    ]
    assert texts_of(table, ["text"]) == [Example({"text": "a"}), None, None, None, Example({"text": "e"})]
    assert table.places == ("line 2", "line 3", "line 4", "line 5", "line 6")
    (tmp_path / "b.csv").write_text('text\na\n\n""\ne\n""\n\n')
    assert [row["text"] for row in read_table(tmp_path / "b.csv").rows] == ["a", "", "", "e", ""]
    (tmp_path / "c.jsonl").write_text('{"text": " "}\n{"text": null}\n{"text": 3}\n')
    assert texts_of(read_table(tmp_path / "c.jsonl"), ["text"]) == [None, None, Example({"text": "3"})]


def test_repeated_and_missing_names_of_columns_are_kept(tmp_path):
    (tmp_path / "a.csv").write_text(",text,note,note\n0,a,b,c\n")
    table = read_table(tmp_path / "a.csv")
    assert table.columns == ("", "text", "note", "note (2)")
    assert dict(table.rows[0]) == {"": "0", "text": "a", "note": "b", "note (2)": "c"}
    assert texts_of(table, ["text"]) == [Example({"text": "a"})]
    with pytest.raises(DataError, match=r"a\.csv, line 1 \(the header\), field 'note': 2 columns"):
        texts_of(table, ["note"])


def test_answers_beside_the_columns_of_the_input(tmp_path):
    (tmp_path / "in.csv").write_bytes("\ufeffid;text;label\n17;a, b;positive\n18;c;negative\n".encode())
    table = read_table(tmp_path / "in.csv")
    out = table.renamed("label", "gold").with_column("label", ["negative", None])
    out = out.with_column("probabilities", [{"negative": 0.75, "positive": 0.25}, None])
    write_table(tmp_path / "out.csv", out)
    data = (tmp_path / "out.csv").read_bytes()
    assert data.startswith(b"\xef\xbb\xbf")
    assert data.decode("utf-8-sig").splitlines() == [
        "id;text;gold;label;probabilities.negative;probabilities.positive",
        '17;"a, b";positive;negative;0.75;0.25',
        "18;c;negative;;;",
    ]
    write_table(tmp_path / "out.jsonl", out)
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0]) == {
        "id": "17",
        "text": "a, b",
        "gold": "positive",
        "label": "negative",
        "probabilities": {"negative": 0.75, "positive": 0.25},
    }
    assert out.renamed("id", "gold").columns[0] == "gold (2)"
    with pytest.raises(DataError, match="1 values of 'x' for 2 rows"):
        out.with_column("x", [1])


def test_cells_of_other_types_in_csv_and_parquet(tmp_path):
    table = Table.of([{"a": True, "b": 1.5, "c": None}, {"a": math.nan, "b": [1, "x"], "c": {}, "d": "é"}])
    write_table(tmp_path / "a.csv", table)
    assert [dict(row) for row in read_table(tmp_path / "a.csv").rows] == [
        {"a": "true", "b": "1.5", "c": "", "d": ""},
        {"a": "", "b": '[1, "x"]', "c": "{}", "d": "é"},
    ]
    pytest.importorskip("pyarrow")
    write_table(tmp_path / "a.parquet", Table.of([{"a": 1}, {"a": "x"}, {"a": None}]))
    assert [row["a"] for row in read_table(tmp_path / "a.parquet").rows] == ["1", "x", None]


def test_an_ending_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match=r"'\.xls' is not known.*\.csv"):
        write_table(tmp_path / "a.xls", Table.of([{"a": 1}]))
    assert not list(tmp_path.iterdir())


# --- in memory -------------------------------------------------------------------------------------------


def test_a_data_frame_is_a_source():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["a", None, "c"], "label": [1, 0, None], "n": [1, 2, 3], "flag": [True] * 3})
    table = read_table(frame)
    assert [dict(row) for row in table.rows] == [
        {"text": "a", "label": 1.0, "n": 1, "flag": True},
        {"text": None, "label": 0.0, "n": 2, "flag": True},
        {"text": "c", "label": None, "n": 3, "flag": True},
    ]
    found = read_examples(frame[:1], fields=("text",), label="label", labels=("0", "1"))
    assert found == [Example({"text": "a"}, "1")]
    with pytest.raises(DataError, match=r"rows: no column 'Text'.*did you mean 'text'"):
        read_examples(frame, fields=("Text",), label=None, labels=None)
    with pytest.raises(DataError, match="rows, row 2, field 'label': no label"):
        read_examples(frame[::2].assign(x=1), fields=("text",), label="label", labels=None, max_chars=9)


def test_a_list_of_dicts_is_a_source():
    rows = [{"text": "a", "label": True}, {"text": "b", "label": "FALSE"}]
    found = read_examples(rows, fields=("text",), label="label", labels=("true", "false"))
    assert [row.label for row in found] == ["true", "false"]
    assert Table.of(Table.of(rows)).rows == Table.of(rows).rows
    for wrong in ({"text": "a"}, b"x", 3, ["a"], [{1: "a"}]):
        with pytest.raises(DataError, match="expected a"):
            read_table(wrong)


def test_pandas_is_not_imported_to_find_out(monkeypatch):
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    read_table([{"a": 1}])
    assert "pandas" not in sys.modules


# --- labels and names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [True, "true", "True", "TRUE", " TRUE "])
@pytest.mark.parametrize("labels", [("true", "false"), ("True", "False"), ("TRUE", "FALSE")])
def test_booleans_are_labels_however_they_are_written(value, labels):
    rows = [{"text": "x", "label": value}]
    assert read_examples(rows, fields=("text",), label="label", labels=labels)[0].label == labels[0]


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", " 1 "])
@pytest.mark.parametrize("labels", [("1", "2"), ("1.0", "2.0")])
def test_whole_numbers_are_labels_however_they_are_written(value, labels):
    rows = [{"text": "x", "label": value}]
    assert read_examples(rows, fields=("text",), label="label", labels=labels)[0].label == labels[0]


def test_labels_that_differ_only_in_how_they_are_written_are_told_apart_or_refused():
    def read(value):
        return read_examples([{"t": "x", "l": value}], fields=("t",), label="l", labels=("1", "1.0", "b"))[0].label

    assert read("1") == "1" and read("1.0") == "1.0" and read(1) == "1"
    with pytest.raises(DataError, match="unknown label"):
        read("1.00")


@quick
@given(st.text(characters, min_size=1, max_size=8).map(str.strip).filter(bool))
def test_names_that_differ_in_case_or_blanks_are_only_suggested(name):
    assume(name.upper().casefold() == name.casefold())
    other = f"{name.upper()} X"
    with pytest.raises(DataError) as caught:
        read_examples([{f"{name}x": "t"}], fields=(other,), label=None, labels=None)
    assert "no column" in str(caught.value)
    if name.isascii() and name.isalnum():
        assert "did you mean" in str(caught.value)
