"""Who is given which shard. Whatever happens to workers, a generation ends with the same losses: a shard of one that has died is
scored again, one that takes too long is scored by another one, too, and where nobody is left this process scores it.

It knows nothing of Ray: a `Cluster` begins workers and calls them, and its clock is the pool's.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tandemtune.errors import RunError
from tandemtune.executors.base import Answer
from tandemtune.executors.messages import Catalogue, Named, Request, Told

AHEAD = 2
"""Shards that a worker is given at most: it begins the second one while the first one's answer is on its way."""
PATIENCE = 1.0
"""Seconds that no shard is late for."""
FIRST = 30.0
"""Seconds after which this process scores a shard itself where none has ever been answered: then it is known what one takes."""
KNOWN = 64
"""Shards that what a shard usually takes is known by."""
DEATHS = 3
"""Workers are begun anew so many times each before a shard has been scored; then something is wrong."""


class WorkerLost(Exception):  # noqa: N818
    """A worker has died, or its machine is gone."""


class WorkerRefused(Exception):  # noqa: N818
    """A worker is not what the run needs: other versions, weights, rows or code."""


Call = Hashable
"""Something that a worker was asked to do."""


class Cluster(Protocol):
    """Where workers live."""

    def begin(self) -> tuple[Any, Call]:
        """A new worker, and a call that ends when it is ready."""
        ...

    def score(self, worker: Any, message: bytes) -> Call:
        """Give a worker a shard."""
        ...

    def wait(self, calls: Collection[Call], seconds: float) -> Sequence[Call]:
        """Wait until a call ends, or so long; the calls that have ended."""
        ...

    def answer(self, call: Call) -> Answer | str:
        """What a call that has ended has come to; of a worker that is ready, where it is.

        Raises:
            WorkerLost: the worker is dead.
            WorkerRefused: it cannot work for this run.
        """
        ...

    def end(self, worker: Any) -> None:
        """Let a worker go."""
        ...

    def now(self) -> float:
        """Seconds on a clock that only goes on."""
        ...


@dataclass(eq=False)
class _Member:
    """A worker, what it has been told, and what it does, the oldest first."""

    worker: Any
    told: Told = field(default_factory=Told)
    ready: bool = False
    place: str = ""
    doing: list[Call] = field(default_factory=list)
    since: float = 0.0


@dataclass(frozen=True)
class _Sent:
    """A call: to get ready, or a shard of a generation."""

    member: _Member
    generation: _Generation | None = None
    shard: int = -1


@dataclass(eq=False)
class _Generation:
    """Shards that are being scored.

    Args:
        requests: one for each shard.
        needed: what a worker must have been told.
        waiting: shards that nobody has.
        since: when it began, on the cluster's clock.
        found: what has come of the others.
    """

    requests: Sequence[Request]
    needed: Named
    waiting: deque[int]
    since: float
    found: dict[int, Answer] = field(default_factory=dict)


@dataclass
class Ledger:
    """What happened so far.

    Args:
        shards: scored by workers.
        again: given to a second worker because they were late, or because the first one died.
        here: scored in this process.
        lost: workers that died.
        sent: bytes of all messages to workers.
    """

    shards: int = 0
    again: int = 0
    here: int = 0
    lost: int = 0
    sent: int = 0


