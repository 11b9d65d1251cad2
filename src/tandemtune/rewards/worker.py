"""The process in which a reward function of the user's runs: one question a line on standard input, one answer a line on what
was standard output. What the function prints goes to standard error."""

from __future__ import annotations

import inspect
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tandemtune import plugins


def main(address: str) -> None:
    """Answer until nobody asks any more.

    Args:
        address: where the function lies.
    """
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    parent = os.getppid()
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        function = plugins.find("reward", address)
    except Exception as error:
        print(json.dumps({"failed": _said(error)}), file=out, flush=True)
        return
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(_answer(function, json.loads(line))), file=out, flush=True)


def _answer(function: Callable[..., Any], question: dict[str, Any]) -> dict[str, Any]:
    given = {**question["columns"], "prompts": question["prompts"], "completions": question["completions"]}
    parameters = inspect.signature(function).parameters.values()
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        given = {name: value for name, value in given.items() if name in {parameter.name for parameter in parameters}}
    try:
        found = function(**given)
    except Exception as error:
        return {"failed": _said(error)}
    return {"rewards": _plain(found)}


def _plain(found: Any) -> Any:
    """A list of numbers as JSON has it; anything else as it would be shown."""
    if hasattr(found, "tolist"):
        found = found.tolist()
    if not isinstance(found, list | tuple):
        return repr(found)
    values = (value.item() if hasattr(value, "item") else value for value in found)
    return [value if value is None or isinstance(value, int | float) else repr(value) for value in values]


def _said(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0][:200]
    return f"{type(error).__name__}: {first}"


def _end_with(parent: int) -> None:
    """End when the process that asks is gone, whatever the function is doing."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
