"""Every message between the pool and its workers.

msgspec structs as MessagePack, decoded by a tagged union: a message of an unknown type is an error at the
edge, unknown fields of a known type are ignored (an old and a new version may talk). Big data never crosses
a socket: messages carry paths and row ranges.
"""

import msgspec

from srctd.core.errors import SrctdError

PROTOCOL = 1


class MessageError(SrctdError):
    """Bytes that are no message of this protocol."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of what goes over the wire."""


# --- jobs -------------------------------------------------------------------------------------------------


class PreviewJob(Message, frozen=True, kw_only=True, tag="preview"):
    """Estimate the rotation axis, reconstruct three orthogonal slices and the axis strip, measure quality.

    The pictures and `quality.json` are written into the folder `output`, which the worker makes; it appears
    whole or not at all.
    """

    scan: str
    parameters: str
    """Absolute path of the parameter file."""
    output: str
    """Absolute path of the folder to make."""


class RowsJob(Message, frozen=True, kw_only=True, tag="rows"):
    """Reconstruct the rows `first` to `end` and write them into the volume file inside `output`.

    Done means: the rows are on disk (fsync) and a side-car beside the volume names their digest.
    """

    scan: str
    parameters: str
    output: str
    """Absolute path of the folder that holds the growing volume."""
    first: int
    end: int


Job = PreviewJob | RowsJob


# --- results ----------------------------------------------------------------------------------------------


class AxisEstimate(msgspec.Struct, frozen=True, kw_only=True):
    """What one estimator says of the rotation axis."""

    method: str
    center: float
    """Pixel, 0-based."""
    score: float
    """The estimator's own figure of merit, 0 to 1, larger is surer."""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """A number measured on raw data or on the result."""

    name: str
    value: float
    unit: str = ""


class PreviewResult(Message, frozen=True, kw_only=True, tag="preview-result"):
    """What a preview found."""

    center: float
    center_confidence: float
    """0 to 1."""
    estimates: tuple[AxisEstimate, ...]
    measures: tuple[Measure, ...]
    pictures: tuple[str, ...]
    """File names inside the preview folder; the first is the picture for the catalogue."""
    volume_shape: tuple[int, int, int]
    """(n_slices, n_y, n_x) of the volume to come."""
    unit: str
    """Of the voxel values: `1/m`, or `1/pixel`."""
    n_angles: int
    value_range: tuple[float, float] | None = None
    """What integers should stand for in a 16-bit volume, in `unit`."""


class RowsResult(Message, frozen=True, kw_only=True, tag="rows-result"):
    """Rows that are on disk."""

    first: int
    end: int
    digest: str
    """xxh3-128 of the rows' bytes in the volume, 32 hexadecimal digits."""
    minimum: float
    """Of the values as they were reconstructed, also where integers are stored."""
    maximum: float
    mean: float
    clipped: int = 0
    """Voxels outside the range of a 16-bit volume, which hold its nearer end."""


JobResult = PreviewResult | RowsResult


# --- worker to pool ---------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True, tag="hello"):
    """A worker offers itself; sent at start, and again when the pool says it does not know it."""

    worker: str
    """Name, unique among the workers: host, process and device."""
    protocol: int = PROTOCOL
    host: str
    pid: int
    device: str
    """`cpu`, or the GPU's name and number."""
    threads: int
    free_bytes: int
    """Memory of the device that a job may use."""
    version: str


class Heartbeat(Message, frozen=True, kw_only=True, tag="heartbeat"):
    """The worker lives; renews the lease it names. Sent from a thread and a socket of its own."""

    worker: str
    lease: str | None
    phase: str
    """`idle`, or what the job is at: `axis`, `read`, `reconstruct`, `write`..."""
    done: float
    """Fraction of the job, 0 to 1."""
    free_bytes: int


class JobDone(Message, frozen=True, kw_only=True, tag="done"):
    """A job's result."""

    worker: str
    lease: str
    result: JobResult
    seconds: dict[str, float]
    """By phase."""
    peak_bytes: int


class JobFailed(Message, frozen=True, kw_only=True, tag="failed"):
    """A job that did not work out."""

    worker: str
    lease: str
    kind: str
    """`transient`: try again; `space`: the storage is full; `hold`: the scan is at fault; `bug`: the worker's
    code is."""
    message: str
    hint: str = ""


class Goodbye(Message, frozen=True, kw_only=True, tag="goodbye"):
    """The worker leaves; a lease it names is handed back."""

    worker: str
    lease: str | None = None


FromWorker = Hello | Heartbeat | JobDone | JobFailed | Goodbye


# --- pool to worker ---------------------------------------------------------------------------------------


class Assign(Message, frozen=True, kw_only=True, tag="assign"):
    """A job under a lease."""

    lease: str
    job: Job


class WhoAreYou(Message, frozen=True, kw_only=True, tag="who-are-you"):
    """The pool does not know this worker (it was restarted): say hello again."""


class Stop(Message, frozen=True, kw_only=True, tag="stop"):
    """Finish the job in hand and leave."""


ToWorker = Assign | WhoAreYou | Stop

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for foreign bytes: its own error, and Python's for text that is not UTF-8 or deep nesting."""

_encoder = msgspec.msgpack.Encoder()
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)


def encode(message: Message) -> bytes:
    """A message as bytes."""
    return _encoder.encode(message)


def decode_from_worker(raw: bytes) -> FromWorker:
    """Read what a worker sent; raises `MessageError`."""
    try:
        return _from_worker.decode(raw)
    except UNDECODABLE as exc:
        raise MessageError(f"no message from a worker: {exc}") from exc


def decode_to_worker(raw: bytes) -> ToWorker:
    """Read what the pool sent; raises `MessageError`."""
    try:
        return _to_worker.decode(raw)
    except UNDECODABLE as exc:
        raise MessageError(f"no message from the pool: {exc}") from exc
