"""One reconstruction by hand: axis, pictures and volume in this process, without pool, daemon or catalogue.

The caller reads stdout: one JSON object per line, `{"phase": ..., "done": 0..1}` on the way and at last either
`{"result": {...}}` or `{"error": sentence}`. The output folder appears whole or not at all.
"""

import json
import math
import shutil
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import msgspec

from gpu import memory
from gpu.kernels.device import find
from gpu.pipeline import Canceled, Resources, read_parameters, run_rows
from gpu.preview import run_preview
from gpu.volume import NAME, replace_file, storage_errors
from srctd.core.errors import HoldError, SrctdError
from srctd.core.frames import INDEX_NAME, is_index
from srctd.core.messages import Measure, PreviewJob, PreviewResult, RowsJob, RowsResult
from srctd.core.quality import findings
from srctd.core.recipe import ParameterFile

STEP = 0.01
"""Progress is told when it has grown by so much."""


def main(parameters: str, output: str, *, threads: int, memory_bytes: int | None, device: str) -> int:
    """Reconstruct; returns the exit status, 1 after an error."""
    memory.share_heap()
    progress = Progress(sys.stdout)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, progress.cancel)
    try:
        resources = Resources(threads=threads, memory_bytes=memory_bytes, device=find(device))
        result = reconstruct(Path(parameters), Path(output).absolute(), resources, progress)
    except SrctdError as exc:
        progress.write({"error": exc.sentence})
        return 1
    except Canceled:
        progress.write({"error": f"{output}: interrupted, nothing was left behind"})
        return 1
    progress.write({"result": result})
    return 0


class Progress:
    """Tells how far the work is; ends it where the process was told to."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._canceled = False
        self._told = ("", -1.0)

    def cancel(self, number: int, frame: FrameType | None) -> None:
        """Signal handler: give up at the next checkpoint."""
        del number, frame
        self._canceled = True

    def checkpoint(self, phase: str, done: float) -> None:
        """A `pipeline.Checkpoint`."""
        if self._canceled:
            raise Canceled
        if phase != self._told[0] or done >= self._told[1] + STEP:
            self._told = (phase, done)
            self.write({"phase": phase, "done": round(done, 4)})

    def write(self, line: dict[str, Any]) -> None:
        """One JSON object, at once."""
        self._stream.write(json.dumps(line) + "\n")
        self._stream.flush()


def reconstruct(path: Path, output: Path, resources: Resources, progress: Progress) -> dict[str, Any]:
    """Make the output folder; returns what the last line tells."""
    start = time.perf_counter()
    given = read_parameters(path)
    part = output.with_name(f".{output.name}.part-{given.digest()}")
    with storage_errors(output):
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise HoldError(f"{output} exists already", hint="name another folder, or remove it")
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
        part.mkdir()
    try:
        result = _fill(part, path, given, resources, progress)
        with storage_errors(output):
            part.rename(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    result["seconds"]["total"] = round(time.perf_counter() - start, 3)
    memory_and_device = {"peak_memory_bytes": memory.peak_bytes(), "device": resources.device_name}
    return {**result, **memory_and_device, "folder": str(output), "output": str(output / NAME)}


def _fill(
    part: Path, path: Path, given: ParameterFile, resources: Resources, progress: Progress
) -> dict[str, Any]:
    preview = PreviewJob(scan=given.scan, parameters=str(path), output=str(part / "preview"))
    looked = run_preview(preview, resources, progress.checkpoint)
    found = looked.result
    assert isinstance(found, PreviewResult)
    parameters = given.with_estimates(found)
    n_rows = found.volume_shape[0]
    first = parameters.rows(sys.maxsize)[0]
    with storage_errors(part):
        if is_index(Path(given.input).name):  # it stays with the result, so that this can be done again
            shutil.copyfile(given.input, part / INDEX_NAME)
            parameters = msgspec.structs.replace(parameters, input=INDEX_NAME)
        for picture in (part / "preview").iterdir():
            picture.rename(part / picture.name)
        (part / "preview").rmdir()
        replace_file(part / "parameters.json", msgspec.json.format(msgspec.json.encode(parameters), indent=2))
    job = RowsJob(
        scan=given.scan,
        parameters=str(part / "parameters.json"),
        output=str(part),
        first=first,
        end=first + n_rows,
    )
    done = run_rows(job, resources, progress.checkpoint)
    assert isinstance(done.result, RowsResult)
    shutil.rmtree(part / "shards")
    clipped = Measure(name="clipped_fraction", value=done.result.clipped / math.prod(found.volume_shape))
    seconds = {phase: round(value, 3) for phase, value in (looked.seconds | done.seconds).items()}
    return {
        "center": found.center,
        "center_confidence": found.center_confidence,
        "angles": found.n_angles,
        "rows": n_rows,
        "shape": found.volume_shape,
        "unit": found.unit,
        "dtype": parameters.value("output_dtype"),
        "findings": findings((*found.measures, clipped), parameters.shortfall),
        "seconds": seconds,
    }
