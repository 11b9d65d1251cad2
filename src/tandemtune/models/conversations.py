"""Prompts in a model's own form of conversation (its chat template): a question, turns before it, and where they stand among tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from tandemtune.errors import DataError, ModelError
from tandemtune.models.backbone import Backbone
from tandemtune.models.marks import around, separator
from tandemtune.models.prompts import UNBOUNDED
from tandemtune.tasks.base import Task
from tandemtune.tasks.chat import Chat, asked_words
from tandemtune.tasks.templates import MASK, Template
from tandemtune.types import Encoded

Turn = tuple[str, str]
"""What the user says, and the model's answer."""
_Task = TypeVar("_Task", bound=Task)
_ONE_TEXT = Template((("slot", "text"), ("slot", MASK)))


def in_conversation(task: _Task, tokenizer: Any, name: str, kind: str) -> _Task:
    """A task with its template as the question of a conversation, in the form that a model was trained on.

    Args:
        task: one that is not to be asked so, or is already, stays as it is.
        tokenizer: the model's.
        name: of the model, for messages.
        kind: of the model.

    Raises:
        ModelError: the model has no such form, or it does not take the system's words or an argument, or changes the question.
    """
    if task.chat is None or task.chat.asked:
        return task
    if kind == "masked":
        raise ModelError(no_conversation(name))
    before, asked, behind = _rendered(tokenizer, name, task.chat, task.template)
    whole = Template.parse(_literal(before) + asked + _literal(behind) + "{" + MASK + "}")
    return replace(task, template=whole, chat=replace(task.chat, asked=True))


def no_conversation(name: str) -> str:
    """Why a masked model is not asked in a conversation."""
    return f"[task] chat: {name} is a masked model, which fills a gap in a text and answers nobody: leave it out"


def begins_otherwise(backbone: Backbone, task: Task) -> str:
    """A sentence on marks that a tokenizer puts before a conversation and its form does not; empty where both say the same."""
    marks = _begins(backbone.tokenizer)
    form = getattr(backbone.tokenizer, "chat_template", None)
    if task.chat is None or not marks or not form:
        return ""
    arguments = {"tokenize": False, "add_generation_prompt": True, **task.chat.arguments}
    if str(backbone.tokenizer.apply_chat_template([{"role": "user", "content": "a"}], **arguments)).startswith(marks):
        return ""
    return (
        f"the tokenizer of {backbone.name} begins every text with {marks}, which its chat template leaves out: prompts begin with it here and in an "
        "export, and not where a server makes them of messages"
    )


def end_of_turn(backbone: Backbone, task: Task, ends: Sequence[int]) -> int | None:
    """The mark that a model's form of conversation puts behind an answer.

    Args:
        backbone: the model.
        task: whose form it is.
        ends: tokens that end an answer.

    Returns:
        The one of these that stands there; None where no conversation is asked for, or the form ends answers with something else.
    """
    form = getattr(backbone.tokenizer, "chat_template", None)
    if task.chat is None or not form:
        return None
    answer = "it was fine"
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
    try:
        said = str(backbone.tokenizer.apply_chat_template(messages, tokenize=False, **dict(task.chat.arguments)))
    except Exception:  # a form may have no place for what the model has said
        return None
    _, found, behind = said.rpartition(answer)
    marks = dict(zip(backbone.tokenizer.convert_ids_to_tokens(list(ends)), ends, strict=True))
    there = [mark for mark in marks if mark and found and behind.lstrip().startswith(mark)]
    return marks[max(there, key=len)] if there else None


@dataclass(frozen=True)
class Opening:
    """What all prompts of a conversation begin with: everything up to the question.

    Args:
        text: its words, without a blank at the end, or the marks that the tokenizer puts before all texts.
        blank: that blank.
        goes_on: how the question begins.
        ids: the tokens.
        separator: what parts words at the beginning of the user's turn from the question: a line break where the tokenizer has one.
    """

    text: str
    blank: str
    goes_on: str
    ids: tuple[int, ...]
    separator: tuple[int, ...]

    @classmethod
    def of(cls, backbone: Backbone, task: Task) -> Opening | None:
        """That of a task; None where it is not asked in a conversation."""
        if task.question is None:
            return None
        whole = str(task.template)
        before = _plain(whole[: whole.rindex(asked_words(task.question).strip())])
        text = before.rstrip(" ")
        blank = before[len(text) :]
        first, words = task.question.pieces[0]
        goes_on = words.lstrip() if first == "literal" and words.strip() else "a"
        ids = _ids_before(backbone, text, blank + goes_on)
        return cls(text, blank, goes_on, ids, () if blank else separator(backbone.tokenizer))

    def with_room(self, prompt: Encoded, ids: tuple[int, ...], seq2seq: bool) -> Encoded:
        """A prompt with tokens between what it begins with and its question.

        Args:
            prompt: one of the conversation.
            ids: what is put in.
            seq2seq: the answer's place is in a decoder, so it stays.

        Raises:
            DataError: the question's first letters and what stands before them are one token.
        """
        place = len(self.ids)
        if len(prompt.ids) > place and prompt.ids[:place] != self.ids:
            raise self.joined()
        return replace(
            prompt,
            ids=prompt.ids[:place] + ids + prompt.ids[place:],
            answer=prompt.answer + (0 if seq2seq else len(ids)),
        )

    def joined(self) -> DataError:
        """The error of a question whose beginning and what stands before it are one token."""
        return DataError(
            f"[task] chat: the tokenizer joins the beginning of a question with {self.text[-20:]!r}, which stands before it, so nothing can be "
            "put between them: let [task] template begin with a word, so that no text of a row (a line break?) stands there"
        )


