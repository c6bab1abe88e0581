"""What the steps of a scan work with: the daemon's parts as they see them, and one step about to be done."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from srctd import __version__
from srctd.adapters.ownership import Belonging, Ownership
from srctd.adapters.remote import Remote
from srctd.adapters.space import SharedStorage
from srctd.config import Config
from srctd.copies import Copies
from srctd.core.datasets import CatalogObject
from srctd.core.lifecycle import Scan, Step
from srctd.core.messages import Job
from srctd.core.recipe import Recipe
from srctd.core.scan import Manifest, Owner
from srctd.formats.isolated import IsolatedReader
from srctd.parts import PartFolders
from srctd.results import Identified
from srctd.room import Room
from srctd.taskfolder import task_folder

SOFTWARE = f"srctd {__version__}"
Result = TypeVar("Result", bound=msgspec.Struct)


class Outcome(Protocol):
    """A finished job, as the pool hands it back."""

    @property
    def result(self) -> Any:
        """A `JobResult` of the job's kind."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """By phase."""


class PoolPort(Protocol):
    """The worker pool. Errors: `TransientError`, `HoldError`."""

    def worker_count(self) -> int:
        """How many workers there are now."""

    async def run(self, job: Job, *, priority: int = 0) -> Outcome:
        """Have a job done by some worker."""


class CatalogPort(Protocol):
    """The catalogue. Errors: `CatalogUnavailable`, `CatalogRejected`."""

    def health(self) -> bool:
        """Whether it answers."""

    def post(self, obj: CatalogObject) -> str:
        """Make sure the object is there, once; return its identifier there."""


class OutboxPort(Protocol):
    """The durable list of what is still to be posted."""

    async def put(self, scan: str, objects: Sequence[CatalogObject]) -> None:
        """Add what is not in the list yet."""

    async def waiting(self, scan: str, prefix: str) -> list[CatalogObject]:
        """What was not posted yet of the keys with a prefix, in order."""

    async def posted(self, scan: str, key: str, remote_id: str) -> None:
        """Note that an object is in the catalogue."""


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the steps work with."""

    config: Config
    recipes: tuple[Recipe, ...]
    pool: PoolPort
    catalog: CatalogPort | None
    outbox: OutboxPort
    reader: IsolatedReader
    storage: SharedStorage
    room: Room
    ownership: Ownership
    copies: Copies
    parts: PartFolders
    remote: Remote | None
    """A further host that gets copies and results."""
    manifest: Callable[[str], Awaitable[Manifest]]
    """The files of a scan, by its identifier."""
    rename: Callable[[str], Awaitable[Scan]]
    """Gives a scan, by its identifier, another name of a task directory."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """One step of one scan, about to be done."""

    scan: Scan
    services: Services

    def result(self, step: Step, kind: type[Result]) -> Result:
        """What an earlier step found."""
        return msgspec.json.decode(self.scan.step(step).result, type=kind)

    @property
    def owner(self) -> Owner:
        """To whom the scan belongs, once that is known."""
        return self.result(Step.IDENTIFY, Identified).owner

    async def belonging(self) -> Belonging:
        """To whom its files are handed over; raises `HoldError` where this machine does not know them."""
        return await asyncio.to_thread(self.services.ownership.of, self.owner)

    @property
    def task_folder(self) -> Path:
        """The scan's folder on shared storage."""
        return task_folder(self.services.config, self.scan)

    def name(self, stem: str, suffix: str = "") -> str:
        """Name of a result inside the task folder; results of a later run stand beside the earlier ones."""
        return f"{stem}{suffix}" if self.scan.run == 1 else f"{stem}-{self.scan.run}{suffix}"

    @property
    def index_file(self) -> Path:
        """Where every frame lies, for this run."""
        return self.task_folder / self.name("frames", ".json")

    @property
    def parameter_file(self) -> Path:
        """The parameter file of this run."""
        return self.task_folder / self.name("parameters", ".json")

    @property
    def results_file(self) -> Path:
        """The list of this run's results, which `xxh128sum -c` checks."""
        return self.task_folder / self.name("results", ".xxh128")
