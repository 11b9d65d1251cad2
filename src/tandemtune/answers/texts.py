"""Texts of any length as answers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import numpy as np

import tandemtune.answers.snippets as snippets
from tandemtune import scoring
from tandemtune.answers.base import Answers, Point, PredictedTable
from tandemtune.answers.references import notes_on
from tandemtune.answers.text_rows import digest, shown_prompts, text_rows, text_task, writer_of
from tandemtune.config import RunConfig
from tandemtune.errors import ConfigError, RewardError, UsageError
from tandemtune.evaluators.features import PassReading
from tandemtune.evaluators.likelihood import Likelihood, work_of
from tandemtune.evaluators.passages import Passage, collate_passages
from tandemtune.evaluators.text import (
    JudgedLoss,
    ReferenceLoss,
    TextEvaluator,
    TextKL,
    TextLoss,
    TextRows,
    judged,
    work_to_write,
)
from tandemtune.evaluators.writing import Sampling, Text, Writer, tokens_of
from tandemtune.mentor import Misread
from tandemtune.mentor.clients import budget_of, client_of
from tandemtune.mentor.grading import NAME, Grader
from tandemtune.models.answers import AnswerCoder, not_applied
from tandemtune.models.backbone import Backbone
from tandemtune.models.conversations import end_of_turn
from tandemtune.models.layers import LayerStack
from tandemtune.models.passages import PassageStack
from tandemtune.models.prompts import SHORTEST, no_room_beside, prompt_text
from tandemtune.objectives.reward import MinusReward, WeightedSum
from tandemtune.problem import DrawnRows, Problem, Scorer
from tandemtune.proposers.base import Standing
from tandemtune.rewards.base import Reward, Written
from tandemtune.runs.records import DIGITS, Assessment, Costs, PredictionRecord, Result, TemplateScore, rounded
from tandemtune.scoring import Reached
from tandemtune.shared import remembered_texts
from tandemtune.tasks.base import Task
from tandemtune.tasks.fewshot import subsample
from tandemtune.tasks.files import texts_of
from tandemtune.tasks.judging import score_of_rows
from tandemtune.tasks.table import Table
from tandemtune.tasks.texts import TextTask
from tandemtune.tasks.verbalizers import Verbalizer
from tandemtune.tasks.wording import show
from tandemtune.tunables.identity import Identity
from tandemtune.types import Example, Split

RESAMPLES, WORST = 1000, 10
JUDGED_MEMORY = 256.0
"""Megabytes that templates are judged in."""


@dataclass(frozen=True)
class WrittenReached(Reached):
    """What one point reaches, with what it has written.

    Args:
        records: of the test rows.
    """

    records: tuple[PredictionRecord, ...] = ()

    def answers(self, scorer: Scorer, examples: Sequence[Example] | None) -> list[PredictionRecord]:
        """What was written for the test rows."""
        return list(self.records)


class TextAnswers(Answers):
    """Likelihoods of references, or rewards of what is written."""

    most_judged: ClassVar[int] = 64
    doing: ClassVar[str] = "answering"
    use: ClassVar[tuple[str, str]] = ("write answers", "texts.jsonl")

    def end(self, backbone: Backbone, task: Task) -> int | None:
        """In a conversation the one that ends a turn there, so that a model learns to end its answers as it has been taught to."""
        texts = text_task(task)
        coder = AnswerCoder(backbone, task.template, texts.max_new_tokens, texts.stop)
        found = end_of_turn(backbone, task, coder.ends)
        return coder.end if found is None else found

    def verbalizer(self, backbone: Backbone, task: Task) -> Verbalizer:
        """No labels; the marks that end an answer stand for all words where a model is tried."""
        texts = text_task(task)
        coder = AnswerCoder(backbone, task.template, texts.max_new_tokens, texts.stop)
        return Verbalizer((), coder.ends, ())

    def stack(self, backbone: Backbone, verbalizer: Verbalizer) -> LayerStack:
        """It reads and writes whole answers."""
        return backbone.passages(verbalizer)

    def judged(
        self, backbone: Backbone, task: Task, rows: Sequence[Example], config: RunConfig
    ) -> tuple[TemplateScore, PassReading | None]:
        """By the task's metric of what the pretrained model writes, so wherever there is a reward."""
        texts = text_task(self.asked(task, backbone))
        backbone.check_template(texts.template)
        engine = self.engine(backbone, texts, self.verbalizer(backbone, texts), Identity(), JUDGED_MEMORY)
        writer = Writer(engine, AnswerCoder(backbone, texts.template, texts.max_new_tokens, texts.stop))
        behind = texts.answer_room if backbone.kind == "causal" else 0
        if behind and backbone.longest - behind < SHORTEST:
            raise ConfigError([no_room_beside(behind, backbone.longest)])
        section, limit = config.task, min(config.task.max_tokens, backbone.longest - behind)
        prompts = [backbone.encode(texts.template, row.fields, limit, section.truncate) for row in rows]
        answers = writer.write(prompts, {})
        shown = [prompt_text(backbone.tokenizer, backbone.kind, texts.template, row.fields)[0] for row in rows]
        written = texts.written(shown, [writer.coder.decode(text.ids) for text in answers[0]], rows)
        written = replace(written, ids=[text.with_end for text in answers[0]])
        score, each = texts.reward.score(written), np.array(texts.reward.each(written), dtype=np.float64)
        spread = each.std(ddof=1) if len(each) > 1 else 0.0
        made = TemplateScore(
            template=str(task.template),
            labels={},
            loss=rounded(-score),
            standard_error=rounded(float(spread / math.sqrt(len(each)))),
            score=round(score, DIGITS),
            zero_shot=round(score, DIGITS),
            tokens=sum(len(prompt.ids) for prompt in prompts) + tokens_of(answers),
        )
        return made, None

    def problem(self, scorer: Scorer, split: Split, beside: Problem | None = None) -> Problem:
        """Losses of references, or of what judges say."""
        section, method, task = scorer.config.task, scorer.config.method, text_task(scorer.task)
        scored = subsample(split.train, section.scored_rows, section.seed)
        if beside is None:
            prompts = scorer.population_batch(scored)
            scorer.parameters.settle(scorer.engine.stack, [group.ids for group in prompts.groups])
            train, dev = text_rows(scorer, scored), text_rows(scorer, split.dev)
        else:
            known = cast(TextEvaluator, beside.evaluator)
            prompts, train, dev = known.train, known.rows["train"], known.rows["dev"]
        writer = writer_of(scorer)
        grader = None if beside is None else beside.grader  # one for the whole run
        if grader is None and method.objective.asks_model:
            grader = grader_of(scorer.config)
        judge = method.objective.judge(task, None if grader is None else grader.reward)
        loss: TextLoss
        if judge is None:
            loss = ReferenceLoss(Likelihood(scorer.engine))
        else:
            heat = method.objective.temperature
            sampling = (lambda number: Sampling(heat, section.seed, number)) if heat else None
            loss = JudgedLoss(writer, judge, sampling, asks=method.objective.asks_model)
        drawn = DrawnRows(scorer, *scorer.encoded(split.train))
        some = method.subsample is not None and method.subsample < len(split.train)

        def chosen(rows: Sequence[int]) -> TextRows:
            return text_rows(scorer, [split.train[row] for row in rows])

        evaluator = TextEvaluator(
            writer,
            loss,
            task.reward.score,
            train,
            dev,
            prompts,
            step_rows=lambda number: chosen(drawn.of_step(number)),
            drawn_rows=(lambda number: chosen(drawn.of_generation(number))) if some else None,
        )
        coder = writer.coder
        right = [reference for row in (*split.train, *split.dev) for reference in row.references]
        notes = (
            *notes_on(right, coder.tokenizer, coder.whole, coder.most, coder.stop),
            *filter(None, [not_applied(scorer.backbone)]),
        )
        scorer.note(notes=tuple(dict.fromkeys((*scorer.facts.notes, *notes))))
        if method.objective.kl_penalty:
            split = split if split.unlabelled else replace(split, unlabelled=tuple(scorer.unlabelled(split)))
            evaluator.kl = _kl_penalty(scorer, writer, split)
        scorer.note(
            columns=task.kinds_in([*split.train, *split.dev]),
            train_rows=len(split.train),
            train_tokens=prompts.tokens,
            dev_rows=len(dev),
            dev_tokens=dev.prompt_tokens,
            rows_sha256=digest(scorer, [*split.train, *split.dev]),
        )
        return Problem(scorer, split, evaluator, grader=grader)

    def try_out(self, problem: Problem, test: bool = True) -> None:
        """Have the metric and the rewards judge two texts of the training rows and of the dev rows, and the metric two of the test rows."""
        loss, task = cast(TextEvaluator, problem.evaluator).loss, text_task(problem.scorer.task)
        judge = loss.judge if isinstance(loss, JudgedLoss) else None
        if problem.grader is not None:
            free = Reward(NAME, "nobody is asked", lambda texts: [0.0] * len(texts))
            judge = problem.scorer.config.method.objective.judge(task, free)
        train, section = problem.split.train[:2], problem.scorer.config.task
        tests = task.test(section.test_rows, section.seed)[:2] if test and task.has_test else ()
        for name, rows in (("", train), ("dev", problem.split.dev[:2]), ("test", tests)):
            if not rows:
                continue
            written = _as_if_written(problem, rows)
            try:
                task.reward.score(written)
                if judge is not None and name != "test":  # test rows are scored by the metric alone
                    judge(written)
            except RewardError as error:
                found = [f"{name} rows: {error}" if name else str(error), *_other_columns(task, name, rows, train)]
                raise RewardError("; ".join(found), error.code) from None

    def reached(
        self, problem: Problem, point: Point | None, examples: Sequence[Example] | None, before: Reached | None = None
    ) -> Reached:
        """Losses and metric of what is written for each split."""
        scorer, plain = problem.scorer, point is None
        evaluator, section = cast(TextEvaluator, problem.evaluator), problem.scorer.config.task
        scored = subsample(problem.split.train, section.scored_rows, section.seed)
        train, _ = evaluator.measure_on(text_rows(scorer, scored, plain), point or {})
        dev, _ = evaluator.measure_on(text_rows(scorer, problem.split.dev, plain), point or {})
        test, predictions = None, []
        if examples is not None:
            test, written = self._written(scorer, point, examples)
            predictions = _records(scorer, examples, written, before, _searched_for(problem))
        scores = scoring.put_together(train, dev, test)
        return WrittenReached(scores, None, None, None, 1.0, tuple(predictions))

    def standing(self, problem: Problem, point: Point) -> Standing:
        """Rows whose texts have the lowest rewards: those that are searched for, else the metric."""
        scorer, shown = problem.scorer, problem.scorer.config.mentor.show_rows
        if not shown:
            return Standing((), (), looked=False)
        section, task = scorer.config.task, text_task(scorer.task)
        rows = subsample(problem.split.train, section.scored_rows, section.seed)
        written = cast(TextEvaluator, problem.evaluator).write(point)
        judge = _judge(problem)
        rewards = task.reward.each(written) if judge is None else judge.each(written)
        found = sorted(enumerate(rewards), key=lambda pair: (pair[1], pair[0]))[:shown]
        misread = [
            Misread(
                " / ".join(rows[index].fields[name] for name in task.template.fields),
                (rows[index].references or ("",))[0],
                written.completions[index],
                round(value, DIGITS),
            )
            for index, value in found
        ]
        return Standing((), (), tuple(misread))

    def majority(self, problem: Problem, examples: Sequence[Example] | None) -> float | None:
        """No text is right for all rows."""
        return None

    def given(self, scorer: Scorer, point: Point, examples: Sequence[Example]) -> list[tuple[str, dict[str, float]]]:
        """What is written for each row."""
        writer = writer_of(scorer)
        prompts, _ = scorer.encoded(examples)
        return [(writer.coder.decode(text.ids), {}) for text in writer.write(prompts, point)[0]]

    def table(self, model: Any, table: Table) -> PredictedTable:
        """Texts behind all columns."""
        texts = texts_of(table, model.fields)
        answers = iter(model.answers([example for example in texts if example is not None]))
        given = [None if example is None else next(answers) for example in texts]
        made = table.renamed("answer", "answer (given)").with_column(
            "answer", ["" if answer is None else answer.label for answer in given]
        )
        return PredictedTable(made, given.count(None), 0, None, model.scorer.task.metric, "answer")

    def assessment(self, model: Any, table: Table) -> Assessment:
        """The metric with an interval, and the rows with the lowest rewards."""
        scorer, task = model.scorer, text_task(model.scorer.task)
        examples = task.examples(table)
        score, written = self._written(scorer, model.point, examples)
        each = np.array(task.reward.each(written))
        generator = np.random.default_rng(0)
        score_of = score_of_rows(task.reward, written)
        resampled = [score_of(generator.integers(0, len(each), len(each))) for _ in range(RESAMPLES)]
        worst = sorted(range(len(each)), key=lambda row: (each[row], row))[:WORST]
        return Assessment(
            metric=task.metric,
            score=score,
            interval=(float(np.quantile(resampled, 0.025)), float(np.quantile(resampled, 0.975))),
            loss=None,
            rows=len(each),
            labels=(),
            confusion=(),
            worst=tuple(
                (
                    dict(examples[row].fields),
                    " | ".join(examples[row].references[:2]),
                    written.completions[row],
                    float(each[row]),
                )
                for row in worst
            ),
        )

    told_in: ClassVar[str] = "answers.json"

    def told(self, scorer: Scorer, bias: Mapping[str, float]) -> dict[str, Any]:
        """What ends an answer."""
        coder = writer_of(scorer).coder
        return {
            "max_new_tokens": coder.most,
            "stop": list(coder.stop),
            "ends": list(coder.ends),
            "forced_end": coder.forced_end,
        }

    def how_to_ask(self, scorer: Scorer) -> list[str]:
        """How answers are written."""
        return [
            *_how_written(text_task(scorer.task)),
            f"- `{self.told_in}` holds both, and the tokens that end an answer",
        ]

    def code(self, kind: str, example: Mapping[str, str]) -> list[str]:
        """A function that writes an answer."""
        return [
            "from transformers import GenerationConfig",
            "",
            "",
            "def answer(fields):",
            *(f"    {line}" for line in snippets.written(kind)),
            "",
            "",
            f"print(answer({json.dumps(dict(example), ensure_ascii=False)}))",
        ]

    def card_lines(self, problem: Problem, result: Result) -> list[str]:
        """How answers are written."""
        return _how_written(text_task(problem.scorer.task))

    def _written(self, scorer: Scorer, point: Point | None, examples: Sequence[Example]) -> tuple[float, Written]:
        writer = writer_of(scorer)
        rows = text_rows(scorer, examples, point is None, references=False)

        def write() -> list[Text]:
            return writer.write(rows.prompts, point or {})[0]

        texts = remembered_texts(scorer, writer, rows.prompts, write) if point is None else write()
        written = judged(rows, writer.coder, texts)
        return text_task(scorer.task).reward.score(written), written


