"""Readouts by their public door: what they promise about rows, priors, adapters and odd data."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from tandemtune.errors import DataError
from tandemtune.readout import FORMS, Design, choose, leave_one_out, solve
from tandemtune.readout.fitting import grid

LINEAR = [name for name, form in FORMS.items() if form.linear]
SMALL = [1.0, 0.1]


def views(name, features):
    return [features] if FORMS[name].features else []


def fitted(name, features, logits, labels, **options):
    design = Design(views(name, features), logits, labels, **options)
    settings = choose(design, FORMS[name], SMALL)
    return design, settings, solve(design, settings)


@pytest.mark.parametrize("name", FORMS)
def test_a_readout_knows_more_than_the_label_words(rows, name):
    features, logits, labels = rows(counts=(40, 40, 40))
    train, test = slice(0, 60), slice(60, None)
    _, _, readout = fitted(name, features[train], logits[train], labels[train])
    new = readout.logits(views(name, features[test]), logits[test])

    def loss(given):
        return float(functional.cross_entropy(given.double(), labels[test]))

    assert loss(new) < loss(logits[test])
    assert (new.argmax(1) == labels[test]).double().mean() > (logits[test].argmax(1) == labels[test]).double().mean()


@pytest.mark.parametrize("prior", ["balanced", "train", [0.5, 0.3, 0.2]])
@pytest.mark.parametrize("name", ["ridge", "kernel"])
def test_leave_one_out_is_what_the_readout_of_the_other_rows_says(rows, name, prior):
    """Views are scaled by all rows, labels are not seen: so the others are fitted on the same kernel."""
    features, logits, labels = rows(counts=(5, 7, 4))
    design, settings, _ = fitted(name, features, logits, labels, prior=prior)
    found = leave_one_out(design, settings)
    label_view = design.label_views[FORMS[name].label_view]
    kernel = 1.0 + sum(
        share * view.rows @ view.rows.T
        for share, view in zip(settings.shares, [design.features[0], label_view], strict=True)
    )
    for row in range(len(labels)):
        kept = [i for i in range(len(labels)) if i != row]
        noise = settings.noise * torch.diag(1 / design.weights[kept])
        target = functional.one_hot(labels[kept], 3).double() - 1 / 3
        alone = settings.scale * kernel[row, kept] @ torch.linalg.solve(kernel[kept][:, kept] + noise, target)
        assert_close(found[row], alone, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", FORMS)
def test_the_loss_that_settings_were_chosen_by_is_that_of_leave_one_out(rows, name):
    features, logits, labels = rows()
    design, settings, _ = fitted(name, features, logits, labels)
    assert float(design.loss(leave_one_out(design, settings))) == pytest.approx(settings.loss, rel=1e-9)
    tried = [
        choose(design, FORMS[name], [noise], [shares]).loss for noise in SMALL for shares in grid(len(settings.shares))
    ]
    assert settings.loss == pytest.approx(min(tried), rel=1e-9)


@pytest.mark.parametrize("name", FORMS)
def test_parameters_say_what_the_kernel_says(rows, name):
    """On the labelled rows: ``offset + K alpha``, written out with coefficients found from the parameters' own fit."""
    features, logits, labels = rows()
    design, settings, readout = fitted(name, features, logits, labels)
    said = readout.logits(views(name, features), logits)
    if FORMS[name].solver == "logistic":
        residual = design.weights[:, None] * (design.one_hot - torch.softmax(said, dim=1))  # = alpha at the minimum
        kernel = torch.full((len(labels), len(labels)), 100.0, dtype=torch.float64)
        used = [*design.features, *([design.label_views["logits"]] if name == "affine" else [])]
        for share, view in zip(settings.shares, used, strict=True):
            kernel = kernel + share / settings.noise * view.rows @ view.rows.T
        expected = design.logits + kernel @ residual
        assert_close(torch.softmax(said, 1), torch.softmax(expected, 1), rtol=0, atol=1e-5)
        return
    label_view = design.label_views[FORMS[name].label_view]
    used = zip(settings.shares, [*design.features, label_view], strict=True)
    kernel = 1.0 + sum(share * view.rows @ view.rows.T for share, view in used)
    noise = settings.noise * torch.diag(1 / design.weights)
    alpha = torch.linalg.solve(kernel + noise, design.one_hot - 1 / 3)
    assert_close(said, settings.scale * kernel @ alpha, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_readout_is_a_change_of_the_label_words_rows(rows, name):
    generator = torch.Generator().manual_seed(3)
    features, _, labels = rows()
    words, bias = torch.randn(3, features.shape[1], generator=generator), torch.randn(3, generator=generator)
    logits = features @ words.T + bias
    _, _, readout = fitted(name, features, logits, labels)
    change, shift = readout.correction(words, bias)
    changed = features.double() @ (words.double() + change).T + bias.double() + shift
    said = readout.logits(views(name, features), logits)
    assert_close(torch.log_softmax(changed, 1), torch.log_softmax(said, 1), rtol=1e-5, atol=1e-5)
    assert_close(changed.mean(1), logits.double().mean(1), rtol=1e-5, atol=1e-5)
    assert torch.linalg.matrix_rank(change, rtol=1e-9) <= 2


def test_what_is_no_change_of_the_output_embedding_is_refused(rows):
    features, logits, labels = rows()
    _, _, readout = fitted("kernel", features, logits, labels)
    with pytest.raises(DataError, match="take form ridge"):
        readout.correction(torch.zeros(3, features.shape[1]))
    design = Design([features, features[:, :4]], logits, labels)
    two = solve(design, choose(design, FORMS["ridge"], SMALL))
    with pytest.raises(DataError, match="the answer view alone"):
        two.correction(torch.zeros(3, features.shape[1]))
    with pytest.raises(DataError, match="1 views of features, expected 2"):
        two.logits([features], logits)


@pytest.mark.parametrize("name", FORMS)
def test_permuted_labels_say_nothing(rows, name):
    losses, hits = [], []
    for seed in range(12):
        features, logits, labels = rows(seed, counts=(16, 16, 16))
        wrong = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
        train, test = slice(0, 30), slice(30, None)
        _, settings, readout = fitted(name, features[train], logits[train] * 0.0, wrong[train])
        said = readout.logits(views(name, features[test]), logits[test] * 0.0)
        hits.append(float((said.argmax(1) == labels[test]).double().mean()))
        losses.append(settings.loss)
    assert abs(sum(hits) / len(hits) - 1 / 3) < 0.1
    assert sum(losses) / len(losses) > math.log(3) - 0.05


@pytest.mark.parametrize("name", FORMS)
def test_a_population_is_read_like_its_members(rows, name):
    features, logits, labels = rows(front=(4,))
    one = Design(views(name, features[0]), logits[0], labels)
    settings = choose(one, FORMS[name], SMALL)
    many = Design(views(name, features), logits, labels)
    without, readout = leave_one_out(many, settings), solve(many, settings)
    losses = many.loss(without)
    said = readout.logits(views(name, features), logits)
    for p in range(4):
        alone = Design(views(name, features[p]), logits[p], labels)
        assert_close(without[p], leave_one_out(alone, settings), rtol=1e-6, atol=1e-6)
        assert float(losses[p]) == pytest.approx(float(alone.loss(leave_one_out(alone, settings))))
        own = solve(alone, settings).logits(views(name, features[p]), logits[p])
        assert_close(said[p], own, rtol=1e-6, atol=1e-6)
    with pytest.raises(DataError, match="one point"):
        choose(many, FORMS[name])


def test_a_broken_candidate_has_no_loss_and_harms_no_other(rows):
    features, logits, labels = rows(front=(3,))
    features[1, 2, 5] = torch.nan
    settings = choose(Design([features[0]], logits[0], labels), FORMS["ridge"], SMALL)
    many = Design([features], logits, labels)
    losses = many.loss(leave_one_out(many, settings))
    assert losses.isnan().tolist() == [False, True, False]
    alone = Design([features[2]], logits[2], labels)
    assert float(losses[2]) == pytest.approx(float(alone.loss(leave_one_out(alone, settings))))
    with pytest.raises(DataError, match="not finite"):
        Design([features[1]], logits[1], labels)


def test_few_rows_that_are_told_apart_do_not_make_a_readout_certain(rows):
    """Rows far apart, two of each label: without care the scale would be as large as may be."""
    features, logits, labels = rows(counts=(4, 4), signal=20.0)
    design, settings, readout = fitted("ridge", features, logits, labels)
    assert (leave_one_out(design, settings).argmax(1) == labels).all()
    certain = torch.softmax(readout.logits([features], logits), dim=1).max(dim=1).values
    assert 0.85 < float(certain.mean()) < 0.95  # (4 + 1/2) / (4 + 1) where a row is left out


def test_the_leave_one_out_loss_has_a_gradient(rows):
    features, logits, labels = rows(counts=(5, 5, 5))
    settings = choose(Design([features], logits, labels), FORMS["ridge"], [0.1], [(0.5, 0.5)])
    leaf = features.double().requires_grad_()

    def loss(view):
        design = Design([view], logits, labels)
        return design.loss(leave_one_out(design, settings))

    loss(leaf).backward()
    moved = features.double()
    moved[3, 2] += 1e-5
    assert float(leaf.grad[3, 2]) == pytest.approx(float(loss(moved) - loss(features.double())) / 1e-5, rel=1e-3)


@pytest.mark.parametrize("name", FORMS)
def test_the_prior_decides_where_nothing_else_does(rows, name):
    """Rows that all look the same: what is left is how often each label comes up."""
    labels = torch.tensor([0] * 30 + [1] * 10)
    features, logits = torch.full((40, 5), 3.0), torch.tensor([[2.0, -1.0]]).repeat(40, 1)
    for prior, share in (("balanced", 0.5), ("train", 0.75), ([0.2, 0.8], 0.2)):
        _, _, readout = fitted(name, features, logits, labels, prior=prior)
        said = torch.softmax(readout.logits(views(name, features), logits), dim=1)[0, 0]
        # predictions of few rows that count much are a little nearer to all labels alike
        assert float(said) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("name", FORMS)
def test_odd_rows_have_a_sound_answer(rows, name):
    features, logits, labels = rows()
    twice = torch.cat([features, features]), torch.cat([logits, logits]), torch.cat([labels, labels])
    torn = torch.cat([features, features]), torch.cat([logits, logits]), torch.cat([labels, (labels + 1) % 3])
    far = features * 1e4 + 1e6, logits * 1e3, labels
    wide = torch.randn(len(labels), 2000), logits, labels
    single = rows(counts=(1, 1, 1))
    lone = rows(counts=(1, 9, 9))
    for case in (twice, torn, far, wide, single, lone):
        design, settings, readout = fitted(name, *case)
        said = readout.logits(views(name, case[0]), case[1])
        assert said.isfinite().all()
        assert math.isfinite(settings.loss)
        assert leave_one_out(design, settings).isfinite().all()
    _, _, readout = fitted(name, *torn)
    assert float(functional.cross_entropy(readout.logits(views(name, torn[0]), torn[1]), torn[2])) > 0.6


@pytest.mark.parametrize("name", FORMS)
def test_the_same_rows_give_the_same_readout(rows, name):
    features, logits, labels = rows()
    _, settings, readout = fitted(name, features, logits, labels)
    _, again, same = fitted(name, features, logits, labels)
    assert settings == again
    assert torch.equal(readout.bias, same.bias)
    order = torch.randperm(len(labels))
    _, shuffled, other = fitted(name, features[order], logits[order], labels[order])
    assert (shuffled.shares, shuffled.noise, shuffled.scale) == (settings.shares, settings.noise, settings.scale)
    assert_close(other.bias, readout.bias, rtol=1e-5, atol=1e-6)


def test_rows_that_cannot_be_used_are_refused(rows):
    features, logits, labels = rows()
    with pytest.raises(DataError, match="no labelled row for 'world'"):
        Design([features], logits, labels.where(labels != 2, 1), names=["sports", "business", "world"])
    with pytest.raises(DataError, match="at least one row of each label"):
        Design([features[:2]], logits[:2], labels[:2])
    with pytest.raises(DataError, match="labels from 0 to 2"):
        Design([features], logits, labels - 1)
    with pytest.raises(DataError, match="expected 24 rows"):
        Design([features[:-1]], logits, labels)
    for prior in ([0.5, 0.5], [0.5, 0.5, 0.0], [1.0, 1.0, 1.0]):
        with pytest.raises(DataError, match="3 shares above 0 that add up to 1"):
            Design([features], logits, labels, prior=prior)
    with pytest.raises(DataError, match="expected balanced, train or a share"):
        Design([features], logits, labels, prior="equal")
    with pytest.raises(DataError, match="label logits only"):
        choose(Design([], logits, labels), FORMS["ridge"])
    with pytest.raises(DataError, match="at least one strength"):
        choose(Design([], logits, labels), FORMS["affine"], shares=[])


def test_views_share_all_weight():
    for count in range(6):
        found = list(grid(count))
        assert found
        assert all(len(shares) == count and (not shares or math.isclose(sum(shares), 1)) for shares in found)
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", LINEAR)
def test_a_readout_goes_where_it_is_asked(rows, name):
    """What is solved on a GPU is written out in the processor's memory, and used on a GPU again."""
    features, logits, labels = rows()
    _, _, readout = fitted(name, features, logits, labels)
    there = torch.device("meta")
    assert readout.logits([view.to(there) for view in views(name, features)], logits.to(there)).device == there
    change, shift = readout.correction(torch.zeros(3, features.shape[1], device=there))
    assert {change.device, shift.device} == {there}
    assert readout.on(labels.device).bias is readout.bias
