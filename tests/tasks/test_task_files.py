"""Reading rows: every good file gives examples, every bad one gives one clear DataError."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
import types
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tandemtune.errors import DataError
from tandemtune.tasks.files import SUFFIXES, check_source, read_examples
from tandemtune.types import Example

LABELS = ("negative", "positive")
GOOD = '{"text": "fine", "label": "positive"}\n'


def read(path, fields=("text",), label="label", labels=LABELS, **more):
    return read_examples(path, fields=fields, label=label, labels=labels, **more)


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def line(**row: object) -> str:
    return json.dumps(row) + "\n"


def assert_clear(message: str, path: Path) -> None:
    assert path.name in message
    assert "\n" not in message and "\r" not in message
    assert message.isprintable()
    assert len(message) < 3000


# --- good files -----------------------------------------------------------------------------------------


def test_json_lines(tmp_path):
    path = written(tmp_path, "a.jsonl", line(text="bad", label="negative", id=7) + "\n" + GOOD)
    assert read(path) == [Example({"text": "bad"}, "negative"), Example({"text": "fine"}, "positive")]
    assert read(str(path)) == read(path)


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".jsonlines", ".json", ".JSONL"])
def test_every_ending_of_json_lines(tmp_path, suffix):
    assert len(read(written(tmp_path, f"a{suffix}", GOOD))) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", GOOD),
        ("a.csv", "text,label\nfine,positive\n"),
        ("a.tsv", "text\tlabel\nfine\tpositive\n"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_byte_order_mark_line_endings_and_missing_last_newline(tmp_path, name, content, newline, mark):
    data = mark + content.replace("\n", newline).encode()
    for variant in (data, data.rstrip(b"\r\n"), data + b"\r\n \r\n"):
        assert read(written(tmp_path, name, variant)) == [Example({"text": "fine"}, "positive")]


def test_line_separators_inside_a_json_string_do_not_cut_the_line(tmp_path):
    text = "one\u2028two\x85three"
    path = written(tmp_path, "a.jsonl", json.dumps({"text": text, "label": "positive"}, ensure_ascii=False))
    assert read(path)[0].fields == {"text": text}


def test_csv_cells_may_hold_commas_quotes_line_breaks_and_100_kilobytes(tmp_path):
    texts = ["a, b", 'said "hi"', "two\nlines", "x" * 300_000, '"', "'"]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([["id", "text", "label"], *([str(i), text, "positive"] for i, text in enumerate(texts))])
    before = csv.field_size_limit()
    examples = read(written(tmp_path, "a.csv", buffer.getvalue()))
    assert [example.fields["text"] for example in examples] == texts
    assert csv.field_size_limit() == before


def test_tsv_takes_quotes_as_they_stand_but_undoes_a_quoted_cell(tmp_path):
    content = 'text\tlabel\n"so it starts\tpositive\n"he said ""hi"""\tnegative\nan end"\tpositive\n'
    texts = [example.fields["text"] for example in read(written(tmp_path, "a.tsv", content))]
    assert texts == ['"so it starts', 'he said "hi"', 'an end"']


@pytest.mark.parametrize(
    ("value", "labels", "expected"),
    [
        (True, ("true", "false"), "true"),
        (False, None, "false"),
        (3, ("3",), "3"),
        (3.0, ("3",), "3"),
        (0, None, "0"),
        (-1, ("-1",), "-1"),
        (" positive ", LABELS, "positive"),
        (" odd ", (" odd ",), " odd "),
        ("3.0", ("3.0",), "3.0"),
        ("anything", None, "anything"),
        ("nan", ("nan",), "nan"),
    ],
)
def test_labels_of_json(tmp_path, value, labels, expected):
    path = written(tmp_path, "a.jsonl", line(text="t", label=value))
    assert read(path, labels=labels)[0].label == expected


@pytest.mark.parametrize(
    ("cell", "labels", "expected"),
    [
        ("True", ("true", "false"), "true"),
        ("False", None, "false"),
        ("3.0", ("3",), "3"),
        ("3.0", ("3.0",), "3.0"),
        ("3", ("3",), "3"),
        ("-1.00", None, "-1"),
        (" positive", LABELS, "positive"),
        ("True", ("True",), "True"),
    ],
)
@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_labels_of_tables(tmp_path, cell, labels, expected, name, separator):
    path = written(tmp_path, name, f"text{separator}label\nt{separator}{cell}\n")
    assert read(path, labels=labels)[0].label == expected


