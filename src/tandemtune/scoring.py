"""What a run reaches: its points on train, dev and (once, at the end) test rows, by label words and by a readout."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tandemtune.devices import exact
from tandemtune.errors import DataError
from tandemtune.evaluators.batch import Batch
from tandemtune.evaluators.features import PassReading, read
from tandemtune.evaluators.label_words import LabelWordEvaluator, Measurement, calibrate, label_weights
from tandemtune.problem import Problem, Scorer, content_free
from tandemtune.readout.design import assumed_shares
from tandemtune.readout.members import ENOUGH, SolvedReadout
from tandemtune.readout.solving import solve_readout
from tandemtune.runs.records import DIGITS, CalibratedScores, Evaluation, Gain, PredictionRecord, Scores, rounded
from tandemtune.search.state import SearchState
from tandemtune.shared import remembered
from tandemtune.tasks.fewshot import subsample
from tandemtune.types import Example

Point = Mapping[int, Tensor]
Told = Evaluation | Measurement
"""Loss and metric of one point on one set of rows."""


@dataclass(frozen=True)
class Reached:
    """What one point reaches.

    Args:
        words: scores with its label words alone.
        readout: scores with a readout solved at it; None where the recipe has none.
        logits: of the test rows [N, C], by the readout where there is one; None without test rows.
        solved: that readout.
        temperature: what label logits are divided by for probabilities that labelled rows bear out.
    """

    words: Scores
    readout: Scores | None
    logits: Tensor | None
    solved: SolvedReadout | None
    temperature: float

    def answers(self, scorer: Scorer, examples: Sequence[Example] | None) -> list[PredictionRecord]:
        """What is said of the test rows."""
        labels = scorer.task.labels
        rows = [] if self.logits is None or examples is None else scorer.probabilities(self.logits)
        return [
            PredictionRecord(
                fields=dict(example.fields),
                gold=example.label,
                label=labels[row.index(max(row))],
                probabilities={label: rounded(p) for label, p in zip(labels, row, strict=True)},
            )
            for example, row in zip(examples or (), rows, strict=True)
        ]


@dataclass(frozen=True)
class _TestRows:
    """The test rows, and what one pass over them told."""

    examples: Sequence[Example]
    batch: Batch
    reading: PassReading


def test_examples(problem: Problem, how_to_go_on: str) -> list[Example]:
    """The test rows of a run, read as the model will.

    Args:
        problem: what the run works with.
        how_to_go_on: what to do once they are mended, for the message.

    Raises:
        DataError: a row cannot be used.
    """
    scorer, section = problem.scorer, problem.scorer.config.task
    try:
        examples = scorer.task.test(section.test_rows, section.seed)
        scorer.encoded(examples)
    except DataError as error:
        raise DataError(f"{error}. {how_to_go_on}") from None
    return list(examples)


def reached(problem: Problem, point: Point | None, examples: Sequence[Example] | None) -> Reached:
    """Score a point on every split, test rows in one pass.

    Args:
        problem: what the run works with.
        point: the setting of what is tuned; None for the pretrained model.
        examples: test rows; None to score none.
    """
    scorer, plain = problem.scorer, point is None
    member = scorer.config.method.readout
    test = None
    if examples is not None:
        batch = scorer.batch(examples, plain)
        views = member.seen(scorer.engine.further_views)

        def one_pass() -> PassReading:
            if views:
                return read(scorer.engine, batch, point or {}, views)
            return PassReading(scorer.engine.logits(batch, point or {}), {})

        test = _TestRows(examples, batch, remembered(scorer, batch, views, one_pass) if plain else one_pass())
    words, logits, warmth = _by_words(problem, point, test)
    if member.form is None:
        return Reached(words, None, logits, None, warmth)
    scores, logits, solved, warmth = _by_readout(problem, point, test)
    return Reached(words, scores, logits, solved, warmth)


def look_for_errors(problem: Problem, *, begun: bool) -> None:
    """Note whether there is nothing for a search to set right, where the recipe's readout asks that.

    Dev rows judge what is kept by their losses, so a point may be kept after all rows were right; but nothing shows then that it answers
    more texts rightly. All labelled rows count, since before a search none of them has formed the point.

    Args:
        problem: what the run works with, before its search.
        begun: whether the run had begun, so that this was decided then.
    """
    method = problem.scorer.config.method
    member, rows = method.readout, len(problem.split.train) + len(problem.split.dev)
    if not begun and member.form is not None and member.all_right == "stop" and method.optimizer.uses != "none":
        problem.scorer.note(all_right=rows >= ENOUGH and _all_right(problem))
    if problem.facts.all_right:
        said = (
            f"the readout of the pretrained model is right on all {rows:,} labelled rows, each predicted by all other rows: no row is left "
            "that tuning could set right, so nothing is tuned (method.all_right=search tunes all the same, for lower losses)"
        )
        problem.scorer.note(notes=(*problem.facts.notes, said))


def _all_right(problem: Problem) -> bool:
    """Whether a readout is right on each labelled row, of all others, where the search begins."""
    solved, labels = _solved(problem, problem.scorer.parameters.initial())
    problem.scorer.engine.forget()
    return bool(torch.isfinite(solved.without).all() and (solved.without.argmax(dim=-1) == labels).all())


def guarded(problem: Problem, found: SearchState, tell: Callable[[str], None]) -> tuple[SearchState, Gain | None]:
    """What tuning adds to the readout on the dev rows; where the recipe asks that, the best point is kept only for a gain.

    A readout is solved at the point where the search began and at the best one, and dev rows are predicted by all other rows.
    The training rows have formed the best point, so their own losses do not count.

    Args:
        problem: what the run works with.
        found: where the search ended.
        tell: told what becomes of it.

    Returns:
        The state whose `best` is to be kept, and the gain; None where nothing was compared.
    """
    member, dev = problem.scorer.config.method.readout, len(problem.split.dev)
    if member.form is None or not found.moved or dev < (2 if member.keep == "tuned" else 1):
        return found, None
    start = problem.scorer.parameters.initial()
    before, after = (_dev_losses(problem, point) for point in (start, found.best))
    gains = before - after
    mean, error = float(gains.mean()), float(gains.std() / math.sqrt(dev)) if dev > 1 else 0.0
    kept = dev > 1 and mean > {"tuned": -math.inf, "better": 0.0, "clearly-better": error}[member.keep]
    if member.keep != "tuned":
        said = f"{mean:+.3f} +- {error:.3f} on {dev} dev rows, each predicted by all other rows"
        what = "gains" if kept else "does not gain"
        after_all = "" if kept else ": the point where the search began is kept"
        tell(f"the readout {what} from what was tuned ({said}){after_all}")
    if not kept:
        found.best, found.best_step, found.best_record, found.moved = dict(start), 0, 0, False
    return found, Gain(mean=round(mean, DIGITS), standard_error=round(error, DIGITS), rows=dev, kept=kept)


def choosing_tokens(problem: Problem) -> int:
    """Tokens that went through the model to choose a template."""
    return sum(template.tokens for template in problem.facts.templates)


def solving_tokens(problem: Problem, gain: Gain | None) -> int:
    """Tokens that went through the model to solve the readout that is kept, a pass over the labelled rows, and to find out what a
    search adds to it: one pass at the point where that began, and one at the best; and one where rows were looked at that are not right.

    Args:
        problem: what the run works with.
        gain: what was found out; None where nobody looked.
    """
    scorer = problem.scorer
    if scorer.config.method.readout.form is None:
        return 0
    rows = len(problem.split.train) + len(problem.split.dev)
    looked = problem.facts.all_right is not None and rows >= ENOUGH
    passes = (1 if gain is None else 3) + looked
    labelled = scorer.batch([*problem.split.train, *problem.split.dev])
    return round(passes * scorer.engine.work(labelled) / problem.evaluator.depth)


def majority(problem: Problem, examples: Sequence[Example] | None) -> float | None:
    """Test score of always answering the class that is most frequent among the test rows."""
    task = problem.scorer.task
    if not examples:
        return None
    gold = [task.label_index(str(example.label)) for example in examples]
    common = max(set(gold), key=lambda label: (gold.count(label), -label))
    return round(task.score([common] * len(gold), gold), DIGITS)


def _dev_losses(problem: Problem, point: Point) -> Tensor:
    """Loss [M] of each dev row by a readout, solved at a point, of all other labelled rows."""
    solved, labels = _solved(problem, point)
    log_p = torch.log_softmax(solved.without, dim=-1).gather(1, labels[:, None]).squeeze(1)
    cut = len(problem.split.train)
    weights = _weights(problem, labels, labels[cut:])
    return -log_p[cut:] if weights is None else -log_p[cut:] * weights[labels[cut:]]


def _weights(problem: Problem, labels: Tensor, some: Tensor) -> Tensor | None:
    """What a row of each label counts [C], so that labels come up as often as the readout assumes; None where all count alike.

    Args:
        problem: what the run works with.
        labels: of all labelled rows.
        some: labels of the rows that are to count so.
    """
    scorer = problem.scorer
    assumed = assumed_shares(labels, len(scorer.task.labels), scorer.config.method.readout.prior)
    return label_weights(some, assumed)


def _solved(problem: Problem, point: Point | None) -> tuple[SolvedReadout, Tensor]:
    """The readout at a point, of training and dev rows, and their labels [N]."""
    scorer = problem.scorer
    batch = scorer.batch([*problem.split.train, *problem.split.dev], point is None)
    member = scorer.config.method.readout
    solved = solve_readout(member, scorer.engine, batch, point or {}, scorer.task.labels)
    return solved, batch.labels.to(solved.without.device)


def _by_words(problem: Problem, tuned: Point | None, test: _TestRows | None) -> tuple[Scores, Tensor | None, float]:
    """Loss and metric of a point (None: the pretrained model) on every split, plain and with contextual calibration."""
    evaluator, scorer = problem.labelled, problem.scorer
    plain, point = tuned is None, tuned or {}
    trained = subsample(problem.split.train, scorer.config.task.scored_rows, scorer.config.task.seed)
    rows = scorer.batch(trained, plain), scorer.batch(problem.split.dev, plain)
    by_batch = {"test_by_batch": _by_batch(evaluator, test)} if plain and test is not None else {}
    if not scorer.has_content_free:
        own = [evaluator.engine.logits(batch, point) for batch in rows]
        logits = None if test is None else test.reading.logits
        scores = _scores(evaluator, rows, own, test, logits).model_copy(update=by_batch)
        return scores, logits, temperature(own[1], rows[1].labels)
    empty = evaluator.engine.logits(content_free(scorer, plain), point)
    calibrated = scorer.calibrates and not plain  # the pretrained model is shown without and with it anyway

    def answers(logits: Tensor) -> Tensor:
        return calibrate(logits, empty) if calibrated else logits

    def divided(logits: Tensor) -> Tensor:
        return logits if calibrated else calibrate(logits, empty)

    found = [answers(evaluator.engine.logits(batch, point)) for batch in rows]
    logits = None if test is None else answers(test.reading.logits)
    after = _scores(evaluator, rows, list(map(divided, found)), test, None if logits is None else divided(logits))
    scores = _scores(evaluator, rows, found, test, logits).model_copy(
        update={"calibrated": _after(after), "prior": _prior(empty), **by_batch}
    )
    return scores, logits, temperature(found[1], rows[1].labels)


def _by_batch(evaluator: LabelWordEvaluator, test: _TestRows) -> float:
    """The metric on the test rows after batch calibration, which knows them all but none of their labels (Zhou et al., arXiv 2309.17249)."""
    return round(evaluator.score_of(calibrate(test.reading.logits, test.reading.logits), test.batch), DIGITS)


def put_together(train: Told, dev: Told, test: float | None) -> Scores:
    """What a point reaches on every split.

    Args:
        train: loss and metric on the training rows.
        dev: on the dev rows.
        test: metric on the test rows; None without any.
    """
    return Scores(
        train_loss=rounded(train.loss),
        train=round(train.score, DIGITS),
        dev_loss=rounded(dev.loss),
        dev=round(dev.score, DIGITS),
        test=None if test is None else round(test, DIGITS),
    )


def _scores(
    evaluator: LabelWordEvaluator,
    rows: Sequence[Batch],
    logits: Sequence[Tensor],
    test: _TestRows | None,
    said: Tensor | None,
) -> Scores:
    """Scores of label logits on training and dev rows, and on test rows where there are any."""
    train, dev = (evaluator.judged(own, batch) for own, batch in zip(logits, rows, strict=True))
    score = None if test is None or said is None else evaluator.score_of(said, test.batch)
    return put_together(train, dev, score)


def _after(scores: Scores) -> CalibratedScores:
    return CalibratedScores(train_loss=scores.train_loss, dev_loss=scores.dev_loss, dev=scores.dev, test=scores.test)


def _by_readout(
    problem: Problem, tuned: Point | None, test: _TestRows | None
) -> tuple[Scores, Tensor | None, SolvedReadout, float]:
    """A readout solved at a point (None: the pretrained model) on all labelled rows, and what it reaches.

    Its scores on labelled rows are those of each row by a readout of all others; there is nothing left to calibrate.
    """
    scorer, evaluator = problem.scorer, problem.labelled
    plain, point = tuned is None, tuned or {}
    solved, labels = _solved(problem, tuned)
    cut = len(problem.split.train)
    train, dev = (
        evaluator.judged_by_readout(solved.without[part].float(), labels[part])
        if len(labels[part])
        else Measurement(math.nan, 0.0, solved.without[part])
        for part in (slice(None, cut), slice(cut, None))
    )
    score = logits = None
    if test is not None:
        logits = solved.answers(test.reading)
        score = evaluator.score_of(logits, test.batch)
    empty = solved.logits(scorer.engine, content_free(scorer, plain), point)
    found = put_together(train, dev, score)
    scores = found.model_copy(update={"calibrated": _after(found), "prior": _prior(empty)})
    return scores, logits, solved, temperature(solved.without, labels, _weights(problem, labels, labels))


STRAYS = 1.0
"""Standard deviation of the logarithm of temperatures that are expected: few rows move it little away from 1."""


def temperature(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """What label logits are divided by so that their probabilities fit some labelled rows best (Guo et al., arXiv 1706.04599),
    held near 1 where rows are few.

    Args:
        logits: label logits [N, C] that were not fitted to these rows.
        labels: gold labels [N].
        weights: what a row of each label counts [C]; None where all count alike.
    """
    if not len(labels) or not torch.isfinite(logits).all():
        return 1.0
    words = exact(logits)
    labels = labels.to(words.device)
    tried = torch.linspace(-3.0, 3.0, 601, dtype=torch.float64, device=words.device)
    scaled = torch.log_softmax(words / tried.exp()[:, None, None], dim=-1)
    gold = scaled.gather(2, labels.view(1, -1, 1).expand(len(tried), -1, 1))
    if (
        weights is not None
    ):  # rows that count unequally say as little as fewer equal ones (Kish's effective number of rows)
        rows = weights[labels]
        gold = gold * (rows * rows.sum() / rows.square().sum())[:, None]
    losses = -gold.sum(dim=(1, 2))
    best = int((losses + tried.square() / (2 * STRAYS**2)).argmin())
    return float(tried[best].exp())


def _prior(empty: Tensor) -> tuple[float | None, ...]:
    """What inputs without content [M, C] are answered with, on average."""
    return tuple(rounded(p) for p in torch.softmax(empty, dim=-1).mean(dim=0).tolist())