def _as_if_written(problem: Problem, rows: Sequence[Example]) -> Written:
    """Rows with a reference, or else a text of theirs, as if it had been written for them."""
    scorer, coder = problem.scorer, cast(TextEvaluator, problem.evaluator).writer.coder
    completions = [[*row.references, *row.fields.values()][0] for row in rows]
    written = text_task(scorer.task).written(shown_prompts(scorer, rows), completions, rows)
    return replace(written, ids=[coder.encode(text) for text in completions])


def _other_columns(task: TextTask, name: str, rows: Sequence[Example], train: Sequence[Example]) -> list[str]:
    """In what the columns of some rows differ from those of the training rows, so that a reward may fail for them."""
    here, there = ({column: None for row in some for column in row.columns} for some in (rows, train))
    lacking = [show(column) for column in there if column not in here]
    without = f"{name} rows are without {', '.join(lacking)}, which training rows have: add that" if lacking else ""
    return [*filter(None, [without]), *task.mixed_columns]


def grader_of(config: RunConfig) -> Grader:
    """The model that grades texts, as a recipe's ``[mentor]`` and objective say."""
    told, objective = config.mentor, cast(MinusReward, config.method.objective)
    return Grader(
        lambda: client_of(told),
        objective.rubric,
        highest=objective.grades,
        shows_references=objective.show_references,
        seed=config.task.seed,
        thinking=told.thinking,
        max_completion_tokens=told.max_completion_tokens,
        budget=budget_of(told),
        retries=told.retries,
    )