@pytest.mark.parametrize(("value", "text"), [(3, "3"), (2.5, "2.5"), (-0.0, "-0.0"), (10**30, str(10**30))])
def test_numbers_are_text(tmp_path, value, text):
    assert read(written(tmp_path, "a.jsonl", line(text=value, label="positive")))[0].fields["text"] == text


def test_one_empty_field_of_two_is_allowed(tmp_path):
    path = written(tmp_path, "a.jsonl", line(a=" ", b="x"))
    assert read(path, fields=("a", "b"), label=None) == [Example({"a": " ", "b": "x"}, None)]


def test_unlabelled_rows_need_no_label_column(tmp_path):
    assert read(written(tmp_path, "a.csv", "text\nhello\n"), label=None) == [Example({"text": "hello"}, None)]


def test_a_field_may_stand_inside_one_object(tmp_path):
    row = line(text="t", target={"span": "it", "n": 3}, label=True)
    examples = read(written(tmp_path, "a.jsonl", row), fields=("text", "span", "n"), labels=None)
    assert examples == [Example({"text": "t", "span": "it", "n": "3"}, "true")]


def test_text_of_exactly_the_limit_is_allowed(tmp_path):
    assert read(written(tmp_path, "a.jsonl", line(text="x" * 50, label="positive")), max_chars=50)


# --- bad files ------------------------------------------------------------------------------------------

