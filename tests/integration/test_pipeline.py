"""Preview and rows on small files: right values, the same bytes however divided, nothing half done left behind."""

import io
import json
import shutil
import signal
import subprocess
import sys

import h5py
import needs
import numpy as np
import pytest
from PIL import Image
from small_scans import (
    ATTENUATION,
    CENTER,
    COLUMNS,
    PIXEL_SIZE,
    ROWS,
    line_integrals,
    write_parameters,
    write_scan,
)

from gpu import memory
from gpu.pipeline import Canceled, Resources, run_rows
from gpu.preview import binned, run_preview, spread
from gpu.volume import DATASET, NAME, read_shard
from srctd.core.errors import HoldError, NoSpace, StorageUnavailable
from srctd.core.messages import PreviewJob, RowsJob
from srctd.formats import open_scan


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    return write_scan(tmp_path_factory.mktemp("scan") / "cylinders.h5")


@pytest.fixture
def parameters(scan, tmp_path):
    return write_parameters(tmp_path / "parameters.json", scan, center=CENTER)


def ignore(phase, done):
    pass


def reconstruct(parameters, folder, shards=((0, ROWS),), resources=None):
    """All shards; the bytes of the volume file."""
    folder.mkdir(exist_ok=True)
    for first, end in shards:
        job = RowsJob(scan="cylinders", parameters=parameters, output=str(folder), first=first, end=end)
        run_rows(job, resources or Resources(), ignore)
    return (folder / NAME).read_bytes()


# --- rows -------------------------------------------------------------------------------------------------


def test_voxels_are_attenuation_per_metre(parameters, tmp_path):
    reconstruct(parameters, tmp_path / "out")
    with h5py.File(tmp_path / "out" / NAME) as file:
        volume = file[DATASET][:]
        assert file[DATASET].attrs["units"] == "1/m"
    y, x = np.indices((COLUMNS, COLUMNS)) - (COLUMNS - 1) / 2
    large = ((x - 2) ** 2 + (y - 1) ** 2 < 15**2) & ((x - 6) ** 2 + (y + 3) ** 2 > 9**2)
    assert volume[:, large].mean() == pytest.approx(ATTENUATION / PIXEL_SIZE, rel=0.02)
    assert volume[0, (x - 4) ** 2 + (y + 3) ** 2 < 3**2].mean() == pytest.approx(
        2 * ATTENUATION / PIXEL_SIZE, rel=0.04
    )


def test_bytes_do_not_depend_on_shards_threads_or_memory(scan, tmp_path):
    path = write_parameters(tmp_path / "p.json", scan, center=CENTER, first_row=1)
    whole = reconstruct(path, tmp_path / "whole", [(1, ROWS)])
    assert reconstruct(path, tmp_path / "shards", [(9, 17), (17, ROWS), (1, 9)]) == whole
    assert reconstruct(path, tmp_path / "threads", [(1, ROWS)], Resources(threads=3)) == whole
    tight = Resources(memory_bytes=_budget_for_two_rows(scan))
    assert reconstruct(path, tmp_path / "tight", [(1, ROWS)], tight) == whole


def _budget_for_two_rows(scan):
    with open_scan(scan) as reader:
        return memory.needs(reader.header, padding_factor=2.0, threads=1).peak(2, 2)


def test_a_canceled_shard_is_not_done_and_can_be_done_again(scan, parameters, tmp_path):
    whole = reconstruct(parameters, tmp_path / "whole")
    folder = tmp_path / "out"
    folder.mkdir()
    job = RowsJob(scan="cylinders", parameters=parameters, output=str(folder), first=0, end=ROWS)
    seen = []

    def leave(phase, done):
        seen.append((phase, done))
        if done > 0:
            raise Canceled

    with pytest.raises(Canceled):
        run_rows(
            job,
            Resources(memory_bytes=_budget_for_two_rows(scan)),
            leave,
        )
    assert seen[-1] == ("reconstruct", 2 / ROWS)
    assert read_shard(folder, 0, ROWS) is None
    assert reconstruct(parameters, folder) == whole


def test_a_shard_that_is_done_is_not_done_again(parameters, tmp_path):
    reconstruct(parameters, tmp_path / "out")
    job = RowsJob(scan="s", parameters="/gone.json", output=str(tmp_path / "out"), first=0, end=ROWS)
    outcome = run_rows(job, Resources(), ignore)
    assert outcome.result == read_shard(tmp_path / "out", 0, ROWS)
    assert outcome.seconds == {}


