"""How a suite is run: every promise, and one error that names all that are not kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

Case = TypeVar("Case")


def keep(name: str, promises: Sequence[Callable[[Case], None]], case: Case) -> None:
    """Put something through all of its promises.

    Args:
        name: what is put to the test.
        promises: functions whose docstring is the promise, and which raise where it is not kept.
        case: what they are called with.

    Raises:
        AssertionError: lists every promise that is not kept, caused by what the promises raised.
    """
    broken: list[Exception] = []
    lines: list[str] = []
    for promise in promises:
        try:
            promise(case)
        except Exception as error:  # a member may raise anything
            broken.append(error)
            said = str(error) if isinstance(error, AssertionError) else f"raised {type(error).__name__}: {error}"
            lines.append(f"  - {promise_of(promise)}\n    {said}")
    if broken:
        summary = f"{name} does not keep {len(broken)} of {len(promises)} promises:\n" + "\n".join(lines)
        raise AssertionError(summary) from (broken[0] if len(broken) == 1 else ExceptionGroup(name, broken))


def promise_of(promise: Callable[..., None]) -> str:
    """The promise in words."""
    return (promise.__doc__ or promise.__name__).strip().partition("\n")[0]


def expect(kept: bool, message: str) -> None:
    """Raise an `AssertionError` with a message unless something is so."""
    if not kept:
        raise AssertionError(message)


def refuses(wanted: type[Exception] | tuple[type[Exception], ...], call: Callable[[], Any], what: str) -> None:
    """Expect that a call raises.

    Args:
        wanted: the error.
        call: the call.
        what: what is done, for the message.
    """
    names = " or ".join(kind.__name__ for kind in (wanted if isinstance(wanted, tuple) else (wanted,)))
    try:
        call()
    except wanted:
        return
    except Exception as error:  # of the wrong kind
        raise AssertionError(f"{what}: expected {names}, got {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what}: expected {names}, but it was taken")


def same(one: Any, other: Any) -> bool:
    """Equality to the bit, through nested plain data; NaN equals NaN."""
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and same(one.cpu().numpy(), other.cpu().numpy())
    if isinstance(one, Mapping):
        return (
            isinstance(other, Mapping)
            and one.keys() == other.keys()
            and all(same(value, other[key]) for key, value in one.items())
        )
    if isinstance(one, list | tuple):
        return (
            isinstance(other, list | tuple)
            and len(one) == len(other)
            and all(same(a, b) for a, b in zip(one, other, strict=True))
        )
    return type(one) is type(other) and bool(one == other or one != one)