SECOND = "line 2"
MALFORMED: list[tuple[str, str | bytes, dict[str, object], list[str]]] = [
    # whole files
    ("a.jsonl", b"", {}, ["empty"]),
    ("a.jsonl", b" \n\t\r\n", {}, ["empty"]),
    ("a.jsonl", b"\xef\xbb\xbf", {}, ["empty"]),
    ("a.csv", b"", {}, ["empty"]),
    ("a.tsv", b"\n\n", {}, ["empty"]),
    ("a.parquet", b"", {}, ["empty"]),
    ("a.csv", "text,label\n", {}, ["no rows"]),
    ("a.tsv", "text\tlabel\n\n", {}, ["no rows"]),
    ("a.txt", GOOD, {}, ["'.txt'", ".jsonl", ".parquet"]),
    ("a", GOOD, {}, ["ending ''", ".csv"]),
    ("a.jsonl.gz", b"\x1f\x8b\x08", {}, ["'.gz'"]),
    ("a.xlsx", b"PK\x03\x04", {}, ["'.xlsx'"]),
    ("a.parquet", b"PAR1 nothing of the kind PAR1", {}, ["Parquet"]),
    ("a.parquet", GOOD, {}, ["Parquet", ".jsonl"]),
    # bytes
    ("a.jsonl", GOOD.encode() + '{"text": "äöü'.encode() + b'\xff"}', {}, [SECOND, "byte 17", "0xff", "the rest is"]),
    ("a.csv", b"text,label\nok,positive\ncaf\x81\x8d,positive\n", {}, ["line 3", "byte 4", "0x81", "UTF-8"]),
    ("a.csv", b"\xef\xbb\xbfte\xe9t", {}, ["line 1", "byte 6", "0xe9"]),
    ("a.tsv", b"text\tlabel\n\xe2\x82", {}, [SECOND, "byte 1", "0xe2"]),
    ("a.jsonl", GOOD.encode("utf-16")[:-1], {}, ["UTF-16", "UTF-8"]),
    ("a.csv", "text,label\na\0b,positive\n".encode("utf-16"), {}, [SECOND, "NUL"]),
    ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", {}, ["git lfs pull"]),
    ("a.csv", b"PK\x03\x04\x14\0", {}, ["Excel", "CSV UTF-8"]),
    ("a.jsonl", b"\x1f\x8b\x08\0", {}, ["gzip"]),
    ("a.csv", b"PAR1\x15\0", {}, ["Parquet", ".parquet"]),
    ("a.jsonl", GOOD.encode() + b'{"text": "a\0b"}', {}, [SECOND, "byte 12", "NUL"]),
    ("a.csv", b"text,label\n\0,positive\n", {}, [SECOND, "NUL"]),
    ("a.tsv", b"text\tlabel\na\tpositive\0\n", {}, [SECOND, "NUL"]),
    # JSON
    ("a.jsonl", GOOD + "{'text': 'x'}", {}, [SECOND, "not valid JSON", "column 2"]),
    ("a.jsonl", GOOD + '{"text": "x", "label": "pos', {}, [SECOND, "not valid JSON"]),
    ("a.jsonl", GOOD + GOOD.strip() + GOOD, {}, [SECOND, "Extra data", "each line"]),
    ("a.jsonl", GOOD + "text: x", {}, [SECOND, "not valid JSON", "'text: x'"]),
    ("a.json", "{\n" + GOOD + "}", {}, ["line 1", "one whole JSON object on each line"]),
    ("a.json", "[" + GOOD + GOOD + "]", {}, ["line 2", "not valid JSON", "in a list of rows"]),
    ("a.json", "[" + GOOD + ", 3]", {}, ["row 2", "expected a JSON object", "got number 3"]),
    ("a.json", "[1, 2]\n[3, 4]\n", {}, ["line 1", "expected a JSON object", "got list"]),
    ("a.json", "[]", {}, ["no rows"]),
    ("a.json", '{"data": [{"text": "x"}]}', {}, ["one JSON object", "rows in 'data'"]),
    ("a.json", '{\n "data": [\n  {"text": "x"}\n ]\n}', {}, ["one JSON object", "rows in 'data'"]),
    ("a.json", '{"text": {"0": "x"}, "label": {"0": "positive"}}', {}, ["column by column", "orient="]),
    ("a.json", '{"text": ["x"], "label": ["positive"]}', {}, ["column by column"]),
    ("a.json", '{\n "text": "x",\n "label": "positive"\n}', {}, ["over several lines", "each line"]),
    ("a.csv", "text;label\na;positive\nb; c;positive\nd;positive\n", {}, ["line 3", "3 cells", "expected 2"]),
    ("a.jsonl", GOOD + '"text"', {}, [SECOND, "got string 'text'"]),
    ("a.jsonl", GOOD + "null", {}, [SECOND, "got null"]),
    ("a.jsonl", GOOD + "3.5", {}, [SECOND, "got number 3.5"]),
    ("a.jsonl", GOOD + "true", {}, [SECOND, "got boolean True"]),
    ("a.jsonl", GOOD + "[" * 100_000 + "]" * 100_000, {}, [SECOND]),
    ("a.jsonl", GOOD + '{"text": ' + "9" * 5000 + "}", {}, [SECOND, "cannot be read"]),
    # columns
    ("a.jsonl", line(Text="x", label="positive"), {}, ["line 1", "'text'", "did you mean 'Text'", "'label'"]),
    ("a.jsonl", line(text="x", labels="positive"), {}, ["line 1", "'label'", "did you mean 'labels'"]),
    ("a.jsonl", GOOD + line(text="x"), {}, [SECOND, "no column 'label'", "found 'text'"]),
    ("a.jsonl", GOOD + "{}", {}, [SECOND, "no column 'text'", "found no columns"]),
    ("a.jsonl", line(a={"text": "x"}, b={"text": "y"}), {}, ["several objects", "'a', 'b'"]),
    ("a.csv", "sentence,label\nx,positive\n", {}, ["line 1", "no column 'text'", "'sentence', 'label'"]),
    ("a.csv", "x,positive\ny,negative\n", {}, ["line 1", "header", "no column 'text'"]),
    ("a.csv", "Text;label\nx;positive\n", {}, ["line 1", "no column 'text'", "did you mean 'Text'", "'label'"]),
    ("a.csv", "te xt,label\nx,positive\n", {}, ["no column 'text'", "did you mean 'te xt'"]),
    ("a.csv", "text,label,text\nx,positive,y\n", {}, ["line 1", "'text'", "2 columns"]),
    ("a.csv", "sep=,\n", {}, ["empty", "names of the columns"]),
    ("a.csv", '""\n', {}, ["empty", "names of the columns"]),
    ("a.csv", "sep=;\ntext,label\nx,positive\n", {}, [SECOND, "no column 'text'", "'text,label'"]),
    ("a.csv", "text,label\nx,positive\n", {"fields": ("text", "text_b")}, ["'text_b'", "did you mean 'text'"]),
    # texts
    ("a.jsonl", GOOD + line(text=None, label="positive"), {}, [SECOND, "'text'", "got null None"]),
    ("a.jsonl", GOOD + line(text=[1, 2], label="positive"), {}, [SECOND, "'text'", "got list [1, 2]"]),
    ("a.jsonl", GOOD + line(text={"a": 1}, label="positive"), {}, [SECOND, "'text'", "got object"]),
    ("a.jsonl", GOOD + line(text=True, label="positive"), {}, [SECOND, "'text'", "got boolean"]),
    ("a.jsonl", GOOD + '{"text": NaN, "label": "positive"}', {}, [SECOND, "'text'", "got number nan"]),
    ("a.jsonl", GOOD + '{"text": -Infinity, "label": "positive"}', {}, [SECOND, "'text'", "-inf"]),
    ("a.jsonl", GOOD + '{"text": 1e999, "label": "positive"}', {}, [SECOND, "'text'", "inf"]),
    ("a.jsonl", GOOD + '{"text": "a\\u0000b", "label": "positive"}', {}, [SECOND, "'text'", "NUL"]),
    ("a.jsonl", GOOD + '{"text": "a\\ud83d", "label": "positive"}', {}, [SECOND, "'text'", "\\ud83d"]),
    ("a.jsonl", GOOD + line(text="", label="positive"), {}, [SECOND, "'text'", "empty"]),
    ("a.jsonl", GOOD + line(text=" \u00a0\n", label="positive"), {}, [SECOND, "empty"]),
    ("a.jsonl", line(a="", b=" "), {"fields": ("a", "b"), "label": None}, ["line 1", "'a', 'b'", "empty"]),
    ("a.csv", "text,label\n ,positive\n", {}, [SECOND, "'text'", "empty"]),
    ("a.jsonl", line(text="x" * 51, label="positive"), {"max_chars": 50}, ["line 1", "51", "at most 50"]),
    ("a.csv", f"text,label\n{'x' * 51},positive\n", {"max_chars": 50}, [SECOND, "51", "shorten"]),
    # labels
    ("a.jsonl", GOOD + line(text="x", label=None), {}, [SECOND, "'label'", "no label", "'negative'"]),
    ("a.jsonl", GOOD + '{"text": "x", "label": NaN}', {}, [SECOND, "'label'", "no label"]),
    ("a.jsonl", GOOD + line(text="x", label=""), {}, [SECOND, "'label'", "no label"]),
    ("a.jsonl", GOOD + line(text="x", label="Positive"), {}, [SECOND, "did you mean 'positive'"]),
    ("a.jsonl", GOOD + line(text="x", label="postive"), {}, [SECOND, "did you mean 'positive'"]),
    ("a.jsonl", GOOD + line(text="x", label="neutral"), {}, [SECOND, "'neutral'", "'negative', 'positive'"]),
    ("a.jsonl", GOOD + line(text="x", label=1), {}, [SECOND, "unknown label '1'", "'negative', 'positive'"]),
    ("a.jsonl", GOOD + line(text="x", label=True), {}, [SECOND, "unknown label 'true'"]),
    ("a.jsonl", GOOD + line(text="x", label=1.5), {}, [SECOND, "'label'", "got number 1.5"]),
    ("a.jsonl", GOOD + line(text="x", label=["positive"]), {}, [SECOND, "'label'", "not supported"]),
    ("a.jsonl", GOOD + line(text="x", label={"a": 1}), {"labels": None}, [SECOND, "'label'", "got object"]),
    ("a.jsonl", GOOD + '{"text": "x", "label": 1e999}', {"labels": None}, [SECOND, "'label'", "inf"]),
    ("a.jsonl", GOOD + '{"text": "x", "label": "\\ud800"}', {"labels": None}, [SECOND, "surrogate"]),
    ("a.jsonl", GOOD + line(text="x", label="z" * 5000), {}, [SECOND, "zzz..."]),
    ("a.jsonl", GOOD + line(text="x", label="a\nb\x1b[0m"), {}, [SECOND, "'a\\nb\\x1b[0m'"]),
    ("a.csv", "text,label\nx,\n", {}, [SECOND, "'label'", "no label"]),
    ("a.csv", "text,label\nx,nan\n", {"labels": None}, [SECOND, "'label'", "no label"]),
    ("a.csv", "text,label\nx,1.0\n", {}, [SECOND, "unknown label '1'"]),
    # cells
    ("a.csv", "text,label\nok,positive\nwell, yes,positive\n", {}, ["line 3", "3 cells", "expected 2"]),
    ("a.csv", "text,label\nalone\n", {}, [SECOND, "1 cell,", "expected 2"]),
    ("a.tsv", "text\tlabel\nx\tpositive\t\n", {}, [SECOND, "3 cells"]),
    ("a.tsv", 'text\tlabel\n"two\nlines\tpositive\n', {}, [SECOND, "1 cell"]),
    ("a.csv", 'text,label\n"two\nlines",positive\nx\n', {}, ["line 4", "1 cell,"]),
    ("a.csv", 'text,label\nok,positive\n"never closed,positive\nx,positive\n', {}, ["line 3", "broken CSV"]),
    ("a.csv", 'text,label\n"quoted" and not,positive\n', {}, [SECOND, "broken CSV", "double"]),
]


