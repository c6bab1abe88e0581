"""Who gets which job, decided without sockets or clocks."""

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from srctd.core.dispatch import MAX_LOSSES, REMEMBERED_SCANS, Dispatcher, Lease, QueuedJob, poison_error
from srctd.core.endpoints import require_local
from srctd.core.errors import ConfigError
from srctd.core.messages import Heartbeat, Hello, PreviewJob, RowsJob

LEASE = 10.0


def dispatcher() -> Dispatcher:
    return Dispatcher(session="s", lease_seconds=LEASE)


def hello(name: str) -> Hello:
    return Hello(worker=name, host="here", pid=1, device="cpu", threads=1, free_bytes=10**9, version="0")


def beat(name: str, lease: str | None) -> Heartbeat:
    return Heartbeat(worker=name, lease=lease, phase="read", done=0.5, free_bytes=1)


def rows(scan: str = "a", first: int = 0) -> RowsJob:
    return RowsJob(scan=scan, parameters="/p.json", output="/out", first=first, end=first + 8)


def preview(scan: str) -> PreviewJob:
    return PreviewJob(scan=scan, parameters="/p.json", output="/preview")


def jobs(leases: list[Lease]) -> list[object]:
    return [lease.job.job for lease in leases]


def test_previews_go_before_rows_and_scans_in_the_order_of_entry() -> None:
    d = dispatcher()
    d.submit(preview("early"), now=0.0)
    d.submit(rows("late", 0), now=0.0)
    d.submit(rows("early", 0), now=1.0)
    d.submit(rows("early", 8), now=1.0)
    d.submit(preview("later"), now=2.0)
    d.submit(rows("urgent"), priority=1, now=2.0)
    for name in "uvwxyz":
        d.join(hello(name), now=3.0)
    assert jobs(d.assign(4.0)) == [
        preview("early"),
        preview("later"),
        rows("urgent"),
        rows("early", 0),
        rows("early", 8),
        rows("late", 0),
    ]
    assert not d.queue


def test_a_worker_gets_one_job_at_a_time() -> None:
    d = dispatcher()
    d.join(hello("w"), now=0.0)
    d.submit(rows(first=0), now=0.0)
    d.submit(rows(first=8), now=0.0)
    (lease,) = d.assign(0.0)
    assert d.assign(1.0) == []
    assert d.finish(lease.id, "w") == lease
    assert jobs(d.assign(2.0)) == [rows(first=8)]


def test_heartbeats_renew_the_lease_that_they_name() -> None:
    d = dispatcher()
    d.join(hello("w"), now=0.0)
    d.submit(rows(), now=0.0)
    (lease,) = d.assign(0.0)
    assert d.beat(beat("w", lease.id), now=9.0)
    assert d.expire(18.9) == ([], [])
    silent, (loss,) = d.expire(19.0)
    assert [worker.name for worker in silent] == ["w"]
    assert loss.job.lost_with == ("w",)
    assert [job.job for job in d.queue] == [rows()]


def test_a_worker_that_lives_but_does_not_know_its_lease_loses_it() -> None:
    d = dispatcher()
    d.join(hello("w"), now=0.0)
    d.submit(rows(), now=0.0)
    (lease,) = d.assign(0.0)
    d.beat(beat("w", None), now=9.0)
    silent, (loss,) = d.expire(10.0)
    assert not silent
    assert loss.lease.id == lease.id
    assert d.workers["w"].idle


def test_a_worker_that_goes_on_with_an_expired_lease_gets_nothing_until_it_answers() -> None:
    d = dispatcher()
    d.join(hello("w"), now=0.0)
    d.submit(rows(), now=0.0)
    (lease,) = d.assign(0.0)
    d.beat(beat("w", None), now=9.0)
    d.expire(10.0)
    d.beat(beat("w", lease.id), now=11.0)
    assert d.assign(12.0) == []
    assert d.finish(lease.id, "w") is None  # late
    d.beat(beat("w", lease.id), now=12.5)  # was on its way when the answer came
    (again,) = d.assign(13.0)
    assert again.id != lease.id


def test_a_heartbeat_that_was_under_way_does_not_make_an_idle_worker_busy() -> None:
    d = dispatcher()
    d.join(hello("w"), now=0.0)
    d.submit(rows(first=0), now=0.0)
    d.submit(rows(first=8), now=0.0)
    (lease,) = d.assign(0.0)
    d.finish(lease.id, "w")
    d.beat(beat("w", lease.id), now=1.0)
    assert jobs(d.assign(1.0)) == [rows(first=8)]


