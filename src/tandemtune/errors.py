"""Errors meant for a person: what was expected, what came, what to do. The command line prints them without a traceback."""

from __future__ import annotations

from collections.abc import Sequence


class TandemTuneError(Exception):
    """Base of all errors that TandemTune raises on purpose."""

    exit_code = 1


class UsageError(TandemTuneError):
    """Something the user handed in cannot be used: a recipe, a file, a label word."""

    exit_code = 2


class ConfigError(UsageError):
    """All problems of one recipe, reported together.

    Args:
        problems: one readable sentence each.
        source: where the recipe came from (a path, or "recipe" for a dict).
    """

    def __init__(self, problems: Sequence[str], source: str = "recipe") -> None:
        self.problems = tuple(problems)
        self.source = source
        noun = "problem" if len(self.problems) == 1 else "problems"
        lines = "\n".join(f"  - {p}" for p in self.problems)
        super().__init__(f"{source}: {len(self.problems)} {noun}\n{lines}")


class DataError(UsageError):
    """A data file or an example that cannot be used; names file, line and field."""


class ModelError(UsageError):
    """A model that cannot be used as asked: unknown architecture, wrong target, no mask token."""


class RewardError(UsageError):
    """A reward that failed, took too long, or gave something else than numbers.

    Args:
        message: what happened.
        code: where the function lies, as a run's facts name it; empty where it is none of the user's.
    """

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class AssetError(TandemTuneError):
    """A model or data set that could not be fetched, verified or unpacked."""


class RunError(TandemTuneError):
    """A run folder that cannot be written, resumed or read."""


class NoRunError(RunError):
    """A folder that holds no run."""

    exit_code = 2


class MentorError(TandemTuneError):
    """The mentor could not be asked, or what it said cannot be used."""


class MentorUnavailable(MentorError):  # noqa: N818
    """The mentor could not answer now: no connection, too slow, overloaded, garbled. Asking again later may help.

    Args:
        message: what happened.
        wait: seconds that the server asked to be left alone, where it said so.
        paid: the answer may have been worked out, and billed, although it did not arrive.
    """

    def __init__(self, message: str, *, wait: float | None = None, paid: bool = False) -> None:
        super().__init__(message)
        self.wait = wait
        self.paid = paid


class MentorRefused(MentorError):  # noqa: N818
    """The mentor will not answer, however often it is asked: wrong key, unknown model, a request it cannot serve."""

    exit_code = 2


class BudgetSpent(MentorError):  # noqa: N818
    """The next question could cost more than the cap on tokens or money leaves."""


class AnswerAwaited(TandemTuneError):  # noqa: N818
    """The mentor answers through a file that is not there yet: the run ends here and goes on with `resume` once it is."""

    exit_code = 3
