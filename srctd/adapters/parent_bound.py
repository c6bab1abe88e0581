"""Become another program that does not outlive its parent: ``python parent_bound.py PARENT_PID COMMAND...``.

PARENT_PID 0 is whoever started it.

Run as a script, by path, before anything is imported: the kernel kills this process when its parent ends, also by
SIGKILL, and keeps that promise over the exec (prctl(2), PR_SET_PDEATHSIG). The alternative, `preexec_fn`, is
not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def bound(parent: int) -> tuple[str, ...]:
    """The words to put before a command."""
    return (sys.executable, "-I", "-S", os.path.abspath(__file__), str(parent))


def main(parent: int, command: list[str]) -> None:
    """Bind to the parent, then turn into the command."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent and os.getppid() != parent:  # it ended before the promise was made
        sys.exit(1)
    try:
        os.execvp(command[0], command)
    except OSError as exc:
        sys.exit(f"{command[0]}: cannot be run: {exc.strerror}")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
