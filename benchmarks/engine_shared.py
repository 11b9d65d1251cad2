"""What it is worth to compute a beginning that all prompts share once for each candidate, not once for each row.

python benchmarks/engine_shared.py [MODEL] [--demonstrations 4] [--layer 20] [--repeats 3]

Every prompt is put behind an instruction and solved examples, or behind the first part of them, and the same generation is scored in
turn with the beginning in the row once, and before every prompt.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from statistics import median
from typing import Any

from contenders import FORMATS, Plan, candidates, in_turn, incumbent, processor, settled
from tandemtune.evaluators import engine as engines
from tandemtune.evaluators.batch import Batch, collate
from tandemtune.evaluators.engine import Engine
from tandemtune.evaluators.label_words import LabelWordEvaluator
from tandemtune.models.marks import separator
from tandemtune.problem import Problem
from tandemtune.tunables.demonstrations import demonstrate
from tandemtune.types import Encoded

INSTRUCTION = (
    "You are given sentences out of film reviews, one at a time. Decide for each of them whether the person who wrote it liked the "
    "film or did not like it. Judge the sentence as a whole: a few kind words do not make a good review, and a film may be praised "
    "with a sigh. Answer with a single word. Here are some examples."
)
SHARES = (0.1, 0.25, 0.5)
"""Of a pass's tokens that shorter beginnings would save."""


def main() -> None:
    """Time generations over prompts with beginnings of several lengths."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="pypi:smollm2-135m-instruct")
    parser.add_argument("--task", default=Plan.task)
    parser.add_argument("--data", help="folder with the task's files")
    parser.add_argument("--shots", type=int, default=Plan.shots)
    parser.add_argument("--popsize", type=int, default=4)
    parser.add_argument("--dtype", default=Plan.dtype, choices=FORMATS, help="what suits the processor if left out")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--demonstrations", type=int, default=4, help="solved examples behind the instruction")
    parser.add_argument("--layer", type=int, help="the layer that candidates change; the middle one if left out")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    plan = Plan(
        given.model, given.task, given.data, given.shots, None, given.popsize, given.dtype, threads=given.threads
    )
    problem = settled(plan, plan.dtype)
    engine, point = problem.scorer.engine, incumbent(problem)
    if not engine.stack.shares:
        print(f"in {given.model} prompts cannot share what they begin with")
        return
    layer = len(engine.stack) // 2 if given.layer is None else given.layer
    vectors, train, facts = candidates(problem, layer, plan.popsize), problem.evaluator.train, problem.facts
    whole = beginning(problem, given.demonstrations)
    wanted = [round(share * train.tokens / (len(train) * (1 - share) - 1)) for share in SHARES]
    print(
        f"{given.model}, {facts.dtype}, on {processor(facts.device)}, layer {layer}: {len(train)} rows, {train.tokens} tokens of "
        f"their own, population {plan.popsize}\n| all begin with | tokens a candidate, not shared / shared | seconds, not shared / "
        "shared (from, to) | largest difference of losses |\n|---|---|---|---|"
    )
    engines.WORTH_SHARING = 0.0  # where it is worth it is what this measures
    ways = {"not shared": apart_from(problem.labelled), "shared": problem.labelled}
    for length in (*wanted, len(whole)):
        batch = behind(train, whole[:length])
        losses: dict[str, Any] = {}

        def generation(name: str, batch: Batch, losses: dict[str, Any]) -> None:
            engine.stack.shares = name == "shared"  # asked once for each batch
            losses[name] = ways[name].evaluate_on(batch, point, {layer: vectors})

        took = in_turn({name: partial(generation, name, batch, losses) for name in ways}, given.repeats)
        ratios = [one / other for one, other in zip(took["not shared"], took["shared"], strict=True)]
        apart = abs(losses["not shared"] - losses["shared"]).max()
        print(
            f"| {length} tokens | {batch.tokens / (length + train.tokens):.2f} | {median(ratios):.2f} ({min(ratios):.2f}, "
            f"{max(ratios):.2f}) | {apart:.1e} |",
            flush=True,
        )


def apart_from(evaluator: LabelWordEvaluator) -> LabelWordEvaluator:
    """The same evaluator with an engine that keeps its own states."""
    made, engine = copy.copy(evaluator), evaluator.engine
    made.engine = Engine(engine.stack, engine.tunable, engine.averaging, engine.max_memory, engine.chunk_tokens)
    return made


def beginning(problem: Problem, count: int) -> tuple[int, ...]:
    """An instruction and solved dev rows."""
    scorer = problem.scorer
    shown = demonstrate(
        scorer.backbone,
        scorer.task,
        scorer.verbalizer,
        problem.split.dev,
        scorer.config.task.max_tokens,
        count,
        context=scorer.backbone.longest,
    )
    between = separator(scorer.backbone.tokenizer)
    ids = tuple(scorer.backbone.tokenizer(INSTRUCTION)["input_ids"])
    return (*ids, *between, *(token for one in shown for token in (*one.ids, *between)))


def behind(batch: Batch, begin: tuple[int, ...]) -> Batch:
    """The prompts of a batch behind the same tokens."""
    rows: dict[int, Encoded] = {}
    for group in batch.groups:
        for row, ids, answer in zip(group.rows.tolist(), group.ids.tolist(), group.answer.tolist(), strict=True):
            rows[row] = Encoded((*begin, *ids), len(begin) + answer)
    return collate([rows[row] for row in range(len(batch))], batch.labels.tolist(), batch.labels.device)


if __name__ == "__main__":
    main()
