"""The process in which a reward function of the user's runs: one question a line on what was standard input, one answer a line on
what was standard output. What the function prints goes to standard error, and it reads nothing."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any, TextIO

from tandemtune import plugins
from tandemtune.rewards.own import GIVEN, IMPORTING

BITS = 1024
"""Of the whole numbers that rewards are added up with."""


def main(address: str, path: Sequence[str]) -> None:
    """Answer until nobody asks any more.

    Args:
        address: where the function lies.
        path: where the process that asks finds modules.
    """
    questions, answers = _pipes()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    sys.path += [place for place in path if place not in sys.path]
    os.environ[IMPORTING] = address
    try:
        function = plugins.find("reward", address)
    except BaseException as error:  # whatever foreign code raises; an exit, too
        cause = error.__cause__ or error
        traceback.print_exception(cause)
        print(json.dumps({"failed": _said(cause, _file(address))}), file=answers, flush=True)
        return
    del os.environ[IMPORTING]
    asked = Asked(function, _file(address))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in questions:
        print(json.dumps(asked.answer(json.loads(line))), file=answers, flush=True)


class Asked:
    """A function that is asked again and again, as `trl` (1.16) asks it.

    Args:
        function: the user's; one that is asynchronous is awaited.
        file: in which it lies; "" if in none.
    """

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._function, self._file = function, file
        self._loop: asyncio.AbstractEventLoop | None = None
        self._shown: set[str] = set()

    def answer(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """The rewards of some texts, or why there are none."""
        try:
            found = self._function(**self._arguments(question))
            if inspect.isawaitable(found):
                self._loop = self._loop or asyncio.new_event_loop()
                found = self._loop.run_until_complete(_awaited(found))
            return {"rewards": _plain(found)}
        except Exception as error:
            said = _said(error, self._file)
            if said not in self._shown:
                traceback.print_exception(error)
            self._shown.add(said)
            return {"failed": said}

    def _arguments(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """What the function names, or everything where it takes whatever comes."""
        given = {
            **question["columns"],
            "trainer_state": State(question["state"]),
            "log_extra": _nothing,
            "log_metric": _nothing,
            **{name: question[name] for name in GIVEN if name in question},
        }
        parameters = inspect.signature(self._function).parameters.values()
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            return given
        names = {parameter.name for parameter in parameters}
        missing = [
            p.name
            for p in parameters
            if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and p.name not in given
        ]
        if missing:
            raise TypeError(
                f"it asks for {', '.join(missing)}, which is no column of the rows; there are {', '.join(given)}"
            )
        return {name: value for name, value in given.items() if name in names}


class State:
    """How far a run is.

    Args:
        known: what is known of that, by name.
    """

    def __init__(self, known: Mapping[str, float]) -> None:
        vars(self).update(known)

    def __getattr__(self, name: str) -> float:
        """Refuse what is not known: a reward that counts on another number had better not be given one."""
        raise AttributeError(f"trainer_state has no {name} here; there {_listed([*vars(self)])}")


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f"are {', '.join(first)} and {last}" if first else f"is {last}"


async def _awaited(found: Any) -> Any:
    return await found


def _nothing(*given: object, **named: object) -> None:
    """Nobody writes down what a function logs."""


def _pipes() -> tuple[TextIO, TextIO]:
    """Questions and answers, out of the way of what the function and the programs that it starts read and print."""
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return questions, answers


def _plain(found: Any) -> Any:
    """Whatever gives one value after another (a list, a generator, an array) as a list of numbers, as JSON has it; anything else as it
    would be shown."""
    if isinstance(found, str | bytes | Mapping | Set) or not isinstance(found, Iterable):
        return repr(found)
    try:
        values = iter(found)
    except TypeError:  # an array of one number without a place
        return repr(found)
    return [_one(value) for value in values]


def _one(value: Any) -> Any:
    """A number as JSON has it; anything else, and a number with more digits than can be written, as it would be shown."""
    if hasattr(value, "item"):  # of an array or a tensor
        value = value.item()
    if isinstance(value, Real | Decimal) and not isinstance(value, int | float):
        value = float(value)
    if isinstance(value, int) and value.bit_length() > BITS:
        return f"a number of {value.bit_length()} bits"
    return value if value is None or isinstance(value, int | float) else repr(value)


def _said(error: BaseException, file: str) -> str:
    """What was raised, and the last line of the user's own file on the way there."""
    first = (str(error).splitlines() or [""])[0][:200]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" ({Path(file).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first}{where}"


def _file(address: str) -> str:
    """The file of an address, as tracebacks name it."""
    place = address.rpartition(":")[0]
    if place.endswith(".py"):
        return str(Path(place).expanduser().resolve())
    return str(getattr(sys.modules.get(place), "__file__", None) or "")


def _end_with(parent: int) -> None:
    """End when the process that asks is gone, whatever the function is doing."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