class Pool:
    """Workers of one run.

    Args:
        cluster: where they live.
        count: how many there should be.
        late: a shard that takes so many times the median is scored by another worker, too.
        here: scores a shard in this process.
        tell: told what a person has to know.
    """

    def __init__(
        self,
        cluster: Cluster,
        count: int,
        late: float,
        here: Callable[[Request], Answer],
        tell: Callable[[str], None],
    ) -> None:
        self.cluster, self.count, self.late = cluster, count, late
        self.ledger = Ledger()
        self._here, self._tell = here, tell
        self._catalogue = Catalogue()
        self._members: list[_Member] = []
        self._calls: dict[Call, _Sent] = {}
        self._generation: _Generation | None = None
        self._deaths = 0
        self._may_take: list[_Member] = []  # of whom something has ended
        self._looked = 0.0
        self._rates: deque[float] = deque(maxlen=KNOWN)
        self._refused: list[str] = []

    # ---- workers ----

    def begin(self, seconds: float) -> None:
        """Begin all workers, and wait until one is ready; the others join when they are.

        Args:
            seconds: to wait at most.

        Raises:
            RunError: none can work for this run, or none is ready in time.
        """
        for _ in range(self.count):
            self._begin()
        until = self.cluster.now() + seconds
        while not any(member.ready for member in self._members):
            if self.cluster.now() >= until:
                raise RunError(
                    f"no worker was ready after {seconds:,.0f} s: is there room for one on the cluster (`ray status`)? Ask for fewer cpus "
                    "or gpus, or wait longer (start_seconds)"
                )
            self._take(self.cluster.wait(self._calls, min(1.0, seconds)))

    def close(self) -> None:
        """Let all workers go."""
        for member in self._members:
            self.cluster.end(member.worker)
        self._members, self._calls, self._may_take = [], {}, []

    @property
    def ready(self) -> int:
        """Workers that can score."""
        return sum(member.ready for member in self._members)

    def _begin(self) -> None:
        worker, call = self.cluster.begin()
        member = _Member(worker)
        self._members.append(member)
        self._calls[call] = _Sent(member)

    def _lost(self, member: _Member, why: str) -> list[_Sent]:
        """Begin another worker in the place of one that has died; what the dead one was doing."""
        self.ledger.lost += 1
        self._deaths += 1
        if self._deaths > DEATHS * self.count:
            raise RunError(f"workers die again and again, at last: {why}; the run is saved: mend it, then resume")
        left = self._gone(member)
        self._tell(
            f"a worker{f' on {member.place}' if member.place else ''} is gone: another one is begun, its candidates are scored again"
        )
        self._begin()
        return left

    def _gone(self, member: _Member) -> list[_Sent]:
        self._members.remove(member)
        self._may_take = [other for other in self._members if other.ready]  # others may have to do what it has left
        left = [sent for sent in self._calls.values() if sent.member is member]
        self._calls = {call: sent for call, sent in self._calls.items() if sent.member is not member}
        return left

    def _turned_away(self, member: _Member, why: str) -> None:
        self._gone(member)
        self._refused.append(why)
        if not self._members:
            raise RunError(f"no worker can work for this run: {why}")
        self._tell(f"a worker is left out: {why}")

    # ---- one generation ----

    def score(self, requests: Sequence[Request]) -> list[Answer]:
        """Score the shards of a generation.

        Args:
            requests: one for each shard; all have the same point, origin and subspaces.

        Raises:
            RunError: workers die again and again.
        """
        waiting = deque(range(len(requests)))
        now = _Generation(requests, self._catalogue.of(requests[0]), waiting, self.cluster.now())
        self._generation = now
        self._may_take = [member for member in self._members if member.ready]
        while len(now.found) < len(requests):
            self._hand_out(now)
            here = self._look_for_late_ones(now)
            if here:
                self._score_here(now)
            self._take(self.cluster.wait(self._calls, 0.0 if here else PATIENCE / 2))
        return [now.found[shard] for shard in range(len(requests))]

    def _hand_out(self, now: _Generation) -> None:
        """Give everybody who is idle a shard; a second one where there are plenty."""
        free, self._may_take = self._may_take, []
        count = self.ready if now.waiting else 0
        for depth in range(AHEAD):
            for member in free:
                if not now.waiting or (depth and len(now.waiting) <= count):
                    return
                if len(member.doing) == depth and not self._is_behind(member):
                    self._send(member, now.waiting.popleft(), now)

    def _send(self, member: _Member, shard: int, now: _Generation) -> None:
        message = member.told.message(now.requests[shard], now.needed)
        self.ledger.sent += len(message)
        if not member.doing:
            member.since = self.cluster.now()
        call = self.cluster.score(member.worker, message)
        member.doing.append(call)
        self._calls[call] = _Sent(member, now, shard)

    def _take(self, calls: Sequence[Call]) -> None:
        """What has come of calls that have ended."""
        for call in calls:
            sent = self._calls.get(call)
            if sent is None:  # of a worker that is gone
                continue
            try:
                answer = self.cluster.answer(call)
            except WorkerLost as error:
                self._score_again(self._lost(sent.member, str(error)))
                continue
            except WorkerRefused as error:
                self._turned_away(sent.member, str(error))
                continue
            del self._calls[call]
            if isinstance(answer, Answer):
                self._keep(call, sent, answer)
            else:
                sent.member.ready, sent.member.place = True, answer
                self._may_take.append(sent.member)

    def _keep(self, call: Call, sent: _Sent, answer: Answer) -> None:
        sent.member.doing.remove(call)
        sent.member.since = self.cluster.now()
        self._may_take.append(sent.member)
        self._deaths = 0
        now = self._generation
        if now is None or sent.generation is not now:
            return  # too late: somebody else has scored it
        self._rates.append(answer.seconds / now.requests[sent.shard].work)
        if sent.shard not in now.found:
            now.found[sent.shard] = answer
            self.ledger.shards += 1

    def _score_again(self, left: Sequence[_Sent]) -> None:
        """Put back what a worker was doing that has died, unless somebody else does it, too."""
        now = self._generation
        for sent in reversed(left):
            mine = now is not None and sent.generation is now and sent.shard not in now.found
            if now is not None and mine and not self._holders(now, sent.shard):
                now.waiting.appendleft(sent.shard)
                self.ledger.again += 1

    def _score_here(self, now: _Generation) -> None:
        """Score a shard in this process: nobody is left, or all are late."""
        late = [shard for shard in range(len(now.requests)) if shard not in now.found]
        shard = now.waiting.popleft() if now.waiting else late[0]
        now.found[shard] = answer = self._here(now.requests[shard])
        self.ledger.here += 1
        if not self._rates:
            self._rates.append(answer.seconds / now.requests[shard].work)

    # ---- what takes too long ----

    def _look_for_late_ones(self, now: _Generation) -> bool:
        """Now and then, have late shards scored by others, too; whether nobody but this process can."""
        if not any(member.ready for member in self._members):
            return True
        clock = self.cluster.now()
        if not self._rates:
            return clock >= now.since + FIRST
        if clock < self._looked + PATIENCE / 2:
            return False
        self._looked, usual = clock, statistics.median(self._rates)
        late = [member for member in self._members if member.ready and self._is_late(member, usual)]
        self._help(now, late)
        return len(late) == self.ready

    def _help(self, now: _Generation, late: Sequence[_Member]) -> None:
        """Give idle workers copies of shards that are late."""
        idle = [member for member in self._members if member.ready and not member.doing]
        for member in late:
            for call in member.doing:
                sent = self._calls[call]
                open_still = sent.generation is now and sent.shard not in now.found
                hopeless = open_still and all(holder in late for holder in self._holders(now, sent.shard))
                if hopeless and idle and not now.waiting:
                    self._send(idle.pop(), sent.shard, now)
                    self.ledger.again += 1

    def _holders(self, now: _Generation, shard: int) -> list[_Member]:
        """The workers that have a shard."""
        return [sent.member for sent in self._calls.values() if sent.generation is now and sent.shard == shard]

    def _is_behind(self, member: _Member) -> bool:
        """Whether a worker is still busy with an earlier generation."""
        return any(self._calls[call].generation is not self._generation for call in member.doing)

    def _is_late(self, member: _Member, usual: float) -> bool:
        """Whether what a worker does takes clearly longer than it usually does, by its work."""
        if not member.doing:
            return False
        sent = self._calls[member.doing[0]]
        work = sent.generation.requests[sent.shard].work if sent.generation else 0.0
        return self.cluster.now() - member.since > max(PATIENCE, self.late * usual * work)
