"""The section [method] of a recipe: its parts, its own settings, and which of these do not go together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

import tandemtune.methods as methods
from tandemtune.config.parts import PartOf
from tandemtune.objectives.base import Objective
from tandemtune.optimizers.base import Optimizer
from tandemtune.plugins import Options
from tandemtune.readout.members import ReadoutMember
from tandemtune.subspace import Subspace
from tandemtune.tunables.base import Tunable

COMMON = ("objective", "dev_every", "patience", "guard", "judge")
"""Settings that do not depend on who searches: an entry of `then` that names another optimizer takes them over from [method]."""


class SearchSettings(Options):
    """Who searches, where, how long and for what: what [method] and each [[method.then]] say."""

    optimizer: Annotated[Optimizer, PartOf("optimizer")] = Field(
        description="who searches (`tandemtune ls optimizers`)"
    )
    subspace: Annotated[Subspace, PartOf("subspace")] = Field(
        description="random, or none for the parameters themselves"
    )
    objective: Annotated[Objective, PartOf("objective")] = Field(
        description="what is minimised (`tandemtune ls objectives`)"
    )
    order: Literal["in-turn", "together"] = Field(
        "in-turn",
        description="layers one after another, or all at once (in one subspace, where there is one; gradients always move all at once)",
    )
    budget: Annotated[int, Field(ge=2)] = Field(
        2000, description="candidates that a derivative-free search may score on the training rows"
    )
    steps: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="turns of the optimizer (gradient steps or generations); a search without gradient ends by budget",
    )
    l2_penalty: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        0.0,
        description="this times the mean square of z / sigma (without a subspace, of the distance from the start / sigma) is added to "
        "losses, which holds a search near its start",
    )
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="look at dev with the exponential moving average of the incumbents, of this decay; 0 for the incumbent",
    )
    subsample: Annotated[int, Field(ge=1)] | None = Field(
        None, description="score each generation on so many training rows, drawn anew for each"
    )
    elites: Annotated[int, Field(ge=0)] = Field(
        0, description="best candidates that are scored again, on all training rows, before one is accepted"
    )
    dev_every: Annotated[int, Field(ge=1)] = Field(5, description="generations between evaluations on dev")
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None, description="stop after so many evaluations on dev without a better one; never if left out"
    )
    guard: Literal["none", "standard-error"] = Field(
        "none",
        description="when a point replaces the kept one: for a lower dev loss, or only for a gain, row by row, that exceeds its "
        "standard error over the dev rows",
    )
    refused: Literal["go-on", "go-back"] = Field(
        "go-on",
        description="what a search without gradient does when its guard has refused a point: go on from there, or go back to the kept point "
        "and begin anew around it",
    )
    score: Literal["words", "readout"] = Field(
        "words",
        description="how a search scores candidates: by their label words, or each training row by a readout of all others, solved "
        "anew at the candidate (leave one out: learned by heart by many candidates, so keep the budget small)",
    )
    judge: Literal["words", "readout"] = Field(
        "words",
        description="how dev rows are judged during a search: by their label words, or each by a readout of all other labelled "
        "rows, solved anew at the point",
    )


class Then(SearchSettings):
    """[[method.then]]: who searches next, from the best point so far, and for what."""

    name: str = Field(
        "",
        description="a method whose optimizer, subspace, objective and what goes with them are meant; its tunable has to be that of [method]",
    )
    share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None,
        description="of the tokens, written tokens and seconds that [run] allows; the rest is shared equally among those that say nothing",
    )

    def takes_over(self, method: SearchSettings, key: str) -> bool:
        """Whether a setting, or an option of the objective, is that of [method], as one is that an entry leaves out."""
        if key == "objective" or key in type(self.objective).model_fields:
            return self.objective == method.objective
        return key in COMMON and getattr(self, key) == getattr(method, key)


class MethodSection(SearchSettings):
    """[method]: what is tuned, by whom, where and for what; a method's name sets several of these at once."""

    name: str = Field(
        methods.DEFAULT,
        description="see `tandemtune ls methods`; it sets the parts and what goes with them. A recipe with no [method], or an empty one, has auto",
    )
    tunable: Annotated[Tunable, PartOf("tunable")] = Field(description="what may change (`tandemtune ls tunables`)")
    readout: Annotated[ReadoutMember, PartOf("readout")] = Field(
        description="what is solved on all labelled rows at the end (`tandemtune ls readouts`)"
    )
    then: tuple[Then, ...] = Field(
        (), description="who goes on from the best point, one after another, each with settings of [method] of its own"
    )

    def of(self, entry: Then) -> MethodSection:
        """The section as it would be, were an entry of `then` all that searches."""
        said = {key: getattr(entry, key) for key in SearchSettings.model_fields}
        return self.model_copy(update={**said, "name": entry.name or entry.optimizer.kind, "then": ()})

    @property
    def final_objective(self) -> Objective:
        """What the result is judged by: the objective of who searches last."""
        return self.then[-1].objective if self.then else self.objective

    @property
    def shares(self) -> tuple[float, ...]:
        """What each search may use of the tokens and seconds of a run, as shares that add up to 1."""
        given = [None, *(entry.share for entry in self.then)]
        rest = 1.0 - sum(share for share in given if share is not None)
        return tuple(rest / given.count(None) if share is None else share for share in given)

    @property
    def turn_candidates(self) -> int:
        """Candidates that one turn scores; where the best may be kept, the incumbent is one of them."""
        if not self.optimizer.keeps_best:
            return self.optimizer.candidates
        return self.optimizer.candidates + 1 + (self.elites + 1 if self.elites else 0)

    def problems(self) -> Iterator[str]:
        """Settings of this section that its parts cannot use."""
        optimizer = self.optimizer
        if optimizer.searches and self.budget < self.turn_candidates:
            parts = [
                "popsize",
                *(["1"] if optimizer.keeps_best else []),
                *(["elites + 1"] if self.elites else []),
            ]
            again = " (the incumbent is scored again in each)" if optimizer.keeps_best else ""
            yield (
                f"[method] budget: {self.budget} is less than one generation, {' + '.join(parts)} = {self.turn_candidates} "
                f"candidates{again}"
            )
        keeps_vector = optimizer.uses == "sampler" and optimizer.keeps_best
        named, remedy = optimizer.kind, "choose cma-es, fireworks or random"
        if optimizer.uses == "sampler":
            named, remedy = f'{optimizer.kind} with incumbent = "mean"', 'set incumbent to "best"'
        if self.elites and self.subsample is None:
            yield (
                f"[method] elites: {self.elites} are scored again on all rows, which says something new with subsample only"
            )
        if self.elites > optimizer.candidates:
            yield f"[method] elites: {self.elites} are more than a generation of {optimizer.candidates}"
        if self.elites and not keeps_vector:
            yield f"[method] elites: {self.elites}, but {named} keeps no best candidate: {remedy}, or leave elites out"
        if self.ema and not optimizer.vectors:
            yield (
                f"[method] ema: {self.ema}, but {optimizer.kind} is no search of vectors by their losses: choose cma-es, fireworks, random "
                "or an estimator such as es"
            )
        if self.l2_penalty and (optimizer.uses not in ("sampler", "estimator") or self.tunable.all_weights):
            yield (
                f"[method] l2_penalty: {self.l2_penalty} is paid by candidates of a search beside the model, got optimizer "
                f"{optimizer.kind} and tunable {self.tunable.kind}"
            )
        if self.judge == "readout" and self.readout.form is None:
            yield '[method] judge: readout, but the recipe has none: name one, for example readout = "ridge"'
        if self.score == "readout" and (self.readout.form is None or not optimizer.searches):
            yield "[method] score: readout needs a readout and a search without gradient"
        if self.subsample and not optimizer.searches:
            yield (
                f"[method] subsample: {self.subsample} is for searches without gradient, got optimizer {optimizer.kind}"
            )
        yield from self._guard_problems()

    def _guard_problems(self) -> Iterator[str]:
        """Guards, and what is done where one refuses a point, that its parts cannot use."""
        optimizer = self.optimizer
        if self.guard != "none" and not self.objective.by_rows:
            yield (
                f"[method] guard: {self.guard} needs a loss of each row, which {self.objective.kind} is not made of: choose ce, "
                "hinge or accuracy, of texts ce or reward"
            )
        if self.refused == "go-back" and self.guard == "none":
            yield "[method] refused: go-back, but without a guard no point is refused: set guard to standard-error"
        if self.refused == "go-back" and not (optimizer.searches and not self.tunable.all_weights):
            yield (
                f"[method] refused: go-back is for searches without gradient beside the model, got optimizer {optimizer.kind} and tunable "
                f"{self.tunable.kind}: set it to go-on"
            )
