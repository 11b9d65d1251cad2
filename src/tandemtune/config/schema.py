"""A recipe: its sections together, and what they mean together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import tandemtune.methods as methods
from tandemtune import plugins
from tandemtune.config.alternate import AlternateSection, MentorSection
from tandemtune.config.checks import cut, shortened
from tandemtune.config.method import MethodSection
from tandemtune.config.model import ModelSection
from tandemtune.config.parts import PARTS, THEN
from tandemtune.config.run import RunSection
from tandemtune.config.task import TaskSection
from tandemtune.errors import ConfigError, UsageError
from tandemtune.plugins import Member, Options, near
from tandemtune.proposers.base import survivors
from tandemtune.rewards.finding import code_file, code_of
from tandemtune.tasks.metrics import METRICS
from tandemtune.tasks.table import HUB, absolute_address

__all__ = [
    "DEFAULT_STEPS",
    "PARTS",
    "UNBOUNDED",
    "AlternateSection",
    "Check",
    "MentorSection",
    "ModelSection",
    "RunConfig",
    "RunSection",
    "TaskSection",
    "cut",
    "shortened",
]

UNBOUNDED = 1_000_000_000
"""Candidates and steps of runs that end by another bound."""
DEFAULT_STEPS = 60
"""Gradient steps where a recipe names none."""


class RunConfig(Options):
    """One recipe, complete and checked."""

    model: ModelSection
    task: TaskSection
    method: MethodSection
    alternate: AlternateSection
    mentor: MentorSection
    run: RunSection

    @property
    def parts(self) -> tuple[Member, ...]:
        """All members that take part."""
        behind = [part for entry in self.method.then for part in (entry.optimizer, entry.subspace, entry.objective)]
        return *self.parts_of_method, self.alternate.proposer, self.run.executor, *behind

    @property
    def parts_of_method(self) -> tuple[Member, ...]:
        """The members of [method] itself."""
        method = self.method
        return method.optimizer, method.tunable, method.subspace, method.objective, method.readout

    def problems(self) -> Iterator[str]:
        """What does not fit together; each part is asked."""
        if self.method.name not in methods.METHODS:
            options = list(methods.METHODS)
            hint = near(self.method.name, options)
            yield f"[method] name: unknown method {self.method.name!r}{hint}, expected {', '.join(options)}"
        yield from self._own_problems()
        yield from self._then_problems()
        for name in self.run.yardsticks:
            try:
                plugins.find("yardstick", name)
            except UsageError as error:
                yield f"[run] yardsticks: {error}"
        for name in self.run.trackers:
            try:
                plugins.find("tracker", name)
            except UsageError as error:
                yield f"[run] report_to: {error}"
        if self.alternates and not self.schedule_lengths and not self.alternate.proposer.proposes:
            yield "[alternate] round_steps and final_steps: both are 0 and nobody proposes, so nothing would happen"
        yield from self._race_problems()
        if self.task.writes and self.method.readout.form is not None:
            yield f"[method] readout: {self.method.readout.kind} reads labels, and this task is answered with texts: set it to none"
        if self.task.choices != "words" and self.method.readout.form is not None:
            yield (
                f"[method] readout: {self.method.readout.kind} reads label words, and choices are {self.task.choices}: set it to none"
            )
        if not self.task.writes and self.run.max_generated_tokens is not None:
            yield (
                f"[run] max_generated_tokens: {self.run.max_generated_tokens}, but this task is answered with labels, and nothing is written: leave "
                "it out"
            )
        if self.task.writes and self.run.yardsticks:
            yield "[run] yardsticks: classifiers of labels, and this task is answered with texts: leave them out"
        yield from self._together_problems()
        if self.alternates and self.method.ema:
            yield f"[method] ema: {self.method.ema}, but rounds go on from the incumbent: set it to 0"
        if self.alternates and self.method.guard != "none":
            yield f"[method] guard: {self.method.guard}, but rounds have [alternate] accept instead: set it to none"

    def _race_problems(self) -> Iterator[str]:
        """What cannot be raced, and races that are longer than the run."""
        section = self.alternate
        if not self.alternates or section.mode != "race":
            return
        if self.method.optimizer.uses == "text":
            yield (
                f"[alternate] mode: a race trains proposals of words, and {self.method.optimizer.kind} searches words itself: choose "
                "another method, or set mode to restart"
            )
        if section.actions:
            yield "[alternate] actions: decisions of the next round are not raced: set it to false, or mode to restart"
        needed = section.rounds * len(self.race_legs) * section.race_steps
        if needed > section.final_steps:
            yield (
                f"[alternate] final_steps: {section.final_steps}, but the races' turns are among them, and rounds x legs x race_steps = "
                f"{section.rounds} x {len(self.race_legs)} x {section.race_steps} = {needed} (legs of at most {_sizes(self.race_legs)} entrants): set "
                f"final_steps to {needed} or more, or rounds, race_steps or proposals lower"
            )

    def _own_problems(self) -> Iterator[str]:
        """What does not fit together in [method] and all parts, whatever comes behind."""
        yield from self.method.problems()
        for part in (*self.parts_of_method, self.alternate.proposer, self.run.executor):
            yield from part.problems(self)

    def _then_problems(self) -> Iterator[str]:
        """What cannot be handed over, and what an entry of `then` could not have as a [method] either."""
        method, entries = self.method, self.method.then
        if not entries:
            return
        preset = methods.METHODS.get(method.name)
        if self.alternates:
            yield "[method] then: rounds with proposals end with the run: set [alternate] rounds to 0, or leave then out"
        if preset is not None and preset.without_gradients(self.task.answers):
            yield (
                f"[method] name: {method.name} may take another method's parts on a small machine, and then belongs to one: name that "
                "method itself, for example lora"
            )
        if sum(entry.share or 0.0 for entry in entries) >= 1.0:
            yield "[method] then: shares of 1 or more together leave nothing to [method]: lower them"
        one, *others = self.stretches
        told = set(one.method_problems())
        for number, (other, entry) in enumerate(zip(others, entries, strict=True), 1):
            if "none" in (method.optimizer.uses, other.method.optimizer.uses):
                yield f"[{THEN} {number}] optimizer: {other.method.optimizer.kind} after {method.optimizer.kind}: where nothing is tuned there is nothing to go on from: leave then out"
            for line in other.method_problems():
                if line not in told:
                    same = entry.takes_over(method, line.partition("] ")[2].partition(":")[0])
                    hint = ", as [method] says: say otherwise in the entry" if same else ""
                    yield line.replace("[method]", f"[{THEN} {number}]", 1) + hint
        if len({objective.grading for one in self.stretches if (objective := one.method.objective).asks_model}) > 1:
            yield "[method] then: objectives that a model grades by different rubrics: write one for the whole run"
        yield from method.tunable.hand_over_problems(self.stretches)

    def method_problems(self) -> Iterator[str]:
        """What does not fit together in [method] and its parts."""
        yield from self.method.problems()
        for part in self.parts_of_method:
            yield from part.problems(self)

    @property
    def stretches(self) -> tuple[RunConfig, ...]:
        """The stretches of the run, one after another, each as a recipe of its own: with its [method], its share of what [run] allows, and
        nothing behind."""
        if not self.method.then:
            return (self,)
        sections = (self.method.model_copy(update={"then": ()}), *map(self.method.of, self.method.then))
        return tuple(
            self.model_copy(update={"method": method, "run": self.run.of_share(share)})
            for method, share in zip(sections, self.method.shares, strict=True)
        )

    @property
    def title(self) -> str:
        """The method's name, and those of what comes behind."""
        return ", then ".join(one.method.name for one in self.stretches)

    def _together_problems(self) -> Iterator[str]:
        """What speaks against reading several templates together."""
        several = self.task.together
        if several == 1:
            return
        if self.task.templates is None:
            yield f"[task] together: {several}, but there is one template: list several as templates"
        if self.method.readout.form is None or not self.method.tunable.untouched:
            yield (
                f"[task] together: {several}, but several templates can be read only by a readout of a model that nothing else is tuned of: set "
                "[method] name to readout, or leave together out"
            )

    @property
    def turns(self) -> int:
        """Turns of the optimizer in all rounds together, or of the only stage of a method that follows gradients."""
        section = self.alternate
        if self.alternates:
            return section.rounds * section.round_steps + section.final_steps
        return self.method.steps or DEFAULT_STEPS

    @property
    def race_legs(self) -> list[int]:
        """The most entrants of each leg of a race: the trained prompt and the proposals, words beside a prompt that is trained twice."""
        section, tunable = self.alternate, self.method.tunable
        if not (self.alternates and section.mode == "race" and section.proposer.proposes):
            return []
        twice = section.proposer.words and not tunable.words_only
        legs, entrants = [], 1 + section.proposals * (2 if twice else 1)
        while entrants > 1:
            legs.append(entrants)
            entrants = survivors(entrants)
        return legs

    @property
    def schedule_lengths(self) -> list[int]:
        """How many steps each schedule of the learning rate spans: one a stage, or one in all where it goes on."""
        section = self.alternate
        if not self.alternates or not section.proposer.proposes or self.keeps_moments:
            return [self.turns] if self.turns else []
        return [steps for steps in (section.round_steps, section.final_steps) if steps]

    @property
    def keeps_moments(self) -> bool:
        """Whether the optimizer's moments and schedule span all rounds."""
        return self.alternate.mode == "race" or not self.alternate.reset_moments

    @property
    def follows_gradient(self) -> bool:
        """Whether the optimizer needs gradients."""
        return self.method.optimizer.uses == "gradient"

    @property
    def bounded_by_budget(self) -> bool:
        """Whether the number of candidates ends the search, and not a number of turns."""
        return self.method.optimizer.searches and not self.alternates

    @property
    def length_known(self) -> bool:
        """Whether something else than time ends a search, so that the number of its generations can be told."""
        method, run = self.method, self.run
        bounds = (method.steps, run.max_forward_tokens, run.max_generated_tokens)
        return self.alternates or method.budget < UNBOUNDED or any(bound is not None for bound in bounds)

    @property
    def in_subspace(self) -> bool:
        """Whether the optimizer's vectors are mapped to parameters by random projections."""
        return self.method.optimizer.vectors and self.method.subspace.projects

    @property
    def alternates(self) -> bool:
        """Whether somebody proposes points to go on from."""
        return self.alternate.rounds > 0

    def plugins(self) -> dict[str, str]:
        """Members that come from outside the package: where their code lies -> hash of the file."""
        used = [(part.noun, plugins.address_of(type(part))) for part in self.parts]
        used += [one for part in self.parts for one in part.named()]
        if self.task.metric is not None and self.task.metric not in METRICS:
            used.append(("reward" if self.task.writes else "metric", self.task.metric))
        found: dict[str, str] = {}
        for noun, name in used:
            found |= code_of(name) if noun == "reward" else plugins.outside_code(noun, name)
        return found

    def code_problems(self) -> Iterator[str]:
        """Functions of the user's that are not where the recipe says; a run that has ended can be used without them."""
        metric = self.task.metric
        if metric is not None and not self.task.writes and plugins.is_address(metric):
            try:
                plugins.find("metric", metric)
            except UsageError as error:
                yield f"[task] metric: {error}"
        for address, setting in self.reward_functions.items():
            try:
                code_file(address)
            except UsageError as error:
                yield f"{setting}: {error}"

    @property
    def reward_functions(self) -> dict[str, str]:
        """Where the functions lie that judge texts -> the setting that names them."""
        behind = (entry.objective for entry in self.method.then)
        used = {name: "[method] rewards" for one in (self.method.objective, *behind) for _, name in one.named()}
        if self.task.writes and self.task.metric is not None:
            used[self.task.metric] = "[task] metric"
        return {name: setting for name, setting in used.items() if plugins.is_address(name)}

    def with_data_in(self, before: Path, after: Path) -> RunConfig:
        """The same recipe whose row files have moved from one folder to another."""
        moved = {
            key: str(after / Path(source).name)
            for key in ("train", "test", "dev")
            if (source := getattr(self.task, key)) is not None and Path(source).parent == before
        }
        return self.model_copy(update={"task": self.task.model_copy(update=moved)})

    def with_absolute_paths(self) -> RunConfig:
        """The same recipe with its local files and folders named from the root, so that it can be used from anywhere."""

        def absolute(place: str, source: str | None, folders_only: bool = False) -> str | None:
            if source is None or source.startswith(HUB):
                return source and absolute_address(source)
            try:
                path = Path(source).expanduser()
                return source if folders_only and not path.is_dir() else str(path.absolute())
            except (OSError, RuntimeError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ConfigError([f"{place}: {shortened(source)} is no usable path: {reason}"]) from None

        task = {key: absolute(f"[task] {key}", getattr(self.task, key)) for key in ("data", "train", "test", "dev")}
        task["metric"] = self.task.metric and plugins.absolute(self.task.metric)
        name = absolute("[model] name", self.model.name, folders_only=True)
        return self.model_copy(
            update={"task": self.task.model_copy(update=task), "model": self.model.model_copy(update={"name": name})}
        )


def _sizes(legs: Sequence[int]) -> str:
    """Entrants of some legs in words."""
    return " and ".join(filter(None, [", ".join(map(str, legs[:-1])), str(legs[-1])]))


Check = Callable[[RunConfig], Iterator[str]]
