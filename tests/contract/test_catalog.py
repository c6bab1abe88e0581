"""The catalogue client: nothing doubled, nothing lost, every failure told as what it is.

Against the embedded server, and against a small fake that fails in the ways of real SciCat servers.
"""

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
import pytest
import requests
from catalog_examples import acquisition, header, manifest, reconstruction, site

from srctd.adapters.catalog import Catalog, CatalogSettings
from srctd.catalogd.app import password_file
from srctd.catalogd.server import BackgroundServer
from srctd.core.datasets import derived_documents, raw_documents
from srctd.core.errors import CatalogRejected, CatalogUnavailable

RAW = raw_documents(site(), acquisition())
DERIVED = derived_documents(site(), acquisition(), reconstruction())
EVERYTHING = (*RAW, *DERIVED)


def settings(url: str, database: Path) -> CatalogSettings:
    return CatalogSettings(url=url, username="admin", password=password_file(database).read_text().strip())


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "catalog.sqlite"


@pytest.fixture
def server(database: Path) -> Iterator[BackgroundServer]:
    with BackgroundServer(database, public=True) as running:
        yield running


@pytest.fixture
def catalog(server: BackgroundServer, database: Path) -> Iterator[Catalog]:
    client = Catalog(settings(server.url, database))
    yield client
    client.close()


def listed(url: str, pid: str, kind: str) -> list[dict]:
    answer = requests.get(f"{url}/api/v3/datasets/{quote(pid, safe='')}/{kind}", timeout=5)
    return answer.json()


def datasets(url: str) -> list[dict]:
    return requests.get(f"{url}/api/v3/datasets", timeout=5).json()


def assert_once(url: str) -> None:
    """Exactly one raw and one derived dataset, with one file list each and two pictures."""
    assert sorted(dataset["type"] for dataset in datasets(url)) == ["derived", "raw"]
    assert len(listed(url, RAW[0].dataset_pid, "origdatablocks")) == 1
    assert len(listed(url, DERIVED[0].dataset_pid, "origdatablocks")) == 1
    assert len(listed(url, DERIVED[0].dataset_pid, "attachments")) == 2


# --- against the embedded server ------------------------------------------------------------------------------


def test_a_scan_is_posted_and_counted(server: BackgroundServer, catalog: Catalog) -> None:
    identifiers = [catalog.post(item) for item in EVERYTHING]
    assert identifiers[0] == RAW[0].dataset_pid
    assert len(set(identifiers)) == len(EVERYTHING)
    assert_once(server.url)
    raw, derived = sorted(datasets(server.url), key=lambda dataset: dataset["type"], reverse=True)
    assert (raw["numberOfFiles"], raw["size"]) == (2, 2001)
    assert (derived["numberOfFiles"], derived["size"]) == (1, 524_288)
    assert derived["inputDatasets"] == [raw["pid"]]
    [block] = listed(server.url, raw["pid"], "origdatablocks")
    assert block["chkAlg"] == "xxh3-128"
    assert [file["chk"] for file in block["dataFileList"]] == [f.digest for f in manifest().files]


def test_posting_again_changes_nothing(server: BackgroundServer, catalog: Catalog, database: Path) -> None:
    first = [catalog.post(item) for item in EVERYTHING]
    after_a_restart = Catalog(settings(server.url, database))
    assert [after_a_restart.post(item) for item in EVERYTHING] == first
    after_a_restart.close()
    assert_once(server.url)


def test_two_clients_posting_the_same_at_once_double_nothing(
    server: BackgroundServer, database: Path
) -> None:
    clients = [Catalog(settings(server.url, database)) for _ in range(2)]
    both = threading.Barrier(2)

    def post(client: Catalog) -> list[str]:
        found = []
        for item in EVERYTHING:
            both.wait(10)
            found.append(client.post(item))
        return found

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(post, clients)
    for client in clients:
        client.close()
    assert one == other
    assert_once(server.url)


def test_an_outage_only_delays(database: Path) -> None:
    with BackgroundServer(database, public=True) as before:
        client = Catalog(settings(before.url, database))
        client.post(RAW[0])
        assert client.health()
    assert not client.health()
    with pytest.raises(CatalogUnavailable, match="127"):
        client.post(RAW[1])
    port = int(before.url.rsplit(":", 1)[1])
    with BackgroundServer(database, port, public=True) as after:
        assert client.health()
        for item in EVERYTHING:
            client.post(item)
        assert_once(after.url)
    client.close()


def test_an_unknown_property_is_rejected_in_the_servers_words(catalog: Catalog) -> None:
    wrong = json.loads(bytes(RAW[0].body)) | {"proposalId": "p"}
    item = msgspec.structs.replace(RAW[0], body=msgspec.Raw(json.dumps(wrong).encode()))
    with pytest.raises(CatalogRejected, match="property proposalId should not exist"):
        catalog.post(item)


