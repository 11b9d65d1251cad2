"""Cloze templates: read, written back and filled in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandemtune.errors import DataError
from tandemtune.tasks.templates import Template
from tandemtune.tasks.wording import nfc


def test_pieces_in_order():
    template = Template.parse("{text} It was {mask}.")
    assert template.pieces == (("slot", "text"), ("literal", " It was "), ("slot", "mask"), ("literal", "."))
    assert template.fields == ("text",)
    assert template.before_mask == " It was "
    assert template.after_mask == (("literal", "."),)


@pytest.mark.parametrize(
    "source",
    [
        "{text} It was {mask}.",
        "{mask}: {text}",
        "{a}? {mask}, {b}",
        "{text}{mask}",
        "{a} {a} {mask}",
        "x {_a1}\n{mask}",
        "{Review Text} {mask}",
        "{文本}：{mask}",
        "{1st} {a-b} {mask}",
    ],
)
def test_written_back_as_read(source):
    assert str(Template.parse(source)) == source
    assert Template.parse(str(Template.parse(source))) == Template.parse(source)


def test_fields_once_and_in_order():
    assert Template.parse("{b} {a} {b} {mask}").fields == ("b", "a")


@pytest.mark.parametrize(
    "source, before, after",
    [
        ("{mask} {text}", "", (("literal", " "), ("slot", "text"))),
        ("{text}{mask}", "", ()),
        ("{text} {mask}", " ", ()),
        ("so {mask}{text}", "so ", (("slot", "text"),)),
    ],
)
def test_around_the_mask(source, before, after):
    template = Template.parse(source)
    assert template.before_mask == before
    assert template.after_mask == after


@pytest.mark.parametrize(
    "source, said",
    [
        ("{text} It was great.", "0 {mask} slots"),
        ("", "0 {mask} slots"),
        ("{mask} {text} {mask}", "2 {mask} slots"),
        ("It was {mask}.", "no field"),
        ("{text} { mask}", "0 {mask}"),
        ("{text} {mask} {", "brace"),
        ("{text} {mask} }", "brace"),
        ("{{text}} {mask}", "names no field"),
        ("{text} {a\nb} {mask}", "brace"),
        ("{text} { a} {mask}", "brace"),
        ("{text} {a } {mask}", "brace"),
        ('{"text": "{text}", "label": "{mask}"}', "brace"),
        ("{text} {} {mask}", "brace"),
        ("{text} {MASK}", "0 {mask}"),
    ],
)
def test_errors_say_what_is_wrong(source, said):
    with pytest.raises(DataError) as caught:
        Template.parse(source)
    assert said in str(caught.value)
    assert repr(source) in str(caught.value)


def test_render():
    rendered = Template.parse("{a}? {mask}, {b}.").render({"a": "Is it", "b": "yes"}, "[M]")
    assert rendered.text == "Is it? [M], yes."
    assert rendered.text[slice(*rendered.mask)] == "[M]"
    assert {name: rendered.text[slice(*span)] for name, span in rendered.spans.items()} == {"a": "Is it", "b": "yes"}


def test_render_without_a_mask_token_keeps_its_place():
    rendered = Template.parse("{a} It was {mask}.").render({"a": "Film."}, "")
    assert rendered.text == "Film. It was ."
    assert rendered.mask == (13, 13)


def test_render_gives_the_last_use_of_a_field():
    rendered = Template.parse("{a} {a} {mask}").render({"a": "xy"}, "M")
    assert rendered.spans == {"a": (3, 5)}


def test_missing_field_is_named_with_what_there_is():
    with pytest.raises(DataError, match=r"'b'.*'a', 'c'"):
        Template.parse("{a} {b} {mask}").render({"c": "", "a": ""}, "M")


def test_further_fields_are_left_alone():
    assert Template.parse("{a} {mask}").render({"a": "x", "other": "y"}, "M").text == "x M"


def test_a_field_called_mask_cannot_be_slipped_in():
    assert Template.parse("{a} {mask}").render({"a": "x", "mask": "y"}, "M").text == "x M"


@given(st.text(), st.text(), st.sampled_from(["", "[MASK]", "<mask>"]))
def test_filled_in_text_is_never_parsed(a, b, mask):
    rendered = Template.parse("1 {a} 2 {mask} 3 {b} 4").render({"a": a, "b": b}, mask)
    assert rendered.text == f"1 {a} 2 {mask} 3 {b} 4"
    assert rendered.text[slice(*rendered.mask)] == mask
    assert rendered.mask[0] == len(f"1 {a} 2 ")
    assert rendered.text[slice(*rendered.spans["a"])] == a
    assert rendered.text[slice(*rendered.spans["b"])] == b


def test_how_accents_of_a_field_are_encoded_makes_no_difference():
    template = Template.parse("{re\u0301sume\u0301} {mask}")
    assert template.fields == ("r\u00e9sum\u00e9",)
    assert template == Template.parse("{r\u00e9sum\u00e9} {mask}")


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="{}"), min_size=1).map(str.strip))
def test_any_name_may_be_a_field(name):
    if not name or nfc(name) == "mask":
        return
    template = Template.parse(f"A {{{name}}} B {{mask}}")
    assert template.fields == (nfc(name),)
    assert template.render({nfc(name): "x"}, "M").text == "A x B M"


def test_doubled_braces_are_braces_of_the_text():
    template = Template.parse('{text} as {{"a": {b}}}: {mask}')
    assert template.fields == ("text", "b")
    assert template.render({"text": "x", "b": "1"}, "").text == 'x as {"a": 1}: '
    assert Template.parse(str(template)) == template
