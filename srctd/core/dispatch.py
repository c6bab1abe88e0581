"""Who gets which job: the pool's queue, its workers and their leases, without a socket or a clock.

A job is queued until a worker is idle, then it is under a *lease*: its id goes out with the job, heartbeats that
name it push its deadline back, and only the holder's answer to it counts. A lease that runs out, a worker that
goes silent or that starts anew gives the job back to the queue; the third time the job is poison.

`Dispatcher` decides; `srctd.adapters.pool` sends. `now` is monotonic seconds and is always handed in.
"""

import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from srctd.core.errors import HoldError
from srctd.core.messages import Heartbeat, Hello, Job, PreviewJob, RowsJob

MAX_LOSSES = 3
"""A job that was lost this often is not given out again: more likely it kills workers than they all died."""

REMEMBERED_SCANS = 4096
"""Above so many scans, what is known of those without an open job is forgotten."""


class QueuedJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job, and what happened to it so far."""

    id: int
    """Counts up in the order of submission."""
    job: Job
    priority: int
    """Larger goes first."""
    entered: int
    """Place of the scan among all scans that had a job, by its first one."""
    queued_at: float
    lost_with: tuple[str, ...] = ()
    """Workers that went away with it, or let its lease run out."""

    @property
    def rank(self) -> tuple[bool, int, int, int]:
        """Place in the queue: previews of all scans, then by priority, then scan by scan as they came."""
        return (not isinstance(self.job, PreviewJob), -self.priority, self.entered, self.id)


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


class ScanJobs(msgspec.Struct, frozen=True, kw_only=True):
    """How the jobs of one scan stand."""

    queued: int
    assigned: int
    ahead: int
    """Jobs of all scans that go before the first queued one."""
    fraction: float
    """Of the rows to be reconstructed, what is done, 0 to 1."""
    first_assigned_at: float | None
    """When a worker first took one of its jobs."""

    @property
    def started(self) -> bool:
        """Whether a worker took one of its jobs."""
        return self.first_assigned_at is not None


@dataclass(kw_only=True)
class _ScanRecord:
    """What is remembered of a scan beyond its jobs."""

    entered: int
    open: int = 0
    """Jobs that are queued or assigned."""
    rows: int = 0
    """Rows submitted since it last had no open job."""
    rows_done: int = 0
    first_assigned_at: float | None = None


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
        self._scans: dict[str, _ScanRecord] = {}
        self._session = session
        self._lease_seconds = lease_seconds
        self._forget_above = REMEMBERED_SCANS
        self._jobs = 0
        self._entered = 0
        self._grants = 0

    @property
    def queue(self) -> Sequence[QueuedJob]:
        """The jobs that wait, first one first."""
        return self._queue

    # --- jobs ---------------------------------------------------------------------------------------------

    def submit(self, job: Job, *, priority: int = 0, now: float) -> QueuedJob:
        """Put a job into the queue."""
        self._jobs += 1
        record = self._enter(job)
        queued = QueuedJob(id=self._jobs, job=job, priority=priority, entered=record.entered, queued_at=now)
        self._enqueue(queued)
        return queued

    def cancel(self, job: QueuedJob) -> None:
        """Nobody waits for the job any more: take it from the queue; in a worker's hands it is abandoned."""
        index = bisect.bisect_left(self._queue, job.rank, key=_rank)
        if index < len(self._queue) and self._queue[index].id == job.id:
            self._scans[job.job.scan].open -= 1
            del self._queue[index]
        for lease in self.leases.values():
            if lease.job.id == job.id and not lease.abandoned:
                self._scans[job.job.scan].open -= 1
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
        if not lease.abandoned:
            record = self._scans[lease.job.job.scan]
            record.open -= 1
            record.rows_done += _rows(lease.job.job)
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

    def progress(self) -> dict[str, ScanJobs]:
        """How the jobs of every scan stand that has any, in the order in which workers are given to them."""
        queued = Counter(job.job.scan for job in self._queue)
        ahead: dict[str, int] = {}
        for index, job in enumerate(self._queue):
            ahead.setdefault(job.job.scan, index)
        held = [lease for lease in self.leases.values() if not lease.abandoned]
        assigned = Counter(lease.job.job.scan for lease in held)
        growing: dict[str, float] = dict.fromkeys(assigned, 0.0)
        for lease in held:
            growing[lease.job.job.scan] += _rows(lease.job.job) * self.workers[lease.worker].done
        return {
            scan: self._scan_jobs(
                scan, queued[scan], assigned[scan], ahead.get(scan, 0), growing.get(scan, 0.0)
            )
            for scan in (assigned | queued)
        }

    def jobs_of(self, scan: str) -> ScanJobs:
        """How the jobs of one scan stand; of a scan without any, what is remembered."""
        record = self._scans.get(scan)
        if record is not None and record.open:
            return self.progress()[scan]
        return self._scan_jobs(scan, 0, 0, 0, 0.0)

    # --- inside -------------------------------------------------------------------------------------------

    def _enter(self, job: Job) -> _ScanRecord:
        record = self._scans.get(job.scan)
        if record is None:
            self._forget_old_scans()
            self._entered += 1
            record = self._scans[job.scan] = _ScanRecord(entered=self._entered)
        if record.open == 0:
            record.rows = record.rows_done = 0
        record.open += 1
        record.rows += _rows(job)
        return record

    def _forget_old_scans(self) -> None:
        if len(self._scans) >= self._forget_above:
            self._scans = {scan: record for scan, record in self._scans.items() if record.open}
            self._forget_above = max(REMEMBERED_SCANS, 2 * len(self._scans))

    def _scan_jobs(self, scan: str, queued: int, assigned: int, ahead: int, growing: float) -> ScanJobs:
        record = self._scans.get(scan, _ScanRecord(entered=0))
        return ScanJobs(
            queued=queued,
            assigned=assigned,
            ahead=ahead,
            fraction=(record.rows_done + growing) / record.rows if record.rows else 0.0,
            first_assigned_at=record.first_assigned_at,
        )

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
        record = self._scans[job.job.scan]
        if record.first_assigned_at is None:
            record.first_assigned_at = now
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
        if poison:
            self._scans[job.job.scan].open -= 1
        else:
            self._enqueue(job)
        return [Loss(lease=lease, job=job, poison=poison)]


def _rank(job: QueuedJob) -> tuple[bool, int, int, int]:
    return job.rank


def _rows(job: Job) -> int:
    return job.end - job.first if isinstance(job, RowsJob) else 0
