"""`srctd reconstruct`: the same reconstruction in one process tree, without daemon or catalogue."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.progress import Progress

from srctd import __version__, terminal
from srctd.config import RecipesSection
from srctd.configfile import load_recipe, load_recipes
from srctd.core import labels, plan, recipe
from srctd.core.completion import Rule, State, judge
from srctd.core.errors import ConfigError, ReconstructionFailed, ScanUnreadable
from srctd.core.frames import INDEX_NAME, FrameIndex, rebased
from srctd.core.recipe import ParameterFile, Value
from srctd.core.scan import scan_id
from srctd.core.series import positions_of
from srctd.formats import index_scan, probe
from srctd.formats.protocol import ReadOptions

VOLUME_SUFFIXES = (".h5", ".hdf5", ".nxs")
"""An output of such a name is the volume alone, without pictures and parameter file beside it."""


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """What was asked for."""

    input: str
    output: str
    recipe: str | None
    settings: tuple[str, ...]
    threads: int
    json: bool
    options: ReadOptions
    """How the input is read."""
    incomplete: bool = False
    """Take what is there."""
    member: int = 0
    """Which of the scans that the input holds, counted from 0."""


def parse_rows(text: str) -> tuple[str, ...]:
    """`A:B` as settings of first and end row; either may be left out."""
    first, separator, end = text.partition(":")
    if not separator or not all(part == "" or part.isdigit() for part in (first, end)):
        raise ConfigError(f"--rows {text}: not of the form A:B", hint="for example --rows 100:200")
    named = (("first_row", first), ("end_row", end))
    return tuple(f"{name}={value}" for name, value in named if value)


def reconstruct(asked: ByHand) -> int:
    """Reconstruct one scan into a folder, or one file, that appears whole; return the exit status."""
    output = Path(asked.output).absolute()
    if os.path.lexists(output):
        raise ConfigError(f"{asked.output} is there already", hint="name a folder or file that is not")
    file_alone = output.suffix in VOLUME_SUFFIXES
    folder = output.with_name(f".{output.name}.folder") if file_alone else output
    parameters, index = _prepared(asked)
    result = _run(parameters, index, folder, asked.threads)
    if file_alone:
        os.replace(result["output"], output)
        shutil.rmtree(folder)
        result = {**result, "output": str(output)}
        del result["folder"]
    if asked.json:
        print(json.dumps(result))  # noqa: T201
    else:
        _summary(result)
    return 0


def _run(parameters: ParameterFile, index: FrameIndex, output: Path, threads: int) -> dict[str, Any]:
    """Have a worker process do it; return what it tells at the end."""
    with tempfile.TemporaryDirectory(prefix="srctd-") as folder:
        file = Path(folder) / "parameters.json"
        file.write_bytes(msgspec.json.encode(parameters))
        (Path(folder) / parameters.input).write_bytes(msgspec.json.encode(index))
        command = [sys.executable, "-P", "-m", "gpu", "reconstruct", "--parameters", str(file)]
        command += ["--output", str(output)]
        command += ["--threads", str(threads or len(os.sched_getaffinity(0)))]
        # Not of the terminal's process group: Ctrl-C is ours to hand on.
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0) as child:
            assert child.stdout is not None
            try:
                last = _follow(child.stdout)
            except KeyboardInterrupt:
                child.terminate()
                child.communicate()
                raise
    if "result" not in last:
        sentence = last.get("error", f"the reconstruction ended with status {child.returncode}")
        raise ReconstructionFailed(str(sentence))
    result: dict[str, Any] = last["result"]
    return result


def _prepared(asked: ByHand) -> tuple[ParameterFile, FrameIndex]:
    """The parameter file, and the index of frames that it names as its input."""
    path = os.path.realpath(asked.input)
    overrides: dict[str, Value] = dict(recipe.parse_setting(setting) for setting in asked.settings)
    index = _index(path, asked)
    header = index.header
    if asked.recipe:
        chosen = load_recipe(Path(asked.recipe))
    else:
        chosen = recipe.choose(load_recipes(RecipesSection()), path, header)
    parameters = recipe.parameter_file(
        header,
        chosen,
        overrides,
        scan=scan_id(path, 1, asked.member),
        input=INDEX_NAME,
        input_in_place=True,
        raw=os.path.basename(path),
        member=asked.member,
        software=f"srctd {__version__}",
    )
    first, end = recipe.fitting_rows(parameters, path, header)
    shards = plan.shards(first, end, 1, per_worker=1)
    base = path if os.path.isdir(path) else os.path.dirname(path)
    # Names in full: the index goes with the result, wherever that is put.
    return msgspec.structs.replace(parameters, shards=shards), rebased(index, base)


def _index(path: str, asked: ByHand) -> FrameIndex:
    """Where every frame lies; refuses an incomplete scan unless that is wanted, and labels it if it is."""
    rule = Rule()
    verdict = judge(probe(path, asked.options), rule.stalled_seconds, rule)  # nobody waits for more to come
    partial = asked.incomplete and verdict.state is not State.COMPLETE
    index = index_scan(path, options=asked.options, incomplete=partial, member=asked.member)
    if verdict.state is not State.COMPLETE and not partial:
        raise ScanUnreadable(
            f"{path} is incomplete: {verdict.missing[0]}", hint="--incomplete takes what is there"
        )
    header = labels.labeled(index.header, verdict, partial=partial, positions=positions_of(path))
    return msgspec.structs.replace(index, header=header)


def _follow(lines: Iterable[str]) -> Mapping[str, Any]:
    """Show progress as it comes; return the last object."""
    last: Mapping[str, Any] = {}
    with Progress(console=terminal.console(stderr=True), transient=True) as progress:
        bar = progress.add_task("starting", total=1.0)
        for line in lines:
            last = json.loads(line)
            if "phase" in last:
                progress.update(bar, description=last["phase"], completed=last["done"])
    return last


def _summary(result: Mapping[str, Any]) -> None:
    say = terminal.console().print
    say(f"axis     column {result['center']:.2f}, confidence {result['center_confidence']:.0%}")
    say(f"volume   {result['output']}")
    for finding in result["findings"]:
        say(f"note     {finding}", markup=False, soft_wrap=True)
    seconds = ", ".join(f"{phase} {value:.1f}" for phase, value in result["seconds"].items())
    say(f"seconds  {seconds}")
