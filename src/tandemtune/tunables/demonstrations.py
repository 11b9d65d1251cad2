"""Demonstrations: solved examples in front of every prompt (in-context learning: Brown et al., arXiv 2005.14165). Nothing is
tuned, so there are no blocks; the prompt itself is what is kept.

A prompt cannot tell which training row it came from: a row that is scored while it is a demonstration reads its own answer.
So scores on the rows that demonstrations were drawn from mean nothing. Dev and test rows share no text with them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from tandemtune.errors import ConfigError, RunError
from tandemtune.models.answers import AnswerCoder
from tandemtune.models.backbone import Backbone
from tandemtune.models.conversations import Opening, Turn, Turns
from tandemtune.models.marks import separator
from tandemtune.models.prompts import Truncate
from tandemtune.optimizers.base import Uses
from tandemtune.plugins import register
from tandemtune.tasks.base import Task
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tunables.base import INPUT, Given, Parameters, Point, Tunable
from tandemtune.types import Encoded, Example

FILE = "demonstrations.json"


@dataclass(frozen=True)
class Demonstration:
    """One solved example.

    Args:
        ids: token ids of the filled template with the answer in its place, without special tokens; in a conversation those of two turns.
        fields: the example's texts, uncut.
        label: the label's name, or the answer where it is read whole.
    """

    ids: tuple[int, ...]
    fields: Mapping[str, str]
    label: str


class Demonstrations(Parameters):
    """Solved examples in front of the text, each followed by a separator (see `separator`).

    Where: before everything else, but behind the special tokens that the tokenizer begins a text with ([CLS], BOS). In a conversation
    each is two turns, the user's and the model's, before the turn of the question.

    Args:
        backbone: the model that reads them.
        demonstrations: what to show, first to last; none leaves prompts as they are.
        opening: what a conversation begins with.
        turns: what was said in its turns.
    """

    blocks: tuple[int, ...] = ()
    names = ("demonstrations",)
    side_by_side = True
    token_wise = True

    def __init__(
        self,
        backbone: Backbone,
        demonstrations: Sequence[Demonstration],
        opening: Opening | None = None,
        turns: Sequence[Turn] = (),
    ) -> None:
        self.demonstrations, self.opening, self.turns = tuple(demonstrations), opening, tuple(turns)
        self.separator = separator(backbone.tokenizer) if opening is None else ()
        self.place = len(backbone.around.before if opening is None else opening.ids)
        self.room = tuple(i for shown in self.demonstrations for i in (*shown.ids, *self.separator))
        self._kind = backbone.kind

    @classmethod
    def read(cls, backbone: Backbone, folder: Path, opening: Opening | None = None) -> Demonstrations:
        """What `save` wrote, for those who have no training rows.

        Args:
            backbone: the model that reads them.
            folder: where ``demonstrations.json`` lies.
            opening: what a conversation begins with.

        Raises:
            RunError: the file is missing or damaged, or was made for another tokenizer.
        """
        marks, rows = _saved(folder)
        made = cls(backbone, rows, opening)
        size = len(backbone.embedding_weight)
        if marks != (made.place, made.separator) or not all(0 <= i < size for i in made.room):
            raise RunError(f"demonstrations {folder / FILE} were made for another model: its tokens are others")
        return made

    def shapes(self, block: int) -> list[tuple[int, int]]:
        """No block has matrices."""
        return []

    def dim(self, block: int) -> int:
        """No block has numbers."""
        return 0

    def initial(self) -> dict[int, Tensor]:
        """The only point."""
        return {}

    def reserve(self, prompt: Encoded) -> Encoded:
        """Put the demonstrations in front; the answer's place moves with the text (a decoder's own stays)."""
        if self.opening is not None:
            return self.opening.with_room(prompt, self.room, seq2seq=self._kind == "seq2seq")
        ids, behind = prompt.ids, self._kind != "seq2seq" and prompt.answer >= self.place
        return replace(
            prompt,
            ids=ids[: self.place] + self.room + ids[self.place :],
            answer=prompt.answer + (len(self.room) if behind else 0),
        )

    def first_layer(self, blocks: Sequence[int]) -> int:
        """Nothing depends on blocks; `INPUT` promises least."""
        return INPUT

    def same_below(self, layer: int, one: Point, other: Point) -> bool:
        """There is one point only."""
        return True

    @contextmanager
    def applied(self, point: Point) -> Iterator[None]:
        """Nothing is applied: `reserve` did it all."""
        yield

    def save(self, point: Point, folder: Path, base_model: str) -> None:
        """Write ``demonstrations.json``: texts, labels and token ids.

        Args:
            point: empty.
            folder: where the file goes.
            base_model: name of the base model, for the record.
        """
        folder.mkdir(parents=True, exist_ok=True)
        content = {
            "base_model": base_model,
            "place": self.place,
            "separator": list(self.separator),
            "demonstrations": [asdict(replace(shown, fields=dict(shown.fields))) for shown in self.demonstrations],
        }
        if self.opening is not None:
            roles = ("user", "assistant")
            said = (zip(roles, turn, strict=True) for turn in self.turns)
            content["messages"] = [{"role": role, "content": text} for turn in said for role, text in turn]
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / FILE).write_text(text, encoding="utf-8")

    def load(self, folder: Path) -> dict[int, Tensor]:
        """Make sure that a saved run showed the same demonstrations.

        Raises:
            RunError: the file is missing or damaged, or holds other demonstrations.
        """
        marks, rows = _saved(folder)
        if marks != (self.place, self.separator):
            raise RunError(f"demonstrations {folder / FILE} were made for another model: its tokens are others")
        if len(rows) != len(self.demonstrations):
            raise RunError(f"demonstrations {folder / FILE}: expected {len(self.demonstrations)}, found {len(rows)}")
        for number, (own, saved) in enumerate(zip(self.demonstrations, rows, strict=True), start=1):
            if own != saved:
                what = f"{saved.label}, {dict(saved.fields)}"
                raise RunError(f"demonstrations {folder / FILE}: number {number} is another example ({what})")
        return {}

    def said(self) -> str:
        """Earlier turns."""
        return "" if self.opening is None else f"the turns of `{FILE}` (`messages`) stand before the user's"

    def describe(self) -> dict[str, Any]:
        """How many demonstrations, and how many tokens they take in every prompt."""
        return {
            "demonstrations": len(self.demonstrations),
            "tokens": len(self.room),
            "place": self.place,
            "layers": [],
            "parameters": 0,
        }


def demonstrate(
    backbone: Backbone,
    task: Task,
    verbalizer: Verbalizer,
    examples: Sequence[Example],
    limit: int,
    most: int,
    *,
    context: int,
    seed: int = 0,
    truncate: Truncate = "end",
    turns: Turns | None = None,
) -> list[Demonstration]:
    """Solve examples, with as many as there is room for.

    Each is the task's template as `Backbone.encode` would render and cut it, with the label's first word (or the whole answer)
    written in at the answer's place; what a template says behind the mask stays for masked models, and is left out where the model answers
    behind the text. The order is drawn by the seed, with classes in turn, so that no class is shown twice more often than
    another; what does not fit is left out from the end.

    Args:
        backbone: the model that reads them.
        task: template, labels and label words.
        verbalizer: the label words' pieces.
        examples: labelled rows that nobody will be scored on.
        limit: upper bound on the tokens of one filled template, special tokens included; as much is kept free for the prompt.
        most: how many demonstrations at most.
        context: upper bound on the tokens of demonstrations and prompt together; the model's own bound holds, too.
        seed: decides which ones, in which order.
        truncate: the part that a text loses where its template is longer than `limit`.
        turns: of a conversation, to which they are added.

    Raises:
        DataError: an example has no known label, or the template alone is longer than `limit`.
        ModelError: a conversation has no place for them.
    """
    between = len(separator(backbone.tokenizer)) if turns is None else 0
    left = min(context, backbone.longest) - min(limit, backbone.longest)
    chosen: list[Demonstration] = []
    for example, label in _in_turn(examples, task.gold(examples), seed)[:most]:
        if turns is None:
            shown, turn = _solved(backbone, task, verbalizer, example, label, limit, truncate), None
        else:
            shown, turn = _in_turn_of(turns, backbone, task, example, label, limit, truncate)
        left -= len(shown.ids) + between
        if left < 0:
            break
        chosen.append(shown)
        if turns is not None and turn is not None:
            turns.say(turn, shown.ids)
    return chosen


def _saved(folder: Path) -> tuple[tuple[int, tuple[int, ...]], list[Demonstration]]:
    """Place and separator, and the demonstrations, as `save` wrote them."""
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        rows = [
            Demonstration(tuple(map(int, row["ids"])), {**row["fields"]}, str(row["label"]))
            for row in content["demonstrations"]
        ]
        return (int(content["place"]), tuple(map(int, content["separator"]))), rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"demonstrations {folder / FILE} cannot be read: {error!r}") from error


def _in_turn(examples: Sequence[Example], gold: Sequence[int], seed: int) -> list[tuple[Example, int]]:
    """Examples with their class numbers in a seeded order, one of each class at a time."""
    source = random.Random(seed)
    keys = [source.random() for _ in examples]  # the one draw whose stream Python promises never to change
    classes: dict[int, list[int]] = {}
    for index in sorted(range(len(examples)), key=keys.__getitem__):
        classes.setdefault(gold[index], []).append(index)
    turns = [(turn, place, index) for place, rows in enumerate(classes.values()) for turn, index in enumerate(rows)]
    return [(examples[index], gold[index]) for _, _, index in sorted(turns)]


def _solved(
    backbone: Backbone,
    task: Task,
    verbalizer: Verbalizer,
    example: Example,
    label: int,
    limit: int,
    truncate: Truncate,
) -> Demonstration:
    encoded = backbone.encode(task.template, example.fields, limit, truncate)
    before, behind = (len(marks) for marks in (backbone.around.before, backbone.around.behind))
    if task.first_pieces:
        word, named = _pieces(backbone.tokenizer, task, verbalizer, label), task.labels[label]
    else:
        named = task.answer_to(example)
        word = AnswerCoder(backbone, task.template, task.answer_room).whole(named)
    ids = encoded.ids
    if backbone.kind == "masked":
        ids = ids[before : encoded.answer] + word + ids[encoded.answer + 1 : len(ids) - behind]
    elif backbone.kind == "seq2seq":
        ids = ids[before : len(ids) - behind] + word
    else:
        ids = ids[before:] + word  # its end mark is already gone
    fields = {name: example.fields[name] for name in task.template.fields}
    return Demonstration(ids, fields, named)


def _in_turn_of(
    turns: Turns, backbone: Backbone, task: Task, example: Example, label: int, limit: int, truncate: Truncate
) -> tuple[Demonstration, Turn]:
    """A solved example as two turns: the question as the model would be asked it, and the answer."""
    _, kept = backbone.fitted(task.template, example.fields, limit, truncate)
    answer = task.answer_to(example)
    turn = turns.asked(kept), turns.answered(answer)
    fields = {name: example.fields[name] for name in task.template.fields}
    return Demonstration(turns.ids_of(turn), fields, task.labels[label] if task.first_pieces else answer), turn


def _pieces(tokenizer: Any, task: Task, verbalizer: Verbalizer, label: int) -> tuple[int, ...]:
    """All pieces of a label's first word, the first of them the one that is scored."""
    first = verbalizer.token_ids[verbalizer.members[label][0]]
    word = task.words[task.labels[label]][0]
    stem = "" if task.template.pieces[0] == ("slot", "mask") else "text"
    blank = " " if task.template.before_mask.endswith(" ") else ""
    whole, start = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (stem + blank + word, stem))
    found = tuple(whole[len(start) :])
    return found if found[:1] == (first,) else (first,)


