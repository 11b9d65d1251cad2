"""Everything that was said to a mentor and by it, in one file: for the reader, for the ledger, and so that nothing is asked twice."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tandemtune.errors import BudgetSpent, MentorRefused, MentorUnavailable, RunError, UsageError
from tandemtune.mentor.client import Client, Reply, Request, Style
from tandemtune.runs.journal import Lines, read_lines

_LONGEST_WAIT = 120.0  # seconds; a server that asks for more is not waited for


@dataclass(frozen=True, slots=True)
class Budget:
    """What a mentor may cost.

    Args:
        max_tokens: of questions and answers together.
        max_money: in the currency of the prices.
        prompt_price: for a million tokens of questions.
        completion_price: for a million tokens of answers.
    """

    max_tokens: int | None = None
    max_money: float | None = None
    prompt_price: float = 0.0
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        if self.max_money is not None and not (self.prompt_price or self.completion_price):
            raise UsageError("mentor: a cap on money needs the prices of a million prompt and completion tokens")

    def money(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Price of so many tokens."""
        return (prompt_tokens * self.prompt_price + completion_tokens * self.completion_price) / 1e6


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a mentor has cost in the whole run.

    Args:
        calls: questions that were answered.
        prompt_tokens: of these questions.
        completion_tokens: of their answers.
        money: price of both.
        open_tokens: at most so many more were used by questions whose answer never arrived.
        open_money: price of those.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    money: float = 0.0
    open_tokens: int = 0
    open_money: float = 0.0


