"""A file system that passes everything on to a folder, and fails where and how a test wants it to.

As a program, `python tests/faultfs.py BACKING MOUNT CONTROL`, it serves the mount and, at a Unix socket, takes
faults and tells what it counted. In a test: `with mounted(tmp_path, "shared") as faulty: faulty.fail(...)`.

Every operation runs in a thread of its own, so that one that hangs delays nobody else.
"""

import contextlib
import ctypes
import errno
import fnmatch
import json
import os
import random
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import needs

OPERATIONS = (
    *("access", "chmod", "chown", "create", "fallocate", "flush", "fsync", "fsyncdir", "getattr", "getxattr"),
    *("link", "listxattr", "mkdir", "mknod", "open", "opendir", "read", "readdir", "readlink", "release"),
    *("releasedir", "removexattr", "rename", "rmdir", "setxattr", "statfs", "symlink", "truncate", "unlink"),
    *("utimens", "write"),
)
NEVER_FAIL = frozenset({"release", "releasedir"})


@dataclass(kw_only=True)
class Fault:
    """What goes wrong with some operations."""

    effect: str
    """An errno's name, or `delay`, `hang` (until released), `short` (fewer bytes are written), `corrupt` (a bit
    of what is written flips), `torn` (half of it is written, then EIO)."""
    operations: tuple[str, ...]
    """Empty: all."""
    pattern: str = "*"
    """Shell wildcard of the paths, which begin with `/` and count from the mount."""
    probability: float = 1.0
    count: int | None = None
    """It ends after so many times."""
    seconds: float = 0.0
    """Of a delay."""
    hits: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def fits(self, operation: str, path: str) -> bool:
        """Whether it strikes now; counts."""
        named = operation in self.operations if self.operations else operation not in NEVER_FAIL
        if not named or self.count == 0 or not fnmatch.fnmatchcase(path, self.pattern):
            return False
        if random.random() >= self.probability:
            return False
        self.hits += 1
        if self.count is not None:
            self.count -= 1
        return True


class State:
    """The faults there are, and what was counted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: dict[str, Fault] = {}
        self._ever: dict[str, Fault] = {}
        self._written: Counter[str] = Counter()
        self._operations: Counter[str] = Counter()
        self._hanging = 0

    def strike(self, operation: str, path: str) -> str:
        """Fail, or wait, if a fault says so; return what is to become of a write, or an empty string."""
        with self._lock:
            self._operations[operation] += 1
            fault = next((f for f in self._faults.values() if f.fits(operation, path)), None)
        if fault is None:
            return ""
        if fault.effect == "delay":
            time.sleep(fault.seconds)
        elif fault.effect == "hang":
            with self._lock:
                self._hanging += 1
            fault.released.wait()
            with self._lock:
                self._hanging -= 1
        elif fault.effect.isupper():
            raise OSError(getattr(errno, fault.effect), fault.effect, path)
        else:
            return fault.effect
        return ""

    def wrote(self, path: str, count: int) -> None:
        """Bytes that a write brought to the backing folder."""
        with self._lock:
            self._written[path] += count

    def command(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out what the test says."""
        with self._lock:
            match request.pop("command"):
                case "fail":
                    name = request.pop("name")
                    self._faults[name] = self._ever[name] = Fault(**request)
                case "heal":
                    for name in [request["name"]] if request["name"] else list(self._faults):
                        if fault := self._faults.pop(name, None):
                            fault.released.set()
                case "reset":
                    self._written.clear()
                    self._operations.clear()
            return {
                "written": dict(self._written),
                "operations": dict(self._operations),
                "hits": {name: fault.hits for name, fault in self._ever.items()},
                "hanging": self._hanging,
            }


# --- the test's side --------------------------------------------------------------------------------------


