"""A mentor who answers through files."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest
from loopback import BRIEF, CHAT, COMPLETE, words

from tandemtune.errors import AnswerAwaited, MentorError, MentorRefused, UsageError
from tandemtune.mentor import FileClient, Mentor, RecordedClient, Transcript


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "mentor"


def only(folder, pattern):
    (found,) = folder.glob(pattern)
    return found


def no_pause(_):
    """Between two looks at an answer that was written just now."""


def answer_to(question):
    return question.with_name(question.name.replace("question", "answer"))


def test_the_question_is_written_and_its_place_is_said(folder):
    said = []
    with pytest.raises(AnswerAwaited) as caught:
        FileClient(folder, tell=said.append).ask(CHAT)
    question = only(folder, "question-*.md")
    text = question.read_text(encoding="utf-8")
    head, body = text.split("-" * 72)
    assert answer_to(question).name in head and body.strip() == "Be brief.\n\nHello"
    for words_ in (str(caught.value), said[0]):
        assert str(question) in words_ and str(answer_to(question)) in words_
    assert body.strip() in said[0], "the question itself is shown, too"
    assert "tandemtune resume" in str(caught.value) and len(said) == 1
    assert not isinstance(caught.value, MentorError), (
        "a search goes on without a mentor that fails; this one is only late"
    )


def test_the_answer_is_found_later(folder):
    with pytest.raises(AnswerAwaited):
        FileClient(folder).ask(CHAT)
    answer_to(only(folder, "question-*.md")).write_text("1. How was it?\n", encoding="utf-8")
    said = []
    reply = FileClient(folder, tell=said.append, sleep=no_pause).ask(CHAT)
    assert reply.text == "1. How was it?" and reply.finish_reason == "stop" and said == []
    assert 0 < reply.completion_tokens < reply.prompt_tokens


def test_each_question_has_its_own_files(folder):
    for request in (CHAT, replace(CHAT, seed=2), replace(CHAT, nth=2)):
        with pytest.raises(AnswerAwaited):
            FileClient(folder).ask(request)
    assert len(list(folder.glob("question-*.md"))) == 3


def test_it_waits_until_two_looks_find_the_same(folder):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) >= 2:
            text = "1. How was" if len(looks) == 2 else "1. How was it?"
            answer_to(only(folder, "question-*.md")).write_text(text, encoding="utf-8")

    assert FileClient(folder, wait=float("inf"), sleep=sleep).ask(CHAT).text == "1. How was it?"
    assert len(looks) == 4


def test_an_answer_that_is_still_being_written_is_not_taken_at_the_first_look(folder):
    """As after `resume`, while an editor still writes."""
    with pytest.raises(AnswerAwaited):
        FileClient(folder).ask(CHAT)
    answer, looks = answer_to(only(folder, "question-*.md")), []
    answer.write_text("1. How was", encoding="utf-8")

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            answer.write_text("1. How was it?", encoding="utf-8")

    assert FileClient(folder, sleep=sleep).ask(CHAT).text == "1. How was it?" and len(looks) == 2


def test_an_answer_that_has_lain_there_is_taken_at_once_and_one_that_goes_away_is_none(folder):
    with pytest.raises(AnswerAwaited):
        FileClient(folder).ask(CHAT)
    answer = answer_to(only(folder, "question-*.md"))
    answer.write_text("1. How was it?", encoding="utf-8")
    with pytest.raises(AnswerAwaited):
        FileClient(folder, sleep=lambda _: answer.unlink(missing_ok=True)).ask(CHAT)
    answer.write_text("1. How was it?", encoding="utf-8")
    os.utime(answer, (0, 0))
    looks = []
    assert FileClient(folder, sleep=looks.append).ask(CHAT).text == "1. How was it?" and looks == []


def test_it_waits_no_longer_than_it_should(folder):
    looks = []
    with pytest.raises(AnswerAwaited):
        FileClient(folder, wait=3, sleep=looks.append).ask(CHAT)
    assert sum(looks) == 3
    with pytest.raises(ValueError, match="expected a wait"):
        FileClient(folder, wait=-1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_editor_s_file(folder, encoding):
    with pytest.raises(AnswerAwaited):
        FileClient(folder).ask(CHAT)
    answer_to(only(folder, "question-*.md")).write_bytes("\r\n1. Wie gefällt’s?\r\n2. Und?\r\n".encode(encoding))
    assert FileClient(folder, sleep=no_pause).ask(CHAT).text == "1. Wie gefällt’s?\n2. Und?"


def test_an_empty_file_is_no_answer(folder):
    for text in ("", "\n \n"):
        with pytest.raises(AnswerAwaited):
            FileClient(folder).ask(CHAT)
        answer_to(only(folder, "question-*.md")).write_text(text)


def test_what_cannot_be_done_is_said(folder, tmp_path):
    for asked in (lambda: FileClient(folder).ask(COMPLETE), lambda: FileClient(folder).contact("complete")):
        with pytest.raises(MentorRefused, match=r'\[mentor\] style = "chat"'):
            asked()
    FileClient(folder).contact()
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        FileClient(tmp_path / "file").ask(CHAT)
    with pytest.raises(AnswerAwaited):
        FileClient(folder).ask(CHAT)
    answer_to(only(folder, "question-*.md")).mkdir()
    with pytest.raises(UsageError, match="cannot be read"):
        FileClient(folder).ask(CHAT)


def test_a_turn_ends_and_goes_on_and_replays(folder, tmp_path):
    """Two answers pasted from a chat window, the first of which cannot be read."""
    path = tmp_path / "conversations.jsonl"
    answers = [
        "Sure! What kind of movie is it?",
        "Here you are:\n\n```json\n" + json.dumps({"prompts": ["How was it?"]}) + "\n```",
    ]
    for answer in answers:
        with pytest.raises(AnswerAwaited):
            Mentor(Transcript(path, FileClient(folder, sleep=no_pause))).propose(BRIEF, words, turn=1)
        open_questions = [file for file in folder.glob("question-*.md") if not answer_to(file).exists()]
        assert len(open_questions) == 1
        answer_to(open_questions[0]).write_text(answer, encoding="utf-8")
    found = Mentor(Transcript(path, FileClient(folder, sleep=no_pause))).propose(BRIEF, words, turn=1)
    assert found.accepted == ("How was it?",) and found.problems == ("it is no list of prompts",)
    for file in folder.iterdir():
        file.unlink()
    assert Mentor(RecordedClient(path)).propose(BRIEF, words, turn=1) == found
    assert Mentor(Transcript(path, FileClient(folder, sleep=no_pause))).propose(BRIEF, words, turn=1) == found
