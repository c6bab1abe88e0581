"""The volume file: one HDF5 file that several workers fill at once.

The file is laid out once, with its data set contiguous and allocated; from then on rows are written by their byte
offset, never through HDF5, so no lock and no coordination is needed between workers. The layout is NXtomoproc
(https://manual.nexusformat.org/classes/applications/NXtomoproc.html), which silx and napari open.

Nothing in it depends on when, where or by how many it was made: the same input and parameters give the same bytes.
A shard is done when its rows are on disk and its side-car ``shards/<first>-<end>.json`` exists.
"""

import contextlib
import errno
import math
import mmap
import os
import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

import h5py
import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from srctd.core import voxels
from srctd.core.errors import HoldError, NoSpace, NotPermitted, SrctdError, StorageUnavailable
from srctd.core.messages import RowsResult
from srctd.core.recipe import ParameterFile, Value
from srctd.core.scan import ScanHeader
from srctd.core.voxels import LARGEST, Scaling

NAME = "volume.h5"
DATASET = "/entry/data/data"
ALIGNMENT = 4096
"""The rows begin at a multiple of this, as file systems and direct I/O like it."""
ENCODED_AT_ONCE = 1 << 20
"""Voxels that become integers at once, in double precision: little memory, and it stays in the cache."""

Sample = TypeVar("Sample", np.float32, np.uint16)
_HDF5_TYPES = {voxels.FLOAT: h5py.h5t.IEEE_F32LE, voxels.SIXTEEN_BIT: h5py.h5t.STD_U16LE}


