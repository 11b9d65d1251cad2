"""Who proposes: seeded by round, never what is known, and substitutes that the model finds likely."""

from __future__ import annotations

import functools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from tandemtune.proposers.base import Draft, Proposal, TriedWords
from tandemtune.proposers.mutation import Mutation
from tandemtune.proposers.perturbed import Perturbed
from tandemtune.proposers.random_words import RandomWords
from tandemtune.tunables.vocabulary import Vocabulary

SIZE = tiny.COMMON["vocab_size"]
LENGTH = 5


@functools.cache
def vocabulary():
    home = tiny.backbone("bert")
    return Vocabulary(home, "words", home.tokenizer.convert_tokens_to_ids(["great", "terrible"]))


def ids_of(*words):
    return tuple(tiny.tokenizer("masked").convert_tokens_to_ids(list(words)))


def entry(ids, loss=1.0):
    return TriedWords(vocabulary().words(ids), loss, 0.5)


WORST, BEST = ids_of("film", "movie", "plot", "acting", "news"), ids_of("good", "bad", "fine", "dull", "review")
TRIED = (entry(WORST, 2.0), entry(BEST, 1.0))


class Scorer:
    """Says which tokens are likely, and remembers what it was asked."""

    def __init__(self, **logits):
        self.logits = torch.full((SIZE,), -30.0)
        for word, value in logits.items():
            self.logits[ids_of(word)[0]] = value
        self.asked = []

    def __call__(self, ids, place):
        self.asked.append((tuple(ids), place))
        return self.logits


def noise_of_words(ids, place):
    """Logits that differ from place to place and text to text."""
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(hash((tuple(ids), place)) % 2**31))


def mutation(scorer=noise_of_words, count=3, seed=7, **options):
    return Mutation(vocabulary(), LENGTH, count, seed, scorer, **options)


MAKERS = {
    "random": lambda seed: RandomWords(vocabulary(), LENGTH, 3, seed),
    "perturbed": lambda seed: Perturbed(0.25, 3, seed),
    "mutation": lambda seed: mutation(seed=seed),
}


@pytest.fixture(params=MAKERS, ids=str)
def make(request):
    return MAKERS[request.param]


def test_the_same_round_is_answered_in_the_same_way(make):
    """By another object, in another process, before or after other rounds: a resumed run asks again."""
    first = make(7)
    for round in (3, 1, 2):
        first.propose(round, TRIED, TRIED)
    answers = [make(7).propose(round, TRIED, TRIED) for round in (1, 2)]
    assert first.propose(1, TRIED, TRIED) == answers[0] and first.propose(2, TRIED, TRIED) == answers[1]
    assert answers[0].drafts != answers[1].drafts, "another round"
    assert make(8).propose(1, TRIED, TRIED).drafts != answers[0].drafts, "another seed"


def test_a_proposal_is_complete(make):
    proposal = make(7).propose(1, TRIED, TRIED)
    assert len(proposal.drafts) == 3 == len({draft.text for draft in proposal.drafts})
    assert (proposal.refused, proposal.failure, proposal.spent) == ((), None, {})


def test_drafts_of_words_stand_for_their_embeddings():
    for proposer in (MAKERS["random"](1), MAKERS["mutation"](1)):
        for draft in proposer.propose(1, TRIED, TRIED).drafts:
            assert len(draft.ids) == LENGTH and draft.seed is None
            assert draft.text == tiny.tokenizer("masked").decode(list(draft.ids))
            assert set(draft.ids) <= set(vocabulary().ids.tolist())
            expected = tiny.backbone("bert").embedding_weight[list(draft.ids)].reshape(-1)
            assert torch.equal(proposer.vector(draft, torch.ones(LENGTH * 32)), expected)
        with pytest.raises(ValueError, match="a draft of words"):
            proposer.vector(Draft("noise", None, 3), torch.ones(LENGTH * 32))


def test_random_words_do_not_listen():
    proposer = MAKERS["random"](7)
    assert proposer.propose(1, TRIED, TRIED) == proposer.propose(1, (), ())