class Turns:
    """Questions with answers before the question of a conversation, one after another.

    Args:
        backbone: the model.
        task: asked in a conversation.
        opening: of that task.

    Attributes:
        said: the turns.
    """

    def __init__(self, backbone: Backbone, task: Task, opening: Opening) -> None:
        assert task.chat is not None and task.question is not None
        self._backbone, self._chat, self._question, self._opening = backbone, task.chat, task.question, opening
        self._first = self._before(())
        self._ids = opening.ids
        self.said: tuple[Turn, ...] = ()

    def ids_of(self, turn: Turn) -> tuple[int, ...]:
        """Tokens of one more turn, with all marks up to the next question.

        Raises:
            DataError: the tokenizer joins two turns.
            ModelError: the model's form has no earlier turns, or changes what was said in them.
        """
        name, blank = self._backbone.name, self._opening.blank
        before = self._before((*self.said, turn))
        said = before.removeprefix(self._first)
        if not before.startswith(self._first) or not said.endswith(blank):
            raise ModelError(
                f"the chat template of {name} begins a conversation of several turns in another way, so solved examples cannot be turns before "
                "the question: leave [task] chat out, or choose another method"
            )
        lost = [text for text in turn if text.strip() not in said]
        if lost:
            raise ModelError(
                f"the chat template of {name} changes what was said in an earlier turn, {lost[0]!r}, so it cannot be shown as one: leave [task] "
                "chat out, or choose another method"
            )
        opening = self._opening
        whole = _ids_before(self._backbone, opening.text + blank + said.removesuffix(blank), blank + opening.goes_on)
        known = len(self._ids)
        if whole[:known] != self._ids:
            raise opening.joined()
        return whole[known:]

    def say(self, turn: Turn, ids: Sequence[int]) -> None:
        """Let that turn stand."""
        self.said, self._ids = (*self.said, turn), (*self._ids, *ids)

    def asked(self, fields: dict[str, str]) -> str:
        """What the user says about a row."""
        found = self._question.render(fields, "")
        return found.text[: found.mask[0]].rstrip()

    def answered(self, text: str) -> str:
        """An answer that spells out no mark of the tokenizer."""
        return self._backbone.fitted(_ONE_TEXT, {"text": text}, UNBOUNDED)[1]["text"] if text.strip() else text

    def _before(self, turns: Sequence[Turn]) -> str:
        return _rendered(self._backbone.tokenizer, self._backbone.name, self._chat, self._question, turns)[0]


def _rendered(
    tokenizer: Any, name: str, chat: Chat, template: Template, turns: Sequence[Turn] = ()
) -> tuple[str, str, str]:
    """What stands before a question, the question as a template has it, and what stands behind it."""
    form, system, arguments = getattr(tokenizer, "chat_template", None), chat.system, chat.arguments
    if not form:
        raise ModelError(
            f"{name} has no chat template: leave [task] chat out, or choose a model that has been taught to chat"
        )
    strange = [argument for argument in arguments if argument not in str(form)]
    if strange:
        raise ModelError(
            f"[task] chat_arguments: the chat template of {name} has no {', '.join(strange)}: leave it out"
        )
    question = asked_words(template).rstrip()
    messages = [] if system is None else [{"role": "system", "content": system}]
    for asked, answer in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    messages.append({"role": "user", "content": question})
    try:
        text = str(
            tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **dict(arguments))
        )
    except Exception as error:  # whatever the template of a model says to this
        told = ", ".join(
            [
                "a user's message",
                *["a model's message"] * bool(turns),
                *["a system's message"] * (system is not None),
                *arguments,
            ]
        )
        raise ModelError(f"[task] chat: the chat template of {name} does not take {told}: {error}") from None
    shown = question if question in text else question.strip()
    if shown not in text:
        raise ModelError(
            f"[task] chat: the chat template of {name} changes the question {shown!r} (its line breaks or blanks?), so texts cannot be "
            "put in: write [task] template as it leaves it (on one line), or leave chat out and write the marks of its turns into the "
            "template"
        )
    if system is not None and system.strip() not in text:
        raise ModelError(
            f"[task] system: the chat template of {name} leaves it out or changes it: say it in [task] template instead"
        )
    before, asked, behind = text.removeprefix(_begins(tokenizer)).rpartition(shown)
    return before, asked, behind


def _begins(tokenizer: Any) -> str:
    """The marks that a tokenizer puts before every text."""
    return "".join(tokenizer.convert_ids_to_tokens(list(around(tokenizer).before)))


def _ids_before(backbone: Backbone, text: str, goes_on: str) -> tuple[int, ...]:
    """Tokens of what prompts begin with, the marks before it included, as they are where the text goes on."""
    found = backbone.tokenizer(text + goes_on, return_offsets_mapping=True, verbose=False)
    count = next(place for place, (_, end) in enumerate(found["offset_mapping"]) if end > len(text))
    return tuple(found["input_ids"][:count])


def _literal(text: str) -> str:
    """A text as a template has it."""
    return text.replace("{", "{{").replace("}", "}}")


def _plain(text: str) -> str:
    """A text that a template has without columns."""
    return text.replace("{{", "{").replace("}}", "}")
