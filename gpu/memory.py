"""How much memory a job takes, by arithmetic, and how many rows are therefore worked on at once.

A *block* is read from the file at once, a *slab* is reconstructed at once; a block holds several slabs. Of blocks
two are in memory (one being read, one being used), of output slabs two as well (one being computed, one being
written), of sinograms one.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from gpu.fourier import padded_length
from srctd.core.errors import TransientError
from srctd.core.plan import ALIGNMENT
from srctd.core.scan import ScanHeader

SLAB_BYTES_PER_THREAD = 16 << 20
"""Slices of this size per thread and slab: enough that starting threads does not count, little enough that a worker
that is told to stop does so soon."""

BLOCKS_PER_SHARD = 4
"""Reading and computing overlap from block to block. Not more: for any row of a compressed file all its chunks must
be unpacked, so every block costs one pass through the file."""

SAFE_FRACTION = 0.7
"""Of the free memory; the rest is for the page cache, which reading and writing live on."""

_PROCESS = 160 << 20
"""The interpreter with its libraries."""
_M_ARENA_MAX = -8  # of glibc's malloc.h
_DRIVER = 600 << 20
"""The device's driver and its libraries in this process."""


@dataclass(frozen=True)
class Needs:
    """Bytes that a job takes, whatever its rows, and per detector row."""

    fixed: int
    """Process, filter, plans with their buffers."""
    per_slab_row: int
    """Sinogram and two output slices, or one and two of 16-bit integers where those are written."""
    per_block_row: int
    """Projections, flats and darks in the file's own type, twice."""

    def peak(self, slab: int, block: int) -> int:
        """Bytes for slabs and blocks of these heights."""
        return self.fixed + slab * self.per_slab_row + block * self.per_block_row


@dataclass(frozen=True)
class Heights:
    """Rows worked on at once."""

    slab: int
    block: int
    """A multiple of `slab`."""


def needs(header: ScanHeader, *, padding_factor: float, threads: int) -> Needs:
    """Bytes for a scan reconstructed by the Fourier method with so many threads."""
    n = header.n_columns
    frames = header.n_projections + header.n_flats + header.n_darks
    samples = header.n_projections * padded_length(n, padding_factor)
    # Per sample: response 8, points 8, per thread spectrum 8 and the sorted order of the points 8.
    # Per pixel and thread: the fine grid, 1.25^2 x 8, and the buffers of its passes; below a tolerance of 3e-5 the
    # grid is 2 x 2 as fine and takes 32, which this does not cover.
    plans = samples * (16 + 16 * threads) + threads * n * n * 21
    planning = samples * 64  # phase and response in double precision; gone before any row is there
    return Needs(
        fixed=_PROCESS + max(plans, planning),
        per_slab_row=4 * header.n_projections * n + 2 * 4 * n * n,
        per_block_row=2 * raw_row_bytes(header, frames),
    )


def needs_beside_device(header: ScanHeader, *, item_bytes: int) -> Needs:
    """Bytes on the host for a scan that a device reconstructs, in voxels of `item_bytes`."""
    frames = header.n_projections + header.n_flats + header.n_darks
    return Needs(
        fixed=_PROCESS + _DRIVER,
        per_slab_row=2 * item_bytes * header.n_columns**2,
        per_block_row=2 * raw_row_bytes(header, frames),
    )


def raw_row_bytes(header: ScanHeader, frames: int) -> int:
    """Bytes of one detector row in so many frames, in the file's own type."""
    everything = header.n_projections + header.n_flats + header.n_darks
    return header.raw_bytes * frames // (everything * header.n_rows)


def heights(
    need: Needs,
    rows: int,
    n_columns: int,
    *,
    budget: int,
    threads: int = 1,
    slab_bytes: int = SLAB_BYTES_PER_THREAD,
) -> Heights:
    """Rows per slab and per block for a shard of `rows` rows within `budget` bytes.

    Slabs count multiples of `ALIGNMENT` rows from the shard's start or, where memory is short, of 2: neighboring
    slices share a transform and must stay together. `slab_bytes`: of slices wanted at once, per thread. Raises
    `TransientError` if not even two rows fit.
    """
    step = ALIGNMENT * threads
    wanted = step * max(1, slab_bytes // (ALIGNMENT * 4 * n_columns**2))
    left = budget - need.fixed
    slab = min(wanted, _round_up(rows, ALIGNMENT), left // (need.per_slab_row + need.per_block_row))
    if slab < 2:
        least = need.peak(2, 2)
        raise TransientError(
            f"two rows need {least / 2**30:.2f} GiB of memory and {budget / 2**30:.2f} GiB may be used",
            hint="give the worker more memory or fewer threads",
        )
    slab -= slab % (ALIGNMENT if slab >= ALIGNMENT else 2)
    fitting = (left - slab * need.per_slab_row) // need.per_block_row
    block = min(-(-rows // BLOCKS_PER_SHARD), fitting)
    return Heights(slab=slab, block=slab * max(1, block // slab))


def available_bytes() -> int:
    """Memory of this machine that may be used: what is free, within the limit of the control group."""
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(facts["MemAvailable"].split()[0]) << 10
    return min([free, *_control_group_room()])


def share_bytes(threads: int) -> int:
    """Memory that a worker with so many threads may take: of what is free its share by cores, with a margin."""
    share = min(1.0, threads / len(os.sched_getaffinity(0)))
    return int(SAFE_FRACTION * share * available_bytes())


def share_heap() -> None:
    """Let all threads of this process allocate from one heap; to be called before they start.

    By default each gets one of its own with glibc, where the arrays that it freed are of no use to the others: a
    job's peak grows by a tenth, and a worker's size from job to job. With another C library nothing changes.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_M_ARENA_MAX, 1)


def peak_bytes() -> int:
    """Largest resident size of this process so far (not of the process that started it, as getrusage may say)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def _control_group_room() -> list[int]:
    """Bytes left in each memory-limited control group (version 2) around this process; caches do not count."""
    groups = [
        line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")
    ]
    rooms: list[int] = []
    for group in groups:
        folder = Path("/sys/fs/cgroup") / group.lstrip("/")
        for level in (folder, *folder.parents):
            try:
                limit = (level / "memory.max").read_text().strip()
                anonymous = (level / "memory.stat").read_text().split()[1]  # the first line: `anon BYTES`
            except OSError:
                continue
            if limit != "max":
                rooms.append(max(0, int(limit) - int(anonymous)))
    return rooms


def _round_up(rows: int, step: int) -> int:
    return -(-rows // step) * step
