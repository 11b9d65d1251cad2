"""A mentor who answers through files: a person, or any chat window that has no API."""

from __future__ import annotations

import codecs
import math
import time
from collections.abc import Callable
from pathlib import Path

from tandemtune.errors import AnswerAwaited, MentorRefused, UsageError
from tandemtune.mentor.client import Reply, Request, Style

_POLL = 1.0  # seconds between two looks for an answer
_LARGEST = 2_000_000  # bytes of an answer that are read
_BYTES = 4  # of a token, roughly: nobody counts what is said in a chat window
_RULE = "-" * 72
_HEAD = """\
A question to the mentor.

1. Paste all that stands below the line into a chat window, or answer it yourself.
2. Save the answer as it is, as plain text, in this folder, under the name

       {answer}
"""


class FileClient:
    """Writes each question to a file of its own and takes the answer from another.

    A question lies in `question-ID.md`; its answer is expected beside it, in `answer-ID.md`. The ID comes from the question, so a run that
    ends here and is resumed asks the same and finds the answer.

    Args:
        folder: where both lie; made when the first question is asked.
        wait: seconds to wait for an answer before the run ends; 0 ends it at once, infinity never.
        tell: told once for each question that has no answer yet, for a reader: the whole question, where it lies, and where its answer goes.
        then: what a reader does when the answer is there.
        sleep: waits so many seconds.
    """

    name = "files"
    offers: frozenset[str] = frozenset()

    def __init__(
        self,
        folder: str | Path,
        *,
        wait: float = 0.0,
        tell: Callable[[str], None] | None = None,
        then: str = "go on with `tandemtune resume`",
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if math.isnan(wait) or wait < 0:
            raise ValueError(f"expected a wait of at least 0 s, found {wait}")
        self._folder = Path(folder)
        self._wait = wait
        self._tell = tell
        self._then = then
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"FileClient({str(self._folder)!r})"

    def ask(self, request: Request) -> Reply:
        """Write the question, and read its answer.

        Args:
            request: the question, in the style "chat".

        Returns:
            The answer. Its tokens are estimated.

        Raises:
            AnswerAwaited: the answer is not there yet.
            MentorRefused: the question is a list to be continued, which no chat window does.
            UsageError: the folder cannot be written, or the answer not be read.
        """
        if request.style != "chat":
            raise MentorRefused(
                'a mentor who answers through files is asked in a conversation: set [mentor] style = "chat"'
            )
        question, answer = self._paths(request)
        text = _written(request, answer.name)
        self._write(question, text)
        said = self._whole(answer)
        if not said:
            where = f"the mentor's question lies in {question}; save the answer as {answer}"
            if self._tell is not None:
                self._tell(f"A question to the mentor:\n\n{_body(request)}\n\n{where}")
            said = self._awaited(answer)
            if not said:
                raise AnswerAwaited(f"{where}, then {self._then}")
        return Reply(
            text=said,
            prompt_tokens=math.ceil(len(text.encode("utf-8")) / _BYTES),
            completion_tokens=math.ceil(len(said.encode("utf-8")) / _BYTES),
            finish_reason="stop",
            model=self.name,
        )

    def contact(self, style: Style = "chat", *, thinking: bool = False) -> None:
        """Find out whether questions can be written."""
        if style != "chat":
            raise MentorRefused(
                'a mentor who answers through files is asked in a conversation: set [mentor] style = "chat"'
            )

    def close(self) -> None:
        """Nothing to give back."""

    def _paths(self, request: Request) -> tuple[Path, Path]:
        name = f"{request.digest[:8]}{'' if request.nth == 1 else f'-{request.nth}'}.md"
        return self._folder / f"question-{name}", self._folder / f"answer-{name}"

    def _write(self, question: Path, text: str) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            question.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"the mentor's question cannot be written to {question}: {error.strerror or error}"
            ) from None

    def _whole(self, answer: Path) -> str:
        """The answer that lies there; one that was written just now only once two looks at it find the same. "" if there is none."""
        said = _read(answer)
        while said and _age(answer) < _POLL:
            before = said
            self._sleep(_POLL)
            said = _read(answer)
            if said == before:
                break
        return said

    def _awaited(self, answer: Path) -> str:
        """The answer once two looks at it find the same, so that none is read while it is being written; "" if none comes."""
        waited, before = 0.0, ""
        while waited < self._wait:
            self._sleep(_POLL)
            waited += _POLL
            said = _read(answer)
            if said and said == before:
                return said
            before = said
        return ""


def _body(request: Request) -> str:
    return "\n\n".join(text for _, text in request.messages)


def _written(request: Request, answer: str) -> str:
    return f"{_HEAD.format(answer=answer)}\n{_RULE}\n\n{_body(request)}\n"


def _age(answer: Path) -> float:
    """Seconds since a file was written last."""
    try:
        return time.time() - answer.stat().st_mtime
    except OSError:
        return 0.0


def _read(answer: Path) -> str:
    """What an answer's file says, in any encoding that an editor gives it; "" if there is none."""
    try:
        with answer.open("rb") as file:
            data = file.read(_LARGEST)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise UsageError(f"the mentor's answer {answer} cannot be read: {error.strerror or error}") from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n").strip()
