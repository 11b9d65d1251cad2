"""Prompts as tensors, grouped by length: rows of one group have equally many tokens, so no row ever meets padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandemtune.types import Encoded


@dataclass(frozen=True)
class Group:
    """Prompts of one length.

    Args:
        ids: token ids [B, T].
        answer: answer position in each row [B].
        rows: where each row stands in the whole batch [B].
    """

    ids: Tensor
    answer: Tensor
    rows: Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """All prompts that are scored together.

    Args:
        groups: the prompts by length, shortest first.
        labels: gold labels [N], or -1 where unknown.
        tokens: number of tokens in all groups.
    """

    groups: tuple[Group, ...]
    labels: Tensor
    tokens: int

    def __len__(self) -> int:
        return len(self.labels)


def collate(prompts: Sequence[Encoded], labels: Sequence[int], device: torch.device, max_rows: int = 256) -> Batch:
    """Group prompts by length.

    Args:
        prompts: encoded prompts [N].
        labels: gold labels [N], -1 where unknown.
        device: where the model lies.
        max_rows: longest group; longer ones are cut in several.
    """
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt.ids), []).append(index)
    groups: list[Group] = []
    for _, members in sorted(by_length.items()):
        for first in range(0, len(members), max_rows):
            rows = members[first : first + max_rows]
            ids = torch.tensor([prompts[i].ids for i in rows], device=device)
            answer = torch.tensor([prompts[i].answer for i in rows], device=device)
            groups.append(Group(ids, answer, torch.tensor(rows, device=device)))
    gold = torch.tensor(list(labels), dtype=torch.long, device=device)
    return Batch(tuple(groups), gold, sum(len(p.ids) for p in prompts))
