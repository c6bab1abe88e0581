"""Scans with file names that not every file system can hold: copied under others, reconstructed all the same."""

import unicodedata
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from site_under_test import Site, running

from srctd.adapters import sync
from srctd.core.names import is_portable
from srctd.formats import open_scan
from srctd.indexing import original_names
from srctd.sim.writer import SimulationSpec, simulate

SMALL = SimulationSpec(rows=8, columns=48, angles=40, flats=3, darks=3)
PREFIX = unicodedata.normalize("NFD", "Probe: Zähne 5>3 ")


def stack_with_prefix(folder: Path, made: str, prefix: str) -> None:
    """A stack whose files begin with something else than they were made with."""
    simulate(replace(SMALL, format="tomcat"), str(folder))
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.rename(path.with_name(path.name.replace(made, prefix)))


def same_frames(one: Path, other: Path) -> None:
    with open_scan(str(one)) as here, open_scan(str(other)) as there:
        assert (here.header.n_projections, here.header.n_flats) == (40, 3)
        np.testing.assert_array_equal(here.angles(), there.angles())
        for kind in ("projections", "flats", "darks"):
            np.testing.assert_array_equal(here.read(kind, slice(None)), there.read(kind, slice(None)))


def test_scans_with_names_of_all_kinds_are_reconstructed(tmp_path: Path) -> None:
    site = Site(tmp_path)
    with running(site):
        stack_with_prefix(site.detector / "stack", "tomcat", PREFIX)
        (site.detector / "stack" / "Notes.txt").write_text("1")
        (site.detector / "stack" / "notes.txt").write_text("2")
        simulate(SMALL, str(site.detector / "run:1.nxs"))
        stack, one = site.ends("stack"), site.ends("run:1.nxs")
        scan = site.row("stack")["scan"]
        away = (site.detector / "stack").rename(tmp_path / "stack")
        site.ask("retry", scan=scan, step="submit")
        site.until((stack / "frames-2.json").exists, "a second run without the source")
    for task, source in ((stack, away), (one, site.detector / "run:1.nxs")):
        same_frames(source, task / "frames.json")
        manifest = sync.published(task)
        assert manifest is not None
        assert any(file.stored for file in manifest.files)
        assert all(is_portable(word) for file in manifest.files for word in file.copied_as.split("/"))
        with original_names(manifest, task / "input") as shown:
            for file in manifest.files:
                original = (source if source.is_dir() else source.parent) / file.path
                assert (shown / file.path).read_bytes() == original.read_bytes()
    same_frames(away, stack / "frames-2.json")
    proven = sync.published(stack)
    assert proven is not None
    names = {file.path: file.copied_as for file in proven.files}
    assert names["Notes.txt"].lower() != names["notes.txt"].lower()
