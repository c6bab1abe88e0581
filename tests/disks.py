"""Disks of a test's own: small file systems in a file, and folders that appear at a place and go away."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import needs

MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-m", "0"),
    "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"),
    "btrfs": ("mkfs.btrfs", "-q"),
}
"""What makes a file system; those after the first share blocks between files."""


@contextlib.contextmanager
def disk(
    folder: Path, megabytes: int, name: str = "disk", kind: str = "ext4", options: tuple[str, ...] = ()
) -> Iterator[Path]:
    """A file system of so many MiB, mounted at `folder/name`; gone afterwards. `kind`: one of `MAKE`."""
    needs.root()
    needs.program(MAKE[kind][0])
    image, mount = folder / f"{name}.img", folder / name
    mount.mkdir(parents=True, exist_ok=True)
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run([*MAKE[kind], *options, image], check=True, stdout=subprocess.DEVNULL)
    _mount("-o", "loop", str(image), str(mount))
    try:
        yield mount
    finally:
        unplug(mount)


@contextlib.contextmanager
def memory(mount: Path) -> Iterator[Path]:
    """A file system in memory, mounted at a folder; gone afterwards, whatever is in it."""
    needs.root()
    mount.mkdir(parents=True)
    _mount("-t", "tmpfs", "srctd-test", str(mount))
    try:
        yield mount
    finally:
        unplug(mount)


def remount(mount: Path, how: str) -> None:
    """`ro` or `rw`."""
    subprocess.run(["mount", "-o", f"remount,{how}", mount], check=True)


def plug(store: Path, place: Path) -> None:
    """Let a folder appear at a place, as a disk that is mounted."""
    needs.root()
    _mount("--bind", str(store), str(place))


def unplug(place: Path) -> None:
    """The disk is gone at once, whoever uses it."""
    while os.path.ismount(place) or str(place) in Path("/proc/self/mounts").read_text().split():
        subprocess.run(["umount", "-l", place], check=True)


@contextlib.contextmanager
def plugged(store: Path, place: Path) -> Iterator[None]:
    """A folder at a place; may be unplugged and plugged in meanwhile."""
    plug(store, place)
    try:
        yield
    finally:
        unplug(place)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        needs.missing(f"no mount: {done.stderr.strip()}")