def test_a_foreign_dataset_under_the_same_pid_is_not_taken_for_ours(
    server: BackgroundServer, catalog: Catalog, database: Path
) -> None:
    foreign = json.loads(bytes(RAW[0].body)) | {"scientificMetadata": {}}
    token = requests.post(
        f"{server.url}/api/v3/auth/login",
        json={"username": "admin", "password": password_file(database).read_text().strip()},
        timeout=5,
    ).json()["id"]
    answers = [
        requests.post(
            f"{server.url}/api/v4/datasets",
            json=foreign,
            headers={"Authorization": f"Bearer {token}"},
            timeout=5,
        )
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 409]
    with pytest.raises(CatalogRejected, match="is not this one"):
        catalog.post(RAW[0])


def test_a_file_list_without_its_dataset_is_rejected(catalog: Catalog) -> None:
    with pytest.raises(CatalogRejected, match="not found"):
        catalog.post(RAW[1])


def test_a_wrong_password_delays_and_says_so(server: BackgroundServer) -> None:
    client = Catalog(CatalogSettings(url=server.url, username="admin", password="wrong"))
    with pytest.raises(CatalogUnavailable, match="no login as 'admin': 401") as caught:
        client.post(RAW[0])
    assert "password" in caught.value.hint
    client.close()


def test_a_token_that_is_not_accepted_delays_and_says_so(server: BackgroundServer) -> None:
    client = Catalog(CatalogSettings(url=f"{server.url}/api/v3", token="rubbish"))
    with pytest.raises(CatalogUnavailable, match="the configured token is not accepted"):
        client.post(RAW[0])
    client.close()


def test_no_secret_is_shown() -> None:
    shown = repr(CatalogSettings(url="http://x", username="u", password="hidden1", token="hidden2"))
    assert "hidden" not in shown


def test_metadata_come_back_as_they_were_sent(server: BackgroundServer, catalog: Catalog) -> None:
    odd = acquisition(header=header(title="Zürich \u2028 </script> 𝛍", sample="'; DROP TABLE dataset; --"))
    item = raw_documents(site(), odd)[0]
    catalog.post(item)
    [stored] = datasets(server.url)
    sent = json.loads(bytes(item.body))
    assert {name: stored[name] for name in sent} == sent


# --- against a server that fails as real ones do --------------------------------------------------------------


class FakeSciCat:
    """Stores what is posted, without any uniqueness but the pid, and fails as it is told to.

    `fail(method, path)` returns None, or `(status, body)` to answer that; `stored` says whether a post counts.
    """

    def __init__(self) -> None:
        self.datasets: dict[str, dict] = {}
        self.parts: dict[str, list[dict]] = {"origdatablocks": [], "attachments": []}
        self.fail: Callable[[str, str], tuple[int, bytes] | None] = lambda method, path: None
        self.stored = True
        self.logins = 0
        self.token = ""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake.handle(self, "GET")

            def do_POST(self) -> None:
                fake.handle(self, "POST")

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def handle(self, request: BaseHTTPRequestHandler, method: str) -> None:
        raw = request.rfile.read(int(request.headers.get("content-length", 0)))
        body = json.loads(raw) if raw else None
        known = request.headers.get("authorization") == f"Bearer {self.token}"
        failure = self.fail(method, request.path)
        status, answer = 403, {"message": "Forbidden resource"}
        if request.path.endswith("/auth/login"):
            self.logins += 1
            self.token = f"token{self.logins}"
            status, answer = 201, {"id": self.token, "expires_in": 3600}
        elif (known or method == "GET") and (failure is None or self.stored):
            status, answer = self.act(method, request.path, body, known)
        if failure is not None:
            status, payload = failure
        else:
            payload = json.dumps(answer).encode()
        if status == 0:  # the connection breaks off
            request.close_connection = True
            return
        request.send_response(status)
        if 300 <= status < 400:
            request.send_header("Location", "https://elsewhere/")
        request.send_header("Content-Length", str(len(payload)))
        request.end_headers()
        request.wfile.write(payload)

    def act(self, method: str, path: str, body: dict | None, known: bool) -> tuple[int, object]:
        part = re.fullmatch(r"/api/v3/datasets/([^/]+)/(origdatablocks|attachments)", path)
        if part and method == "POST":
            self.parts[part[2]].append({"_id": str(len(self.parts[part[2]])), **(body or {})})
            return 201, self.parts[part[2]][-1]
        if part:
            return 200, self.parts[part[2]] if known else []  # older servers answer strangers with nothing
        if method == "POST" and body is not None:
            if body["pid"] in self.datasets:
                return 409, {"message": "A dataset with that pid already exists!"}
            self.datasets[body["pid"]] = body
            return 201, body
        found = self.datasets.get(unquote(path.rsplit("/", 1)[1]))
        return (200, found) if found else (404, {"message": "dataset: null not found"})

    @property
    def counts(self) -> tuple[int, int, int]:
        return len(self.datasets), len(self.parts["origdatablocks"]), len(self.parts["attachments"])