def test_a_lost_job_prefers_a_worker_that_has_not_lost_it() -> None:
    d = dispatcher()
    d.join(hello("bad"), now=0.0)
    d.submit(rows(first=0), now=0.0)
    d.submit(rows(first=8), now=0.0)
    d.assign(0.0)
    d.join(hello("bad"), now=1.0)  # started anew: the job is back in the queue
    d.join(hello("good"), now=1.0)
    assert {lease.worker: lease.job.job.first for lease in d.assign(2.0)} == {"good": 0, "bad": 8}


def test_a_lost_job_goes_to_the_same_worker_where_there_is_no_other() -> None:
    d = dispatcher()
    d.join(hello("only"), now=0.0)
    d.submit(rows(), now=0.0)
    d.assign(0.0)
    d.join(hello("only"), now=1.0)
    assert jobs(d.assign(2.0)) == [rows()]


def test_the_third_loss_is_poison_and_names_the_workers() -> None:
    d = dispatcher()
    d.submit(rows("a", 16), now=0.0)
    for name in ("one", "two", "three"):
        d.join(hello(name), now=0.0)
        assert len(d.assign(0.0)) == 1
        (loss,) = d.leave(name, now=1.0)
    assert loss.poison
    assert not d.queue
    assert poison_error(loss.job).sentence == (
        "rows 16 to 24 of a was lost 3 times, with the workers one, two, three "
        "(the workers' logs tell why they went; then retry the scan)"
    )


def test_a_job_handed_back_is_not_held_against_it() -> None:
    d = dispatcher()
    d.submit(rows(), now=0.0)
    for turn in range(MAX_LOSSES + 1):
        d.join(hello("w"), now=float(turn))
        d.assign(float(turn))
        (loss,) = d.leave("w", now=float(turn), blame=False)
        assert not loss.poison
    assert [job.lost_with for job in d.queue] == [()]


def test_cancel_takes_a_job_from_the_queue_or_drops_its_result() -> None:
    d = dispatcher()
    first = d.submit(rows(first=0), now=0.0)
    second = d.submit(rows(first=8), now=0.0)
    d.join(hello("w"), now=0.0)
    (lease,) = d.assign(0.0)
    d.cancel(second)
    assert not d.queue
    d.cancel(first)
    assert d.assign(1.0) == []  # the worker still has the canceled job in its hands
    assert d.progress() == {}
    _, losses = d.expire(20.0)
    assert losses == []  # and nobody wants it back
    assert not d.queue
    assert lease.id not in d.leases


def test_only_the_holder_ends_a_lease() -> None:
    d = dispatcher()
    for name in ("w", "x"):
        d.join(hello(name), now=0.0)
    d.submit(rows(), now=0.0)
    (lease,) = d.assign(0.0)
    assert d.finish(lease.id, "x") is None
    assert d.finish("s-999", "w") is None
    assert d.finish(lease.id, "w") is not None
    assert d.finish(lease.id, "w") is None


def test_an_unknown_worker_is_said_to_be_unknown() -> None:
    assert not dispatcher().beat(beat("ghost", None), now=0.0)
    assert dispatcher().leave("ghost", now=0.0) == []


def test_what_the_status_is_told() -> None:
    d = dispatcher()
    d.submit(rows("a"), now=0.0)
    for first in (0, 8, 16, 24):
        d.submit(rows("b", first), now=0.0)
    assert d.jobs_of("b").ahead == 1
    assert not d.jobs_of("a").started
    d.join(hello("w"), now=5.0)
    (lease,) = d.assign(5.0)
    a, b = d.progress()["a"], d.progress()["b"]
    assert (a.queued, a.assigned, a.started, a.fraction, a.first_assigned_at) == (0, 1, True, 0.0, 5.0)
    assert (b.queued, b.assigned, b.started, b.ahead) == (4, 0, False, 0)
    d.finish(lease.id, "w")
    assert "a" not in d.progress()
    assert d.jobs_of("a").fraction == 1.0
    (lease,) = d.assign(6.0)
    d.beat(beat("w", lease.id), now=6.0)
    assert d.jobs_of("b").fraction == pytest.approx(0.5 / 4)
    assert d.jobs_of("never seen").fraction == 0.0


def test_a_second_try_of_a_scan_counts_its_rows_anew() -> None:
    d = dispatcher()
    d.join(hello("w"), now=0.0)
    done, canceled = d.submit(rows("a", 0), now=0.0), d.submit(rows("a", 8), now=0.0)
    (lease,) = d.assign(0.0)
    assert lease.job == done
    d.finish(lease.id, "w")
    d.cancel(canceled)
    d.submit(rows("a", 0), now=1.0)
    assert d.jobs_of("a").fraction == 0.0
    assert d.jobs_of("a").first_assigned_at == 0.0


