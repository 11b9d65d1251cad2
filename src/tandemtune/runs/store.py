"""The run folder: what lies where, how it is made, and how one process at a time may write in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from tandemtune.errors import NoRunError, RewardError, RunError
from tandemtune.runs import checkpoint
from tandemtune.runs.journal import Journal, Lines, read_journal, read_lines
from tandemtune.runs.records import EndRecord, Facts, JournalRecord, PredictionRecord, Result, TaskCard
from tandemtune.runs.writing import write_json


class RunFolder:
    """Paths and files of one run.

    ``recipe.json`` the resolved recipe · ``run.json`` versions and what was decided on this machine · ``journal.jsonl`` ·
    ``clock.jsonl`` times of the journal's lines · ``checkpoint.npz`` · ``result.json`` · ``adapter/`` · ``task_card.json`` ·
    ``conversations.jsonl`` what was said to a mentor, and what it said · ``grades.jsonl`` the same of a model that grades texts · ``failed.json`` which reward has stopped the run · ``predictions.jsonl`` what the tuned model says of the
    test rows

    Args:
        path: the folder.
    """

    DATA = "data"
    """Folder of rows that were handed over in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: list[Path] = []
        self.recipe = path / "recipe.json"
        self.facts = path / "run.json"
        self.journal = path / "journal.jsonl"
        self.clock = path / "clock.jsonl"
        self.checkpoint = path / "checkpoint.npz"
        self.result = path / "result.json"
        self.card = path / "task_card.json"
        self.adapter = path / "adapter"
        self.conversations = path / "conversations.jsonl"
        self.grades = path / "grades.jsonl"
        self.failed = path / "failed.json"
        self.predictions = path / "predictions.jsonl"

    @classmethod
    def create(
        cls, path: Path, recipe: Mapping[str, Any], *, overwrite: bool = False, data: Path | None = None
    ) -> RunFolder:
        """Make the folder of a new run.

        Args:
            path: where; must not exist, or be empty.
            recipe: the resolved recipe.
            overwrite: replace a run that lies there.
            data: a folder of rows on the same disk, which is moved into the run's.

        Raises:
            RunError: something lies there that may not be replaced.
        """
        folder = cls(path)
        cls.check_free(path, overwrite=overwrite)
        try:
            if folder.recipe.is_file():
                with folder.locked():
                    folder.clean()
                    folder._put_aside()
            else:
                folder._made = [place for place in (path, *path.parents) if not place.exists()]
                path.mkdir(parents=True, exist_ok=True)
                folder.clean()
            if data is not None:
                data.rename(path / cls.DATA)
            write_json(folder.recipe, recipe)
        except OSError as error:
            if folder._before.exists():
                folder._put_back()
            folder._unmake()
            raise RunError(f"{path} cannot be written: {error.strerror or error}") from error
        return folder

    @classmethod
    def check_free(cls, path: Path, *, overwrite: bool = False) -> None:
        """Find out whether `create` may use a place.

        Raises:
            RunError: something lies there that may not be replaced, or no folder can be made there.
        """
        there = next((place for place in (path.absolute(), *path.absolute().parents) if place.exists()), path)
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            what = "may not be written" if there.is_dir() else "is no folder"
            raise RunError(f"{path} cannot be made, since {there} {what}: choose another --out")
        if not path.exists() or (path.is_dir() and all(_is_leftover(entry) for entry in path.iterdir())):
            return
        if not overwrite:
            raise RunError(
                f"{path} exists already and is not overwritten: choose another --out, continue it with "
                f"`tandemtune resume {path}`, or add --overwrite"
            )
        if not cls(path).recipe.is_file():
            raise RunError(f"{path} holds no run, so --overwrite does not touch it: choose another --out")
        foreign = sorted(entry.name for entry in path.iterdir() if not _is_ours(entry))
        if foreign:
            raise RunError(
                f"{path} also holds {', '.join(foreign[:3])}{', ...' if len(foreign) > 3 else ''}, which no run made, so "
                "--overwrite does not touch it: move that away, or choose another --out"
            )

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open the folder of a run that was started before.

        Raises:
            NoRunError: no run lies there.
        """
        folder = cls(path)
        if not folder.recipe.is_file():
            what = "holds no recipe.json" if path.is_dir() else "does not exist"
            raise NoRunError(f"{path} is no run folder: it {what}. `tandemtune run` makes one")
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing in this folder.

        Raises:
            RunError: another process does so now, or the folder cannot be written.
        """
        lock = FileLock(str(self.path / ".lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(f"another process is working in {self.path}: wait for it, or stop it first") from None
        except OSError as error:
            raise RunError(f"{self.path} cannot be written: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def gone_unless_begun(self) -> Iterator[None]:
        """Take the folder away if what happens in it ends by an error or an interrupt before the journal has its first line, and
        before anything was paid for: grades that were given are kept, and the run goes on from them. A run that it was to replace
        lies there again then; else that one goes when the context ends."""
        try:
            yield
        except BaseException:
            if any(place.is_file() and b"\n" in place.read_bytes() for place in (self.journal, self.grades)):
                shutil.rmtree(self._before, ignore_errors=True)
            else:
                self._put_back()
                self._unmake()
            raise
        shutil.rmtree(self._before, ignore_errors=True)

    @property
    def _before(self) -> Path:
        """Where a run lies that is being replaced."""
        return self.path / ".replaced.tmp"

    def _put_aside(self) -> None:
        """Keep what lies in the folder out of the way."""
        self._before.mkdir(exist_ok=True)
        for entry in self.path.iterdir():
            if entry not in (self._before, self.path / ".lock"):
                entry.rename(self._before / entry.name)

    def _put_back(self) -> None:
        """Take away what lies in the folder; what was put aside lies there again."""
        replaced = self._before.is_dir()
        kept = {self._before, self.path / ".lock"} if replaced else set()
        for entry in [entry for entry in self.path.iterdir() if entry not in kept]:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        if replaced:
            for entry in [*self._before.iterdir()]:
                entry.rename(self.path / entry.name)
            self._before.rmdir()
        else:
            with suppress(OSError):
                self.path.rmdir()

    def _unmake(self) -> None:
        """Take away the folders that were made for this one, as far as they are empty."""
        with suppress(OSError):
            for place in self._made:
                if place.exists():
                    place.rmdir()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work on the run: alone, and with a clear word where the disk is full, went away, or may not be written.

        Raises:
            RunError: another process works on it, or a file cannot be read or written.
        """
        with self.locked():
            try:
                yield
            except ConnectionError:  # whoever reads what is printed has gone, not the disk
                raise
            except (OSError, SafetensorError) as error:
                where = getattr(error, "filename", None) or self.path
                raise RunError(
                    f"{where} cannot be read or written: {getattr(error, 'strerror', None) or error}. Nothing that was "
                    f"finished is lost: mend that, then `tandemtune resume {self.path}`"
                ) from error

    def clean(self) -> None:
        """Remove temporary files that a killed process left."""
        for path in self.path.glob(".*.tmp"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def read_recipe(self) -> dict[str, Any]:
        """The resolved recipe."""
        return _read_json(self.recipe)

    def read_facts(self) -> Facts | None:
        """Versions and decisions; None if the run was stopped before they were made."""
        return Facts.read(_read_json(self.facts), self.facts) if self.facts.exists() else None

    @contextmanager
    def noting_failures(self) -> Iterator[None]:
        """Write down which reward of the user's ends what happens here, so that it may be mended and the run go on."""
        try:
            yield
        except RewardError as error:
            if error.code and self.facts.exists():
                steps = (getattr(record, "step", None) for record in reversed(self.read_records()))
                step = next((step for step in steps if step is not None), 0)
                write_json(self.failed, {"code": error.code, "step": step})
            raise

    def with_mended(self, facts: Facts, now: Mapping[str, str]) -> Facts:
        """What the run was begun with; the code of a reward that has stopped it may be another than it was then.

        Args:
            facts: what was decided when it began.
            now: hashes of the code that it would go on with.
        """
        if not self.failed.exists():
            return facts
        told = _read_json(self.failed)
        code = str(told.get("code"))
        if code not in now or facts.plugins.get(code) == now[code]:
            return facts
        note = (
            f"the code of {code} was mended after step {told.get('step')}, where it had stopped the run: what lies before was judged "
            "by the code of then"
        )
        plugins = {**facts.plugins, code: now[code]}
        return facts.model_copy(update={"plugins": plugins, "mended": (*facts.mended, note)})

    def accept(self, facts: Facts) -> None:
        """Go on with facts of `with_mended`; code that changes from now on does so without a reason."""
        if facts != self.read_facts():
            write_json(self.facts, facts.plain())
        self.failed.unlink(missing_ok=True)

    def read_result(self) -> Result | None:
        """The result, or None while the run is not finished."""
        return Result.read(_read_json(self.result), self.result) if self.result.exists() else None

    def read_card(self) -> TaskCard | None:
        """What the adapter is used with; None where nobody wrote it."""
        return TaskCard.read(_read_json(self.card), self.card) if self.card.exists() else None

    def open_journal(self) -> Journal:
        """The journal, to go on writing."""
        return Journal(self.journal)

    def read_records(self) -> list[JournalRecord]:
        """The journal's records, to report on."""
        return read_journal(self.journal)

    def read_stop_reason(self) -> str:
        """Why the search ended; empty while it has not."""
        last = self.read_records()[-1:]
        return last[0].stop_reason if last and isinstance(last[0], EndRecord) else ""

    def read_predictions(self) -> list[PredictionRecord]:
        """What the tuned model says of each test row; empty where nobody wrote it down."""
        lines = read_lines(self.predictions)
        return [PredictionRecord.read(line, f"{self.predictions}, line {n}") for n, line in enumerate(lines, 1)]

    def read_seconds(self) -> float:
        """Seconds that earlier processes spent searching; cuts off a torn last line."""
        lines = Lines(self.clock).lines
        return float(lines[-1]["seconds"]) if lines else 0.0

    def read_peak(self) -> float:
        """Peak memory in megabytes over all processes that have worked on the run; 0 if none has noted it."""
        return max((float(line["peak_rss_mb"]) for line in read_lines(self.clock)), default=0.0)

    def tick(self, **facts: Any) -> None:
        """Note times; unlike the journal they differ from run to run and may lose their last line."""
        with self.clock.open("a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")

    def save_checkpoint(self, content: Any) -> None:
        """Replace the checkpoint."""
        checkpoint.save(self.checkpoint, content)

    def load_checkpoint(self) -> Any | None:
        """The checkpoint, or None if there is none."""
        return checkpoint.load(self.checkpoint) if self.checkpoint.exists() else None

    @contextmanager
    def replacing_adapter(self) -> Iterator[Path]:
        """A temporary folder that becomes ``adapter/`` when the context ends well."""
        temporary = self.path / f".adapter.{os.getpid()}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            shutil.rmtree(self.adapter, ignore_errors=True)
            temporary.rename(self.adapter)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _is_leftover(path: Path) -> bool:
    """What a process leaves that was killed while it made the folder."""
    return path.name == ".lock" or path.match(".*.tmp")


_OURS = {
    "recipe.json",
    "run.json",
    "journal.jsonl",
    "clock.jsonl",
    "checkpoint.npz",
    "result.json",
    "task_card.json",
    "adapter",
    "conversations.jsonl",
    "grades.jsonl",
    "failed.json",
    "predictions.jsonl",
    "mentor",
    "report.html",
    "tracking",
    RunFolder.DATA,
}


def _is_ours(path: Path) -> bool:
    """Whether a run makes something of that name."""
    return path.name in _OURS or _is_leftover(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path} is damaged: expected a JSON object")
    return content
