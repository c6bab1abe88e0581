"""The clients that facilities use read back from the embedded catalogue what was posted, and write to it."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
from catalog_examples import DATA_URI, PNG, acquisition, manifest, reconstruction, site
from pyscicat import model as pyscicat_model
from pyscicat.client import ScicatClient as Pyscicat
from scitacean import PID, Client, model

from srctd.adapters.catalog import Catalog, CatalogSettings
from srctd.catalogd.app import password_file
from srctd.catalogd.server import BackgroundServer
from srctd.core.datasets import derived_documents, raw_documents

RAW = raw_documents(site(), acquisition())
DERIVED = derived_documents(site(), acquisition(), reconstruction())
RAW_PID, DERIVED_PID = RAW[0].dataset_pid, DERIVED[0].dataset_pid


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("catalogue") / "catalog.sqlite"


@pytest.fixture(scope="module")
def url(database: Path) -> Iterator[str]:
    """A catalogue that is not public, with one scan in it."""
    with BackgroundServer(database) as server:
        client = Catalog(CatalogSettings(url=server.url, username="admin", password=password(database)))
        for item in (*RAW, *DERIVED):
            client.post(item)
        client.close()
        yield server.url


def password(database: Path) -> str:
    return password_file(database).read_text().strip()


@pytest.fixture
def pyscicat(url: str, database: Path) -> Pyscicat:
    return Pyscicat(f"{url}/api/v3", username="admin", password=password(database), timeout_seconds=10)


@pytest.fixture
def scitacean(url: str, database: Path) -> Client:
    return Client.from_credentials(
        url=f"{url}/api/v3", username="admin", password=password(database), allow_http=True
    )


# --- pyscicat -------------------------------------------------------------------------------------------------


def test_pyscicat_reads_what_was_posted(pyscicat: Pyscicat) -> None:
    raw = pyscicat.datasets_get_one(RAW_PID)
    assert (raw["type"], raw["numberOfFiles"], raw["size"]) == ("raw", 2, 2001)
    derived = pyscicat.datasets_get_one(DERIVED_PID)
    assert derived["inputDatasets"] == [RAW_PID]
    assert derived["jobParameters"]["parameters"]["center"]["value"] == 31.25
    assert derived["scientificMetadata"]["center"] == {"value": 31.25, "unit": "pixel"}


def test_pyscicat_finds_by_filter_and_by_full_query(pyscicat: Pyscicat) -> None:
    assert [d["pid"] for d in pyscicat.datasets_get_many({"inputDatasets": RAW_PID})] == [DERIVED_PID]
    assert [d["pid"] for d in pyscicat.datasets_find(query_fields={"type": ["raw"]})] == [RAW_PID]


def test_pyscicat_writes(pyscicat: Pyscicat) -> None:
    raw = pyscicat_model.RawDataset(
        ownerGroup="p2",
        contactEmail="eve@site.org",
        creationTime="2026-01-05T10:00:00Z",
        owner="Eve",
        sourceFolder="/data/run7/scan 1/",
        creationLocation="BL",
        principalInvestigator="Eve",
    )
    pid = pyscicat.datasets_create(raw)
    file = pyscicat_model.DataFile(path="a.h5", size=5, time=str(datetime(2026, 1, 5, 10, tzinfo=UTC)))
    block = pyscicat_model.CreateDatasetOrigDatablockDto(dataFileList=[file], size=5)
    pyscicat.datasets_origdatablock_create(pid, block)
    picture = pyscicat_model.Attachment(ownerGroup="p2", thumbnail=DATA_URI, caption="c", datasetId=pid)
    pyscicat.datasets_attachment_create(picture)
    raw.description = "changed"
    assert pyscicat.datasets_update(raw, pid) == pid
    stored = pyscicat.datasets_get_one(pid)
    assert (stored["size"], stored["numberOfFiles"], stored["description"]) == (5, 1, "changed")
    assert stored["datasetName"] == "run7/scan 1"
    assert stored["principalInvestigator"] == "Eve"


# --- scitacean ------------------------------------------------------------------------------------------------


def test_scitacean_reads_what_was_posted(scitacean: Client) -> None:
    raw = scitacean.get_dataset(RAW_PID, attachments=True)
    assert (raw.number_of_files, raw.size) == (2, 2001)
    files = sorted(raw.files, key=lambda file: str(file.remote_path))
    assert [file.remote_path.posix for file in files] == [file.path for file in manifest().files]
    assert [file.checksum() for file in files] == [file.digest for file in manifest().files]
    assert {file.checksum_algorithm for file in files} == {"xxh3-128"}
    assert raw.source_folder.posix == manifest().folder
    assert raw.start_time == datetime(2026, 1, 5, 9, tzinfo=UTC)


def test_scitacean_reads_the_picture(scitacean: Client) -> None:
    derived = scitacean.get_dataset(DERIVED_PID, attachments=True)
    assert [str(pid) for pid in derived.input_datasets] == [RAW_PID]
    first = derived.attachments[0]
    assert first.caption == "orthogonal slices"
    assert first.thumbnail.mime == "image/png"
    assert first.thumbnail.decoded_data() == PNG


def test_scitaceans_own_models_take_every_answer(scitacean: Client) -> None:
    found = scitacean.scicat.query_datasets({"type": "derived"}, strict_validation=True)
    assert [str(dataset.pid) for dataset in found] == [DERIVED_PID]
    strict = scitacean.scicat.get_dataset_model(
        PID.parse(DERIVED_PID), strict_validation=True, attachments=True, datablocks=True
    )
    assert strict.origdatablocks[0].dataFileList[0].chk == "ab" * 16


def test_scitacean_writes(scitacean: Client) -> None:
    dataset = model.UploadDataset(
        contactEmail="eve@site.org",
        creationTime=datetime(2026, 1, 5, 10, tzinfo=UTC),
        datasetName="by scitacean",
        inputDatasets=[PID.parse(RAW_PID)],
        owner="Eve",
        ownerGroup="p2",
        principalInvestigators=["Eve"],
        sourceFolder="/shared/p2",
        type="derived",
        usedSoftware=["x"],
    )
    client = scitacean.scicat
    client.validate_dataset_model(dataset)
    pid = client.create_dataset_model(dataset).pid
    file = model.UploadDataFile(path="a.h5", size=7, time=datetime(2026, 1, 5, tzinfo=UTC), chk="00")
    client.create_orig_datablock(
        model.UploadOrigDatablock(datasetId=pid, dataFileList=[file], size=7, chkAlg="blake2b")
    )
    stored = client.get_dataset_model(pid, strict_validation=True, datablocks=True)
    assert (stored.size, stored.numberOfFiles) == (7, 1)
    assert stored.origdatablocks[0].chkAlg == "blake2b"


# --- people ---------------------------------------------------------------------------------------------------


def test_the_pages_show_a_scan_and_escape_what_it_says(tmp_path: Path) -> None:
    database = tmp_path / "c.sqlite"
    with BackgroundServer(database, public=True) as server:
        client = Catalog(CatalogSettings(url=server.url, username="admin", password=password(database)))
        for item in (*RAW, *DERIVED):
            client.post(item)
        client.close()
        index = requests.get(f"{server.url}/", timeout=5).text
        derived_link, raw_link = (f"/datasets/{pid.replace('/', '%2F')}" for pid in (DERIVED_PID, RAW_PID))
        assert derived_link in index
        page = requests.get(server.url + derived_link, timeout=5)
        assert raw_link in page.text
        assert "A tooth &lt;in&gt; resin &amp; air" in page.text
        assert "<in>" not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert derived_link in requests.get(server.url + raw_link, timeout=5).text
        source = page.text.split('<img src="')[1].split('"')[0]
        picture = requests.get(server.url + source, timeout=5)
        assert (picture.content, picture.headers["content-type"]) == (PNG, "image/png")
        assert requests.get(server.url, headers={"Host": "evil.example"}, timeout=5).status_code == 400


def test_the_server_is_a_program_that_ends_on_a_signal(tmp_path: Path) -> None:
    database = tmp_path / "c.sqlite"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = "import sys, pathlib; from srctd.catalogd.server import serve; " + (
        "serve(pathlib.Path(sys.argv[1]), port=int(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(database), str(port)], stderr=subprocess.PIPE)
    client = Catalog(CatalogSettings(url=f"http://127.0.0.1:{port}"))
    try:
        deadline = time.monotonic() + 60
        while not client.health():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        _, errors = process.communicate(timeout=30)
    finally:
        client.close()
        process.kill()
        process.wait()
    assert errors == b""
    assert process.returncode in (0, -signal.SIGTERM)
    assert oct(password_file(database).stat().st_mode & 0o777) == "0o600"
    assert oct(database.stat().st_mode & 0o777) == "0o600"
