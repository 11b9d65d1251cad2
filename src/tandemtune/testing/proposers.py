"""What every proposer promises: drafts that the tuned model can be given, the same ones when a round is asked again."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tandemtune.mentor import Brief, Course, LayerGain
from tandemtune.proposers.base import Asked, Proposal, Proposer, Source, Steered, TriedWords
from tandemtune.testing.promises import expect, keep
from tandemtune.testing.tiny import WORDS, tiny_backbone, tiny_task, verbalizer_of
from tandemtune.tunables.vocabulary import Vocabulary

LENGTH, COUNT = 3, 4


@dataclass
class ProposerCase:
    """A proposer to put to the test, for prompts of three tokens beside a tiny model.

    Args:
        spec: the proposer.
        mentor: what it finds as the recipe's ``[mentor]``.
    """

    spec: Proposer
    mentor: Any = None
    vocabulary: Vocabulary = field(init=False)

    def __post_init__(self) -> None:
        self._home = tiny_backbone("causal")
        self.vocabulary = Vocabulary(self._home, "words", verbalizer_of(self._home).token_ids)

    @contextmanager
    def source(self, seed: int = 1) -> Any:
        """The proposer, ready to be asked."""
        task = tiny_task("causal")
        with tempfile.TemporaryDirectory() as place:
            brief = Brief(
                definition="Tell negative and positive apart.",
                labels=task.labels,
                label_words=("terrible", "great"),
                metric=task.metric,
                manual=None,
                usage="[PROMPT] {text} it was [ANSWER]",
                tried=(),
                wanted=COUNT,
                limit=LENGTH,
            )
            asked = Asked(
                self.vocabulary,
                LENGTH,
                COUNT,
                seed,
                self._home.likely_token,
                brief,
                Path(place) / "conversations.jsonl",
                self.mentor,
            )
            with self.spec.open(asked) as source:
                expect(source is not None, "open() gives nobody to ask; set proposes = False if that is meant")
                yield source

    def tried(self) -> list[TriedWords]:
        """Three prompts that were scored, worst first."""
        texts = ["the plot is", "a good movie", "they loved it"]
        return [
            TriedWords(self.vocabulary.fit(text, LENGTH), 1.0 - 0.2 * i, 0.5 + 0.1 * i) for i, text in enumerate(texts)
        ]


def check_proposer(spec: Proposer, *, mentor: Any = None) -> None:
    """Put a proposer through everything that a search by rounds relies on.

    Args:
        spec: the proposer with its options.
        mentor: what it finds as the recipe's ``[mentor]``, for one that asks a language model.

    Raises:
        AssertionError: lists every promise that is not kept.
    """
    if not spec.proposes:
        raise ValueError(f"{type(spec).__name__} proposes nothing, so there is nothing to check")
    keep(f"the proposer {type(spec).__name__}", PROPOSER_PROMISES, ProposerCase(spec, mentor))


def _asked(source: Source, case: ProposerCase, round: int = 1) -> Proposal:
    tried = case.tried()
    found = source.propose(round, tried, tried)
    expect(isinstance(found, Proposal), f"expected a Proposal, got {type(found).__name__}")
    return found


def proposes_what_was_asked_for(case: ProposerCase) -> None:
    """Some drafts, at most as many as were asked for, or a reason why there are none."""
    with case.source() as source:
        for round in (1, 2, 3):
            found = _asked(source, case, round)
            expect(len(found.drafts) <= COUNT, f"round {round}: {len(found.drafts)} drafts, {COUNT} were asked for")
            expect(
                bool(found.drafts) or bool(found.failure),
                f"round {round}: neither drafts nor a `failure` that says why",
            )


def proposes_points_that_fit(case: ProposerCase) -> None:
    """Words are as many tokens as the prompt has, all allowed ones; other drafts make vectors of the prompt's length."""
    width = len(case.vocabulary.vectors([10])[0])
    incumbent = torch.randn(LENGTH * width, generator=torch.Generator().manual_seed(0))
    kept, allowed = incumbent.clone(), set(range(5, 5 + len(WORDS)))
    with case.source() as source:
        for draft in _asked(source, case).drafts:
            expect(bool(draft.text), f"{draft} has no text that a reader could see")
            expect(
                (draft.ids is not None) == case.spec.words,
                f"{draft}: ids are for words, and `words` is {case.spec.words}",
            )
            if draft.ids is not None:
                expect(len(draft.ids) == LENGTH, f"{draft.text!r} has {len(draft.ids)} tokens, expected {LENGTH}")
                expect(set(draft.ids) <= allowed, f"{draft.text!r} holds tokens that are no words: {draft.ids}")
            vector: Tensor = source.vector(draft, incumbent)
            fits = vector.shape == incumbent.shape and vector.dtype == torch.float32 and bool(vector.isfinite().all())
            expect(
                fits, f"vector({draft}) is {tuple(vector.shape)} of {vector.dtype}, expected ({len(kept)},) of float32"
            )
            expect(torch.equal(vector, source.vector(draft, incumbent)), f"vector({draft}) differs the second time")
    expect(torch.equal(incumbent, kept), "vector() writes to the incumbent")


