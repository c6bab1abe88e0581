"""The whole way, with the real daemon as a process: from a file in a watched folder to catalogued data sets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
import pytest
import requests
import xxhash
import zmq
from scipy.ndimage import gaussian_filter
from site_under_test import Site, arrive, left_in, running

from srctd.catalogd.server import BackgroundServer
from srctd.sim.writer import SimulationSpec, simulate

SMALL = SimulationSpec(rows=24, columns=96, angles=90, flats=5, darks=5)


@pytest.fixture
def small_scan(tmp_path: Path) -> Path:
    path = tmp_path / "made" / "phantom.nxs"
    path.parent.mkdir()
    simulate(SMALL, str(path))
    return path


def another(path: Path, seed: int) -> None:
    """A scan of the same size and other content: a copy of one would be the same scan."""
    simulate(msgspec.structs.replace(SMALL, seed=seed), str(path))


def digest(path: Path) -> str:
    return xxhash.xxh3_128(path.read_bytes()).hexdigest()


def check_catalogue(site: Site, scan: dict[str, Any], source: Path) -> None:
    """One raw and one derived data set, linked, with true sizes and checksums, and one picture."""
    catalogue = site.catalog()
    raw = [d for d in catalogue.datasets("raw") if d["pid"] == scan["raw_pid"]]
    derived = [d for d in catalogue.datasets("derived") if d["pid"] == scan["derived_pid"]]
    assert (len(raw), len(derived)) == (1, 1)
    assert derived[0]["inputDatasets"] == [scan["raw_pid"]]
    assert raw[0]["numberOfFiles"] == 1
    assert raw[0]["size"] == source.stat().st_size
    (block,) = catalogue.parts(scan["raw_pid"], "origdatablocks")
    assert block["chkAlg"] == "xxh3-128"
    assert block["dataFileList"][0]["chk"] == digest(source)
    (block,) = catalogue.parts(scan["derived_pid"], "origdatablocks")
    folder = Path(derived[0]["sourceFolder"])
    assert {file["path"]: file["chk"] for file in block["dataFileList"]} == {
        file["path"]: digest(folder / file["path"]) for file in block["dataFileList"]
    }
    assert Path(scan["volume"]).relative_to(folder).as_posix() in {
        file["path"] for file in block["dataFileList"]
    }
    (picture,) = catalogue.parts(scan["derived_pid"], "attachments")
    assert picture["thumbnail"].startswith("data:image/png;base64,")
    assert len(picture["thumbnail"]) < 270_000


def slice_of(scan: dict[str, Any], row: int) -> np.ndarray:
    with h5py.File(scan["volume"], "r") as volume:
        return volume["/entry/data/data"][row]


def best_match(ours: np.ndarray, reference: np.ndarray, center: float) -> tuple[float, float]:
    """Correlation and slope inside the circle, over the eight flips and turns."""
    n = reference.shape[0]
    radius = 0.9 * min(center, n - 1 - center)
    grid = np.arange(n) - (n - 1) / 2
    inside = grid[:, None] ** 2 + grid[None, :] ** 2 <= radius**2
    found = []
    for turns in range(4):
        for turned in (np.rot90(ours, turns), np.rot90(ours, turns).T):
            a, b = turned[inside].astype(float), reference[inside].astype(float)
            found.append((float(np.corrcoef(a, b)[0, 1]), float(np.polyfit(b, a, 1)[0])))
    return max(found)


@pytest.mark.parametrize(
    ("folder", "file", "row", "center", "tolerance"),
    [
        ("tooth_aps", "tooth.h5", 0, 295.9, 0.5),
        ("savu_24737", "24737_repack.nxs", 90, 85.8, 0.5),
    ],
)
def test_a_real_scan_that_arrives_slowly(
    data: Path, tmp_path: Path, folder: str, file: str, row: int, center: float, tolerance: float
) -> None:
    source = data / folder / file
    with running(Site(tmp_path)) as site:
        arrive(source, site.detector / file, bytes_per_second=1e6)
        scan = site.scan()
        assert scan["center"] == pytest.approx(center, abs=tolerance)
        assert 0 < scan["center_confidence"] <= 1
        check_catalogue(site, scan, source)
        (reference_path,) = (data / folder / "ref").glob(f"row{row:0{3 if row else 1}d}_astra_c*.npy")
        reference, used = np.load(reference_path), float(reference_path.stem.split("_c")[1])
        smooth = gaussian_filter(slice_of(scan, row), 1.5)
        correlation, _ = best_match(smooth, gaussian_filter(reference, 1.5), used)
        assert correlation >= 0.98, "the default recipe, as found without a hint"
        # The reference interpolates linearly, which is a window of sinc^2 on the ramp.
        settings = [f"center={used}", "ring_removal=none", "filter=sinc2"]
        site.ask("retry", scan=scan["scan"], set=settings)
        site.until(lambda: site.ask("scan", scan=scan["scan"])["state"] == "done", "done again")
        again = site.ask("scan", scan=scan["scan"])
        correlation, slope = best_match(slice_of(again, row), reference, used)
        assert correlation >= 0.998
        assert 0.97 <= slope <= 1.03
        check_catalogue(site, scan, source)
        check_catalogue(site, again, source)
        assert len(site.catalog().datasets("raw")) == 1
        assert len(site.catalog().datasets("derived")) == 2, "other parameters make another derived data set"
        assert {"output", "output-2", "record-2.json"} <= left_in(Path(scan["folder"]))
        assert site.stop() == 0


def test_the_default_recipe_on_a_phantom_says_everything_about_itself(
    small_scan: Path, tmp_path: Path
) -> None:
    with running(Site(tmp_path)) as site:
        shutil.copyfile(small_scan, site.detector / "phantom.nxs")
        scan = site.scan()
        task = Path(scan["folder"])
        assert left_in(task) == {
            "frames.json",
            "input",
            "manifest.json",
            "manifest.xxh128",
            "parameters.json",
            "preview",
            "output",
            "record.json",
            "results.xxh128",
        }
        assert left_in(task / "output") == {"volume.h5"}
        assert (task / "manifest.xxh128").read_text() == f"{digest(small_scan)}  input/phantom.nxs\n"
        parameters = json.loads((task / "parameters.json").read_text())
        assert parameters["parameters"]["center"]["origin"] == "estimated"
        assert parameters["parameters"]["pixel_size"]["origin"] == "file"
        assert all({"value", "unit", "origin"} <= p.keys() for p in parameters["parameters"].values())
        record = json.loads((task / "record.json").read_text())
        assert set(record) == {"Scientific_metadata", "dataset", "General"}
        assert set(scan["boxes"].values()) == {"done"}
        assert scan["latency_seconds"] >= 0
        sentences = " ".join(site.ask("why", scan="phantom.nxs")["sentences"])
        assert "COMPLETE" in sentences
        assert "end_time" in sentences
        assert "Every step is done" in sentences


def test_scans_that_arrived_while_the_daemon_was_down_are_caught_up_with_once(
    small_scan: Path, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    (site.detector / "monday").mkdir()
    shutil.copyfile(small_scan, site.detector / "a.nxs")
    another(site.detector / "monday" / "b.nxs", 2)
    with running(site):
        site.scan(count=2)
        assert site.stop() == 0
    with running(site):
        assert site.ask("status")["scans_total"] == 2
        another(site.detector / "c.nxs", 3)
        site.scan(count=3)
        assert site.ask("status")["scans_total"] == 3
        assert len(site.catalog().datasets("raw")) == 3


def test_a_rewritten_file_is_a_new_revision(small_scan: Path, tmp_path: Path) -> None:
    with running(Site(tmp_path)) as site:
        shutil.copyfile(small_scan, site.detector / "a.nxs")
        first = site.scan()
        simulate(SimulationSpec(rows=24, columns=96, angles=90, seed=7), str(site.detector / "a.nxs"))
        second = site.scan(count=2)
        assert (first["revision"], second["revision"]) == (1, 2)
        assert first["folder"] != second["folder"]
        assert Path(first["volume"]).exists()
        assert len(site.catalog().datasets("derived")) == 2


def test_input_on_shared_storage_is_not_copied(small_scan: Path, tmp_path: Path) -> None:
    site = Site(tmp_path)
    raw = site.shared / "raw"
    raw.mkdir()
    site.config.write_text(site.config.read_text().replace(f"{tmp_path}/detector", str(raw)))
    with running(site):
        shutil.copyfile(small_scan, raw / "a.nxs")
        scan = site.scan()
        assert scan["in_place"] is True
        assert scan["input"] == str(raw / "a.nxs")
        assert os.readlink(Path(scan["folder"]) / "input") == str(raw)
        parameters = json.loads(Path(scan["parameters"]).read_text())
        index = json.loads(Path(parameters["input"]).read_text())
        assert {segment["file"] for segment in index["projections"]} == {str(raw / "a.nxs")}
        manifest = Path(scan["folder"]) / "manifest.xxh128"
        assert manifest.read_text() == f"{digest(small_scan)}  input/a.nxs\n"
        check_catalogue(site, scan, small_scan)
        again = site.ask("retry", scan="a.nxs", step="sync")
        assert again["state"] == "running"
        site.scan()
        another(raw / "a.nxs", 2)
        second = site.scan(count=2)
        assert (second["revision"], second["in_place"]) == (2, True)
        assert os.listdir(raw) == ["a.nxs"], "nothing was written or removed through a link"
        assert site.ask("scan", scan=scan["scan"])["state"] == "done"


def test_bad_files_are_held_with_one_sentence_and_the_daemon_lives_on(
    data: Path, small_scan: Path, tmp_path: Path
) -> None:
    with running(Site(tmp_path, stalled_seconds=1.5)) as site:
        shutil.copyfile(data / "nxtomo_metadata" / "24888.nxs", site.detector / "24888.nxs")
        shutil.copyfile(data / "nxtomo_metadata" / "112482.nxs", site.detector / "112482.nxs")
        another(tmp_path / "other.nxs", 2)
        whole = (tmp_path / "other.nxs").read_bytes()
        (site.detector / "truncated.nxs").write_bytes(whole[: len(whole) // 2])
        with h5py.File(site.detector / "rank.h5", "w") as file:
            file["exchange/data"] = np.ones((10, 20), np.uint16)
            file["exchange/theta"] = np.arange(10.0)
        site.scan("held", count=4)
        reasons = {Path(row["path"]).name: row["reason"] for row in site.ask("status")["scans"]}
        assert "pco1-24888.hdf" in reasons["24888.nxs"]
        assert "112482" in reasons["112482.nxs"]
        assert "truncated" in reasons["truncated.nxs"]
        assert "rank" in reasons["rank.h5"] or "dimension" in reasons["rank.h5"]
        for name, reason in reasons.items():
            assert name in reason, "the sentence names the file"
        shutil.copyfile(small_scan, site.detector / "good.nxs")
        site.scan("done")
        (site.detector / "truncated.nxs").write_bytes(whole)
        site.scan("done", count=2)
        assert site.stop() == 0


def test_a_catalogue_that_is_down_only_delays(small_scan: Path, tmp_path: Path) -> None:
    database = tmp_path / "far.sqlite"
    with BackgroundServer(database) as server:
        port = int(server.url.rsplit(":", 1)[1])
    password = tmp_path / "far.sqlite.password"
    catalog = f'url = "{server.url}"\nusername = "admin"\npassword_file = "{password}"'
    with running(Site(tmp_path, catalog=catalog)) as site:
        shutil.copyfile(small_scan, site.detector / "a.nxs")
        waiting = site.scan("retrying")
        site.until(
            lambda: "volume" in site.ask("scan", scan=waiting["scan"]), "the volume is there all the same"
        )
        assert "catalogue" in site.ask("scan", scan=waiting["scan"])["steps"]["register"]["reason"]
        with BackgroundServer(database, port=port):
            site.ask("retry", scan=waiting["scan"])
            scan = site.scan("done")
            assert {scan["raw_pid"], scan["derived_pid"]} == set(
                pids(server.url, password.read_text().strip())
            )


def pids(url: str, password: str) -> list[str]:
    login = requests.post(
        f"{url}/api/v3/auth/login", json={"username": "admin", "password": password}, timeout=10
    ).json()
    headers = {"Authorization": f"Bearer {login['access_token']}"}
    found = requests.get(f"{url}/api/v3/datasets", headers=headers, timeout=10).json()
    return [dataset["pid"] for dataset in found]


def test_any_language_may_ask_and_rubbish_is_counted(tmp_path: Path) -> None:
    with running(Site(tmp_path)) as site, zmq.Context() as context:
        with context.socket(zmq.REQ) as asker:
            asker.connect(site.endpoint)
            asker.send(b'{"cmd":"status"}')
            assert json.loads(asker.recv())["ok"] is True
        for endpoint in (site.endpoint, f"ipc://{tmp_path}/state/pool.sock"):
            with context.socket(zmq.DEALER) as rude:
                rude.setsockopt(zmq.LINGER, 1000)
                rude.connect(endpoint)
                for rubbish in (b"", b"\xff" * 100, b"{", b"[1,2]", b'{"cmd":7}'):
                    rude.send(rubbish)
        site.until(lambda: site.ask("status")["pool"]["rubbish"] >= 5, "rubbish is counted")
        assert site.ask("status")["ok"] is True


def test_strange_requests_are_refused_and_the_daemon_lives_on(small_scan: Path, tmp_path: Path) -> None:
    with running(Site(tmp_path)) as site:
        shutil.copyfile(small_scan, site.detector / "a.nxs")
        scan = site.scan()["scan"]
        strange = [None, 7, [scan], NESTED, {"a": 1}, "x" * 10_000, True]
        for value in strange:
            for request in (
                {"cmd": value},
                {"cmd": "scan", "scan": value},
                {"cmd": "retry", "scan": value},
                {"cmd": "retry", "scan": scan, "set": value},
                {"cmd": "retry", "scan": scan, "set": [value]},
                {"cmd": "retry", "scan": scan, "step": value},
                {"cmd": "status", "limit": value},
            ):
                answer = ask_raw(site, request)
                if not answer["ok"]:
                    assert answer["error"]["sentence"]
        site.until(lambda: site.ask("scan", scan=scan)["state"] == "done", "it is done")
        assert site.ask("status")["scans_total"] == 1


NESTED = "an object so deep that the decoder just takes it"


def ask_raw(site: Site, request: dict[str, Any]) -> dict[str, Any]:
    with zmq.Context() as context, context.socket(zmq.REQ) as asker:
        asker.setsockopt(zmq.LINGER, 0)
        asker.connect(site.endpoint)
        asker.send(
            json.dumps(request).encode().replace(f'"{NESTED}"'.encode(), b'{"a":' * 979 + b"1" + b"}" * 979)
        )
        assert asker.poll(10_000, zmq.POLLIN), site.tail()
        answer: dict[str, Any] = json.loads(asker.recv())
        return answer


@pytest.mark.parametrize("name", ["scan\u3000001.nxs", "a\u00a0b.nxs", "Größe 1 (2)%.nxs", "\u202escan.nxs"])
def test_any_name_that_is_text_is_a_scans_name(name: str, small_scan: Path, tmp_path: Path) -> None:
    with running(Site(tmp_path)) as site:
        shutil.copyfile(small_scan, site.detector / name)
        scan = site.scan()
        assert (Path(scan["folder"]) / "input" / name).is_file()
        assert site.stop() == 0


def announce(path: Path, projections: int) -> None:
    """Have a scan promise more than it holds."""
    with h5py.File(path, "r+") as file:
        file["/entry/instrument/detector/tomo_n"][...] = projections


def test_a_scan_that_stays_incomplete_is_held_and_taken_up_when_the_rest_arrives(
    small_scan: Path, tmp_path: Path
) -> None:
    whole = small_scan.read_bytes()
    announce(small_scan, 200)
    site = Site(tmp_path / "site", stalled_seconds=1.0, watch="usable_projections = 0")
    with running(site):
        shutil.copyfile(small_scan, site.detector / "phantom.nxs")
        held = site.scan("held")
        assert held["stage"] == "CHECK"
        assert "is incomplete" in held["reason"]
        assert "announced frames" in held["reason"]
        assert not any(site.shared.glob("*/[!.]*")), "what is copied of it stays hidden"
        (site.detector / "phantom.nxs").write_bytes(whole)
        assert site.scan("done")["revision"] == 2
        site.until(lambda: not any(site.shared.glob("*/.*")), "what was copied of the first is removed")


def test_an_incomplete_scan_that_suffices_is_taken_and_labeled_everywhere(
    small_scan: Path, tmp_path: Path
) -> None:
    whole = small_scan.read_bytes()
    announce(small_scan, 200)
    lacking = "90 of 200 projections are there"
    with running(Site(tmp_path / "site", stalled_seconds=1.0)) as site:
        shutil.copyfile(small_scan, site.detector / "phantom.nxs")
        scan = site.scan("partial")
        assert [stage for stage, box in scan["boxes"].items() if box == "partial"] == ["CHECK", "DONE"]
        assert any("its angles suffice" in told for told in site.ask("why", scan=scan["scan"])["sentences"])
        folder = Path(scan["folder"])
        parameters = json.loads((folder / "parameters.json").read_text())
        assert lacking in parameters["shortfall"]["reason"]
        assert lacking in parameters["notes"][0]
        general = json.loads((folder / "record.json").read_text())["General"]
        assert general["complete"] is False
        assert general["verdict"]["state"] == "INCOMPLETE_USABLE"
        assert lacking in json.loads((folder / "preview" / "quality.json").read_text())["findings"][0]
        catalogue = site.catalog()
        for dataset in (*catalogue.datasets("raw"), *catalogue.datasets("derived")):
            assert "incomplete" in dataset["keywords"]
            assert dataset["scientificMetadata"]["n_projections_missing"]["value"] == 110
        (site.detector / "phantom.nxs").write_bytes(whole)
        assert site.scan("done")["revision"] == 2


def test_an_operator_takes_what_is_there_of_a_held_scan(small_scan: Path, tmp_path: Path) -> None:
    announce(small_scan, 200)
    site = Site(tmp_path / "site", stalled_seconds=1.0, watch="usable_projections = 0")
    with running(site):
        shutil.copyfile(small_scan, site.detector / "phantom.nxs")
        held = site.scan("held")
        assert f"srctd retry {held['scan']} --incomplete" in held["reason"]
        site.ask("retry", scan=held["scan"], incomplete=True)
        scan = site.scan("partial")
        assert scan["revision"] == 1
        told = site.ask("why", scan=scan["scan"])["sentences"]
        assert any("an operator released it" in sentence for sentence in told)
        refused = site.ask("retry", scan=scan["scan"], incomplete=True)
        assert "not held for being incomplete" in refused["error"]["sentence"]
        site.kill()
        site.start()
        assert site.ask("status")["scans"][0]["state"] == "partial"


def test_an_external_file_that_comes_late_releases_the_scan(small_scan: Path, tmp_path: Path) -> None:
    with running(Site(tmp_path, stalled_seconds=1.0)) as site:
        with h5py.File(small_scan, "r") as whole, h5py.File(tmp_path / "raw.h5x", "w") as raw:
            raw["frames"] = whole["/entry/instrument/detector/data"][()]
        shutil.copyfile(small_scan, tmp_path / "master.nxs")
        with h5py.File(tmp_path / "master.nxs", "r+") as master:
            del master["/entry/instrument/detector/data"], master["/entry/data/data"]
            master["/entry/instrument/detector/data"] = h5py.ExternalLink("raw.h5x", "frames")
        shutil.copyfile(tmp_path / "master.nxs", site.detector / "master.nxs")
        assert "raw.h5x" in site.scan("held")["reason"]
        shutil.copyfile(tmp_path / "raw.h5x", site.detector / "raw.h5x")
        scan = site.scan("done")
        assert left_in(Path(scan["folder"]) / "input") == {"master.nxs", "raw.h5x"}


def test_a_second_daemon_does_not_take_the_sockets_away(tmp_path: Path) -> None:
    with running(Site(tmp_path)) as site:
        second = tmp_path / "second.toml"
        second.write_text(site.config.read_text().replace(f"{tmp_path}/state", f"{tmp_path}/state2"))
        command = [sys.executable, "-m", "srctd", "run", "--config", str(second)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 78
        assert "served by another process" in done.stderr
        assert site.ask("status")["ok"]
