"""Records that are there already, and those that are made now.

A resumed search loads the last checkpoint and walks through the records behind it: the optimizers propose the same candidates
again and are told the recorded losses. Only gradients are taken again, and have to agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from tandemtune.errors import RunError
from tandemtune.runs.journal import Journal
from tandemtune.runs.records import Costs, HandOverRecord, JournalRecord, ProposalRecord

R = TypeVar("R", bound=JournalRecord)


class Replay:
    """A journal that is read as long as it lasts, and written afterwards.

    Args:
        journal: of the run.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def knows(self, index: int) -> bool:
        """Whether a record is there already."""
        return index < len(self._journal.records)

    def record(self, index: int, kind: type[R], make: Callable[[], R]) -> R:
        """The record with this number: the one that is there, else made, written and flushed.

        Raises:
            RunError: the record that is there is of another kind, so the journal is not this search's.
        """
        if not self.knows(index):
            self._journal.append(make())
        found = self._journal.records[index]
        if not isinstance(found, kind):
            raise RunError(
                f"{self._journal.path}, line {index + 1}: expected a record of {kind.__name__}, found {found.event!r}: the "
                "journal was written by another recipe or version; start the run anew"
            )
        return cast(R, found)

    def stop_reason(self, index: int) -> str:
        """Why the search stopped before the record with this number, or nothing if it went on."""
        return str(getattr(self._journal.records[index], "stop_reason", ""))

    def hand_over_reason(self, index: int) -> str:
        """Why another search took over at the record with this number, or nothing if none did."""
        record = self._journal.records[index]
        return record.reason if isinstance(record, HandOverRecord) else ""

    def proposes(self, index: int) -> bool:
        """Whether the record with this number is a proposal: no more turns of tuning came before it."""
        return isinstance(self._journal.records[index], ProposalRecord)

    def costs(self, index: int) -> Costs:
        """What was spent when the record with this number was made."""
        return cast(Costs, getattr(self._journal.records[index], "costs", Costs()))

    def costs_of_proposal(self, index: int) -> Costs:
        """What the last proposal up to the record with this number took; nothing where none was made."""
        records = self._journal.records
        place = next((at for at in range(index, 0, -1) if isinstance(records[at], ProposalRecord)), 0)
        return self.costs(place) + self.costs(place - 1).times(-1) if place else Costs()

    def check_again(self, index: int, recorded: float | None, now: float | None) -> None:
        """Compare a gradient step's loss with the recorded one.

        Raises:
            RunError: they differ.
        """
        if recorded != now:
            raise RunError(
                f"{self._journal.path}: line {index + 1} was recorded with the loss {recorded}, and taken again it is {now}: "
                "this machine does not compute as the one that began the run, so it cannot end as one run"
            )
