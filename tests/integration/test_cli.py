"""The command line as a user meets it: what is printed, and the exit status."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from stack_files import FRAMES, write_frame, write_parameters

from srctd.sim.writer import SimulationSpec, simulate


def srctd(*arguments: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "srctd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    for name in ("shared", "detector"):
        (tmp_path / name).mkdir()
    path = tmp_path / "srctd.toml"
    path.write_text(
        f'[storage]\nshared = "{tmp_path}/shared"\nreserve_gigabytes = 0.01\n'
        f'[[watch]]\npath = "{tmp_path}/detector"\n'
        f'[daemon]\nstate_directory = "{tmp_path}/state"\n'
        f'[control]\nendpoint = "ipc://{tmp_path}/c"\nfeed_endpoint = "ipc://{tmp_path}/f"\n'
        "[catalog]\nembedded = true\n"
    )
    return path


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    path = tmp_path / "phantom.nxs"
    simulate(SimulationSpec(rows=16, columns=96, angles=90, flats=4, darks=4), str(path))
    return path


def test_check_says_what_the_daemon_would_do_and_changes_nothing(config: Path) -> None:
    before = sorted(config.parent.rglob("*"))
    done = srctd("check", "--config", str(config))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"watches {config.parent}/detector" in done.stdout
    assert "starts the embedded catalogue" in done.stdout
    assert sorted(config.parent.rglob("*")) == before


def test_check_names_what_stands_in_the_way(config: Path) -> None:
    (config.parent / "detector").rmdir()
    done = srctd("check", "--config", str(config))
    assert done.returncode == 1
    assert "there is no such folder" in done.stdout


@pytest.mark.parametrize("command", ["check", "run"])
def test_an_unknown_key_is_one_sentence_and_exit_78(config: Path, command: str) -> None:
    config.write_text(config.read_text() + "embeded = true\n")
    done = srctd(command, "--config", str(config))
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    for word in (str(config), "embeded", "did you mean 'embedded'"):
        assert word in done.stderr


def test_status_without_a_daemon_says_so(config: Path) -> None:
    done = srctd("status", "--config", str(config))
    assert done.returncode == 1
    assert "nobody answers" in done.stderr


def test_retention_by_hand_removes_nothing(config: Path) -> None:
    done = srctd("retention", "--config", str(config))
    assert done.returncode != 0
    assert "sources are removed by the daemon alone" in done.stderr
    assert "srctd retention --dry-run" in done.stderr


def test_reconstruct_by_hand(scan_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    done = srctd(
        "reconstruct", str(scan_file), str(output), "--rows", "4:12", "--set", "filter=hann", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    wanted = {
        "center",
        "center_confidence",
        "angles",
        "rows",
        "seconds",
        "peak_memory_bytes",
        "device",
        "output",
    }
    assert wanted <= result.keys()
    assert result["angles"] == 90
    assert result["peak_memory_bytes"] > 10_000_000
    with h5py.File(result["output"], "r") as file:
        assert file["/entry/data/data"].shape == (8, 96, 96)
    parameters = json.loads((output / "parameters.json").read_text())["parameters"]
    assert parameters["filter"]["origin"] == "operator"
    assert parameters["center"]["origin"] == "estimated"


def test_reconstruct_by_hand_into_16_bits(scan_file: Path, tmp_path: Path) -> None:
    settings = ["--set", "output_dtype=uint16", "--set", "output_minimum=0", "--rows", "4:8", "--json"]
    done = srctd("reconstruct", str(scan_file), str(tmp_path / "out"), *settings)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["dtype"] == "uint16"
    assert any("lie outside the range of the 16-bit volume" in finding for finding in result["findings"])
    parameters = json.loads((tmp_path / "out" / "parameters.json").read_text())["parameters"]
    assert parameters["output_minimum"]["origin"] == "operator"
    assert parameters["output_maximum"]["origin"] == "estimated"
    with h5py.File(result["output"], "r") as file:
        data = file["/entry/data/data"]
        assert (data.dtype, data.attrs["add_offset"]) == ("uint16", 0.0)
        top = data.attrs["add_offset"] + 65535 * data.attrs["scale_factor"]
    assert top == pytest.approx(parameters["output_maximum"]["value"])


def test_reconstruct_an_incomplete_scan_by_hand(scan_file: Path, tmp_path: Path) -> None:
    with h5py.File(scan_file, "r+") as file:
        file["/entry/instrument/detector/tomo_n"][...] = 200
    refused = srctd("reconstruct", str(scan_file), str(tmp_path / "out"))
    assert refused.returncode == 1
    assert "200" in refused.stderr
    done = srctd("reconstruct", str(scan_file), str(tmp_path / "out"), "--incomplete", "--rows", "4:6")
    assert done.returncode == 0, done.stderr
    assert "the scan is incomplete: 90 of 200 projections are there" in done.stdout
    parameters = json.loads((tmp_path / "out" / "parameters.json").read_text())
    assert parameters["shortfall"]["expected"] == 200
    index = json.loads((tmp_path / "out" / parameters["input"]).read_text())
    assert {segment["file"] for segment in index["projections"]} == {str(scan_file)}
    other = srctd("reconstruct", str(scan_file), str(tmp_path / "other"), "--member", "3")
    assert other.returncode == 1
    assert "3" in other.stderr


LAYOUT = """
name = "here"
description = "as the camera of this site writes"
suffixes = [".tif"]
names = [
    { role = "darks", pattern = 'blk(?P<index>\\d+)\\.tif' },
    { role = "flats", pattern = 'brt(?P<index>\\d+)\\.tif' },
    { role = "projections", pattern = 'sig(?P<index>\\d+)\\.tif' },
]
"""


def test_reconstruct_by_the_layouts_of_a_site(config: Path, tmp_path: Path) -> None:
    scan, layouts = tmp_path / "scan", tmp_path / "layouts"
    write_parameters(scan)
    for kind, name in (("projections", "sig"), ("flats", "brt"), ("darks", "blk")):
        for number in range(FRAMES[kind]):
            write_frame(scan / f"{name}{number}.tif", kind, number)
    layouts.mkdir()
    (layouts / "here.toml").write_text(LAYOUT)
    config.write_text(f'{config.read_text()}[formats]\nlayouts_directory = "{layouts}"\n')
    asked = ("reconstruct", str(scan), str(tmp_path / "out"), "--center", "10")
    assert srctd(*asked).returncode == 1
    done = srctd(*asked, "--config", str(config))
    assert done.returncode == 0, done.stderr


def test_reconstruct_into_one_file(scan_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "volume.h5"
    done = srctd("reconstruct", str(scan_file), str(output), "--center", "48", "--rows", "4:6", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["output"] == str(output)
    with h5py.File(output, "r") as file:
        assert file["/entry/data/data"].shape == (2, 96, 96)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["phantom.nxs", "volume.h5"]


def test_reconstruct_twice_refuses_and_touches_nothing(scan_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    done = srctd("reconstruct", str(scan_file), str(output))
    assert done.returncode == 78
    assert "is there already" in done.stderr
    assert list(output.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words", "status"),
    [
        (("--rows", "5"), "not of the form A:B", 78),
        (("--rows", "90:99"), "none of its 16 rows", 1),
        (("--set", "fliter=hann"), "did you mean 'filter'", 78),
        (("--center", "nan"), "center", 78),
        (("--center", "200"), "lies outside its columns 0 to 95", 1),
    ],
)
def test_reconstruct_refuses_what_makes_no_sense(
    scan_file: Path, tmp_path: Path, options: tuple[str, ...], words: str, status: int
) -> None:
    done = srctd("reconstruct", str(scan_file), str(tmp_path / "out"), *options)
    assert done.returncode == status
    assert words in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_scan(tmp_path: Path) -> None:
    path = tmp_path / "notes.h5"
    path.write_text("hello")
    done = srctd("reconstruct", str(path), str(tmp_path / "out"))
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demo_ends_with_everything_named(tmp_path: Path) -> None:
    done = srctd(
        "demo", "--dir", str(tmp_path / "demo"), "--rows", "32", "--columns", "96", "--angles", "90", "--json"
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["stage"] == "DONE"
    assert Path(result["volume"]).is_file()
    assert Path(result["picture"]).is_file()
    assert result["raw_pid"]
    assert result["derived_pid"]
    assert result["catalog_url"].startswith("http://127.0.0.1:")
    assert {"sync", "reconstruct", "publish", "total"} <= result["seconds"].keys()


def test_a_real_scan_as_tiff_files_reconstructs_like_its_hdf5_twin(data: Path, tmp_path: Path) -> None:
    """Frames in folders, 111 angles in a text file for 91 projections; and the same counts as NXtomo."""
    volumes, centers = [], []
    for name in (".", "24737_repack.nxs"):
        output = tmp_path / f"{len(volumes)}.h5"
        done = srctd("reconstruct", str(data / "savu_24737" / name), str(output), "--rows", "88:92", "--json")
        assert done.returncode == 0, done.stderr
        centers.append(json.loads(done.stdout.splitlines()[-1])["center"])
        with h5py.File(output) as file:
            volumes.append(next(iter(three_dimensional(file)))[()])
    assert centers[0] == centers[1] == pytest.approx(85.8, abs=0.3)
    np.testing.assert_array_equal(*volumes)


def three_dimensional(file: h5py.File) -> list[h5py.Dataset]:
    """The volumes in a file, wherever they are."""
    found: list[h5py.Dataset] = []
    file.visititems(
        lambda _, node: found.append(node) if isinstance(node, h5py.Dataset) and node.ndim == 3 else None
    )
    return found


def test_the_demo_takes_a_real_scan(data: Path, tmp_path: Path) -> None:
    scan = data / "savu_24737" / "24737_repack.nxs"
    done = srctd("demo", "--dir", str(tmp_path / "demo"), "--scan", str(scan), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["center"] == pytest.approx(85.8, abs=0.5)
