"""The worker as a process, against a pool of a few lines: jobs, errors, signals, restarts, kills."""

import contextlib
import os
import signal
import subprocess
import sys
import time

import msgspec
import pytest
import zmq
from small_scans import CENTER, line_integrals, write_parameters, write_scan

from gpu.pipeline import Resources, run_rows
from gpu.volume import NAME, read_shard
from srctd.core.messages import (
    Assign,
    Goodbye,
    Heartbeat,
    Hello,
    JobDone,
    JobFailed,
    PreviewJob,
    RowsJob,
    Stop,
    WhoAreYou,
    decode_from_worker,
    encode,
)

ROWS, COLUMNS = 400, 256
PATIENCE_SECONDS = 60


class SmallPool:
    """A ROUTER that one test drives by hand."""

    def __init__(self, folder):
        self.endpoint = f"ipc://{folder}/pool.sock"
        self._context = zmq.Context()
        self.route = None
        self.open()

    def open(self):
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(self.endpoint)

    def restart(self):
        self._socket.close()
        self.open()

    def close(self):
        self._socket.close()
        self._context.term()

    def expect(self, kind, answer=None):
        """The next message of a kind; what else comes is answered with `answer`, or dropped."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self._socket.poll(max(0, 1000 * (end - time.monotonic()))):
            route, payload = self._socket.recv_multipart()
            message = decode_from_worker(payload)
            if isinstance(message, kind):
                if not isinstance(message, Heartbeat):
                    self.route = route
                return message
            if answer is not None:
                self._socket.send_multipart([route, encode(answer)])
        raise AssertionError(f"no {kind.__name__} came")

    def send(self, message):
        raw = message if isinstance(message, bytes) else encode(message)
        self._socket.send_multipart([self.route, raw])


@pytest.fixture
def pool(tmp_path):
    pool = SmallPool(tmp_path)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Large enough for a signal to meet the job at work."""
    folder = tmp_path_factory.mktemp("scan")
    return write_scan(folder / "tall.h5", integrals=line_integrals(60, ROWS, COLUMNS, CENTER * 4))


@pytest.fixture
def job(scan, tmp_path):
    parameters = write_parameters(tmp_path / "parameters.json", scan, center=CENTER * 4)
    (tmp_path / "out").mkdir()
    return RowsJob(scan="tall", parameters=parameters, output=str(tmp_path / "out"), first=0, end=ROWS)


def command(pool, *options):
    return [
        *(sys.executable, "-m", "gpu", "worker", "--connect", pool.endpoint, "--name", "w-0"),
        *("--threads", "1", "--nice", "1", "--memory-bytes", str(256 << 20), *options),
    ]


@contextlib.contextmanager
def worker(pool, *options):
    """A worker process that has said hello."""
    process = subprocess.Popen(command(pool, *options), stderr=subprocess.PIPE, text=True)
    try:
        pool.hello = pool.expect(Hello)
        yield process
    finally:
        process.kill()
        process.communicate()


def at_work(job, rows=ROWS):
    """Wait until so many rows of the volume have their space on disk, which they get before they are computed."""
    volume = os.path.join(job.output, NAME)
    end = time.monotonic() + PATIENCE_SECONDS
    while not os.path.exists(volume) or os.stat(volume).st_blocks * 512 < 4 * rows * COLUMNS**2:
        assert time.monotonic() < end
        time.sleep(0.002)


def undisturbed(job, folder):
    """The bytes of the volume when nobody interferes."""
    folder.mkdir()
    run_rows(msgspec.structs.replace(job, output=str(folder)), Resources(threads=2), lambda *_: None)
    return (folder / NAME).read_bytes()