@pytest.mark.parametrize(
    ("name", "content", "options", "said"), MALFORMED, ids=[f"{i}-{row[0]}" for i, row in enumerate(MALFORMED)]
)
def test_malformed_files(tmp_path, name, content, options, said):
    path = written(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert_clear(message, path)
    for words in said:
        assert words in message


def test_there_are_enough_malformed_files():
    assert len(MALFORMED) >= 60


def test_missing_file_suggests_its_neighbour(tmp_path):
    written(tmp_path, "train.jsonl", GOOD)
    with pytest.raises(DataError, match=r"trian\.jsonl: no such file \(did you mean 'train\.jsonl'\?\)"):
        read(tmp_path / "trian.jsonl")
    with pytest.raises(DataError, match=r"no such file \(there is no folder .*nowhere either\)"):
        read(tmp_path / "nowhere" / "train.jsonl")


def test_folder_is_refused(tmp_path):
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path / "a.jsonl")


def test_a_pipe_is_refused(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no named pipes here")
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match="no regular file"):
        read(tmp_path / "a.jsonl")


def test_unreadable_file(tmp_path, monkeypatch):
    path = written(tmp_path, "a.jsonl", GOOD)

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"a\.jsonl: cannot be read \(Permission denied\)"):
        read(path)


@pytest.mark.parametrize("source", ["a\0b.jsonl", "x" * 5000 + ".jsonl", ""])
def test_impossible_paths(source):
    with pytest.raises(DataError) as caught:
        read(source)
    assert "\0" not in str(caught.value)