class FaultFS:
    """A mount of this file system, as a test sees it."""

    def __init__(self, mount: Path, backing: Path, control: str) -> None:
        self.mount, self.backing = mount, backing
        self._control = control
        self._names = iter(range(1_000_000))

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(10)
            caller.connect(self._control)
            caller.sendall(json.dumps({"command": command, **fields}).encode() + b"\n")
            answer: dict[str, Any] = json.loads(caller.makefile().readline())
            return answer

    def fail(self, effect: str, *operations: str, **fields: Any) -> str:
        """Begin a fault; returns its name. See `Fault` for the fields."""
        assert set(operations) <= set(OPERATIONS)
        name = f"{effect}-{next(self._names)}"
        self.ask("fail", name=name, effect=effect, operations=operations, **fields)
        return name

    def heal(self, name: str = "") -> None:
        """End a fault, or all; whatever hangs by it goes on."""
        self.ask("heal", name=name)

    def hits(self, name: str) -> int:
        """How often a fault struck."""
        return int(self.ask("stats")["hits"][name])

    def hanging(self) -> int:
        """How many operations hang."""
        return int(self.ask("stats")["hanging"])

    def written(self) -> dict[str, int]:
        """Bytes written, by path."""
        found: dict[str, int] = self.ask("stats")["written"]
        return found


@contextlib.contextmanager
def mounted(folder: Path, name: str = "faulty") -> Iterator[FaultFS]:
    """The file system at `folder/name`, over `folder/name.backing`; gone afterwards, whatever hangs in it."""
    needs.root()
    fusermount = needs.program("fusermount3")
    try:
        import fuse  # noqa: F401  # loads libfuse2
    except (ImportError, OSError) as exc:
        needs.missing(f"fusepy does not load: {exc}")
    if not os.path.exists("/dev/fuse"):
        needs.missing("no /dev/fuse")
    mount, backing, control = folder / name, folder / f"{name}.backing", folder / f"{name}.control"
    for path in (mount, backing):
        path.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen([sys.executable, __file__, backing, mount, control])
    faulty = FaultFS(mount, backing, str(control))
    try:
        deadline = time.monotonic() + 20
        while not os.path.ismount(mount):
            assert server.poll() is None, "faultfs ended"
            assert time.monotonic() < deadline, "faultfs does not mount"
            time.sleep(0.01)
        yield faulty
    finally:
        with contextlib.suppress(OSError):
            faulty.heal()
        subprocess.run([fusermount, "-u", "-z", mount], check=False, capture_output=True)
        try:
            server.wait(2)
        except subprocess.TimeoutExpired:  # somebody still has a file open; the kernel ends what waits for us
            server.kill()
            server.wait()


# --- the file system's side -------------------------------------------------------------------------------