class Transcript:
    """A client that writes down what is said through it, and answers from its file what was answered before.

    A question is on the disk before it is sent, an answer before it is used. A run that was killed finds all answers again; the one
    question that was on its way is sent once more, with the same idempotency key. Failures are noted for the reader and asked again.

    One JSON object a line: ``client`` who was asked · ``asked`` a question, under its digest and number · ``failed`` why no answer came ·
    ``answered``. Without clock times, so that two runs that hear the same write the same.

    Args:
        path: the file; made if it is not there.
        client: who is asked, or what makes such a client: it is called when the first question has no answer in the file.
        budget: caps and prices.
        retries: how often a question is repeated that could not be answered at the moment.
        sleep: waits so many seconds: 1, 2, 4 ... between repetitions, or what the server asked for.

    Raises:
        RunError: the file is damaged, or a record of another client.
    """

    def __init__(
        self,
        path: Path,
        client: Client | Callable[[], Client],
        *,
        budget: Budget | None = None,
        retries: int = 4,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._make: Callable[[], Client] = client if callable(client) else lambda: client
        self._client: Client | None = None
        self._budget = budget or Budget()
        self._retries = retries
        self._sleep = sleep
        self._journal = Lines(path)
        self._counted: Counter[str] = Counter()
        if not callable(client) or not self._journal.lines or self._journal.lines[0].keys() != {"client", "offers"}:
            self._connected()
        self._said = _Said(path, self._journal.lines)

    @property
    def name(self) -> str:
        """Who is asked."""
        return str(self._journal.lines[0]["client"])

    @property
    def offers(self) -> frozenset[str]:
        """What structures an answer."""
        return frozenset(self._journal.lines[0]["offers"])

    @property
    def ledger(self) -> Ledger:
        """What was spent so far, earlier processes of the run included."""
        replies, unknown = self._said.replies.values(), self._said.open.values()
        prompt, completion = sum(r.prompt_tokens for r in replies), sum(r.completion_tokens for r in replies)
        open_prompt, open_completion = sum(most[0] for most in unknown), sum(most[1] for most in unknown)
        return Ledger(
            calls=len(replies),
            prompt_tokens=prompt,
            completion_tokens=completion,
            money=self._budget.money(prompt, completion),
            open_tokens=open_prompt + open_completion,
            open_money=self._budget.money(open_prompt, open_completion),
        )

    def ask(self, request: Request) -> Reply:
        """Answer from the file, or ask the client and write its answer down.

        Args:
            request: the question. Asked again in the same process, it is another question and gets an answer of its own.

        Returns:
            The answer.

        Raises:
            BudgetSpent: the answer could cost more than is left; nothing was sent.
            MentorUnavailable: no answer after all repetitions.
            MentorRefused: the client will not answer.
        """
        request = replace(request, nth=self._counted[request.digest] + 1)
        key = _key(request)
        if key not in self._said.replies:
            self._answer(request, key)
        self._counted[request.digest] += 1
        return self._said.replies[key]

    def contact(self, style: Style = "chat", *, thinking: bool = False) -> None:
        """Ask the client whether it will answer; see `Client.contact`."""
        self._connected().contact(style, thinking=thinking)

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> Client:
        """Who is asked, made where nobody has been asked yet.

        Raises:
            RunError: the file is a record of another client.
        """
        if self._client is None:
            client = self._make()
            header = _header(client)
            if not self._journal.lines:
                self._journal.append(header)
            if self._journal.lines[0] != header:
                client.close()
                raise RunError(
                    f"{self._path}: expected what was said with {header}, found {self._journal.lines[0]}; use another folder"
                )
            self._client = client
        return self._client

    def _answer(self, request: Request, key: str) -> None:
        client = self._connected()
        for repeated in range(self._retries + 1):
            self._check_budget(request, key)
            self._note_asked(request, key)
            try:
                reply = client.ask(request)
            except MentorUnavailable as error:
                self._note({"failed": key, "why": str(error), "paid": error.paid, "final": False})
                wait = pause(error, repeated, self._retries)
            except MentorRefused as error:
                self._note({"failed": key, "why": str(error), "paid": False, "final": True})
                raise
            else:
                self._note({"answered": key, "reply": _stored(reply)})
                return
            self._sleep(wait)

    def _check_budget(self, request: Request, key: str) -> None:
        """Refuse a question whose longest answer would break a cap."""
        ledger, budget = self.ledger, self._budget
        most = (request.most_prompt_tokens, request.max_tokens)
        open_before = self._said.open.get(key, (0, 0))  # the same question, sent before, is paid once
        tokens = ledger.prompt_tokens + ledger.completion_tokens + ledger.open_tokens - sum(open_before)
        money = ledger.money + ledger.open_money - budget.money(*open_before)
        if budget.max_tokens is not None and tokens + sum(most) > budget.max_tokens:
            raise BudgetSpent(
                f"mentor: {tokens} of {budget.max_tokens} tokens are spent, and the next question may take {sum(most)}; "
                "raise the cap, ask for fewer prompts, or go on without the mentor"
            )
        if budget.max_money is not None and money + budget.money(*most) > budget.max_money:
            raise BudgetSpent(
                f"mentor: {money:.6f} of {budget.max_money:g} is spent, and the next question may cost {budget.money(*most):.6f}; "
                "raise the cap, ask for fewer prompts, or go on without the mentor"
            )

    def _note_asked(self, request: Request, key: str) -> None:
        if key in self._said.most:
            self._note({"asked": key})
        else:
            most = [request.most_prompt_tokens, request.max_tokens]
            self._note({"asked": key, "most": most, "request": request.document()})

    def _note(self, line: dict[str, Any]) -> None:
        self._journal.append(line)
        self._said.read(line)


class RecordedClient:
    """Answers from the file of a `Transcript`, and from nothing else. A question that failed then fails again.

    Args:
        path: the file; it is only read.

    Raises:
        RunError: no such file, or one that holds no transcript.
    """

    def __init__(self, path: Path) -> None:
        lines = read_lines(path)
        if not lines or "client" not in lines[0]:
            found = "none" if not lines else "another file"
            raise RunError(f"{path}: expected a record of what was said with a mentor, found {found}")
        self._path = path
        self.name = str(lines[0]["client"])
        self.offers = frozenset(map(str, lines[0]["offers"]))
        self._said = _Said(path, lines)
        self._counted: Counter[str] = Counter()

    def ask(self, request: Request) -> Reply:
        """The recorded answer.

        Raises:
            MentorUnavailable: no answer came then.
            MentorRefused: the same, for good.
            RunError: this was not asked then, so the run is another one.
        """
        key = _key(replace(request, nth=self._counted[request.digest] + 1))
        if key in self._said.replies:
            self._counted[request.digest] += 1
            return self._said.replies[key]
        if key not in self._said.most:
            raise RunError(
                f"{self._path}: expected the answer to question {key}, which was not asked there: the recipe, the data, the machine "
                "or the version is another than then (`tandemtune report` of that run has the command that repeats it)"
            )
        why, paid, final = self._said.failures.get(key, ("the run ended before an answer came", True, False))
        raise MentorRefused(why) if final else MentorUnavailable(why, wait=0.0, paid=paid)

    def contact(self, style: Style = "chat", *, thinking: bool = False) -> None:
        """Nothing to find out: what was recorded is answered."""

    def close(self) -> None:
        """Nothing to give back."""


def style_of(path: str) -> Style | None:
    """The style of the first question in a transcript; None where there is none.

    Args:
        path: the file; it is only read.
    """
    try:
        lines = read_lines(Path(path).expanduser())
        style = next((line["request"].get("style") for line in lines if "request" in line), None)
    except (OSError, RuntimeError, ValueError, RunError, AttributeError, TypeError):
        return None  # told when it is to answer
    return style if style in ("chat", "complete") else None


def pause(error: MentorUnavailable, repeated: int, retries: int) -> float:
    """Seconds to wait before a question is repeated: 1, 2, 4 ..., or what the server asked for.

    Args:
        error: why no answer came.
        repeated: how often the question has been repeated.
        retries: how often it may be.

    Raises:
        MentorUnavailable: it is not repeated any more.
    """
    wait = 2.0**repeated if error.wait is None else error.wait
    if repeated >= retries or wait > _LONGEST_WAIT:
        raise _given_up(error, repeated + 1) from None
    return wait


def _header(client: Client) -> dict[str, Any]:
    return {"client": client.name, "offers": sorted(client.offers)}


def _key(request: Request) -> str:
    return f"{request.digest}-{request.nth}"


class _Said:
    """What the lines of a transcript come to.

    Args:
        path: the file, for errors.
        lines: its lines, the first of which says who was asked.

    Attributes:
        replies: answers by the question's key.
        most: the most prompt and completion tokens that each question may take.
        failures: why a question failed last, whether it may have been paid, and whether it failed for good.
        open: the most tokens of questions that were sent, and may have been answered and billed, but whose answer is not here.
    """

    def __init__(self, path: Path, lines: list[dict[str, Any]]) -> None:
        self.replies: dict[str, Reply] = {}
        self.most: dict[str, tuple[int, int]] = {}
        self.open: dict[str, tuple[int, int]] = {}
        self.failures: dict[str, tuple[str, bool, bool]] = {}
        self._was_open = False
        for number, line in enumerate(lines[1:], start=2):
            try:
                self.read(line)
            except (KeyError, TypeError, ValueError):
                raise RunError(
                    f"{path}, line {number}: expected a question, a failure or an answer; restore the file"
                ) from None

    def read(self, line: dict[str, Any]) -> None:
        """Take one line in."""
        if "asked" in line:
            key = line["asked"]
            if "most" in line:
                prompt, completion = line["most"]
                self.most[key] = (int(prompt), int(completion))
            self._was_open = key in self.open
            self.open[key] = self.most[key]
        elif "failed" in line:
            self.failures[line["failed"]] = (str(line["why"]), bool(line["paid"]), bool(line.get("final")))
            if not (line["paid"] or self._was_open):
                self.open.pop(line["failed"], None)
        else:
            self.replies[line["answered"]] = _reply(line["reply"])
            self.open.pop(line["answered"], None)


def _stored(reply: Reply) -> dict[str, Any]:
    """A reply as plain data; without what it does not have and files did not have from the beginning."""
    return {name: value for name, value in asdict(reply).items() if value or name not in {"reasoning", "context"}}


def _reply(stored: dict[str, Any]) -> Reply:
    return Reply(**{**stored, "without": tuple(stored["without"])})


def _given_up(error: MentorUnavailable, times: int) -> MentorUnavailable:
    tried = f" (asked {times} times)" if times > 1 else ""
    asked = f" It asks to be left alone for {error.wait:g} s." if error.wait is not None else ""
    return MentorUnavailable(f"{error}{tried}.{asked}", wait=error.wait, paid=error.paid)
