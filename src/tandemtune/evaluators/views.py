"""Which vectors of a row a readout may read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from tandemtune.errors import UsageError

MIDDLE: Literal["middle"] = "middle"


@dataclass(frozen=True)
class View:
    """One vector for each row.

    Args:
        place: "answer" for the position that the label word is read at, "mean" for the mean of the text's tokens, "tower" for what
            an image tower pools, before it is mapped to where texts lie.
        layer: the hidden states that enter this layer, or with "middle" the one that has as many layers before it as behind it, in
            the stack that has the place. None stands for what enters the output embedding ("answer"), or for the encoder's output
            and, in a model of one stack, what enters the last layer ("mean").
    """

    place: Literal["answer", "mean", "tower"]
    layer: int | Literal["middle"] | None = None

    @classmethod
    def parse(cls, text: str) -> View:
        """Read "answer", "mean", "answer@6", "mean@6", "answer@middle", "mean@middle" or "tower".

        Raises:
            UsageError: the text is none of these.
        """
        place, mark, layer = text.partition("@")
        known = place in ("answer", "mean") or text == "tower"
        if not known or bool(mark) != (layer.isdecimal() or layer == MIDDLE):
            raise UsageError(
                f"view {text!r}: expected answer or mean, or one of them at a layer, such as answer@6, mean@6 or mean@middle; of images, "
                "answer or tower"
            )
        at = None if not mark else MIDDLE if layer == MIDDLE else int(layer)
        return cls(cast(Literal["answer", "mean", "tower"], place), at)

    def __str__(self) -> str:
        return self.place if self.layer is None else f"{self.place}@{self.layer}"

    def layer_among(self, layers: int, encoder: int | None) -> int | None:
        """The layer whose entering states it is made of; None for what enters the output embedding.

        Args:
            layers: how many a model of texts has, those of a decoder of its own among them.
            encoder: how many stand before such a decoder; None in a model of one stack.

        Raises:
            UsageError: the model has no such view.
        """
        if self == TOWER:
            raise UsageError("view tower: it is what an image tower pools, but rows are texts: take answer or mean")
        if self.layer == MIDDLE:
            first, end = (0, layers) if encoder is None else (0, encoder) if self.place == "mean" else (encoder, layers)
            return (first + end) // 2
        if self.layer is not None and self.layer >= layers:
            raise UsageError(f"view {self}: the model's layers are 0 to {layers - 1}")
        if self.place == "answer" and self.layer is not None and encoder is not None and self.layer < encoder:
            raise UsageError(
                f"view {self}: the encoder has no answer position: take mean@{self.layer}, or a layer from {encoder} on"
            )
        if self.place == "answer" or self.layer is not None:
            return self.layer
        return encoder if encoder is not None else layers - 1


ANSWER, MEAN, TOWER = View("answer"), View("mean"), View("tower")
MEAN_MIDDLE, ANSWER_MIDDLE = View("mean", MIDDLE), View("answer", MIDDLE)
