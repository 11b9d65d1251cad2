"""Answers of any length as tokens and back, and the marks that end them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tandemtune.errors import DataError, ModelError
from tandemtune.models.backbone import Backbone
from tandemtune.models.marks import as_words, special_tokens
from tandemtune.models.prompts import writes_nothing
from tandemtune.tasks.templates import Template

_NEUTRAL = {
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": 0,
    "guidance_scale": 1.0,
} | dict.fromkeys(
    (
        "bad_words_ids",
        "suppress_tokens",
        "begin_suppress_tokens",
        "sequence_bias",
        "exponential_decay_length_penalty",
        "penalty_alpha",
        "dola_layers",
    )
)
"""Settings of a model for writing that change what it writes without sampling, and the values at which they do not."""


def not_applied(backbone: Backbone) -> str:
    """A sentence on settings of a model for writing that answers are written without; empty where it has none."""
    settings = getattr(backbone.model, "generation_config", None)
    given = {name: getattr(settings, name, None) for name in _NEUTRAL}
    found = [name for name, value in given.items() if value not in (None, [], False, _NEUTRAL[name])]
    if not found:
        return ""
    return (
        f"{backbone.name} comes with {', '.join(found)} in its generation_config.json: not applied, neither here nor in an export; answers are the most "
        "likely tokens"
    )


class AnswerCoder:
    """Turns answers into the tokens that follow a template's prompt, and back.

    Args:
        backbone: the model.
        template: of the task; the answer stands at its mask.
        most: longest answer in tokens, the mark at its end not counted.
        stop: texts that end an answer; they are no part of it. One that is a special token ends it as the model's own mark does.
        end: the mark that stands behind given answers; None for the first of those that end one.

    Attributes:
        special: the special tokens, which are words where an answer spells one out.
        ends: tokens that end an answer.
        end: the one of them that stands behind given answers.
        stop: the other texts.
        stem: words before the answer, behind which it is cut into tokens.
        blank: what stands between them and the answer.
        forced_end: what `generate` writes as the last token of an answer that is as long as may be (BART); None for nothing.

    Raises:
        ModelError: the model writes no texts, does not say what ends one, or a stop text is a special token among other text.
    """

    def __init__(
        self, backbone: Backbone, template: Template, most: int, stop: Sequence[str] = (), end: int | None = None
    ) -> None:
        if backbone.kind == "masked":
            raise ModelError(writes_nothing(backbone.name))
        self.tokenizer = backbone.tokenizer
        self.special = tuple(special_tokens(backbone.tokenizer))
        self.most = most
        own = _ends(backbone)
        if not own:
            raise ModelError(
                f"{backbone.name} does not say which token ends an answer: put eos_token_id into its generation_config.json"
            )
        marks, self.stop = stops(backbone.tokenizer, stop)
        self.ends = tuple(dict.fromkeys((*own, *marks)))
        self.end = self.ends[0] if end is None else end
        settings = getattr(backbone.model, "generation_config", None)
        self.forced_end: int | None = getattr(settings, "forced_eos_token_id", None)
        self.stem, self.blank = stem_of(template, backbone.kind)

    def encode(self, answer: str) -> tuple[int, ...]:
        """Tokens of an answer as they would follow the prompt.

        Args:
            answer: the text; one that is longer than `most` is cut, and has no mark behind it.
        """
        ids = self.whole(answer)
        return tuple(ids[: self.most]) if len(ids) > self.most else (*ids, self.end)

    def whole(self, answer: str) -> tuple[int, ...]:
        """Tokens of an answer as they would follow the prompt, however many; no mark behind them, and none that it spells out."""
        return behind(self.tokenizer, self.stem, as_words(self.blank + answer, self.special))

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


def stem_of(template: Template, kind: str) -> tuple[str, str]:
    """The words behind which an answer is cut into tokens, and the blank between them and the answer."""
    before = "" if kind == "seq2seq" else template.before_mask
    return before.rstrip(" ") or ("" if kind == "seq2seq" else "text"), " " if before.endswith(" ") else ""


def behind(tokenizer: Any, stem: str, text: str) -> tuple[int, ...]:
    """Tokens of a text as they follow a stem; as those of the text alone where the tokenizer joins the two."""

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    before = ids(stem) if stem else ()
    whole = ids(stem + text)
    return whole[len(before) :] if whole[: len(before)] == before else ids(text)


def unfit(answer: str, tokens: int, most: int, room: int, row: str = "") -> DataError:
    """The error of an answer to choose that is empty or longer than may be.

    Args:
        answer: the text.
        tokens: how many it has.
        most: how many it may have.
        room: for how many the model has room behind a prompt.
        row: whose answer it is; "" where all rows have it.
    """
    where = row and f"{row}: "
    if not tokens:
        return DataError(f"{where}an answer to choose is empty: fill it in, or delete the row")
    if tokens > room:
        return DataError(
            f"{where}the answer {answer[:60]!r} has {tokens} tokens, more than the {max(room, 0)} that the model has room for behind a prompt: shorten "
            "the answer, or delete the row"
        )
    return DataError(
        f"{where}the answer {answer[:60]!r} has {tokens} tokens, more than [task] max_new_tokens = {most}: raise it to {tokens} or more, or shorten the "
        "answer"
    )


def stops(tokenizer: Any, stop: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """Stop texts as special tokens, which no decoded text holds, and the others.

    Raises:
        ModelError: a special token stands among other text.
    """
    ids = special_tokens(tokenizer)
    for text in stop:
        held = next((mark for mark in ids if len(mark.strip()) > 1 and mark in text), None)
        if text not in ids and held is not None:
            raise ModelError(f"[task] stop: {text!r} holds the special token {held!r} among other text: give it alone")
    return [ids[text] for text in stop if text in ids], tuple(text for text in stop if text not in ids)


def _ends(backbone: Backbone) -> tuple[int, ...]:
    """Tokens that end an answer: those of the model's settings for generation, else of its tokenizer."""
    settings = (getattr(backbone.model, "generation_config", None), backbone.model.config)
    for one in settings:
        found = getattr(one, "eos_token_id", None)
        if found is not None:
            return tuple(found) if isinstance(found, list | tuple) else (int(found),)
    token = backbone.tokenizer.eos_token_id
    return () if token is None else (int(token),)
