"""The loop: ask, evaluate, tell, and keep the point that is best on dev. In some runs somebody proposes where to go on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tandemtune.config import AlternateSection, RunConfig
from tandemtune.errors import RunError
from tandemtune.objective.batch import Batch
from tandemtune.objective.objective import Objective
from tandemtune.optimizers.base import Moving, Optimizer
from tandemtune.optimizers.genetic import Genetic
from tandemtune.optimizers.gradient import Gradient
from tandemtune.proposals import Draft, Proposer, Tried, as_line
from tandemtune.runs.journal import Line
from tandemtune.runs.store import RunFolder
from tandemtune.schedule import Phase, Stage, seed_for
from tandemtune.system import peak_rss_mb
from tandemtune.tunables.base import INPUT
from tandemtune.tunables.vocabulary import Vocabulary, Words
from tandemtune.types import Observer

SAVE_SHARE = 0.02
"""Checkpoints take at most this share of the time, unless one is asked for after every generation."""


@dataclass
class Standing:
    """Where a search stands; with the optimizers' states this is all that a checkpoint holds.

    Args:
        incumbent: the point that candidates are compared with, or that gradients are taken at.
        kept: the point with the lowest dev loss so far.
        origin: the point where the present stage began.
        train_loss: the incumbent's training loss when it was last measured.
        dev: loss and score of the last look at dev.
        kept_dev: loss and score of `kept` on dev.
        kept_step: turn after which `kept` was found.
        kept_line: the journal's line that found it; 0 is the starting point.
        step: the optimizers' turns so far.
        candidates: candidates scored on the training rows.
        gradient_steps: gradients taken.
        token_layers: tokens times layers they ran through forwards, for everything but the final scores.
        backward_token_layers: the same backwards.
        stale: looks at dev since the last better one.
        looked: journal lines up to the last look at dev.
        lines: journal lines that led here.
        stage: number of the present stage.
        stage_step: turns of the present stage.
        penalty: by block, what the incumbent pays for being far from where the stage began.
        averaged: the running average of the incumbents; None where none is kept.
        tried: prompts of words with their losses, in order.
        failures: times in a row that nobody proposed anything usable.
        spent: what asking for proposals has cost.
    """

    incumbent: dict[int, Tensor]
    kept: dict[int, Tensor]
    origin: dict[int, Tensor]
    train_loss: float
    dev: dict[str, float]
    kept_dev: dict[str, float]
    kept_step: int = 0
    kept_line: int = 0
    step: int = 0
    candidates: int = 0
    gradient_steps: int = 0
    token_layers: int = 0
    backward_token_layers: int = 0
    stale: int = 0
    looked: int = 1
    lines: int = 1
    stage: int = 0
    stage_step: int = 0
    penalty: dict[int, float] = field(default_factory=dict)
    averaged: dict[int, Tensor] | None = None
    tried: list[dict[str, Any]] = field(default_factory=list)
    failures: int = 0
    spent: dict[str, float] = field(default_factory=dict)


_POINTS = ("incumbent", "kept", "origin")


@dataclass
class Search:
    """The stages of one run over its folder, new or resumed.

    The journal holds what was measured. A resumed search loads the last checkpoint and walks through the lines behind it: the
    optimizers propose the same candidates again and are told the recorded losses; only gradients are taken again.

    Args:
        objective: scores candidates, takes gradients, and looks at dev.
        dev: the dev rows.
        stages: what happens in which order.
        origin: the point to begin with.
        make_phase: (starting point, stage) -> the optimizer's phase.
        config: budgets, intervals and bounds.
        folder: where the journal and the checkpoint lie.
        observe: told what happens.
        rows: batch of training rows of a gradient step, by the step's number.
        vocabulary: reads prompts as words, where somebody proposes.
        proposer: proposes.
        sample: training rows of a generation, by the turn's number; None for all rows.
    """

    objective: Objective
    dev: Batch
    stages: tuple[Stage, ...]
    origin: Mapping[int, Tensor]
    make_phase: Callable[[Mapping[int, Tensor], Stage], Phase]
    config: RunConfig
    folder: RunFolder
    observe: Observer
    rows: Callable[[int], Batch] | None = None
    vocabulary: Vocabulary | None = None
    proposer: Proposer | None = None
    sample: Callable[[int], Batch] | None = None
    _saved_at: float = field(default=0.0, init=False)
    _save_cost: float = field(default=0.0, init=False)

    def run(self) -> Standing:
        """Search until a bound is reached.

        Returns:
            Where the search ended; `kept` is its result.
        """
        self.journal = self.folder.open_journal()
        self._spent = self.folder.read_seconds()
        self._begin = self._saved_at = time.perf_counter()
        resumed = len(self.journal.lines)
        if self.journal.torn:
            self.observe("progress", {"text": "the journal's last line was torn by a kill; its step is done again"})
        start = self._line(0, self._start)
        now = self._restored(start)
        self.observe("start", {"line": start, "resumed": resumed, "seconds": self._spent})
        while not (reason := self._stop_reason(now)):
            stage = self.stages[now.stage]
            self._proposal(now, stage) if stage.kind == "propose" else self._turn(now, stage)
            self._checkpoint(now)
        end = self._line(now.lines, lambda: self._end(now, reason))
        self._take_look(now, end)
        self._tick(now)
        return now

    def _line(self, index: int, make: Callable[[], Line]) -> Line:
        """A line of the journal: the recorded one, else made, written and flushed."""
        if index >= len(self.journal.lines):
            self.journal.append(make())
        return self.journal.lines[index]

    def _start(self) -> Line:
        train = self.objective.measure(self.objective.reading, self.origin)
        line = {
            "event": "start",
            "phase": self.config.method.name,
            "train_loss": _plain(train.loss),
            "dev": self._look(self.origin),
        }
        if self.config.alternates:
            line["words"] = self._read(dict(self.origin), [])
        return line

    def _turn(self, now: Standing, stage: Stage) -> None:
        """One turn of the stage's optimizer."""
        sweep, blocks = self.phase.turn(now.stage_step)
        optimizer = self.phase.optimizer(blocks)
        if isinstance(optimizer, Gradient):
            line = self._gradient_step(now, stage, blocks, optimizer)
        else:
            line = self._generation(now, stage, sweep, blocks, optimizer)
        now.step += 1
        now.stage_step += 1
        self._count(now, line)
        if line.get("words"):
            now.tried.append(line["words"])
        recorded = now.lines < len(self.journal.lines) - 1
        self._take_look(now, line)
        if not recorded:
            self._tick(now)
        self.observe("generation", {"line": line, "standing": now, "seconds": self._seconds(now)})
        if now.stage_step == stage.steps:
            self._next_stage(now)

    def _generation(
        self, now: Standing, stage: Stage, sweep: int, blocks: tuple[int, ...], optimizer: Optimizer
    ) -> Line:
        """Score a generation, or take its losses from the journal; tell them, and move the incumbent."""
        asked = optimizer.ask()
        vectors = self.phase.up(blocks, asked)
        mover = optimizer if isinstance(optimizer, Moving) else None
        known = now.lines < len(self.journal.lines)
        penalties = self._penalties(asked)
        if known:
            found = self.journal.lines[now.lines]
        else:
            found = self._scored_generation(now, blocks, vectors, None if mover is not None else penalties)
        losses, incumbent = _floats(found["losses"]), _float(found["incumbent"])
        told = losses + penalties
        optimizer.tell(told)
        if mover is not None:
            accepted, best = True, int(np.argmin(losses))
            moved = {**now.incumbent, **_only(self.phase.up(blocks, mover.point[np.newaxis]))}
            train_loss = float(np.mean(losses[np.isfinite(losses)])) if np.isfinite(losses).any() else math.inf
        else:
            again = {int(index): _float(loss) for index, loss in found.get("elites", [])}
            judged = np.array([again.get(i, math.inf) for i in range(len(losses))]) + penalties if again else told
            best = int(np.argmin(judged))
            there = _float(found["incumbent_again"]) if again else incumbent
            accepted = bool(judged[best] < there + now.penalty.get(blocks[0], 0.0))
            if accepted:
                moved = {**now.incumbent, **{block: v[best].clone() for block, v in vectors.items()}}
                train_loss = again.get(best, float(losses[best]))
                now.penalty = {**now.penalty, blocks[0]: float(penalties[best])}
            else:
                moved, train_loss = now.incumbent, there
            self.phase.reward(blocks, there - train_loss)
        averaged = self._averaged(now, blocks, moved)

        def make() -> Line:
            look, words, cost = self._notes(now, stage, moved if averaged is None else averaged)
            scored = len(losses) + (mover is None) + (len(found["elites"]) + 1 if "elites" in found else 0)
            rows = self.sample(now.step) if self.sample else None
            cost += self.objective.cost(blocks, len(losses) + (mover is None), rows, self.phase.below(blocks))
            if "elites" in found:
                cost += self.objective.cost(blocks, len(found["elites"]) + 1)
            return {
                "event": "generation",
                "step": now.step + 1,
                "phase": self.phase.name,
                "sweep": sweep,
                "layer": blocks[0] if len(blocks) == 1 else None,
                **found,
                "best": _plain(losses[best]),
                "accepted": accepted,
                "train_loss": _plain(train_loss),
                "dev": look,
                "candidates": now.candidates + scored,
                "token_layers": now.token_layers + cost,
                **self._text(optimizer),
                **words,
            }

        line = self._line(now.lines, make)
        now.incumbent, now.train_loss, now.averaged = moved, train_loss, averaged
        return line

    def _scored_generation(
        self,
        now: Standing,
        blocks: tuple[int, ...],
        vectors: Mapping[int, Tensor],
        penalties: NDArray[np.float64] | None,
    ) -> dict[str, Any]:
        """Losses of a generation and, where a best candidate is kept, of the incumbent as one more candidate; the best ones
        once more on all rows, where that is wanted."""
        rows = self.sample(now.step) if self.sample else None
        if penalties is None:
            losses = self.objective.evaluate(now.incumbent, vectors, rows)
            return {"losses": [_plain(loss) for loss in losses], "incumbent": None}
        together = {block: torch.cat([v, now.incumbent[block].unsqueeze(0)]) for block, v in vectors.items()}
        losses = self.objective.evaluate(now.incumbent, together, rows)
        found: dict[str, Any] = {"losses": [_plain(loss) for loss in losses[:-1]], "incumbent": _plain(losses[-1])}
        if count := self.config.method.elites:
            finite = np.where(np.isfinite(losses[:-1]), losses[:-1], np.inf)
            chosen = np.argsort(finite + penalties, kind="stable")[:count].tolist()
            again = self.objective.evaluate(now.incumbent, {b: v[[*chosen, -1]] for b, v in together.items()})
            found["elites"] = [[index, _plain(loss)] for index, loss in zip(chosen, again[:-1], strict=True)]
            found["incumbent_again"] = _plain(again[-1])
        return found

    def _penalties(self, asked: Any) -> NDArray[np.float64]:
        """What candidates z [P, d] pay for being far from where the stage began."""
        method = self.config.method
        if not method.anchor:
            return np.zeros(len(asked))
        return np.asarray(method.anchor * np.mean(np.square(asked / method.sigma), axis=1))

    def _averaged(
        self, now: Standing, blocks: tuple[int, ...], moved: Mapping[int, Tensor]
    ) -> dict[int, Tensor] | None:
        """The running average of the incumbents, of which only the blocks of this turn have changed."""
        decay = self.config.method.average
        if not decay:
            return None
        before = now.averaged or dict(now.origin)
        return {**before, **{b: torch.lerp(moved[b], before[b], decay) for b in blocks}}

    def _text(self, optimizer: Optimizer) -> dict[str, str]:
        """The best text so far of an optimizer of texts."""
        if not isinstance(optimizer, Genetic) or self.vocabulary is None:
            return {}
        return {"text": self.vocabulary.words(optimizer.best[0]).text}

    def _gradient_step(self, now: Standing, stage: Stage, blocks: tuple[int, ...], optimizer: Gradient) -> Line:
        """Follow the gradient of some rows. It is taken anew when recorded lines are walked through, and has to agree."""
        assert self.rows is not None
        batch = self.rows(now.gradient_steps)
        rate = optimizer.lr
        point = {**now.incumbent, **{b: v[0] for b, v in self.phase.up(blocks, optimizer.ask()).items()}}
        loss, gradients = self.objective.gradient(batch, point, blocks)
        flat = torch.cat([gradients[block] for block in blocks])
        optimizer.tell(np.array([loss]), flat.numpy()[np.newaxis])
        moved = {
            **now.incumbent,
            **{
                b: v[0].clone()
                for b, v in self.phase.up(blocks, optimizer.point[np.newaxis].astype(np.float64)).items()
            },
        }

        def make() -> Line:
            look, words, cost = self._notes(now, stage, moved)
            work = round(batch.tokens * self._depth)
            return {
                "event": "step",
                "step": now.step + 1,
                "phase": self.phase.name,
                "loss": _plain(loss),
                "gradient_norm": _plain(float(flat.norm())),
                "lr": rate,
                "dev": look,
                "candidates": now.candidates,
                "gradient_steps": now.gradient_steps + 1,
                "token_layers": now.token_layers + work + cost,
                "backward_token_layers": now.backward_token_layers + work,
                **words,
            }

        line = self._line(now.lines, make)
        if line["loss"] != _plain(loss):
            raise RunError(
                f"{self.journal.path}: step {line['step']} was recorded with the loss {line['loss']}, and taken again it is "
                f"{_plain(loss)}: this machine does not compute as the one that began the run, so it cannot end as one run"
            )
        now.incumbent, now.train_loss = moved, loss
        return line

    def _notes(self, now: Standing, stage: Stage, moved: dict[int, Tensor]) -> tuple[Any, dict[str, Any], int]:
        """A look at dev and a reading as words, when it is time for them, and what they cost."""
        look, words, cost = None, {}, 0
        if (now.step + 1) % self.config.method.dev_every == 0 or now.stage_step + 1 == stage.steps:
            look = self._look(moved)
            cost += round(self.dev.tokens * self._depth)
        if now.stage_step + 1 in stage.snapshots:
            words = {"words": self._read(moved, now.tried)}
            new = all(entry["ids"] != words["words"]["ids"] for entry in now.tried)
            cost += round((1 + (new and not self._beside_lora)) * self.objective.train.tokens * self._depth)
        return look, words, cost

    def _read(self, point: dict[int, Tensor], tried: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The nearest words to a point, scored as words, beside the point's own loss: what is lost by reading it. Words
        that were tried are not scored again."""
        assert self.vocabulary is not None
        method = self.config.method
        vectors = point[INPUT].reshape(method.prompt_tokens, -1)
        if self._beside_lora:  # the prompt is words, and what they cost changes with the model
            words = self.vocabulary.exact(vectors)
            here = self.objective.measure(self.objective.reading, point)
            scored = {"loss": _plain(here.loss), "score": here.score, "soft_loss": _plain(here.loss)}
            return {"text": words.text, "ids": list(words.ids), "distance": 0.0, **scored}
        words = self.vocabulary.nearest(vectors, method.projection)
        before = next((entry for entry in tried if entry["ids"] == list(words.ids)), None)
        scored = {"loss": before["loss"], "score": before["score"]} if before else self._words_at(words, point)
        soft = self.objective.measure(self.objective.reading, point)
        return {
            "text": words.text,
            "ids": list(words.ids),
            "distance": words.distance,
            **scored,
            "soft_loss": _plain(soft.loss),
        }

    def _words_at(self, words: Words, point: Mapping[int, Tensor]) -> dict[str, Any]:
        assert self.vocabulary is not None
        vector = self.vocabulary.vectors(words.ids).reshape(-1)
        found = self.objective.measure(self.objective.reading, {**point, INPUT: vector})
        return {"loss": _plain(found.loss), "score": found.score}

    def _proposal(self, now: Standing, stage: Stage) -> None:
        """Ask for points to go on from, score them all, and go on from one of them or from the trained prompt."""
        line = self._line(now.lines, lambda: self._ask(now, stage))
        self._count(now, line)
        now.spent = line["spent"]
        now.failures = now.failures + 1 if line["failure"] else 0
        now.tried += [entry for entry in line["drafts"] if entry["ids"] is not None]
        if line["taken"] is not None:
            now.incumbent = self._drafted(now, line["drafts"][line["taken"]])
            now.train_loss = _float(line["drafts"][line["taken"]]["loss"])
        self._take_look(now, line)
        self._next_stage(now)
        self.observe("proposal", {"line": line, "standing": now, "seconds": self._seconds(now)})

    def _ask(self, now: Standing, stage: Stage) -> Line:
        assert self.proposer is not None
        section = self.config.alternate
        known = [_tried(entry) for entry in now.tried]
        best = sorted({entry.words.ids: entry for entry in known}.values(), key=lambda e: -e.loss)[-section.snapshots :]
        again = 0
        if (
            self._beside_lora and now.failures < self.config.mentor.max_failures
        ):  # what they cost with the model as it is now
            scored = [(entry.words, self._words_at(entry.words, now.incumbent)) for entry in best]
            best = [Tried(words, _float(here["loss"]), here["score"]) for words, here in scored]
            best.sort(key=lambda entry: -entry.loss)
            again = len(best) * self.objective.train.tokens
        begun = {"event": "proposal", "round": stage.round, "proposer": section.proposer}
        trained = {"loss": _plain(now.train_loss), "dev": now.dev}  # looked at when the stage ended
        if now.failures >= self.config.mentor.max_failures:
            silent = {"refused": [], "failure": "not asked: it failed before", "spent": now.spent}
            return {**begun, **silent, **self._outcome(now, trained, [], None, again)}
        proposal = self.proposer.propose(stage.round, best, known)
        drafts = [self._scored(now, draft) for draft in proposal.drafts]
        taken = _taken(drafts, trained, section, seed_for(self.config.task.seed, stage.round, 4))
        shown = [{"text": e.words.text, "loss": _plain(e.loss), "score": e.score} for e in best]
        return {**begun, "shown": shown, **as_line(proposal), **self._outcome(now, trained, drafts, taken, again)}

    def _outcome(
        self, now: Standing, trained: dict[str, Any], drafts: list[dict[str, Any]], taken: int | None, again: int
    ) -> Line:
        looks = len(drafts) * (self.dev.tokens + self.objective.train.tokens) + again
        return {
            "trained": trained,
            "drafts": drafts,
            "taken": taken,
            "dev": None if taken is None else drafts[taken]["dev"],
            "candidates": now.candidates + len(drafts),
            "token_layers": now.token_layers + round(looks * self._depth),
        }

    def _scored(self, now: Standing, draft: Draft) -> dict[str, Any]:
        """A draft with its losses and scores on the training and the dev rows."""
        entry = {"text": draft.text, "ids": None if draft.ids is None else list(draft.ids), "seed": draft.seed}
        point = self._drafted(now, entry)
        train = self.objective.measure(self.objective.reading, point)
        return {**entry, "loss": _plain(train.loss), "score": train.score, "distance": 0.0, "dev": self._look(point)}

    def _drafted(self, now: Standing, entry: Mapping[str, Any]) -> dict[int, Tensor]:
        assert self.proposer is not None
        ids = None if entry["ids"] is None else tuple(entry["ids"])
        vector = self.proposer.vector(Draft(entry["text"], ids, entry["seed"]), now.incumbent[INPUT])
        return {**now.incumbent, INPUT: vector}

    def _next_stage(self, now: Standing) -> None:
        """Go to the next stage; the optimizer begins anew at the incumbent, or keeps its moments where that is wanted."""
        now.stage += 1
        now.stage_step = 0
        now.origin = dict(now.incumbent)
        now.penalty, now.averaged = {}, None
        if now.stage < len(self.stages) and self.stages[now.stage].kind == "tune":
            self._enter(now)

    def _enter(self, now: Standing) -> None:
        before = getattr(self, "phase", None)
        self.phase = self.make_phase(now.origin, self.stages[now.stage])
        if before is None or self.config.alternate.reset_moments:
            return
        for blocks, optimizer in before.optimizers.items():
            if isinstance(optimizer, Gradient):
                optimizer.restart(torch.cat([now.origin[block] for block in blocks]).numpy(), reset_moments=False)
                self.phase.optimizers[blocks] = optimizer

    def _count(self, now: Standing, line: Line) -> None:
        now.candidates, now.token_layers = line["candidates"], line["token_layers"]
        now.gradient_steps = line.get("gradient_steps", now.gradient_steps)
        now.backward_token_layers = line.get("backward_token_layers", now.backward_token_layers)

    def _end(self, now: Standing, reason: str) -> Line:
        seen = now.incumbent if now.averaged is None else now.averaged
        look = self._look(seen) if now.looked < now.lines else None
        return {"event": "end", "step": now.step, "stop_reason": reason, "dev": look}

    def _take_look(self, now: Standing, line: Line) -> None:
        """Keep the incumbent if a line's look at dev is the best so far, and count the line."""
        now.lines += 1
        look = line["dev"]
        if look is None:
            return
        now.dev = look
        now.looked = now.lines
        now.stale += 1
        if _float(look["loss"]) < _float(now.kept_dev["loss"]):
            seen = now.incumbent if now.averaged is None else now.averaged
            now.kept, now.kept_dev, now.kept_step, now.stale = dict(seen), look, now.step, 0
            now.kept_line = now.lines - 1

    def _look(self, point: Mapping[int, Tensor]) -> dict[str, float | None]:
        seen = self.objective.measure(self.dev, point)
        return {"loss": _plain(seen.loss), "score": seen.score}

    @property
    def _beside_lora(self) -> bool:
        """Whether the prompt only changes by proposals, while the optimizer searches something else."""
        return self.config.method.tunable == "lora+prompt"

    @property
    def _depth(self) -> float:
        return sum(self.objective.engine.stack.costs)

    def _stop_reason(self, now: Standing) -> str:
        """Why to stop now, or "" to go on; while lines are walked through, what was decided then."""
        if now.lines < len(self.journal.lines):
            return str(self.journal.lines[now.lines].get("stop_reason", ""))
        method, bounds = self.config.method, self.config.run
        whole = (now.token_layers + now.backward_token_layers) / self._depth
        if now.stage == len(self.stages):
            return "steps"
        if self.config.bounded_by_budget and now.candidates + self.phase.candidates > method.budget:
            return "budget"
        if method.patience is not None and now.stale >= method.patience:
            return "patience"
        if bounds.max_forward_tokens is not None and whole >= bounds.max_forward_tokens:
            return "max_forward_tokens"
        if bounds.max_seconds is not None and self._seconds(now) >= bounds.max_seconds:
            return "max_seconds"
        if now.failures >= self.config.mentor.max_failures and self.config.mentor.on_failure == "stop":
            return "mentor"
        return ""

    def _seconds(self, now: Standing) -> float:
        return self._spent + time.perf_counter() - self._begin

    def _tick(self, now: Standing) -> None:
        self.folder.tick(step=now.step, seconds=self._seconds(now), peak_rss_mb=peak_rss_mb())

    def _checkpoint(self, now: Standing) -> None:
        begin = time.perf_counter()
        wanted = self.config.run.checkpoint_seconds
        pause = max(wanted, self._save_cost / SAVE_SHARE) if wanted else 0.0
        if now.lines < len(self.journal.lines) or begin - self._saved_at < pause:
            return
        standing: dict[str, Any] = {**vars(now), **{name: _arrays(getattr(now, name)) for name in _POINTS}}
        standing["averaged"] = None if now.averaged is None else _arrays(now.averaged)
        standing["penalty"] = {str(block): penalty for block, penalty in now.penalty.items()}
        phase = getattr(self, "phase", None)
        self.folder.save_checkpoint({"standing": standing, "optimizers": phase.state() if phase else []})
        self._saved_at = time.perf_counter()
        self._save_cost = self._saved_at - begin

    def _restored(self, start: Line) -> Standing:
        """The standing of the last checkpoint, or of the beginning."""
        saved = self.folder.load_checkpoint()
        if saved is None:
            point = dict(self.origin)
            first = [start["words"]] if start.get("words") else []
            dev = start["dev"]
            now = Standing(point, dict(point), dict(point), _float(start["train_loss"]), dev, dev, tried=first)
            if self.stages and self.stages[0].kind == "tune":
                self._enter(now)
            return now
        standing = saved["standing"]
        if standing["lines"] > len(self.journal.lines):
            raise RunError(
                f"{self.journal.path} holds {len(self.journal.lines)} lines, fewer than the checkpoint was made "
                f"after ({standing['lines']}): restore it, or delete {self.folder.checkpoint} to go on from the journal"
            )
        now = Standing(**{**standing, **{name: _tensors(standing[name]) for name in _POINTS}})
        now.averaged = None if standing["averaged"] is None else _tensors(standing["averaged"])
        now.penalty = {int(block): penalty for block, penalty in standing["penalty"].items()}
        if saved["optimizers"] or (now.stage < len(self.stages) and self.stages[now.stage].kind == "tune"):
            last = next(s for s in reversed(self.stages[: now.stage + 1]) if s.kind == "tune")
            self.phase = self.make_phase(now.origin, last)
            self.phase.restore(saved["optimizers"])
        return now


def _taken(
    drafts: Sequence[Mapping[str, Any]], trained: Mapping[str, Any], section: AlternateSection, seed: int
) -> int | None:
    """Which draft to go on from, or None for the trained prompt."""
    if not drafts:
        return None
    losses = [_float(draft["dev"]["loss"]) for draft in drafts]
    chosen = 0 if section.select == "first" else int(np.argmin(losses))
    worse = losses[chosen] - _float(trained["dev"]["loss"])
    if section.accept == "always" or worse < 0:
        return chosen
    if section.accept == "metropolis" and np.random.default_rng(seed).random() < math.exp(-worse / section.heat):
        return chosen
    return None


def _tried(entry: Mapping[str, Any]) -> Tried:
    return Tried(Words(tuple(entry["ids"]), entry["text"], entry["distance"]), _float(entry["loss"]), entry["score"])


def _only(vectors: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The only candidate of a generation of one."""
    return {block: v[0].clone() for block, v in vectors.items()}


def _plain(value: float) -> float | None:
    """A number as JSON has it: null stands for NaN and infinity."""
    value = float(value)
    return value if math.isfinite(value) else None


def _float(value: float | None) -> float:
    return math.inf if value is None else value


def _floats(values: list[float | None]) -> NDArray[np.float64]:
    return np.array([_float(value) for value in values], dtype=np.float64)


def _arrays(point: Mapping[int, Tensor]) -> dict[str, NDArray[np.float32]]:
    return {str(block): vector.numpy() for block, vector in point.items()}


def _tensors(arrays: Mapping[str, NDArray[np.float32]]) -> dict[int, Tensor]:
    return {int(block): torch.from_numpy(array) for block, array in arrays.items()}
