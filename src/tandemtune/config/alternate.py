"""The sections of rounds and of the mentor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

import tandemtune.assets as assets
from tandemtune.config.checks import Positive, asset_problems, raise_all
from tandemtune.config.parts import PartOf
from tandemtune.mentor.address import NO_VARIABLE, is_variable
from tandemtune.mentor.client import THOUGHTS
from tandemtune.mentor.clients import PAID
from tandemtune.mentor.prices import Price, price_of, priced
from tandemtune.mentor.transcript import style_of
from tandemtune.plugins import Options
from tandemtune.proposers.base import Proposer

_CONTEXT = 2048  # tokens of a question and its answer, without thoughts


class AlternateSection(Options):
    """[alternate]: rounds in which the optimizer of [method] takes turns with someone who proposes new points to go on from."""

    rounds: Annotated[int, Field(ge=0)] = Field(0, description="rounds N; 0 means that nobody proposes")
    mode: Literal["restart", "race"] = Field(
        "restart",
        description="one proposal is chosen by its loss and started from, or all of them and the trained prompt are trained side "
        "by side for a few steps, and the worst drop out",
    )
    race_steps: Annotated[int, Field(ge=1)] = Field(
        4, description="of a race: steps of each entrant before the next drop out"
    )
    round_steps: Annotated[int, Field(ge=0)] = Field(10, description="turns m of the optimizer in each round")
    final_steps: Annotated[int, Field(ge=0)] = Field(30, description="turns M of the optimizer after the last round")
    proposer: Annotated[Proposer, PartOf("proposer")] = Field(description="who proposes (`tandemtune ls proposers`)")
    snapshots: Annotated[int, Field(ge=1)] = Field(
        5, description="tried prompts K that a proposer is shown, and points of each round that are read as words"
    )
    proposals: Annotated[int, Field(ge=1)] = Field(3, description="candidates C that are asked for")
    select: Literal["best", "first"] = Field("best", description="which candidate: lowest dev loss, or the first")
    accept: Literal["always", "if_better", "metropolis"] = Field(
        "if_better", description="when it replaces the trained prompt, compared by dev loss"
    )
    heat: Positive = Field(0.1, description="of metropolis: a loss higher by this much is taken with probability 1/e")
    actions: bool = Field(
        False,
        description="who proposes also decides how the next round of a layer-by-layer search is run: its layers, a restart, the size of its steps",
    )
    reset_moments: bool = Field(True, description="begin the optimizer's moments and schedule anew in each round")
    manual: str | None = Field(None, description="a prompt of yours that the proposer is shown")
    definition: str | None = Field(None, description="the task in a sentence; the catalogue's for known tasks")


class MentorSection(Options):
    """[mentor]: the language model that proposes, how it is asked, and what it may cost."""

    client: Literal["local", "endpoint", "file", "recorded"] = Field(
        "local",
        description="a GGUF file through llama.cpp, an OpenAI-compatible endpoint, files that a person or any chat window "
        "answers, or a run's transcript",
    )
    mentor: str = Field(
        "pypi:smollm2-135m-gguf",
        description="pypi:KEY or a GGUF file; the model's name at an endpoint; the conversations.jsonl of a run",
    )
    style: Literal["auto", "complete", "chat"] = Field(
        "auto",
        description="a list to be continued (small models), or a conversation (strong ones); auto converses with endpoints and "
        "files, and asks a transcript as it was asked then",
    )
    thinking: bool = Field(
        False, description="the mentor thinks before it answers, and gets tokens for that (style chat)"
    )
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = Field(
        None, description="most tokens of one answer, thoughts included; as many as it needs if left out"
    )
    wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="of client file: seconds to wait for an answer before the run ends, to be resumed later"
    )
    base_url: str | None = Field(None, description="of an endpoint, for example one that runs on your machine")
    key_env: str | None = Field(None, description="environment variable that holds the key; it is written nowhere")
    show_rows: Annotated[int, Field(ge=0, le=20)] = Field(
        0,
        description="training rows that the model gets wrong and that the mentor is shown; they leave this machine with client endpoint",
    )
    creativity: Annotated[float, Field(ge=0, le=5)] = Field(0.8, description="sampling temperature")
    timeout: Positive = Field(120.0, description="seconds for one answer")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(3, description="after transient failures, with growing pauses")
    cpu_threads: Annotated[int, Field(ge=1)] = Field(
        1, description="of a local model; more than one spin beside the tuned model"
    )
    context: Annotated[int, Field(ge=256)] | None = Field(
        None,
        description="tokens of question and answer together that a local model has room for; if left out, 2048 and those that it may think, or "
        "max_completion_tokens",
    )
    token_cap: Annotated[int, Field(ge=1)] | None = Field(None, description="tokens that all conversations may cost")
    money_cap: Positive | None = Field(
        None, description="money that all conversations may cost, in the prices' currency; needs prices, given or known"
    )
    price_in: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="of a million prompt tokens; what is left out of the two is taken from a small table, else 0"
    )
    price_out: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = Field(
        None, description="of a million answered tokens"
    )
    currency: str = Field("USD", description="of price_in and price_out; the table's are in USD")
    on_failure: Literal["doer-only", "stop"] | None = Field(
        None,
        description="after max_failures in a row: go on without the mentor, or stop the run; if left out, go on, but do not begin or resume where it "
        "does not answer",
    )
    max_failures: Annotated[int, Field(ge=1)] = Field(2, description="failures in a row that are borne")

    @model_validator(mode="after")
    def _known_mentor(self) -> MentorSection:
        problems = []
        if self.client == "local" and self.mentor.startswith(assets.PREFIX):
            problems = [line.replace("name:", "mentor:", 1) for line in asset_problems(self.mentor, "gguf")]
        if self.client == "endpoint" and self.mentor.startswith(assets.PREFIX):
            problems.append(f"mentor: {self.mentor!r} is no model of an endpoint: give the name that the endpoint uses")
        if self.thinking and self.spoken != "chat":
            problems.append(
                "thinking: true, but only a mentor in style chat thinks before it answers: set style to chat"
            )
        if self.client == "file" and self.spoken != "chat":
            problems.append(f"style: {self.style}, but questions in files are a conversation: set style to chat")
        if self.key_env and not is_variable(self.key_env):
            problems.append(f"key_env: {NO_VARIABLE}")
        raise_all([*problems, *self._price_problems()])
        return self

    def _price_problems(self) -> Iterator[str]:
        """A cap that nobody could keep, and a currency that the table of prices does not have."""
        price = self.price
        if self.money_cap is not None and self.client in PAID and not (price.asked or price.answered):
            yield (
                f"money_cap: {self.money_cap:g}, but nothing says what {self.mentor if self.client == 'endpoint' else 'an answer'} costs: give "
                "price_in and price_out, for a million tokens, or a token_cap instead"
            )
        elif self.money_cap is not None and self.client in PAID and not price.whole:
            missing = "price_in" if self.price_in is None else "price_out"
            yield (
                f"money_cap: {self.money_cap:g}, but {missing} is left out and not known, so the cap would not count these tokens: give both prices"
            )
        if price.currency.casefold() != self.currency.casefold():
            yield (
                f"currency: {self.currency}, but the prices of {self.mentor} in the package's table are in {price.currency}: give price_in and "
                f"price_out in {self.currency}, or leave currency out"
            )

    @property
    def price(self) -> Price:
        """What a million tokens cost: what was given, else what the table has in that currency, else nothing."""
        table = price_of(self.mentor, self.base_url) if self.client == "endpoint" else None
        return priced(self.price_in, self.price_out, self.currency, table)

    @property
    def room(self) -> int:
        """Tokens of question and answer together that a local model has room for."""
        more = self.max_completion_tokens or (THOUGHTS if self.thinking else 0)
        return self.context or _CONTEXT + more

    @property
    def spoken(self) -> Literal["complete", "chat"]:
        """The style that is spoken."""
        if self.style != "auto":
            return self.style
        if self.client == "recorded":
            return style_of(self.mentor) or "chat"
        return "complete" if self.client == "local" else "chat"
