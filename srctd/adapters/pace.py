"""Copies that leave the detector alone: how fast, how many at once, and with which I/O priority they read.

A copy passes two gates for every block: that of its root (`copy_megabytes_per_second`) and that of its disk, which
is open unless the detector writes more than `yield_fraction` of what the disk gives.

What the detector writes is taken from what the kernel counts for the block device. That is the load which the disk
really has: also of files that no pattern fits, of files whose size was set before they were written, and at the
time when the page cache is written out, not when a file grew. Two kinds of disk have no such count, or a misleading
one: network file systems, and a disk to which srctd itself writes, because shared storage lies on it. There it is
the growth of the files below the roots, as the listings see it.

What a copy reads is charged to the disk only as far as it came from there: a frame that was just written is still
in the page cache, and reading it costs the disk nothing. The kernel knows it for block devices, thread by thread;
elsewhere everything that is read is charged.
"""

import asyncio
import ctypes
import heapq
import itertools
import math
import operator
import os
import platform
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import structlog

from srctd.config import WatchSection
from srctd.core.errors import StorageUnavailable
from srctd.core.pace import Bucket, Disk, Load, filled, observed, seconds_until

log = structlog.get_logger()

OBSERVE_SECONDS = 0.25
"""How often the block devices are looked at."""
GROWTH_SECONDS = 10.0
"""Over which time growth is observed: listings come every few seconds."""
SHORTEST_WAIT_SECONDS = 0.001
LONGEST_WAIT_SECONDS = 0.5
"""After so long a copy that waits looks whether it may read faster by now."""
CHARGED_BYTES = 4 << 20
"""What came from the disk is asked for after so many bytes: it takes as long as opening a file."""
SECTOR_BYTES = 512
"""In which the kernel counts, whatever the device's own are."""

_PRIORITY_CALLS = {"x86_64": (251, 252), "aarch64": (30, 31)}
"""Numbers of ioprio_set and ioprio_get, which the C library does not know."""
_WHO_PROCESS = 1
"""The next argument is a thread's identifier; 0: the caller's."""
_CLASS_SHIFT = 13
_BEST_EFFORT, _IDLE = 2 << _CLASS_SHIFT, 3 << _CLASS_SHIFT
PRIORITIES = {"normal": _BEST_EFFORT | 4, "low": _BEST_EFFORT | 7, "idle": _IDLE}


# --- a gate -----------------------------------------------------------------------------------------------


class Canceled(Protocol):
    """A `threading.Event` that ends a copy."""

    def wait(self, timeout: float) -> bool:
        """Return at once, with True, when it is set."""


