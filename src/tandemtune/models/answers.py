"""Answers of any length as tokens and back, the marks that end them, and prompts in a model's own form of conversation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tandemtune.errors import ModelError
from tandemtune.models.backbone import Backbone
from tandemtune.models.marks import around
from tandemtune.models.prompts import writes_nothing
from tandemtune.tasks.templates import MASK, Template


class AnswerCoder:
    """Turns answers into the tokens that follow a template's prompt, and back.

    Args:
        backbone: the model.
        template: of the task; the answer stands at its mask.
        most: longest answer in tokens, the mark at its end not counted.
        stop: texts that end an answer; they are no part of it.

    Attributes:
        ends: tokens that end an answer; the first of them stands behind given ones.
        stem: words before the answer, behind which it is cut into tokens.
        blank: what stands between them and the answer.
        forced_end: what `generate` writes as the last token of an answer that is as long as may be (BART); None for nothing.

    Raises:
        ModelError: the model writes no texts, or does not say what ends one.
    """

    def __init__(self, backbone: Backbone, template: Template, most: int, stop: Sequence[str] = ()) -> None:
        if backbone.kind == "masked":
            raise ModelError(writes_nothing(backbone.name))
        self.tokenizer = backbone.tokenizer
        self.most, self.stop = most, tuple(stop)
        self.ends = _ends(backbone)
        if not self.ends:
            raise ModelError(
                f"{backbone.name} does not say which token ends an answer: put eos_token_id into its generation_config.json"
            )
        settings = getattr(backbone.model, "generation_config", None)
        self.forced_end: int | None = getattr(settings, "forced_eos_token_id", None)
        self._alone = backbone.kind == "seq2seq"
        before = "" if self._alone else template.before_mask
        self.blank = " " if before.endswith(" ") else ""
        self.stem = before.rstrip(" ") or ("" if self._alone else "text")
        self._ids_before = self._ids(self.stem) if self.stem else []

    def encode(self, answer: str, end: bool = True) -> tuple[int, ...]:
        """Tokens of an answer as they would follow the prompt.

        Args:
            answer: the text; one that is longer than `most` is cut.
            end: whether the mark that ends it stands behind, where it was not cut.
        """
        ids = self.whole(answer)
        cut = ids[: self.most]
        return tuple(cut) if len(ids) > self.most or not end else (*cut, self.ends[0])

    def whole(self, answer: str) -> tuple[int, ...]:
        """Tokens of an answer as they would follow the prompt, however many; no mark behind them."""
        text = self.blank + answer
        whole = self._ids(self.stem + text)
        fits = whole[: len(self._ids_before)] == self._ids_before
        return tuple(whole[len(self._ids_before) :] if fits else self._ids(text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without marks, blanks around it, and what stands from a stop text on."""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        places = [place for one in self.stop if (place := text.find(one)) >= 0]
        return text[: min(places)].strip() if places else text.strip()

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether a stop text stands in what was written."""
        if not self.stop:
            return False
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        return any(one in text for one in self.stop)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def in_conversation(tokenizer: Any, template: Template, name: str) -> Template:
    """A template as the question of a conversation, in the form that a model was trained on.

    Args:
        tokenizer: the model's.
        template: the question; its answer is the model's turn.
        name: of the model, for messages.

    Raises:
        ModelError: the model has no such form.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError(
            f"{name} has no chat template: leave [task] chat out, or choose a model that has been taught to chat"
        )
    places = template.pieces.index(("slot", MASK))
    question = Template.__str__(Template(template.pieces[:places])).rstrip()
    text = str(
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
        )
    )
    begins = "".join(tokenizer.convert_ids_to_tokens(list(around(tokenizer).before)))
    shown = question if question in text else question.strip()
    before, asked, behind = text.removeprefix(begins).rpartition(shown)
    return Template.parse(_literal(before) + asked + _literal(behind) + "{" + MASK + "}")


def _literal(text: str) -> str:
    """A text as a template has it."""
    return text.replace("{", "{{").replace("}", "}}")


def _ends(backbone: Backbone) -> tuple[int, ...]:
    """Tokens that end an answer: those of the model's settings for generation, else of its tokenizer."""
    settings = (getattr(backbone.model, "generation_config", None), backbone.model.config)
    for one in settings:
        found = getattr(one, "eos_token_id", None)
        if found is not None:
            return tuple(found) if isinstance(found, list | tuple) else (int(found),)
    token = backbone.tokenizer.eos_token_id
    return () if token is None else (int(token),)