def answers_a_round_in_the_same_way(case: ProposerCase) -> None:
    """A round is answered in the same way after a restart, whatever was asked before and whatever other seeds there are."""
    with case.source() as source:
        _asked(source, case, 1)
        second = _asked(source, case, 2).drafts
    kept = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]), case.source() as source:
        random.seed(5), torch.manual_seed(5), np.random.seed(5)
        again = _asked(source, case, 2).drafts
    random.setstate(kept[0]), np.random.set_state(kept[1])
    expect(
        second == again,
        f"round 2 is answered by {[d.text for d in second]}, and after a restart by {[d.text for d in again]}: draw from "
        "default_rng([seed, round]) and keep no state between rounds",
    )


def answers_rounds_anew(case: ProposerCase) -> None:
    """Another round gets other drafts."""
    with case.source() as source:
        one, two = _asked(source, case, 1), _asked(source, case, 2)
    expect(
        not one.drafts or one.drafts != two.drafts,
        f"rounds 1 and 2 get the same drafts: {[d.text for d in one.drafts]}",
    )


def steers_the_layers_that_there_are(case: ProposerCase) -> None:
    """One that steers decides about layers that may be chosen, or says why not, and decides a round in the same way after a restart."""
    if not case.spec.steers:
        return
    course = Course((LayerGain(3, 2, 0.5, 0.1), LayerGain(5)), 1, 2, 10, 1.0, 0.7, 0)
    found = []
    for _ in range(2):
        with case.source() as source:
            found.append(source.steer(1, course))
    steered = found[0]
    expect(isinstance(steered, Steered), f"expected a Steered, got {type(steered).__name__}")
    chosen = steered.actions.layers if steered.actions is not None else ()
    expect(bool(chosen) or bool(steered.failure), "steer() gives neither layers nor a `failure` that says why")
    expect(set(chosen) <= {3, 5}, f"steer() chooses layers {chosen} out of 3 and 5")
    expect(
        found[0].actions == found[1].actions,
        f"round 1 is steered by {found[0].actions}, and then by {found[1].actions}",
    )


def leaves_what_it_is_shown(case: ProposerCase) -> None:
    """The trajectory that it is shown is not changed."""
    tried = case.tried()
    kept: Sequence[TriedWords] = list(tried)
    with case.source() as source:
        source.propose(1, tried, tried)
    expect(tried == kept, "it changes the list of prompts that it is shown")


def begins_without_a_trajectory(case: ProposerCase) -> None:
    """With nothing tried yet it proposes something, or nothing, but does not fail."""
    with case.source() as source:
        source.propose(1, [], [])


PROPOSER_PROMISES: tuple[Callable[[ProposerCase], None], ...] = (
    proposes_what_was_asked_for,
    proposes_points_that_fit,
    answers_a_round_in_the_same_way,
    answers_rounds_anew,
    steers_the_layers_that_there_are,
    leaves_what_it_is_shown,
    begins_without_a_trajectory,
)
