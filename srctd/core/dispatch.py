"""Who gets which job: the pool's queue, its workers and their leases, without a socket or a clock.

A job is queued until a worker is idle, then it is under a *lease*: its id goes out with the job, heartbeats that
name it push its deadline back, and only the holder's answer to it counts. A lease that runs out, a worker that
goes silent or that starts anew gives the job back to the queue; the third time the job is poison.

`Dispatcher` decides; `srctd.adapters.pool` sends. `now` is monotonic seconds and is always handed in.
"""

import bisect
from collections import Counter
from collections.abc import Sequence

import msgspec

from srctd.core.errors import HoldError
from srctd.core.messages import Heartbeat, Hello, Job, PreviewJob

MAX_LOSSES = 3
"""A job that was lost this often is not given out again: more likely it kills workers than they all died."""


class QueuedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job, and what happened to it so far."""

    id: int
    """Counts up in the order of submission."""
    job: Job
    priority: float
    """Smaller goes first; the steps give the time at which the scan entered."""
    queued_at: float
    lost_with: tuple[str, ...] = ()
    """Workers that went away with it, or let its lease run out."""

    @property
    def rank(self) -> tuple[bool, float, int]:
        """Place in the queue: previews of all scans, then the scans in order, then the order of submission."""
        return (not isinstance(self.job, PreviewJob), self.priority, self.id)


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """A job in the hands of a worker until `deadline`."""

    id: str
    job: QueuedJob
    worker: str
    granted_at: float
    deadline: float
    abandoned: bool = False
    """Nobody waits for the result any more; the worker is only kept from getting a second job."""


class Worker(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as the pool knows it."""

    name: str
    host: str
    pid: int
    device: str
    threads: int
    free_bytes: int
    last_seen: float
    lease: str | None = None
    """The lease that it holds."""
    ended: str | None = None
    """The lease that it answered last: a heartbeat that was on its way may still name it."""
    foreign: bool = False
    """It works on something that this pool did not give it, or no longer waits for."""
    phase: str = "idle"
    done: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether it can be given a job."""
        return self.lease is None and not self.foreign


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """A job that came back without a result. It is in the queue again unless it is poison."""

    lease: Lease
    job: QueuedJob
    poison: bool


def describe(job: Job) -> str:
    """A job in words."""
    if isinstance(job, PreviewJob):
        return f"the preview of {job.scan}"
    return f"rows {job.first} to {job.end} of {job.scan}"


def poison_error(job: QueuedJob) -> HoldError:
    """The reason for which a scan is held when one of its jobs is poison."""
    workers = ", ".join(job.lost_with)
    return HoldError(
        f"{describe(job.job)} was lost {len(job.lost_with)} times, with the workers {workers}",
        hint="the workers' logs tell why they went; then retry the scan",
    )


class Dispatcher:
    """Queue, workers and leases of one pool. Nothing here waits, and no call looks at more than it must."""

    def __init__(self, *, session: str, lease_seconds: float) -> None:
        """`session` makes lease ids unique among all pools that ever were."""
        self.workers: dict[str, Worker] = {}
        self.leases: dict[str, Lease] = {}
        self._queue: list[QueuedJob] = []  # sorted by rank
        self._session = session
        self._lease_seconds = lease_seconds
        self._jobs = 0
        self._grants = 0

    @property
    def queue(self) -> Sequence[QueuedJob]:
        """The jobs that wait, first one first."""
        return self._queue

    # --- jobs ---------------------------------------------------------------------------------------------

    def submit(self, job: Job, *, priority: float, now: float) -> QueuedJob:
        """Put a job into the queue."""
        self._jobs += 1
        queued = QueuedJob(id=self._jobs, job=job, priority=priority, queued_at=now)
        self._enqueue(queued)
        return queued

    def cancel(self, job: QueuedJob) -> None:
        """Nobody waits for the job any more: take it from the queue; in a worker's hands it is abandoned."""
        index = bisect.bisect_left(self._queue, job.rank, key=_rank)
        if index < len(self._queue) and self._queue[index].id == job.id:
            del self._queue[index]
        for lease in self.leases.values():
            if lease.job.id == job.id:
                self.leases[lease.id] = msgspec.structs.replace(lease, abandoned=True)
                return

    def assign(self, now: float) -> list[Lease]:
        """Give waiting jobs to idle workers, first job first."""
        idle = [worker for worker in self.workers.values() if worker.idle]
        granted: list[Lease] = []
        taken: list[int] = []
        for index, job in enumerate(self._queue):
            if not idle:
                break
            worker = next((worker for worker in idle if self._suits(job, worker)), None)
            if worker is not None:
                idle.remove(worker)
                taken.append(index)
                granted.append(self._grant(job, worker, now))
        for index in reversed(taken):
            del self._queue[index]
        return granted

    def finish(self, lease_id: str, worker: str) -> Lease | None:
        """A worker answered. Return the lease that this ends, or None if it holds no such lease (any more)."""
        known = self.workers.get(worker)
        if known is not None and known.foreign:
            self.workers[worker] = msgspec.structs.replace(known, foreign=False, ended=lease_id)
        lease = self.leases.get(lease_id)
        if lease is None or lease.worker != worker:
            return None
        self._end(lease, answered=True)
        return lease

    # --- workers ------------------------------------------------------------------------------------------

    def join(self, hello: Hello, now: float) -> list[Loss]:
        """A worker offers itself, with empty hands: what it held before is lost."""
        losses = self.leave(hello.worker, now)
        self.workers[hello.worker] = Worker(
            name=hello.worker,
            host=hello.host,
            pid=hello.pid,
            device=hello.device,
            threads=hello.threads,
            free_bytes=hello.free_bytes,
            last_seen=now,
        )
        return losses

    def beat(self, heartbeat: Heartbeat, now: float) -> bool:
        """A worker lives; renew the lease that it names. False if the worker is not known."""
        worker = self.workers.get(heartbeat.worker)
        if worker is None:
            return False
        self.workers[worker.name] = msgspec.structs.replace(
            worker,
            last_seen=now,
            foreign=heartbeat.lease not in (None, worker.lease, worker.ended),
            phase=heartbeat.phase,
            done=heartbeat.done,
            free_bytes=heartbeat.free_bytes,
        )
        if worker.lease is not None and heartbeat.lease == worker.lease:
            lease = self.leases[worker.lease]
            deadline = now + self._lease_seconds
            self.leases[lease.id] = msgspec.structs.replace(lease, deadline=deadline)
        return True

    def leave(self, name: str, now: float, *, blame: bool = True) -> list[Loss]:
        """Forget a worker; its job is lost, or handed back if it is not to blame."""
        worker = self.workers.get(name)
        if worker is None:
            return []
        losses = [] if worker.lease is None else self._lose(self.leases[worker.lease], now, blame=blame)
        del self.workers[name]
        return losses

    def expire(self, now: float) -> tuple[list[Worker], list[Loss]]:
        """Forget the workers that were silent too long; take jobs from those that do not work on them."""
        silent = [w for w in self.workers.values() if now - w.last_seen >= self._lease_seconds]
        losses = [loss for worker in silent for loss in self.leave(worker.name, now)]
        for lease in [lease for lease in self.leases.values() if now >= lease.deadline]:
            losses += self._lose(lease, now)
        return silent, losses

    # --- for the status -----------------------------------------------------------------------------------

    def waiting(self) -> dict[str, int]:
        """Queued jobs of each scan, in the order in which the scans will get workers."""
        return dict(Counter(job.job.scan for job in self._queue))

    def started(self) -> set[str]:
        """The scans of which a job is, or was before it got lost, in the hands of a worker."""
        running = {lease.job.job.scan for lease in self.leases.values() if not lease.abandoned}
        return running | {job.job.scan for job in self._queue if job.lost_with}

    # --- inside -------------------------------------------------------------------------------------------

    def _enqueue(self, job: QueuedJob) -> None:
        bisect.insort(self._queue, job, key=_rank)

    def _suits(self, job: QueuedJob, worker: Worker) -> bool:
        """A worker that lost the job gets it again only if all the others did, too."""
        return worker.name not in job.lost_with or self.workers.keys() <= set(job.lost_with)

    def _grant(self, job: QueuedJob, worker: Worker, now: float) -> Lease:
        self._grants += 1
        lease = Lease(
            id=f"{self._session}-{self._grants}",
            job=job,
            worker=worker.name,
            granted_at=now,
            deadline=now + self._lease_seconds,
        )
        self.leases[lease.id] = lease
        self.workers[worker.name] = msgspec.structs.replace(
            worker, lease=lease.id, phase="assigned", done=0.0
        )
        return lease

    def _end(self, lease: Lease, *, answered: bool) -> None:
        del self.leases[lease.id]
        ended = lease.id if answered else None
        self.workers[lease.worker] = msgspec.structs.replace(
            self.workers[lease.worker], lease=None, ended=ended, phase="idle", done=0.0
        )

    def _lose(self, lease: Lease, now: float, *, blame: bool = True) -> list[Loss]:
        self._end(lease, answered=False)
        if lease.abandoned:
            return []
        job = lease.job
        if blame:
            job = msgspec.structs.replace(job, lost_with=(*job.lost_with, lease.worker), queued_at=now)
        poison = len(job.lost_with) >= MAX_LOSSES
        if not poison:
            self._enqueue(job)
        return [Loss(lease=lease, job=job, poison=poison)]


def _rank(job: QueuedJob) -> tuple[bool, float, int]:
    return job.rank