@pytest.fixture
def fake() -> Iterator[FakeSciCat]:
    server = FakeSciCat()
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def client(fake: FakeSciCat) -> Iterator[Catalog]:
    made = Catalog(CatalogSettings(url=fake.url, username="u", password="p"))
    yield made
    made.close()


DOCUMENTS = (DERIVED[0], DERIVED[1], DERIVED[2], DERIVED[3])


@pytest.mark.parametrize(
    "failure",
    [(500, b'"Internal server error"'), (500, b"{}"), (0, b""), (502, b"<html>bad gateway</html>")],
    ids=["500", "500 empty", "reset", "502"],
)
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_a_failed_answer_neither_doubles_nor_loses(
    fake: FakeSciCat, client: Catalog, failure: tuple[int, bytes], stored: bool
) -> None:
    fake.stored = stored
    for item in DOCUMENTS:
        fake.fail = lambda method, path: failure if method == "POST" and "login" not in path else None
        with pytest.raises(CatalogUnavailable):
            client.post(item)
        fake.fail = lambda method, path: None
        client.post(item)
    assert fake.counts == (1, 1, 2)


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (500, b""),
        (503, b"busy"),
        (429, b"{}"),
        (301, b""),
        (200, b"<html>log in here</html>"),
        (404, b"<html>nginx</html>"),
        (400, b'{"message": "connect ECONNREFUSED 127.0.0.1:27017"}'),
        (400, b'{"message": "Server selection timed out after 30000 ms"}'),
    ],
)
def test_what_may_heal_is_unavailable(fake: FakeSciCat, client: Catalog, status: int, text: bytes) -> None:
    fake.stored = False
    fake.fail = lambda method, path: None if "login" in path else (status, text)
    with pytest.raises(CatalogUnavailable):
        client.post(DERIVED[0])
    assert client.health() == (status == 200)


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (400, b'{"message": ["owner must be a string", "b"]}', "owner must be a string; b"),
        (403, b'{"message": "Unauthorized to create this dataset"}', "Unauthorized to create this dataset"),
        (413, b"too large", "too large"),
    ],
)
def test_what_does_not_heal_is_rejected(
    fake: FakeSciCat, client: Catalog, status: int, text: bytes, words: str
) -> None:
    fake.stored = False
    fake.fail = lambda method, path: (status, text) if method == "POST" and "login" not in path else None
    with pytest.raises(CatalogRejected, match=re.escape(words)):
        client.post(DERIVED[0])


def test_a_forgotten_token_is_renewed_once_and_the_look_up_repeated(
    fake: FakeSciCat, client: Catalog
) -> None:
    for item in DOCUMENTS:
        client.post(item)
    fake.token = "changed"  # the lists that the client gets now are empty, for it is nobody
    for item in DOCUMENTS:
        client.post(item)
    assert fake.logins == 2
    assert fake.counts == (1, 1, 2)


def test_an_account_without_the_right_is_told_after_one_renewal(fake: FakeSciCat, client: Catalog) -> None:
    fake.stored = False
    fake.fail = lambda method, path: (
        (403, b'{"message": "Forbidden resource"}') if method == "POST" and "login" not in path else None
    )
    with pytest.raises(CatalogRejected, match="no right"):
        client.post(DERIVED[0])
    assert fake.logins == 2


def test_a_dataset_that_exists_and_may_not_be_read_is_done(fake: FakeSciCat, client: Catalog) -> None:
    fake.fail = lambda method, path: (
        (403, b'{"message": "Unauthorized access"}') if method == "GET" and "datasets" in path else None
    )
    assert client.post(DERIVED[0]) == DERIVED[0].dataset_pid
    assert fake.counts == (0, 0, 0)


def test_a_token_is_used_until_it_nears_its_end(fake: FakeSciCat, client: Catalog) -> None:
    for item in DOCUMENTS:
        client.post(item)
    assert fake.logins == 1


def test_threads_of_one_client_do_not_interleave_look_and_post(fake: FakeSciCat, client: Catalog) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client.post, [DERIVED[0], *[DERIVED[1]] * 4, *[DERIVED[2]] * 4]))
    assert fake.counts == (1, 1, 1)
