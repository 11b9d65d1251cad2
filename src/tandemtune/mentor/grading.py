"""A language model that grades texts: a judge as a reward.

Every text is asked about once; what was said lies in a transcript, so a resumed run hears the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tandemtune.errors import MentorError, UsageError
from tandemtune.mentor.client import Client, Reply, Request
from tandemtune.mentor.replies import barred, explained, in_thoughts
from tandemtune.mentor.thoughts import final_answer
from tandemtune.mentor.transcript import Budget, Ledger, Transcript
from tandemtune.rewards.base import Reward, Written

NAME = "judge"
"""What recipes call this reward."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_BEGINNING = re.compile(
    r"\W*(?:(?:grade|score)\W+)?\d+(?:\.\d+)?(?:\s*(?:/|out of)\s*\d+)?(?=\s*(?:\n|[,;:(*–—-]|\.(?!\d)))", re.IGNORECASE
)
"""A grade that is followed by something else than the words that it counts."""
_TOKENS, _THOUGHTS = 16, 4096


class Grader:
    """Grades texts from 0 to a highest grade; as rewards they are shares of it.

    Args:
        connect: opens the way to whoever grades.
        rubric: what a good answer is.
        highest: grade.
        shows_references: whether the right answers of a row are shown beside.
        seed: of the run.
        thinking: the model thinks before it answers.
        max_completion_tokens: the most tokens of one answer, thoughts included; None: as many as a grade needs, and those to think.
        budget: caps and prices.
        retries: how often a question is repeated that could not be answered at the moment.
    """

    def __init__(
        self,
        connect: Callable[[], Client],
        rubric: str,
        *,
        highest: int = 10,
        shows_references: bool = False,
        seed: int = 0,
        thinking: bool = False,
        max_completion_tokens: int | None = None,
        budget: Budget | None = None,
        retries: int = 3,
    ) -> None:
        self._connect, self.rubric, self.highest = connect, rubric, highest
        self._shows_references, self._seed, self._thinking = shows_references, seed, thinking
        self._most, self._budget, self._retries = max_completion_tokens, budget, retries
        self._client: Client | None = None
        self._said: dict[str, float] = {}

    @property
    def reward(self) -> Reward:
        """The grades as a reward."""
        return Reward(NAME, "grades of a language model", self.grades)

    @contextmanager
    def written_to(self, path: Path) -> Iterator[None]:
        """Write down all that is said from now on, and answer from there what was answered before.

        Args:
            path: of the transcript.
        """
        self.close()
        self._said.clear()
        self._client = Transcript(path, self._connect, budget=self._budget, retries=self._retries)
        try:
            yield
        finally:
            self.close()

    @property
    def ledger(self) -> Ledger | None:
        """What grading has cost in the whole run; None where nothing is written down."""
        return self._client.ledger if isinstance(self._client, Transcript) else None

    def close(self) -> None:
        """Give back connections and memory."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def grades(self, written: Written) -> list[float]:
        """Rewards [N], from 0 to 1.

        Raises:
            UsageError: a text could not be graded; names the row.
        """
        return [self._grade(written, row) for row in range(len(written))]

    def grade(self, request: Request) -> float:
        """The reward of a text, as one question about it is answered.

        An answer that is none is asked about once more; those that a run has written down before it was stopped do not count, so that it can
        go on.

        Args:
            request: what `question` gives.

        Raises:
            MentorError: no answer came, or none that holds a grade.
        """
        reply, again = self._heard(request)[0], False
        only = f"Say one number from 0 to {self.highest} and nothing else."
        repeated = replace(request, messages=(*request.messages, ("assistant", reply.text), ("user", only)))
        grade, problem = _read(reply, request, self.highest)
        while problem is not None:
            reply, fresh = self._heard(repeated)
            grade, problem = _read(reply, request, self.highest)
            again = again or fresh
            if problem is not None and again:
                raise MentorError(f"{problem}: choose a stronger model, or mend this one")
        return grade / self.highest

    def _grade(self, written: Written, row: int) -> float:
        request = self.question(written, row)
        if request.digest not in self._said:
            try:
                self._said[request.digest] = self.grade(request)
            except MentorError as error:
                raise UsageError(
                    f"reward {NAME!r}, {written.told(row)}: {error}; a run that has begun is saved, resume it then"
                ) from None
        return self._said[request.digest]

    def _heard(self, request: Request) -> tuple[Reply, bool]:
        """What is said, and whether it is said now."""
        if self._client is None:
            self._client = self._connect()
        before = self.ledger
        reply = self._client.ask(request)
        return reply, before is None or self.ledger != before

    def question(self, written: Written, row: int) -> Request:
        """What is asked about one text."""
        shown = [f"The task:\n{(written.questions or written.prompts)[row]}"]
        if self._shows_references and written.references[row]:
            shown.append("Right answers:\n" + "\n".join(f"- {text}" for text in written.references[row]))
        shown.append(f"The answer:\n{written.completions[row]}")
        shown.append(f"Grade it from 0 to {self.highest}.")
        system = f"You grade answers. {self.rubric.strip()} Say one number from 0 to {self.highest} and nothing else."
        return Request(
            style="chat",
            messages=(("system", system), ("user", "\n\n".join(shown))),
            max_tokens=self._most or _TOKENS + (_THOUGHTS if self._thinking else 0),
            temperature=0.0,
            seed=self._seed,
            thinking=self._thinking,
            grammar=_grammar(self.highest),
        )


def _read(reply: Reply, request: Request, highest: int) -> tuple[float, str | None]:
    """The grade of a reply; where there is none, 0 and what came instead."""
    if bar := barred(reply):
        return 0.0, f"the judge's answer cannot be read ({bar})"
    said = reply.reasoning if in_thoughts(reply) else reply.text
    answer = final_answer(said)
    if reply.finish_reason == "length":  # of one that was cut off, what it began with
        answer = found[0] if (found := _BEGINNING.match(answer)) else ""
    grade = read_grade(answer, highest)
    if grade is not None:
        return grade, None
    shown = said if len(said) <= 60 else f"{said[:57]}..."
    problem = f"the judge said {shown!r}, expected a number from 0 to {highest}"
    _, told = explained(problem, reply, request, "it named a grade")
    return 0.0, problem if told == problem else f"{problem} ({told})"


def read_grade(text: str, highest: int) -> float | None:
    """The grade that an answer holds: its only number, or the first of a fraction such as 7/10; None if there is none."""
    found = [float(number) for number in _NUMBER.findall(text)]
    if len(found) == 2 and found[1] == highest and re.search(r"\d\W*(?:/|of|out of)\W*\d", text):
        found = found[:1]
    same = set(found)
    return found[0] if len(same) == 1 and 0 <= found[0] <= highest else None


def _grammar(highest: int) -> str:
    """A grammar of the whole numbers up to the highest grade."""
    return "root ::= " + " | ".join(f'"{number}"' for number in range(highest, -1, -1))