def test_noise_around_the_trained_prompt():
    proposer, incumbent = Perturbed(0.25, 3, 7), torch.randn(4000)
    kept = incumbent.clone()
    drafts = proposer.propose(1, (), ()).drafts
    vectors = [proposer.vector(draft, incumbent) for draft in drafts]
    assert torch.equal(incumbent, kept)
    for draft, vector in zip(drafts, vectors, strict=True):
        assert draft.ids is None and f"seed {draft.seed}" in draft.text and "0.25" in draft.text
        again = Perturbed(0.25, 99, 99).vector(Draft("from the journal", None, draft.seed), incumbent)
        assert torch.equal(vector, again) and vector.dtype == torch.float32
        noise = (vector - incumbent) / 0.25
        assert abs(float(noise.mean())) < 0.06 and abs(float(noise.std()) - 1) < 0.04
        assert torch.allclose(proposer.vector(draft, incumbent + 1) - vector, torch.ones(4000), atol=1e-6)
    assert not torch.allclose(vectors[0], vectors[1])
    assert len({draft.seed for round in range(1, 30) for draft in proposer.propose(round, (), ()).drafts}) == 87
    with pytest.raises(ValueError, match="a draft with a seed"):
        proposer.vector(Draft("a text", (7,)), incumbent)


def test_the_likeliest_words_come_in():
    """The best prompt first; as many places as the share says, each filled with the one token that the model wants."""
    scorer = Scorer(loved=9.0)
    loved = ids_of("loved")[0]
    drafts = mutation(scorer, share=0.4).propose(1, TRIED, TRIED).drafts
    for draft, parent in zip(drafts, (BEST, WORST, BEST), strict=True):
        changed = [place for place in range(LENGTH) if draft.ids[place] != parent[place]]
        assert len(changed) == 2 and all(draft.ids[place] == loved for place in changed)
    places = [place for _, place in scorer.asked[:2]]
    assert places == sorted(places) and len(set(places)) == 2
    assert scorer.asked[0][0] == BEST and scorer.asked[1][0][places[0]] == loved, "the second place sees the first"


@pytest.mark.parametrize(("share", "count"), [(0.01, 1), (0.2, 1), (0.5, 2), (0.6, 3), (1.0, 5)])
def test_share_of_the_words(share, count):
    (draft,) = mutation(Scorer(loved=9.0), count=1, share=share).propose(1, TRIED, TRIED).drafts
    assert sum(one != other for one, other in zip(draft.ids, BEST, strict=True)) == count


def test_what_is_not_allowed_does_not_come_in_however_likely():
    great, mask, loved = ids_of("great")[0], ids_of("[MASK]")[0], ids_of("loved")[0]
    scorer = Scorer(loved=1.0)
    scorer.logits[[great, mask]] = 50.0
    drafts = mutation(scorer, top=1).propose(1, TRIED, TRIED).drafts
    assert {token for draft in drafts for token in draft.ids} <= {*BEST, *WORST, loved}


def test_words_are_drawn_by_their_likelihood():
    """Three times as likely is three times as often, and nothing beyond the top."""
    scorer = Scorer(loved=float(np.log(3.0)), hated=0.0, saw=-1.0)
    loved, hated, saw = ids_of("loved", "hated", "saw")
    proposer = Mutation(vocabulary(), 1, 1, 3, scorer, top=2)
    parent = (entry(ids_of("fine")),)
    found = Counter(proposer.propose(round, parent, parent).drafts[0].ids[0] for round in range(1, 401))
    assert found[loved] + found[hated] == 400 and found[saw] == 0
    assert 0.68 < found[loved] / 400 < 0.82


@settings(max_examples=40, deadline=None)
@given(st.lists(st.permutations(range(6)).map(lambda p: tuple(p[:3])), min_size=1, max_size=40), st.integers(1, 50))
def test_nothing_known_is_proposed(picks, round):
    """Nor anything twice, however few variants there are left."""
    words = vocabulary().ids[:6].tolist()
    known = [entry(tuple(words[i] for i in pick)) for pick in picks]
    scorer = Scorer()
    scorer.logits[words] = 0.0
    proposer = Mutation(vocabulary(), 3, 5, 1, scorer, share=0.3, top=6)
    drafts = proposer.propose(round, known[-3:], known).drafts
    ids = [draft.ids for draft in drafts]
    assert len(drafts) <= 5 and len(set(ids)) == len(ids)
    assert not {e.words.ids for e in known} & set(ids)


def test_when_everything_is_known_nothing_is_proposed():
    word = vocabulary().ids[:1].tolist()
    scorer = Scorer()
    scorer.logits[word] = 9.0
    one = (entry(tuple(word)),)
    proposer = Mutation(vocabulary(), 1, 3, 1, scorer, top=1)
    assert proposer.propose(1, one, one) == Proposal(())
    assert proposer.propose(1, (), ()) == Proposal(()), "nor without anybody to begin with"


def test_a_model_without_numbers_substitutes_nothing():
    scorer = Scorer()
    scorer.logits[:] = torch.nan
    assert mutation(scorer).propose(1, TRIED, TRIED) == Proposal(())
