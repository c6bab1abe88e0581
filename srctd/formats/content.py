"""A digest by which a scan is known again, wherever it lies and whenever it was copied."""

import os
from collections.abc import Sequence

import xxhash

from srctd.core.errors import StorageUnavailable
from srctd.formats.files import opened

SAMPLE_BYTES = 64 * 1024
SAMPLES = 16
"""Pieces read of one file, spread evenly; the first and the last bytes are among them."""
SAMPLED_FILES = 64


def content_digest(files: Sequence[tuple[str, str, int]], started: str) -> str:
    """32 hexadecimal digits of all names and sizes, the start time, and samples of up to 64 files.

    `files`: (name, absolute path, size in bytes). Names are those inside the scan, so that a copy has the same
    digest. Raises `StorageUnavailable` for a file that cannot be read now, or ends before its size, and
    `ScanUnreadable` for what is no regular file.
    """
    ordered = sorted(files)
    digest = xxhash.xxh3_128()
    digest.update(repr((started, [(name, size) for name, _, size in ordered])).encode())
    every = max(1, -(-len(ordered) // SAMPLED_FILES))
    for _, path, size in ordered[::every]:
        _add_samples(digest, path, size)
    return digest.hexdigest()


def sample_offsets(size: int) -> list[int]:
    """Where the samples of a file of `size` bytes begin; a small file is read whole."""
    last = size - SAMPLE_BYTES
    if last <= 0:
        return [0]
    if size <= SAMPLES * SAMPLE_BYTES:
        return [*range(0, last, SAMPLE_BYTES), last]
    return [last * i // (SAMPLES - 1) for i in range(SAMPLES)]


def _add_samples(digest: xxhash.xxh3_128, path: str, size: int) -> None:
    try:
        with opened(path) as number:
            for offset in sample_offsets(size):
                piece = os.pread(number, min(SAMPLE_BYTES, size - offset), offset)
                if len(piece) < min(SAMPLE_BYTES, size - offset):
                    raise StorageUnavailable(f"{path} ends before the {size} bytes that were listed")
                digest.update(piece)
    except OSError as exc:
        raise StorageUnavailable(f"{path} cannot be read now: {exc.strerror}") from exc