def _judge(problem: Problem) -> WeightedSum | None:
    """The rewards that are searched for; None where something else is minimised."""
    loss = cast(TextEvaluator, problem.evaluator).loss
    judge = loss.judge if isinstance(loss, JudgedLoss) else None
    return judge if isinstance(judge, WeightedSum) else None


def _searched_for(problem: Problem) -> list[Reward]:
    """The rewards beside the metric that are searched for, but for grades of a model, which are not asked about test rows."""
    judge, metric = _judge(problem), text_task(problem.scorer.task).reward
    grader = None if problem.grader is None else problem.grader.reward
    return [] if judge is None else [reward for reward, _ in judge.parts if reward not in (metric, grader)]


def _kl_penalty(scorer: Scorer, writer: Writer, split: Split) -> TextKL:
    """What holds candidates near the untuned model, by what that one writes for rows that are in no split."""
    stack, origin = cast(PassageStack, scorer.engine.stack), scorer.parameters.initial()
    prompts, _ = scorer.encoded(split.unlabelled)
    sampling = Sampling(1.0, scorer.config.task.seed, 0)
    alone = {block: vector.unsqueeze(0) for block, vector in origin.items()}
    (texts,) = written = writer.write(prompts, origin, alone or None, sampling)
    begun = scorer.facts.answer_end is None  # when runs put one mark behind all texts, whichever was written
    answers = [
        (*text.ids, writer.coder.end) if begun and text.tokens > len(text.ids) else text.with_end for text in texts
    ]
    passages = collate_passages([Passage(p, ids) for p, ids in zip(prompts, answers, strict=True)], stack)
    likelihood = Likelihood(scorer.engine)
    weight = scorer.config.method.objective.kl_penalty
    kl, tokens = TextKL(likelihood, passages, likelihood.of(passages, origin), weight), tokens_of(written)
    read = work_of(scorer.engine, sum(len(prompt.ids) for prompt in prompts), 0) + kl.work(0)
    costs = Costs(forward=round(read + work_to_write(scorer.engine, tokens)), generated=tokens)
    return replace(kl, costs=costs)