def test_scans_without_open_jobs_are_forgotten_in_the_end() -> None:
    d = dispatcher()
    kept = d.submit(rows("kept"), now=0.0)
    for number in range(REMEMBERED_SCANS + 1):
        d.cancel(d.submit(rows(f"scan-{number}"), now=0.0))
    assert len(d._scans) <= REMEMBERED_SCANS
    assert d.jobs_of("kept").queued == 1
    d.cancel(kept)


def test_a_long_queue_is_not_copied_or_sorted_for_a_decision() -> None:
    """A decision looks at as many jobs as there are idle workers, however many wait."""
    d = dispatcher()
    for number in range(10_000):
        d.submit(rows(f"scan-{number}"), now=0.0)
    looked_at = 0
    suits = d._suits

    def counting(*arguments: object) -> bool:
        nonlocal looked_at
        looked_at += 1
        return suits(*arguments)  # type: ignore[arg-type]

    d._suits = counting  # type: ignore[method-assign, assignment]
    for name in ("w", "x"):
        d.join(hello(name), now=0.0)
    assert [lease.job.job.scan for lease in d.assign(0.0)] == ["scan-0", "scan-1"]
    assert looked_at == 2
    assert len(d.queue) == 9_998


class Life(RuleBasedStateMachine):
    """Whatever workers and jobs do, no job is lost, doubled or given to two workers."""

    names = st.sampled_from(["u", "v", "w"])

    def __init__(self) -> None:
        super().__init__()
        self.d = dispatcher()
        self.now = 0.0
        self.open: dict[int, QueuedJob] = {}

    @rule(scan=st.sampled_from("abc"), is_preview=st.booleans(), priority=st.sampled_from([0, 1]))
    def submit(self, scan: str, is_preview: bool, priority: int) -> None:
        job = preview(scan) if is_preview else rows(scan)
        queued = self.d.submit(job, priority=priority, now=self.now)
        self.open[queued.id] = queued

    @rule(name=names)
    def join(self, name: str) -> None:
        self.settle(self.d.join(hello(name), self.now))

    @rule(name=names, blame=st.booleans())
    def leave(self, name: str, blame: bool) -> None:
        self.settle(self.d.leave(name, self.now, blame=blame))

    @rule(name=names, named=st.sampled_from(["own", "none", "other"]))
    def heartbeat(self, name: str, named: str) -> None:
        worker = self.d.workers.get(name)
        lease = {"own": worker.lease if worker else None, "none": None, "other": "x-1"}[named]
        assert self.d.beat(beat(name, lease), self.now) is (worker is not None)

    @rule()
    def assign(self) -> None:
        for lease in self.d.assign(self.now):
            assert lease.job.id in self.open

    @rule(seconds=st.sampled_from([1.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.settle(self.d.expire(self.now)[1])

    @precondition(lambda self: self.d.leases)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.d.leases.values(), key=lambda lease: lease.id)))
        assert self.d.finish(lease.id, lease.worker) == lease
        if not lease.abandoned:
            del self.open[lease.job.id]

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        queued = self.open.pop(data.draw(st.sampled_from(sorted(self.open))))
        self.d.cancel(queued)

    def settle(self, losses: list) -> None:  # type: ignore[type-arg]
        for loss in losses:
            if loss.poison:
                assert len(loss.job.lost_with) == MAX_LOSSES
                del self.open[loss.job.id]

    @invariant()
    def every_open_job_is_in_one_place(self) -> None:
        held = [lease.job.id for lease in self.d.leases.values() if not lease.abandoned]
        assert sorted(held + [job.id for job in self.d.queue]) == sorted(self.open)

    @invariant()
    def leases_and_workers_agree(self) -> None:
        by_worker = {worker.lease: name for name, worker in self.d.workers.items() if worker.lease}
        assert by_worker == {lease.id: lease.worker for lease in self.d.leases.values()}

    @invariant()
    def open_jobs_are_counted(self) -> None:
        counted = {scan: record.open for scan, record in self.d._scans.items() if record.open}
        assert counted == Counter(queued.job.scan for queued in self.open.values())

    @invariant()
    def the_queue_is_in_order(self) -> None:
        ranks = [job.rank for job in self.d.queue]
        assert ranks == sorted(ranks)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(
    "endpoint", ["ipc:///run/srctd/pool", "tcp://127.0.0.1:5555", "tcp://localhost:*", "tcp://[::1]:80"]
)
def test_endpoints_of_this_machine_are_accepted(endpoint: str) -> None:
    assert require_local(endpoint) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp://0.0.0.0:5555",
        "tcp://*:5555",
        "tcp://10.1.2.3:80",
        "tcp://detector:80",
        "udp://127.0.0.1:1",
        "ipc://",
        "tcp://127.0.0.1",
        "",
        "5555",
    ],
)
def test_endpoints_that_others_reach_are_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="no endpoint on this machine alone"):
        require_local(endpoint)
