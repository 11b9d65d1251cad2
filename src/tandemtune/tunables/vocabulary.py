"""Between vectors and words: the tokens that are nearest to a prompt's vectors, and the vectors of a text's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tandemtune.errors import ModelError
from tandemtune.models.backbone import Backbone

Measure = Literal["cosine", "l2"]
MARKS = "Ġ▁"
"""What tokenizers write before a token that begins a word."""
AT_ONCE = 8192


@dataclass(frozen=True)
class Words:
    """A prompt as tokens.

    Args:
        ids: token ids [length]; what is scored is exactly these, never the text tokenized anew.
        text: the ids as text.
        distance: mean distance of the vectors that were read to the embeddings of `ids`; 0 for a text of its own.
    """

    ids: tuple[int, ...]
    text: str
    distance: float


class Vocabulary:
    """The words of one model that a prompt may be read as.

    Args:
        backbone: gives tokenizer and embeddings.
        allowed: "words" for tokens that begin a word and hold only ASCII letters, "all" for everything but special tokens.
        without: ids that are never allowed, such as those of the label words.
    """

    def __init__(self, backbone: Backbone, allowed: Literal["words", "all"], without: Sequence[int] = ()) -> None:
        self._backbone = backbone
        self._tokenizer = backbone.tokenizer
        self._allowed, self._without = allowed, set(without)

    @cached_property
    def ids(self) -> Tensor:
        """The allowed ids [V'], ascending.

        Raises:
            ModelError: there are none.
        """
        tokenizer: Any = self._tokenizer
        count = min(len(tokenizer), len(self._backbone.embedding_weight))
        special = {*tokenizer.all_special_ids, *self._without}
        added = set(tokenizer.added_tokens_decoder) if hasattr(tokenizer, "added_tokens_decoder") else set()
        tokens = tokenizer.convert_ids_to_tokens(list(range(count)))
        marked = sum(bool(token) and token[0] in MARKS for token in tokens) > count // 10
        chosen = [
            index
            for index, token in enumerate(tokens)
            if token
            and index not in special
            and index not in added
            and (self._allowed == "all" or _is_word(token, marked))
        ]
        if not chosen:
            raise ModelError(
                f"no token of {self._backbone.name} may be part of a prompt of words: its tokenizer has no words of ASCII "
                "letters besides the label words; set [method] vocabulary to all"
            )
        return torch.tensor(chosen, dtype=torch.long)

    @cached_property
    def sd(self) -> float:
        """Standard deviation of the embeddings of (a sample of) the allowed tokens."""
        return float(self.vectors(self.ids[:: max(1, len(self.ids) // 2000)].tolist()).std())

    def vectors(self, ids: Sequence[int]) -> Tensor:
        """Embeddings [n, width] of tokens, float32, as the model's first layer gets them."""
        with torch.no_grad():
            found: Tensor = self._backbone.embeddings(torch.tensor(list(ids), device=self._backbone.device))
        return found.float().cpu()

    def nearest(self, vectors: Tensor, measure: Measure) -> Words:
        """The allowed token that is nearest to each vector; the first one to a vector that is no number.

        Args:
            vectors: [length, width].
            measure: "cosine" (largest similarity; the distance is 1 - similarity) or "l2" (smallest distance).
        """
        best = torch.full((len(vectors),), torch.inf)
        chosen = self.ids[:1].repeat(len(vectors))
        for part in self.ids.split(AT_ONCE):  # type: ignore[no-untyped-call]
            known = self.vectors(part.tolist())
            if measure == "cosine":
                apart = 1.0 - functional.normalize(vectors, dim=1) @ functional.normalize(known, dim=1).T
            else:
                apart = torch.cdist(vectors, known)
            found, where = apart.min(dim=1)
            better = found < best
            best = torch.where(better, found, best)
            chosen = torch.where(better, part[where], chosen)
        return self.words(chosen.tolist(), float(best.mean()))

    def exact(self, vectors: Tensor) -> Words:
        """The tokens whose embeddings these vectors are; of equal ones the first.

        Args:
            vectors: [length, width].

        Raises:
            ValueError: a vector is no token's embedding.
        """
        found: dict[int, int] = {}
        for part in torch.arange(len(self._backbone.embedding_weight)).split(AT_ONCE):  # type: ignore[no-untyped-call]
            known = self.vectors(part.tolist())
            for place, vector in enumerate(vectors):
                near = (known[:, 0] == vector[0]).nonzero().flatten()
                same = near[(known[near] == vector).all(dim=1)]
                if len(same):
                    found.setdefault(place, int(part[same[0]]))
        if len(found) < len(vectors):
            raise ValueError("the vectors are no embeddings of tokens")
        return self.words([found[place] for place in range(len(vectors))])

    def words(self, ids: Sequence[int], distance: float = 0.0) -> Words:
        """Tokens with their text."""
        return Words(tuple(ids), str(self._tokenizer.decode(list(ids), skip_special_tokens=False)).strip(), distance)

    def count(self, text: str) -> int:
        """Tokens of a text that stands before others."""
        return len(self._tokenizer(text.strip(), add_special_tokens=False)["input_ids"])

    def fit(self, text: str, length: int) -> Words:
        """A text as exactly `length` tokens: cut at its end, or repeated until it is long enough (as PEFT does it).

        Raises:
            ValueError: the text has no tokens.
        """
        ids = list(self._tokenizer(text.strip(), add_special_tokens=False)["input_ids"])
        if not ids:
            raise ValueError(f"{text!r} has no tokens")
        return self.words((ids * (length // len(ids) + 1))[:length])

    def sample(self, generator: np.random.Generator, length: int) -> Words:
        """Random allowed tokens."""
        picks = generator.choice(len(self.ids), size=length)
        return self.words(self.ids[torch.from_numpy(picks)].tolist())


def _is_word(token: str, marked: bool) -> bool:
    """A token that begins a word and holds letters only."""
    if marked:
        return token[0] in MARKS and len(token) > 2 and token[1:].isascii() and token[1:].isalpha()
    return token.isascii() and token.isalpha() and len(token) > 1  # WordPiece: the rest of a word begins with ##