def serve(backing: str, mount: str, control: str) -> None:
    """Serve the mount until it is unmounted."""
    import fuse

    class Extended(fuse.FUSE):  # type: ignore[misc]
        """With the last operations of libfuse 2.9, which the binding leaves out."""

        def fallocate(self, path: bytes, mode: int, offset: int, length: int, info: Any) -> int:
            result: int = self.operations(
                "fallocate", path.decode("utf-8"), mode, offset, length, info.contents.fh
            )
            return result

    class Table(ctypes.Structure):
        _fields_ = [
            *fuse.fuse_operations._fields_,
            *[(name, ctypes.c_void_p) for name in ("poll", "write_buf", "read_buf", "flock")],
            (
                "fallocate",
                ctypes.CFUNCTYPE(
                    ctypes.c_int,
                    ctypes.c_char_p,
                    ctypes.c_int,
                    ctypes.c_longlong,
                    ctypes.c_longlong,
                    ctypes.POINTER(fuse.fuse_file_info),
                ),
            ),
        ]

    fuse.fuse_operations = Table
    state = State()
    threading.Thread(target=listen, args=(control, state), daemon=True).start()
    options = {"attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}
    Extended(
        Passthrough(backing, state),
        mount,
        foreground=True,
        nothreads=False,
        allow_other=True,
        default_permissions=True,
        big_writes=True,
        hard_remove=True,
        use_ino=True,
        fsname="faultfs",
        **options,
    )


def listen(control: str, state: State) -> None:
    """Take the test's commands, one line of JSON for each."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            answer = state.command(json.loads(self.rfile.readline()))
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with contextlib.suppress(FileNotFoundError):
        os.unlink(control)
    Server(control, Handler).serve_forever()


class Passthrough:
    """The operations, by name, on the backing folder."""

    use_ns = True

    def __init__(self, backing: str, state: State) -> None:
        self._backing, self._state = backing, state
        self._calls: dict[str, Callable[..., Any]] = {name: getattr(self, f"_{name}") for name in OPERATIONS}
        for name in OPERATIONS:
            setattr(self, name, self._calls[name])  # the binding looks which there are

    def __call__(self, operation: str, path: str, *args: Any) -> Any:
        if operation in ("init", "destroy"):
            return None
        what = self._state.strike(operation, path)
        return self._calls[operation](path, *args, **({"what": what} if operation == "write" else {}))

    def _real(self, path: str) -> str:
        return self._backing + path

    def _access(self, path: str, mode: int) -> None:
        if not os.access(self._real(path), mode):
            raise OSError(errno.EACCES, "access", path)

    def _chmod(self, path: str, mode: int) -> None:
        os.chmod(self._real(path), mode)

    def _chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(self._real(path), *(-1 if n == 0xFFFFFFFF else n for n in (uid, gid)), follow_symlinks=False)

    def _create(self, path: str, mode: int, info: Any = None) -> int:
        return os.open(self._real(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def _fallocate(self, path: str, mode: int, offset: int, length: int, fh: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.fallocate(fh, mode, ctypes.c_longlong(offset), ctypes.c_longlong(length)):
            raise OSError(ctypes.get_errno(), "fallocate", path)

    def _flush(self, path: str, fh: int) -> None:
        pass

    def _fsync(self, path: str, datasync: int, fh: int) -> None:
        os.fsync(fh)

    def _fsyncdir(self, path: str, datasync: int, fh: int) -> None:
        folder = os.open(self._real(path), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        found = os.lstat(self._real(path)) if fh is None else os.fstat(fh)
        names = ("mode", "nlink", "uid", "gid", "size", "ino", "blocks", "blksize", "dev", "rdev")
        times = {f"st_{name}": getattr(found, f"st_{name}_ns") for name in ("atime", "mtime", "ctime")}
        return {f"st_{name}": getattr(found, f"st_{name}") for name in names} | times

    def _getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        return os.getxattr(self._real(path), name, follow_symlinks=False)

    def _link(self, path: str, source: str) -> None:
        os.link(self._real(source), self._real(path))

    def _listxattr(self, path: str) -> list[str]:
        return os.listxattr(self._real(path), follow_symlinks=False)

    def _mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._real(path), mode)

    def _mknod(self, path: str, mode: int, device: int) -> None:
        os.mknod(self._real(path), mode, device)

    def _open(self, path: str, flags: int) -> int:
        # The kernel reads a page of which only a part is written; it seeks by itself, where it appends.
        flags = flags & ~(os.O_APPEND | os.O_NOFOLLOW)
        if flags & os.O_ACCMODE == os.O_WRONLY:
            flags = flags & ~os.O_ACCMODE | os.O_RDWR
        return os.open(self._real(path), flags)

    def _opendir(self, path: str) -> int:
        return 0

    def _read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def _readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._real(path))]

    def _readlink(self, path: str) -> str:
        return os.readlink(self._real(path))

    def _release(self, path: str, fh: int) -> None:
        os.close(fh)

    def _releasedir(self, path: str, fh: int) -> None:
        pass

    def _removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._real(path), name, follow_symlinks=False)

    def _rename(self, path: str, new: str) -> None:
        os.rename(self._real(path), self._real(new))

    def _rmdir(self, path: str) -> None:
        os.rmdir(self._real(path))

    def _setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> None:
        os.setxattr(self._real(path), name, value, options, follow_symlinks=False)

    def _statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._real(path))
        names = (
            "bavail",
            "bfree",
            "blocks",
            "bsize",
            "favail",
            "ffree",
            "files",
            "flag",
            "frsize",
            "namemax",
        )
        return {f"f_{name}": getattr(found, f"f_{name}") for name in names}

    def _symlink(self, path: str, target: str) -> None:
        os.symlink(target, self._real(path))

    def _truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._real(path) if fh is None else fh, length)

    def _unlink(self, path: str) -> None:
        os.unlink(self._real(path))

    def _utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._real(path), ns=times, follow_symlinks=False)

    def _write(self, path: str, data: bytes, offset: int, fh: int, what: str = "") -> int:
        if what == "short":
            data = data[: max(1, len(data) // 2)]
        elif what == "torn":
            os.pwrite(fh, data[: len(data) // 2], offset)
            raise OSError(errno.EIO, "torn", path)
        elif what == "corrupt":
            place = random.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        count = os.pwrite(fh, data, offset)
        self._state.wrote(path, count)
        return count


if __name__ == "__main__":
    serve(*(os.path.abspath(path) for path in sys.argv[1:4]))