def test_odd_file_names_stay_on_one_line(tmp_path):
    path = written(tmp_path, "a\nb.jsonl", "{")
    with pytest.raises(DataError) as caught:
        read(path)
    assert "\n" not in str(caught.value) and "a\\nb.jsonl" in str(caught.value)


def test_check_source_reads_nothing(tmp_path):
    check_source(written(tmp_path, "a.jsonl", b"\xff\xff"))
    check_source("hub:some/set@config:train[:10]")
    with pytest.raises(DataError, match="no such file"):
        check_source(tmp_path / "b.jsonl")


# --- property: any bytes --------------------------------------------------------------------------------

scalars = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(LABELS))
keys = st.one_of(st.sampled_from(["text", "label"]), st.text(max_size=4))
values = st.one_of(scalars, st.lists(scalars, max_size=2), st.dictionaries(keys, scalars, max_size=2))
json_lines = st.lists(st.one_of(st.dictionaries(keys, values, max_size=3), values), max_size=4).map(
    lambda rows: "\n".join(json.dumps(row) for row in rows).encode()
)
pieces = st.sampled_from(
    ["text", "label", "positive", "negative", ",", "\t", "\n", "\r", '"', "{", "}", ":", "1", " ", "é", "\\u0000"]
)
texts = st.lists(pieces, max_size=25).map(lambda parts: "".join(parts).encode())
tables = st.tuples(st.sampled_from(["text,label\n", "text\tlabel\n", '"text","label"\r\n']), texts).map(
    lambda parts: parts[0].encode() + parts[1]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    data=st.one_of(st.binary(max_size=200), json_lines, texts, tables),
    suffix=st.sampled_from([".jsonl", ".csv", ".tsv", ".parquet"]),
    labels=st.sampled_from([None, LABELS]),
)
def test_any_bytes_parse_or_raise_a_data_error(tmp_path, data, suffix, labels):
    path = written(tmp_path, f"fuzz{suffix}", data)
    try:
        examples = read(path, labels=labels)
    except DataError as error:
        assert_clear(str(error), path)
    else:
        assert examples
        for example in examples:
            assert example.fields["text"].strip()
            example.fields["text"].encode()
            assert example.label and (labels is None or example.label in labels)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(
                lambda text: text.strip()
            ),
            st.sampled_from(LABELS),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_what_was_written_is_read_back(tmp_path, rows):
    expected = [Example({"text": text}, label) for text, label in rows]
    written(tmp_path, "a.jsonl", "".join(line(text=text, label=label) for text, label in rows))
    buffer = io.StringIO(newline="")
    csv.writer(buffer, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    written(tmp_path, "a.csv", buffer.getvalue())
    assert read(tmp_path / "a.jsonl") == expected
    assert read(tmp_path / "a.csv") == expected


# --- Parquet --------------------------------------------------------------------------------------------


def parquet(path: Path, columns: dict[str, object], class_names: list[str] | None = None) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = arrow.table(columns)
    if class_names is not None:
        features = {"label": {"names": class_names, "_type": "ClassLabel"}}
        info = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": info})
    pq.write_table(table, path)
    return path


def test_parquet(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"id": [1, 2], "text": ["a", "b"], "label": list(LABELS)})
    assert read(path) == [Example({"text": "a"}, "negative"), Example({"text": "b"}, "positive")]