def test_what_is_missing_is_said(scan, parameters, tmp_path):
    def attempt(path):
        run_rows(
            RowsJob(scan="s", parameters=path, output=str(tmp_path), first=0, end=8), Resources(), ignore
        )

    with pytest.raises(StorageUnavailable, match=r"/gone\.json: No such file"):
        attempt("/gone.json")
    (tmp_path / "rubbish.json").write_text("{}")
    with pytest.raises(HoldError, match=r"rubbish\.json is no parameter file"):
        attempt(str(tmp_path / "rubbish.json"))
    with pytest.raises(HoldError, match="axis is not known") as caught:
        attempt(write_parameters(tmp_path / "blind.json", scan))
    assert "preview" in caught.value.sentence


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 1 MiB, without direct I/O on older kernels."""
    needs.root()
    mount = tmp_path / "disk"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount], capture_output=True, text=True, check=False
    )
    if done.returncode:
        needs.missing(f"mounting is not allowed: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", mount], check=True)


def test_a_full_disk_is_met_before_anything_is_computed(scan, parameters, small_disk, tmp_path):
    whole = reconstruct(parameters, tmp_path / "whole")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(800_000))
    with pytest.raises(NoSpace, match=r"the volume needs 0\.000328 GB more, 0\.0002\d+ GB are free"):
        reconstruct(parameters, small_disk / "out")
    assert [path.name for path in (small_disk / "out").iterdir()] == []
    filler.unlink()
    assert reconstruct(parameters, small_disk / "out") == whole


def test_a_disk_that_fills_up_meanwhile_is_met_by_the_next_shard(parameters, small_disk):
    reconstruct(parameters, small_disk / "out", [(0, 8)])
    taken = shutil.disk_usage(small_disk).free - 50_000
    (small_disk / "filler").write_bytes(bytes(taken))
    with pytest.raises(NoSpace, match=r"GB more"):
        reconstruct(parameters, small_disk / "out", [(8, ROWS)])
    assert read_shard(small_disk / "out", 0, 8) is not None


# --- preview ----------------------------------------------------------------------------------------------


def preview(path, folder):
    job = PreviewJob(scan="cylinders", parameters=path, output=str(folder / "preview"))
    return run_preview(job, Resources(), ignore).result


def test_preview_finds_the_axis_and_appears_whole(scan, tmp_path):
    (tmp_path / "preview").mkdir()
    (tmp_path / "preview" / "old").touch()
    (tmp_path / ".preview.part-dead").mkdir()
    found = preview(write_parameters(tmp_path / "p.json", scan), tmp_path)
    assert found.center == pytest.approx(CENTER, abs=0.3)
    assert found.center_confidence > 0.5
    assert len(found.estimates) >= 2
    assert (found.volume_shape, found.unit, found.n_angles) == ((ROWS, COLUMNS, COLUMNS), "1/m", 90)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "preview"]
    assert {path.name for path in (tmp_path / "preview").iterdir()} == {*found.pictures, "quality.json"}
    report = json.loads((tmp_path / "preview" / "quality.json").read_text())
    assert (report["center"], report["findings"], report["scan"]) == (found.center, [], "cylinders")
    measured = {measure["name"]: measure["value"] for measure in report["measures"]}
    assert (measured["flat_frames"], measured["dark_frames"], measured["finite_fraction"]) == (4, 2, 1)
    for name in found.pictures:
        picture = (tmp_path / "preview" / name).read_bytes()
        assert len(picture) < 200_000
        assert Image.open(io.BytesIO(picture)).mode == "L"


def test_an_axis_that_is_given_is_taken(scan, tmp_path):
    found = preview(write_parameters(tmp_path / "p.json", scan, center=30.0), tmp_path)
    assert (found.center, found.center_confidence) == (30.0, 1.0)


def test_nothing_in_the_beam_holds_the_scan(tmp_path):
    empty = write_scan(tmp_path / "empty.h5", integrals=np.zeros((90, 8, 64)))
    with h5py.File(empty, "a") as file:
        file["exchange/data"][...] = 20200
        file["exchange/data_white"][...] = 20200
    path = write_parameters(tmp_path / "p.json", empty)
    with pytest.raises(HoldError, match="axis cannot be estimated"):
        preview(path, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.h5", "p.json"]


def test_axis_rows_are_spread_over_the_sample():
    contrast = np.full(100, 0.01, np.float32)
    np.testing.assert_allclose(spread(contrast, 5), [10, 30, 50, 70, 90], atol=1)
    contrast[40:60] = 1
    np.testing.assert_allclose(spread(contrast, 5), [42, 46, 50, 54, 58], atol=1)
    contrast[70] = 3  # something that stands out, sample or not, is no more than one of them
    assert (spread(contrast, 5) == 70).sum() == 1
    assert len(spread(contrast, 5)) >= 4
    assert spread(np.zeros(3, np.float32), 5).tolist() == [0, 1, 2]


def test_binned_columns_are_means():
    rows = np.arange(14, dtype=np.float32).reshape(1, 2, 7)
    np.testing.assert_array_equal(binned(rows, 3), [[[1, 4], [8, 11]]])
    assert binned(rows, 1) is rows


# --- by hand ----------------------------------------------------------------------------------------------


def once(*arguments, **options):
    command = [sys.executable, "-m", "gpu", "reconstruct", "--threads", "1", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def test_by_hand_makes_a_whole_folder_and_tells_of_it(scan, tmp_path):
    path = write_parameters(tmp_path / "p.json", scan)
    output = tmp_path / "deep" / "result"
    with once("--parameters", path, "--output", str(output)) as child:
        lines = [json.loads(line) for line in child.stdout]
    assert child.returncode == 0
    result = lines[-1]["result"]
    assert result["center"] == pytest.approx(CENTER, abs=0.3)
    assert (result["rows"], result["angles"], result["device"], result["output"]) == (
        ROWS,
        90,
        "cpu",
        str(output / "volume.h5"),
    )
    assert result["folder"] == str(output)
    assert result["peak_memory_bytes"] > 2**20
    assert {"axis", "compute", "total"} <= set(result["seconds"])
    assert all(0 <= line["done"] <= 1 for line in lines[:-1])
    names = {"volume.h5", "orthogonal.png", "axis.png", "quality.json", "parameters.json"}
    assert {path.name for path in output.iterdir()} == names
    assert [path.name for path in output.parent.iterdir()] == ["result"]
    axis = json.loads((output / "parameters.json").read_text())["parameters"]["center"]
    assert (axis["value"], axis["origin"]) == (result["center"], "estimated")
    again = once("--parameters", path, "--output", str(output))
    assert json.loads(again.communicate()[0].splitlines()[-1])["error"].startswith(f"{output} exists already")
    assert again.returncode == 1


def test_by_hand_interrupted_leaves_nothing(scan, tmp_path):
    path = write_parameters(tmp_path / "p.json", scan)
    with once("--parameters", path, "--output", str(tmp_path / "result")) as child:
        child.stdout.readline()
        child.send_signal(signal.SIGTERM)
        last = json.loads(child.stdout.readlines()[-1])
    assert child.returncode == 1
    assert "interrupted" in last["error"]
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]


# --- memory -----------------------------------------------------------------------------------------------

MEASURE = """
import sys
from gpu import memory
from gpu.pipeline import Resources, run_rows
from srctd.core.messages import RowsJob
from srctd.formats import open_scan
parameters, output, scan = sys.argv[1:]
memory.share_heap()
resources = Resources(threads=2, memory_bytes=600 << 20)
run_rows(RowsJob(scan="s", parameters=parameters, output=output, first=0, end=64), resources, lambda *_: None)
with open_scan(scan) as reader:
    need = memory.needs(reader.header, padding_factor=2.0, threads=2)
heights = memory.heights(need, 64, 768, budget=600 << 20, threads=2)
print(memory.peak_bytes(), need.peak(heights.slab, heights.block))
"""


def test_measured_peak_is_near_the_arithmetic_and_not_above(tmp_path):
    scan = write_scan(tmp_path / "large.h5", integrals=line_integrals(200, 64, 768, 380.0))
    path = write_parameters(tmp_path / "p.json", scan, center=380.0)
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", MEASURE, path, str(tmp_path / "out"), scan]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    measured, predicted = (int(number) for number in told.split())
    assert 0.6 * predicted < measured < 1.05 * predicted
