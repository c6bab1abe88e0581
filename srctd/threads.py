"""Threads for what may hang: shared storage whose server is gone keeps a thread until it is back.

Such threads are taken from here and never from asyncio's own few, with which the daemon lists and judges.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TypeVar

T = TypeVar("T")

_STORAGE = ThreadPoolExecutor(32, thread_name_prefix="storage")
"""More calls than these wait; the steps that made them have a time limit."""
_COPIES = ThreadPoolExecutor(256, thread_name_prefix="copy")
"""So many only if as many hang: how many copies go on at once is decided elsewhere."""


async def at_storage(function: Callable[..., T], *args: object) -> T:
    """Run a short call to shared storage in a thread."""
    return await asyncio.get_running_loop().run_in_executor(_STORAGE, partial(function, *args))


def start_copy(function: Callable[[], T]) -> "Future[T]":
    """Start what may take hours in a thread."""
    return _COPIES.submit(function)