def test_parquet_struct_column(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"target": [{"text": "a"}], "label": ["positive"]})
    assert read(path) == [Example({"text": "a"}, "positive")]


def test_parquet_class_names_and_unlabelled_rows(tmp_path):
    path = parquet(tmp_path / "a.parquet", {"text": ["a", "b", "c"], "label": [1, -1, 0]}, list(LABELS))
    assert [row.label for row in read(path)] == ["positive", "negative"]
    plain = parquet(tmp_path / "b.parquet", {"text": ["a"], "label": [1.0]})
    assert read(plain, labels=("1",))[0].label == "1"


@pytest.mark.parametrize(
    ("columns", "names", "said"),
    [
        ({"text": ["a", None], "label": ["positive"] * 2}, None, ["row 2", "'text'", "null"]),
        ({"text": ["a", b"\xff"], "label": ["positive"] * 2}, None, ["'text'"]),
        ({"text": [b"a"], "label": ["positive"]}, None, ["row 1", "'text'", "bytes"]),
        ({"text": [["a"]], "label": ["positive"]}, None, ["row 1", "'text'", "list"]),
        ({"text": ["a"], "label": [None]}, None, ["row 1", "'label'", "no label"]),
        ({"text": ["a"], "label": [float("nan")]}, None, ["row 1", "'label'", "no label"]),
        ({"text": ["a"], "label": [5]}, list(LABELS), ["row 1", "'label'", "class number 5", "0 to 1"]),
        ({"text": ["a"], "label": [-1]}, list(LABELS), ["unlabelled (-1)"]),
        ({"text": ["a"], "label": [0]}, ["bad", "good"], ["unknown label 'bad'"]),
        ({"txt": ["a"], "label": ["positive"]}, None, ["no column 'text'", "did you mean 'txt'"]),
        ({"txt": [{"a": "a"}], "label": ["positive"]}, None, ["no column 'text'"]),
        ({"text": [], "label": []}, None, ["no rows"]),
    ],
)
def test_bad_parquet(tmp_path, columns, names, said):
    arrow = pytest.importorskip("pyarrow")
    if any(isinstance(value, bytes) for value in columns.get("text", [])) and len(columns["text"]) > 1:
        # A string column that holds bytes which are no UTF-8.
        columns = {**columns, "text": arrow.array([b"a", b"\xff"], arrow.binary()).view(arrow.string())}
    path = parquet(tmp_path / "a.parquet", columns, names)
    with pytest.raises(DataError) as caught:
        read(path)
    assert_clear(str(caught.value), path)
    for words in said:
        assert words in str(caught.value)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 2000), byte=st.integers(0, 255), cut=st.integers(0, 2000))