def _how_written(task: TextTask) -> list[str]:
    stop = f", until one of {json.dumps(list(task.stop), ensure_ascii=False)}" if task.stop else ""
    return [f"- answers: greedy, at most {task.max_new_tokens} tokens{stop}"]


def _records(
    scorer: Scorer, examples: Sequence[Example], written: Written, before: Reached | None, further: Sequence[Reward]
) -> list[PredictionRecord]:
    """Test rows with what was written for them, and the metric and further rewards of each text."""
    metric = text_task(scorer.task).reward
    rewards: dict[str, Sequence[float | None]] = {metric.name: metric.each(written)}
    for reward in further:
        try:
            found = reward.where_it_applies(written)
            other = rewards.get(reward.name, found) != found  # of the same name, for it lies in another file
            rewards[f"{reward.name} {len(rewards) + 1}" if other else reward.name] = found
        except UsageError as error:  # a search that is done is not lost for what is only told
            note = f"predictions.jsonl is without the reward {reward.name}: {error}"
            scorer.note(notes=tuple(dict.fromkeys((*scorer.facts.notes, note))))
    untuned = [None] * len(examples) if before is None else [one.label for one in before.answers(scorer, examples)]
    return [
        PredictionRecord(
            fields=dict(example.fields),
            gold=None,
            label=text,
            probabilities={},
            references=example.references,
            untuned=first,
            rewards={
                name: round(value, DIGITS) for name, values in rewards.items() if (value := values[row]) is not None
            },
        )
        for row, (example, text, first) in enumerate(zip(examples, written.completions, untuned, strict=True))
    ]
