"""Names that a recipe may use, and what they stand for. Importing this costs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MethodRow:
    """One tuning method: what is tuned, who tunes it, in what order.

    Args:
        summary: one line for lists.
        tunable: what may change.
        optimizer: who searches.
        order: how blocks take turns.
        source: the paper.
    """

    summary: str
    tunable: str
    optimizer: str
    order: str
    source: str


METHODS: dict[str, MethodRow] = {
    "c-lora": MethodRow(
        summary="LoRA on query and key, searched with forward passes only",
        tunable="LoRA",
        optimizer="CMA-ES, one for each layer",
        order="layers in turn",
        source="arXiv 2403.01754",
    ),
}