def test_a_job_from_hello_to_goodbye(pool, job, tmp_path):
    with worker(pool) as process:
        assert (pool.hello.worker, pool.hello.pid, pool.hello.threads) == ("w-0", process.pid, 1)
        assert pool.hello.free_bytes == 256 << 20
        assert pool.expect(Heartbeat).lease is None
        pool.send(b"\xc1 rubbish")
        pool.send(Assign(lease="l-1", job=job))
        done = pool.expect(JobDone)
        assert (done.lease, done.worker, done.result) == ("l-1", "w-0", read_shard(tmp_path / "out", 0, ROWS))
        assert {"read", "compute", "write"} <= set(done.seconds)
        assert done.peak_bytes > 2**20
        pool.send(
            Assign(
                lease="l-2", job=PreviewJob(scan="s", parameters=job.parameters, output=str(tmp_path / "p"))
            )
        )
        preview = pool.expect(JobDone)
        assert preview.result.pictures[0] == "orthogonal.png"
        assert (tmp_path / "p" / "orthogonal.png").exists()
        pool.send(Stop())
        assert pool.expect(Goodbye).lease is None
        log = process.communicate(timeout=PATIENCE_SECONDS)[1]
        assert process.returncode == 0
        assert '"event": "message.ignored"' in log
        assert '"ignored": 1' in log


def test_failures_are_told_by_what_to_do_and_the_worker_lives_on(pool, job, tmp_path):
    broken = tmp_path / "broken.json"
    content = msgspec.json.decode((tmp_path / "parameters.json").read_bytes())
    del content["parameters"]["filter"]
    broken.write_bytes(msgspec.json.encode(content))
    with worker(pool) as process:
        for parameters, kind, words in [
            ("/gone.json", "transient", "/gone.json: No such file or directory"),
            (__file__, "hold", "is no parameter file"),
            (str(broken), "bug", "KeyError: 'filter'"),
        ]:
            pool.send(Assign(lease=kind, job=msgspec.structs.replace(job, parameters=parameters)))
            failed = pool.expect(JobFailed)
            assert (failed.lease, failed.kind) == (kind, kind)
            assert words in failed.message
        assert process.poll() is None


def test_sigterm_hands_the_job_back(pool, job, tmp_path):
    with worker(pool) as process:
        pool.send(Assign(lease="l-1", job=job))
        at_work(job)
        process.send_signal(signal.SIGTERM)
        assert pool.expect(Goodbye).lease == "l-1"
        assert process.wait(PATIENCE_SECONDS) == 0
    assert read_shard(tmp_path / "out", 0, ROWS) is None


def test_after_a_kill_the_volume_is_the_same_and_done_shards_stay(pool, job, tmp_path):
    first, second = (msgspec.structs.replace(job, first=a, end=b) for a, b in ((0, 200), (200, ROWS)))
    with worker(pool) as process:
        pool.send(Assign(lease="l-1", job=first))
        done = pool.expect(JobDone)
        pool.send(Assign(lease="l-2", job=second))
        at_work(second)
        process.kill()
        process.wait()
    with worker(pool):
        pool.send(Assign(lease="l-3", job=first))
        again = pool.expect(JobDone)
        assert (again.result, again.seconds) == (done.result, {})
        pool.send(Assign(lease="l-4", job=second))
        pool.expect(JobDone)
    assert (tmp_path / "out" / NAME).read_bytes() == undisturbed(job, tmp_path / "undisturbed")


def test_a_restarted_pool_is_greeted_again_and_a_job_in_hand_is_told_to_it(pool, job):
    with worker(pool):
        pool.send(Assign(lease="l-1", job=job))
        at_work(job)
        pool.restart()
        assert pool.expect(JobDone, answer=WhoAreYou()).lease == "l-1"
        assert pool.expect(Hello, answer=WhoAreYou()).worker == "w-0"
        pool.send(Assign(lease="l-2", job=job))
        assert pool.expect(JobDone).lease == "l-2"


def test_without_its_parent_it_leaves(pool, job):
    start = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", start, *command(pool, "--die-with-parent")])
    hello = pool.expect(Hello)
    pool.expect(Heartbeat)  # from here on it knows its parent
    parent.kill()
    parent.wait()
    assert pool.expect(Goodbye).worker == hello.worker