def test_damaged_parquet_parses_or_raises_a_data_error(tmp_path, at, byte, cut):
    path = tmp_path / "whole.parquet"
    if not path.exists():
        parquet(path, {"text": ["some text", "more text"], "label": list(LABELS)})
    data = bytearray(path.read_bytes())
    data[at % len(data)] = byte
    damaged = written(tmp_path, "damaged.parquet", bytes(data[: len(data) - cut % 20]))
    try:
        read(damaged)
    except DataError as error:
        assert_clear(str(error), damaged)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'tandemtune\[parquet\]'"):
        read(written(tmp_path, "a.parquet", b"PAR1"))


# --- hub ------------------------------------------------------------------------------------------------


class FakeSet(list):
    """Rows with features, as the `datasets` library gives them."""

    def __init__(self, rows, names=None):
        super().__init__(rows)
        feature = types.SimpleNamespace(names=names) if names else types.SimpleNamespace()
        self.features = {"text": types.SimpleNamespace(), "label": feature}


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets`: put a data set or an error in `result`, read `calls`."""
    state = types.SimpleNamespace(result=None, calls=[])

    def load_dataset(name, config=None, *, split):
        state.calls.append((name, config, split))
        if isinstance(state.result, Exception):
            raise state.result
        return state.result

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return state


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("hub:sst2", ("sst2", None, "train")),
        ("hub:nyu-mll/glue@sst2:validation", ("nyu-mll/glue", "sst2", "validation")),
        ("hub:a/b:test", ("a/b", None, "test")),
        ("hub:a/b@wsc.fixed:train[:100]", ("a/b", "wsc.fixed", "train[:100]")),
    ],
)
def test_hub_addresses(hub, source, call):
    hub.result = FakeSet([{"text": "a", "label": 1}, {"text": "b", "label": -1}], LABELS)
    assert read(source) == [Example({"text": "a"}, "positive")]
    assert hub.calls == [call]


def test_hub_labels_without_class_names_are_kept(hub):
    hub.result = FakeSet([{"text": "a", "label": "positive"}])
    assert read("hub:x")[0].label == "positive"


@pytest.mark.parametrize("source", ["hub:", "hub: ", "hub:a b", "hub:@x", "hub:a@", "hub:a:", "hub:a@b@:"])
def test_malformed_hub_addresses(source):
    with pytest.raises(DataError, match="hub:NAME@CONFIG:SPLIT"):
        read(source)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (ConnectionError("no\nnetwork"), "could not be loaded (no)"),
        (ValueError(""), "could not be loaded (ValueError)"),
        (FakeSet([]), "no rows"),
        (FakeSet([{"text": "a", "label": -1}], LABELS), "unlabelled"),
        (FakeSet([{"txt": "a", "label": 1}], LABELS), "row 1: no column 'text'"),
        (FakeSet([{"text": None, "label": 1}], LABELS), "row 1, field 'text'"),
    ],
)
def test_bad_hub_sets(hub, result, said):
    hub.result = result
    with pytest.raises(DataError) as caught:
        read("hub:a/b")
    assert said in str(caught.value) and "hub:a/b" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("module", [None, types.SimpleNamespace()])
def test_hub_without_the_library_says_what_to_install(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "datasets", module)
    with pytest.raises(DataError, match=r"pip install 'tandemtune\[hub\]'"):
        read("hub:a/b")


def test_the_known_endings_are_documented_in_the_error(tmp_path):
    with pytest.raises(DataError) as caught:
        read(written(tmp_path, "a.doc", GOOD))
    assert all(suffix in str(caught.value) for suffix in SUFFIXES)