@dataclass(frozen=True)
class VolumeSpec:
    """All that a volume file says besides its voxels."""

    parameters: ParameterFile
    header: ScanHeader

    @property
    def first_row(self) -> int:
        """Detector row of the first slice."""
        return self.parameters.rows(self.header.n_rows)[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(n_slices, n_y, n_x)."""
        first, end = self.parameters.rows(self.header.n_rows)
        return max(0, end - first), self.header.n_columns, self.header.n_columns

    @property
    def pixel_size(self) -> float | None:
        """Metre, or None where it is not known."""
        value = self.parameters.value("pixel_size")
        return float(value) if isinstance(value, int | float) and value > 0 else None

    @property
    def unit(self) -> str:
        """Unit of the voxel values."""
        return "1/pixel" if self.pixel_size is None else "1/m"

    @property
    def dtype(self) -> str:
        """Of what is stored: `float32` or `uint16`."""
        return str(self.parameters.value("output_dtype"))

    @property
    def scaling(self) -> Scaling | None:
        """What stored integers stand for; None where values are stored as they are."""
        return voxels.scaling(self.parameters)

    @property
    def row_bytes(self) -> int:
        """Bytes of one slice."""
        return voxels.item_bytes(self.parameters) * math.prod(self.shape[1:])


@dataclass(frozen=True)
class VolumeFile:
    """Where the rows of a laid out volume lie."""

    path: Path
    offset: int
    """Byte at which the first slice begins."""
    first_row: int
    n_rows: int
    row_bytes: int
    n_voxels: int
    """Of one slice."""
    scaling: Scaling | None = None

    def position(self, row: int) -> int:
        """Byte at which the slice of a detector row begins."""
        if not self.first_row <= row <= self.first_row + self.n_rows:
            raise HoldError(
                f"{self.path}: row {row} is none of its rows", hint="the shards do not fit the rows"
            )
        return self.offset + (row - self.first_row) * self.row_bytes


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate what the file system says about writing `path`."""
    try:
        yield
    except OSError as exc:
        raise storage_error(path, exc) from exc


def storage_error(path: Path, exc: OSError) -> SrctdError:
    """`NoSpace`, `NotPermitted` or, for what may heal, `StorageUnavailable`."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path}: {exc.strerror}", hint="free space on the storage, then retry")
    if exc.errno in (errno.EACCES, errno.EPERM):
        return NotPermitted(f"{path}: {exc.strerror}", hint="the worker's user must be able to write there")
    return StorageUnavailable(f"{path}: {exc.strerror or exc}")


# --- the layout -------------------------------------------------------------------------------------------


def ensure(folder: Path, spec: VolumeSpec) -> VolumeFile:
    """Lay the volume out in `folder`, or find it laid out; any number of workers may do so at once.

    Every one writes the same bytes under a name of its own and links it to the final name: the first wins.
    Raises `NoSpace`, before anything is written, if the rows that are not there yet do not fit.
    """
    path = folder / NAME
    with storage_errors(path):
        if not path.exists():
            _require_space(folder, spec.shape[0] * spec.row_bytes)
            _lay_out_once(path, spec)
        for left_over in folder.glob(f".{NAME}.*"):  # of a worker that died; the volume itself is there
            left_over.unlink(missing_ok=True)
        volume = _inspect(path, spec)
        status = path.stat()
        _require_space(folder, status.st_size - 512 * status.st_blocks)
    return volume


def _require_space(folder: Path, needed: int) -> None:
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if needed > free:
        raise NoSpace(
            f"{folder}: the volume needs {needed / 1e9:.3g} GB more, {free / 1e9:.3g} GB are free",
            hint="free space on the storage, then retry",
        )


def _lay_out_once(path: Path, spec: VolumeSpec) -> None:
    temporary = path.with_name(f".{NAME}.{secrets.token_hex(8)}")
    try:
        _write_layout(temporary, spec)
        _sync(temporary)
        os.link(temporary, path)
        _sync(path.parent)
    except (FileExistsError, FileNotFoundError):
        if not path.exists():  # otherwise another worker was first, and may have cleaned up after itself
            raise
    finally:
        temporary.unlink(missing_ok=True)


def _write_layout(path: Path, spec: VolumeSpec) -> None:
    with h5py.File(
        path, "w", locking=False, alignment_threshold=1 << 16, alignment_interval=ALIGNMENT
    ) as file:
        file.attrs.update({"NX_class": "NXroot", "default": "entry"})
        entry = _group(file, "entry", "NXentry", default="data")
        header = spec.header
        _texts(entry, title=header.title or spec.parameters.scan, definition="NXtomoproc")
        _texts(_group(entry, "sample", "NXsample"), name=header.sample)
        instrument = _group(entry, "instrument", "NXinstrument")
        _texts(instrument, name=header.instrument)
        _energy(instrument, spec.parameters.value("energy"))
        process = _group(entry, "reconstruction", "NXprocess")
        _texts(process, program="srctd", version=spec.parameters.software.removeprefix("srctd "))
        _parameters(process, spec.parameters)
        _data(_group(entry, "data", "NXdata", signal="data", axes=["z", "y", "x"]), spec)


def _group(parent: h5py.Group, name: str, kind: str, **attributes: object) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update({"NX_class": kind, **attributes})
    return group


def _texts(group: h5py.Group, **texts: str) -> None:
    """Write what is known; a field that is not there says more than an empty one."""
    for name, text in texts.items():
        if text:
            group[name] = text


def _energy(instrument: h5py.Group, energy: Value) -> None:
    if energy is not None:
        beam = _group(instrument, "beam", "NXbeam")
        beam["incident_energy"] = float(energy)
        beam["incident_energy"].attrs["units"] = "keV"


def _parameters(process: h5py.Group, parameters: ParameterFile) -> None:
    """Every parameter with unit and origin, as JSON; no absolute path, so a task copied elsewhere is the same."""
    group = _group(process, "parameters", "NXparameters")
    told = {
        "recipe": parameters.recipe,
        "center_confidence": parameters.center_confidence,
        "notes": parameters.notes,
        "member": parameters.member,
        "shortfall": parameters.shortfall,
        "parameters": parameters.parameters,
    }
    _texts(
        group,
        raw_file=f"{parameters.raw}:{parameters.entry}",
        json=msgspec.json.encode(told, order="sorted").decode(),
    )


def _data(group: h5py.Group, spec: VolumeSpec) -> None:
    n_slices, n_y, n_x = spec.shape
    step, units = (1.0, "pixel") if spec.pixel_size is None else (spec.pixel_size, "m")
    axes = {
        "z": spec.first_row + np.arange(n_slices),
        "y": np.arange(n_y) - (n_y - 1) / 2,
        "x": np.arange(n_x) - (n_x - 1) / 2,
    }
    for name, values in axes.items():
        group[name] = step * values.astype(np.float64)
        group[name].attrs["units"] = units
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_layout(h5py.h5d.CONTIGUOUS)
    create.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    create.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    create.set_obj_track_times(False)
    space = h5py.h5s.create_simple(spec.shape)
    identifier = h5py.h5d.create(group.id, b"data", _HDF5_TYPES[spec.dtype], space, create)
    attributes = h5py.Dataset(identifier).attrs
    attributes.update({"units": spec.unit, "long_name": "linear attenuation coefficient"})
    if spec.scaling is not None:  # names of the CF conventions: value = add_offset + scale_factor x stored
        attributes.update({"add_offset": spec.scaling.offset, "scale_factor": spec.scaling.scale})


def _inspect(path: Path, spec: VolumeSpec) -> VolumeFile:
    with h5py.File(path, "r", locking=False) as file:
        dataset = file[DATASET]
        offset = dataset.id.get_offset()
        if dataset.shape != spec.shape or offset is None or dataset.dtype != spec.dtype:
            raise HoldError(
                f"{path}: holds {dataset.shape} {dataset.dtype}, not the {spec.shape} {spec.dtype} of these"
                " parameters",
                hint="remove the folder and retry",
            )
    n_rows, n_y, n_x = spec.shape
    return VolumeFile(
        path=path,
        offset=offset,
        first_row=spec.first_row,
        n_rows=n_rows,
        row_bytes=spec.row_bytes,
        n_voxels=n_y * n_x,
        scaling=spec.scaling,
    )


def page_aligned(shape: tuple[int, ...], dtype: type[Sample]) -> NDArray[Sample]:
    """An array of zeros that direct I/O can write from."""
    size = math.prod(shape)
    room = mmap.mmap(-1, max(size * np.dtype(dtype).itemsize, 1))
    return np.frombuffer(room, dtype, size).reshape(shape)


def encode(values: NDArray[np.float32], scaling: Scaling, out: NDArray[np.uint16]) -> int:
    """Write the integers that stand for values into `out`, both C-contiguous and of the same size; return how many
    values lie outside the range, or are no numbers, so that they hold its nearer end, or its lower.
    """
    clipped, flat, target = 0, values.reshape(-1), out.reshape(-1)
    for start in range(0, len(flat), ENCODED_AT_ONCE):
        some = flat[start : start + ENCODED_AT_ONCE].astype(np.float64)
        clipped += len(some) - int(np.count_nonzero((some >= scaling.offset) & (some <= scaling.maximum)))
        steps = np.rint((some - scaling.offset) / scaling.scale)
        np.nan_to_num(steps, copy=False, nan=0.0)
        target[start : start + ENCODED_AT_ONCE] = np.clip(steps, 0, LARGEST)
    return clipped


class Slab(NamedTuple):
    """Slices ready to be written, and what is told of them."""

    stored: NDArray[Any]
    """(n, n_y, n_x), C-contiguous, float32 or uint16, little-endian; direct I/O wants it page-aligned."""
    minimum: float
    maximum: float
    sums: list[float]
    """Of every slice."""
    clipped: int = 0
    """How many values the stored integers cannot say."""

    @classmethod
    def joined(cls, slabs: Sequence["Slab"], stored: NDArray[Any]) -> "Slab":
        """Neighboring slabs as one."""
        return cls(
            stored,
            min(slab.minimum for slab in slabs),
            max(slab.maximum for slab in slabs),
            [total for slab in slabs for total in slab.sums],
            sum(slab.clipped for slab in slabs),
        )


def stored(
    slices: NDArray[np.float32], scaling: Scaling | None, integers: NDArray[np.uint16] | None = None
) -> Slab:
    """Slices as they are stored: as they are, or as integers, which then lie in `integers`, of the same shape."""
    clipped, result = 0, np.ascontiguousarray(slices, dtype="<f4")
    if scaling is not None:
        integers = page_aligned(slices.shape, np.uint16) if integers is None else integers
        clipped = encode(result, scaling, integers)
    sums = [float(one.sum(dtype=np.float64)) for one in result]  # per slice: slabs must not show
    low, high = float(result.min()), float(result.max())
    return Slab(result if scaling is None or integers is None else integers, low, high, sums, clipped)


# --- rows -------------------------------------------------------------------------------------------------


class ShardWriter:
    """Writes the rows `first` to `end` in order; `finish` makes them durable and known.

    Space for all of them is allocated on entering, so that a full disk is met before hours of work.
    """

    def __init__(self, volume: VolumeFile, first: int, end: int) -> None:
        self._volume, self._first, self._end = volume, first, end
        self._next = first
        self._digest = xxhash.xxh3_128()
        self._digesting = ThreadPoolExecutor(1, "digest")
        """While the disk takes a slab: one after the other costs a fifth of a fast disk's speed."""
        self._clipped = 0
        self._sums: list[float] = []
        self._minimum, self._maximum = math.inf, -math.inf
        self._handle = -1
        self._direct: int | None = None

    def __enter__(self) -> Self:
        """Open the volume and allocate the rows."""
        position, stop = self._volume.position(self._first), self._volume.position(self._end)
        with storage_errors(self._volume.path):
            self._handle = os.open(self._volume.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                _allocate(self._handle, position, stop - position)
            except OSError:
                os.close(self._handle)
                raise
        with contextlib.suppress(OSError):  # a file system without direct I/O
            self._direct = os.open(self._volume.path, os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the volume."""
        self._digesting.shutdown()
        os.close(self._handle)
        if self._direct is not None:
            os.close(self._direct)

    def write(self, slab: Slab) -> None:
        """Append slices."""
        n_rows = len(slab.stored)
        if self._next + n_rows > self._end:
            raise ValueError(f"{n_rows} slices from row {self._next} on exceed the shard's end, {self._end}")
        raw = slab.stored.reshape(-1).view(np.uint8)
        position, written = self._volume.position(self._next), 0
        digested = self._digesting.submit(self._digest.update, raw.data)
        with storage_errors(self._volume.path):
            while written < len(raw):
                written += self._write_some(raw[written:], position + written)
        digested.result()
        self._minimum = min(self._minimum, slab.minimum)
        self._maximum = max(self._maximum, slab.maximum)
        self._sums += slab.sums
        self._clipped += slab.clipped
        self._next += n_rows

    def _write_some(self, raw: NDArray[np.uint8], position: int) -> int:
        """Write at least a byte. Whole pages go past the page cache: copying into it costs more than the disk."""
        pages = len(raw) - len(raw) % ALIGNMENT
        if self._direct is not None and pages and (position | raw.ctypes.data) % ALIGNMENT == 0:
            try:
                return os.pwrite(self._direct, raw[:pages].data, position)
            except OSError as exc:
                if exc.errno != errno.EINVAL:  # stricter about alignment than we are
                    raise
                os.close(self._direct)
                self._direct = None
        return os.pwrite(self._handle, raw.data, position)

    def finish(self) -> RowsResult:
        """Bring the rows to disk, then write the side-car."""
        if self._next != self._end:
            raise ValueError(f"rows {self._next} to {self._end} of the shard were not written")
        result = RowsResult(
            first=self._first,
            end=self._end,
            digest=self._digest.hexdigest(),
            minimum=self._minimum,
            maximum=self._maximum,
            mean=math.fsum(self._sums) / ((self._end - self._first) * self._volume.n_voxels),
            clipped=self._clipped,
        )
        side_car = _side_car(self._volume.path.parent, self._first, self._end)
        with storage_errors(side_car):
            os.fsync(self._handle)
            side_car.parent.mkdir(exist_ok=True)
            replace_file(side_car, msgspec.json.encode(result))
        return result


def read_shard(folder: Path, first: int, end: int) -> RowsResult | None:
    """The result of a shard that is done already; None if it is still to be done."""
    if not (folder / NAME).exists():
        return None
    try:
        return msgspec.json.decode(_side_car(folder, first, end).read_bytes(), type=RowsResult)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    except OSError as exc:
        raise storage_error(folder, exc) from exc


def replace_file(path: Path, content: bytes) -> None:
    """Write a small file so that it is there whole, and durable, or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_bytes(content)
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _side_car(folder: Path, first: int, end: int) -> Path:
    return folder / "shards" / f"{first}-{end}.json"


def _allocate(handle: int, position: int, length: int) -> None:
    try:
        os.posix_fallocate(handle, position, max(length, 1))
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
