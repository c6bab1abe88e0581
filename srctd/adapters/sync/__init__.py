"""Copying a scan to shared storage, and proving it.

A scan grows in a hidden folder (`part`) and appears under its name by one rename, after every file and folder of
it was made durable. Each file is read once: its xxh3-128 is taken from the very bytes that are written.

The calls block and may be repeated: a copy that was cut short anywhere goes on where it was, block by block. What
an earlier process wrote is read back from the copy and compared with the digests noted then; only if they agree is
it kept, so what is published was proven, not remembered.
"""

from srctd.adapters.sync.commit import (
    CHECKSUMS,
    INPUT,
    link_input,
    publish,
    published,
    write_checksums,
    write_manifest,
)
from srctd.adapters.sync.copying import bytes_left, copy, copy_settled, digest_in_place, files_left
from srctd.adapters.sync.folders import make_folder, remove_folder, replace_folder, sweep, write_atomic
from srctd.adapters.sync.notes import MANIFEST, PROGRESS
from srctd.adapters.sync.options import PLAIN, CopyOptions, FullSpeed, Give, Pace, keep
from srctd.adapters.sync.source import digest_file, inside
from srctd.adapters.sync.trouble import storage_error
from srctd.core.scan import BLOCK_BYTES

__all__ = [
    "BLOCK_BYTES",
    "CHECKSUMS",
    "INPUT",
    "MANIFEST",
    "PLAIN",
    "PROGRESS",
    "CopyOptions",
    "FullSpeed",
    "Give",
    "Pace",
    "bytes_left",
    "copy",
    "copy_settled",
    "digest_file",
    "digest_in_place",
    "files_left",
    "inside",
    "keep",
    "link_input",
    "make_folder",
    "publish",
    "published",
    "remove_folder",
    "replace_folder",
    "storage_error",
    "sweep",
    "write_atomic",
    "write_checksums",
    "write_manifest",
]