@register
class InContext(Tunable):
    """Solved training rows before the text."""

    kind: ClassVar[str] = "demonstrations"
    summary: ClassVar[str] = "solved examples before the text"
    source: ClassVar[str] = "arXiv 2005.14165"
    card: ClassVar[str] = "Demonstrations"
    searched_by: ClassVar[frozenset[Uses]] = frozenset({"none"})

    demonstrations: Annotated[int, Field(ge=1, le=256)] = Field(
        default=8, description="solved examples before the text, as many as there is room for"
    )

    def in_turn(self, recipe: Any) -> bool:
        """They are turns before the question."""
        return True

    def make(self, given: Given) -> Demonstrations:
        """Examples of the training rows, or those that a run has shown.

        Raises:
            ConfigError: there is no room for one.
        """
        backbone = given.backbone
        if isinstance(given.rows, Path):
            return Demonstrations.read(backbone, given.rows, given.opening)
        room = given.task.answer_room if backbone.kind == "causal" else 0
        turns = None if given.opening is None else Turns(backbone, given.task, given.opening)
        rows = demonstrate(
            backbone,
            given.task,
            given.verbalizer,
            given.rows,
            given.max_tokens,
            self.demonstrations,
            context=backbone.longest - room,
            seed=given.seed,
            truncate=given.truncate,
            turns=turns,
        )
        if not rows:
            answers, what = (f" and max_new_tokens: {room}", "them") if room else ("", "it")
            raise ConfigError(
                [
                    f"[task] max_tokens: {given.max_tokens}{answers} of the model's {backbone.longest} leave no room for a "
                    f"demonstration: lower {what}"
                ]
            )
        return Demonstrations(backbone, rows, given.opening, () if turns is None else turns.said)
