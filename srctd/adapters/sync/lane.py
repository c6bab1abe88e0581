"""A thread beside the one that reads: what it is given is done in order, and what goes wrong is not lost."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Lane:
    """One thread. After a task failed, the next ones are not done."""

    def __init__(self, name: str, waiting: int) -> None:
        """`waiting`: so many tasks may wait for the one that is done; who gives one more waits himself."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._given: deque[Future[None]] = deque()
        self._waiting = waiting
        self._broken = False

    def do(self, task: Callable[[], None]) -> None:
        """Have something done. Raises what an earlier task raised."""
        self._await(self._waiting)
        self._given.append(self._executor.submit(self._run, task))

    def drain(self) -> None:
        """Wait until all is done. Raises what a task raised."""
        self._await(0)

    def close(self) -> None:
        """End the thread when all is done."""
        self._executor.shutdown(wait=True)

    def _await(self, left: int) -> None:
        while len(self._given) > left:
            self._given.popleft().result()

    def _run(self, task: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            task()
        except BaseException:
            self._broken = True
            raise