class Gate:
    """Lets the bytes of many threads pass at one rate, in the order in which they were asked for."""

    def __init__(self, rate: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._bucket = Bucket(0.0, clock())
        self._asked: dict[object, int] = {}
        self._passed = 0

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        with self._lock:
            self._fill()
            self._rate = rate

    @property
    def passed(self) -> int:
        """Bytes so far."""
        return self._passed

    def take(self, count: int, canceled: Canceled) -> None:
        """Wait until so many bytes may pass; raises `StorageUnavailable` as soon as the copy is canceled."""
        turn = object()
        with self._lock:
            self._asked[turn] = count
        try:
            while wait := self._try(turn):
                if canceled.wait(min(max(wait, SHORTEST_WAIT_SECONDS), LONGEST_WAIT_SECONDS)):
                    raise StorageUnavailable("the copy was interrupted")
        finally:
            with self._lock:
                self._asked.pop(turn, None)

    def _try(self, turn: object) -> float:
        """Take what is asked for, if there is enough for all who came before as well; else, how long to wait."""
        with self._lock:
            self._fill()
            wanted = 0
            for asked, count in self._asked.items():
                wanted += count
                if asked is turn:
                    break
            wait = seconds_until(self._bucket, self._rate, wanted)
            if not wait:
                count = self._asked.pop(turn)
                self._bucket = self._bucket._replace(saved=self._bucket.saved - count)
                self._passed += count
            return wait

    def _fill(self) -> None:
        self._bucket = filled(self._bucket, self._rate, sum(self._asked.values()), self._clock())


# --- places -----------------------------------------------------------------------------------------------


class Places:
    """So many copies at once; who waits for a place gets it in turn, the urgent ones first."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._order = itertools.count()
        self._queue: list[tuple[bool, int, asyncio.Future[None]]] = []

    @property
    def waiting(self) -> int:
        """How many copies wait."""
        return sum(not turn.done() for _, _, turn in self._queue)

    @asynccontextmanager
    async def one(self, *, urgent: bool) -> AsyncIterator[None]:
        """Hold a place."""
        await self._acquire(urgent)
        try:
            yield
        finally:
            self._release()

    async def _acquire(self, urgent: bool) -> None:
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._queue, (not urgent, next(self._order), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # it had got the place already
                self._release()
            raise

    def _release(self) -> None:
        while self._queue:
            _, _, turn = heapq.heappop(self._queue)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


# --- disks ------------------------------------------------------------------------------------------------


class Counts(NamedTuple):
    """What a block device has done since the machine started."""

    read: int
    written: int
    """Bytes."""
    busy_seconds: float


def device_of(number: int) -> Path | None:
    """Where the kernel tells of a block device, of the whole disk for a partition; None: it is no such device."""
    try:
        folder = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
    except OSError:
        return None
    return folder.parent if (folder / "partition").exists() else folder


def counts(device: Path) -> Counts | None:
    """What a block device has done so far (Documentation/block/stat.rst); None: it went away."""
    try:
        fields = [int(field) for field in (device / "stat").read_text(encoding="ascii").split()]
    except OSError:
        return None
    return Counts(fields[2] * SECTOR_BYTES, fields[6] * SECTOR_BYTES, fields[9] / 1000)


class _Disk:
    """A disk on which roots lie."""

    def __init__(self, name: str, device: Path | None, places: int) -> None:
        self.name = name
        self.device = device
        self.places = Places(places)
        self.gate = Gate()
        self.known = Disk()
        self.own_writes = False
        """Whether shared storage lies on it as well."""
        self._before: tuple[float, int, Counts] | None = None

    @property
    def counted(self) -> bool:
        """Whether what is written to it is known from the device; else, from the growth of files."""
        return self.device is not None and not self.own_writes

    def observe(self, now: float, sections: Sequence[WatchSection], grown: int) -> None:
        """Find out what happened since the last time. `sections`: the roots on it, of which `grown` bytes grew."""
        before = self._before
        seconds = now - before[0] if before else math.inf
        if seconds < (OBSERVE_SECONDS if self.counted else GROWTH_SECONDS) * 0.9:
            return
        done = counts(self.device) if self.device else Counts(self.gate.passed, grown, 0.0)
        self._before = (now, grown, done) if done else None
        if before is None or done is None:
            return
        load = self._load(seconds, Counts(*map(operator.sub, done, before[2])), grown - before[1])
        configured = max(section.disk_megabytes_per_second for section in sections) * 1e6
        fraction = min(section.yield_fraction for section in sections)
        self.known = observed(self.known, load, configured, fraction)
        self.gate.rate = self.known.allowed

    def _load(self, seconds: float, done: Counts, grown: int) -> Load:
        total = done.read + done.written
        if not self.counted:
            return Load(seconds, grown, done.read, total)
        return Load(seconds, done.written, done.read, total, done.busy_seconds / seconds)


class _Root:
    """A watched root."""

    def __init__(self, section: WatchSection) -> None:
        self.section = section
        self.top = os.path.realpath(section.path)
        self.gate = Gate(section.copy_megabytes_per_second * 1e6 or math.inf)
        self.disk: _Disk | None = None
        self.grown = 0
        self.rate = 0.0
        """What copies read of it, bytes per second."""
        self._before: tuple[float, int] | None = None

    def holds(self, path: str) -> bool:
        return f"{path}/".startswith(f"{self.top.rstrip('/')}/")

    def observe(self, now: float) -> None:
        if self._before:
            at, passed = self._before
            self.rate = (self.gate.passed - passed) / (now - at)
        self._before = (now, self.gate.passed)


class _Fetching(threading.local):
    """What a thread asked for since its last charge, and what it had fetched from disks by then."""

    asked = 0
    fetched: int | None = None


class RootPace:
    """How fast one copy may read; of several threads, if it has them."""

    def __init__(self, root: _Root, disk: _Disk, canceled: threading.Event) -> None:
        self._root = root
        self._disk = disk
        self._canceled = canceled
        self._thread = _Fetching()

    def take(self, count: int) -> None:
        """Wait until so many more bytes may be read, in the thread that reads them.

        Raises `StorageUnavailable` as soon as the copy is canceled.
        """
        if self._canceled.is_set():
            raise StorageUnavailable("the copy was interrupted")
        self._root.gate.take(count, self._canceled)
        if charge := self._charge(count):
            self._disk.gate.take(charge, self._canceled)

    def _charge(self, count: int) -> int:
        """How many bytes came from the disk of those that this thread took before, and has read by now."""
        if self._disk.device is None:
            return count
        thread = self._thread
        due, thread.asked = thread.asked, thread.asked + count
        if due and due < CHARGED_BYTES:
            return 0
        before, thread.fetched = thread.fetched, fetched_bytes()
        thread.asked = count
        return due if before is None or thread.fetched is None else min(due, thread.fetched - before)


def fetched_bytes() -> int | None:
    """Bytes that this thread had fetched from disks so far; None where the kernel does not count them."""
    try:
        with open("/proc/thread-self/io", encoding="ascii") as lines:
            return next((int(line.split()[1]) for line in lines if line.startswith("read_bytes")), None)
    except OSError:
        return None


# --- priority ---------------------------------------------------------------------------------------------


def set_io_priority(value: int) -> int:
    """Set the calling thread's I/O priority as ioprio_set(2) knows it; return the one before. Raises `OSError`."""
    before = io_priority_of(0)
    _call(_priority_calls()[0], _WHO_PROCESS, 0, value)
    return before


def io_priority_of(thread: int) -> int:
    """A thread's I/O priority, by its native identifier; 0: the caller's. Raises `OSError`."""
    return _call(_priority_calls()[1], _WHO_PROCESS, thread)


def _priority_calls() -> tuple[int, int]:
    numbers = _PRIORITY_CALLS.get(platform.machine())
    if numbers is None:
        raise OSError(f"no number of ioprio_set is known for {platform.machine()}")
    return numbers


def _call(*numbers: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    answer = int(libc.syscall(*(ctypes.c_long(number) for number in numbers)))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return answer


# --- all of them ------------------------------------------------------------------------------------------


class Paces:
    """What the copies of all roots may do. `pace` and `priority` are for their threads, the rest for the loop."""

    def __init__(self, sections: Sequence[WatchSection], places: int, shared: str) -> None:
        """`places`: copies at once from one disk. `shared`: where they are written."""
        self._places = places
        self._shared = shared
        self._roots = [_Root(section) for section in sections]
        self._disks: dict[str, _Disk] = {}
        self._priority_problem = ""

    async def run_forever(self) -> None:
        """Observe the disks."""
        while True:
            now = time.monotonic()
            for root in self._roots:
                root.observe(now)
            for disk in self._disks.values():
                roots = [root for root in self._roots if root.disk is disk]
                if roots:
                    disk.observe(now, [root.section for root in roots], sum(root.grown for root in roots))
            await asyncio.sleep(OBSERVE_SECONDS)

    @asynccontextmanager
    async def place(self, path: str, *, urgent: bool) -> AsyncIterator[None]:
        """Hold one of the places for copies from the disk on which a scan lies.

        `urgent`: the scan is complete; it goes before those that are still being acquired.
        """
        root = self._root(path)
        name, device, own_writes = await asyncio.to_thread(_locate, root.top, self._shared)
        if name not in self._disks:
            self._disks[name] = _Disk(name, device, self._places)
        root.disk = self._disks[name]
        root.disk.own_writes = own_writes
        async with root.disk.places.one(urgent=urgent):
            yield

    def pace(self, path: str, canceled: threading.Event) -> RootPace:
        """For one copy of a scan, once it has its place; `canceled` ends it, also while it waits."""
        root = self._root(path)
        assert root.disk is not None
        return RootPace(root, root.disk, canceled)

    @contextmanager
    def priority(self, path: str) -> Iterator[None]:
        """Give the calling thread, and those that it starts, the I/O priority of a scan's root for a while."""
        wanted = self._root(path).section.io_priority
        try:
            before = set_io_priority(PRIORITIES[wanted])
        except OSError as exc:
            if not self._priority_problem:
                self._priority_problem = str(exc)
                log.warning("copy.no_io_priority", wanted=wanted, reason=str(exc))
            yield
            return
        try:
            yield
        finally:
            set_io_priority(before)

    def grew(self, path: str, count: int) -> None:
        """A listing saw that a scan grew by so many bytes since the one before."""
        self._root(path).grown += count

    def facts(self) -> list[dict[str, Any]]:
        """Per root: what copies may read and why, and what they do read."""
        return [_facts(root) for root in self._roots]

    def _root(self, path: str) -> _Root:
        """The root below which a scan lies; one that was submitted from elsewhere is treated as of the first."""
        return next((root for root in self._roots if root.holds(path)), self._roots[0])


def _locate(top: str, shared: str) -> tuple[str, Path | None, bool]:
    """The disk on which a root lies: its name, where the kernel tells of it, whether shared storage is there."""
    number, other = _device_number(top), _device_number(shared)
    if number is None:  # the copy itself will say what is wrong with it
        return top, None, False
    device = device_of(number)
    same = number == other or (device is not None and other is not None and device == device_of(other))
    return device.name if device else f"{os.major(number)}:{os.minor(number)}", device, same


def _device_number(path: str) -> int | None:
    try:
        return os.stat(path).st_dev
    except OSError:
        return None


def _facts(root: _Root) -> dict[str, Any]:
    limit, why = root.gate.rate, "copy_megabytes_per_second"
    disk = root.disk
    if disk is not None and disk.gate.rate < limit:
        limit = disk.gate.rate
        why = f"the detector writes {_megabytes(disk.known.detector)} of {_megabytes(disk.known.gives)}"
    return {
        "path": root.section.path,
        "disk": disk.name if disk else "",
        "limit_bytes_per_second": None if math.isinf(limit) else round(limit),
        "why": "" if math.isinf(limit) else why,
        "bytes_per_second": round(root.rate),
        "waiting": disk.places.waiting if disk else 0,
    }


def _megabytes(rate: float) -> str:
    return f"{rate / 1e6:.0f} MB/s"
