"""The embedded catalogue speaks as SciCat does: paths, tokens, validation, views, filters, refusals."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from catalog_examples import DATA_URI

from srctd.catalogd.app import password_file
from srctd.catalogd.auth import ADMIN, Tokens, create_admin, log_in
from srctd.catalogd.server import BackgroundServer, serve
from srctd.catalogd.store import Store
from srctd.core.errors import ConfigError

RAW = {
    "pid": "p/raw 1",
    "type": "raw",
    "ownerGroup": "g1",
    "owner": "Ada",
    "contactEmail": "ada@site.org",
    "sourceFolder": "/data/run/1/",
    "creationTime": "2026-01-05T10:00:00+01:00",
    "datasetName": "scan 1",
    "principalInvestigators": ["Ada"],
    "keywords": ["tomography", "bone"],
    "scientificMetadata": {"energy": {"value": 20.5, "unit": "keV"}, "count": {"value": 3, "unit": ""}},
}
DERIVED = {
    "pid": "p/derived",
    "type": "derived",
    "ownerGroup": "g2",
    "owner": "Ada",
    "contactEmail": "ada@site.org",
    "sourceFolder": "/data/out",
    "creationTime": "2026-02-05 10:00:00",
    "datasetName": "volume",
    "inputDatasets": ["p/raw 1"],
    "usedSoftware": ["srctd"],
}
BLOCK = {"size": 7, "dataFileList": [{"path": "a", "size": 7, "time": "2026-01-05T10:00:00Z", "chk": "00"}]}
PICTURE = {"caption": "c", "ownerGroup": "g1", "thumbnail": DATA_URI}
RAW_PATH = "datasets/p%2Fraw%201"


class Api:
    """Requests with a token."""

    def __init__(self, url: str, database: Path) -> None:
        self.url = f"{url}/api"
        self.credentials = {"username": "admin", "password": password_file(database).read_text().strip()}
        self.session = requests.Session()
        token = self.session.post(f"{self.url}/v3/auth/login", json=self.credentials, timeout=5).json()["id"]
        self.session.headers["Authorization"] = f"Bearer {token}"
        self.token = token

    def __call__(self, method: str, path: str, body: object = None, **kwargs: object) -> requests.Response:
        return self.session.request(method, f"{self.url}/{path}", json=body, timeout=10, **kwargs)

    def anonymous(self, method: str, path: str, body: object = None, **kwargs: object) -> requests.Response:
        return requests.request(method, f"{self.url}/{path}", json=body, timeout=10, **kwargs)

    def find(self, version: str, given: object) -> list[str]:
        answer = self("GET", f"{version}/datasets", params={"filter": json.dumps(given)})
        assert answer.status_code == 200, answer.text
        return [dataset["pid"] for dataset in answer.json()]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A catalogue that tests only read."""
    database = tmp_path_factory.mktemp("c") / "c.sqlite"
    with BackgroundServer(database) as server:
        api = Api(server.url, database)
        for dataset in (RAW, DERIVED):
            assert api("POST", "v4/datasets", dataset).status_code == 201
        assert api("POST", f"v3/{RAW_PATH}/attachments", PICTURE).status_code == 201
        assert api("POST", f"v3/{RAW_PATH}/origdatablocks", BLOCK).status_code == 201
        yield api
        api.session.close()


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with BackgroundServer(tmp_path / "c.sqlite") as server:
        made = Api(server.url, tmp_path / "c.sqlite")
        yield made
        made.session.close()


# --- paths, tokens, accounts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [RAW_PATH, RAW_PATH.replace("d", "D", 1), f"{RAW_PATH}/"])
def test_paths_are_split_before_they_are_decoded_and_case_does_not_matter(filled: Api, path: str) -> None:
    assert filled("GET", f"v3/{path}").json()["pid"] == "p/raw 1"
    assert filled("HEAD", f"v3/{path}").status_code == 200


def test_an_unknown_route_is_told_as_scicat_tells_it(filled: Api) -> None:
    answer = filled("GET", "v3/datasets/p/raw")
    expected = {"message": "Cannot GET /api/v3/datasets/p/raw", "error": "Not Found", "statusCode": 404}
    assert (answer.status_code, answer.json()) == (404, expected)


def test_the_login_answers_as_scicats_does(filled: Api) -> None:
    answer = filled.anonymous("POST", "v3/auth/login", filled.credentials)
    assert answer.status_code == 201
    assert {"access_token", "id", "expires_in", "ttl", "created", "userId", "user"} == answer.json().keys()
    assert answer.json()["user"]["username"] == "admin"


@pytest.mark.parametrize(
    "body", [{"username": "admin", "password": "x"}, {"username": "eve", "password": "x"}, [], None]
)
def test_a_wrong_login_is_refused(filled: Api, body: object) -> None:
    answer = filled.anonymous("POST", "v3/auth/login", body)
    assert (answer.status_code, answer.json()["message"]) == (401, "Unauthorized")


def test_a_token_may_come_as_header_or_query(filled: Api) -> None:
    for params in ({"access_token": filled.token}, {"access_token": f"Bearer {filled.token}"}):
        assert filled.anonymous("GET", "v3/users/my/self", params=params).json()["username"] == "admin"
    assert filled("GET", "v3/auth/whoami").json()["currentGroups"] == ["admin"]


@pytest.mark.parametrize("token", ["rubbish", "a.b.c", "", "eyJhbGciOiJub25lIn0.e30."])
def test_a_forged_token_is_nobody(filled: Api, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    assert filled.anonymous("GET", "v3/auth/whoami", headers=headers).content == b""
    assert filled.anonymous("GET", "v3/users/my/self", headers=headers).status_code == 401
    answer = filled.anonymous("POST", "v3/datasets", {}, headers=headers)
    assert (answer.status_code, answer.json()["message"]) == (403, "Forbidden resource")


def test_a_changed_token_is_nobody(filled: Api) -> None:
    head, _, signature = filled.token.split(".")
    forged = f"{head}.eyJfaWQiOiJ4IiwidXNlcm5hbWUiOiJhZG1pbiIsImlhdCI6MCwiZXhwIjo5OTk5OTk5OTk5fQ.{signature}"
    assert filled.anonymous("GET", f"v3/datasets?access_token={forged}").status_code == 403


def test_an_expired_token_is_told_on_every_route(tmp_path: Path) -> None:
    database = tmp_path / "c.sqlite"
    with BackgroundServer(database, token_seconds=0) as server:
        api = Api(server.url, database)
        for path in ("v3/datasets", "v4/datasets", "v3/auth/whoami"):
            answer = api("GET", path)
            assert (answer.status_code, answer.json()["message"]) == (401, "SESSION_EXPIRED")
        api.session.close()


def test_a_catalogue_that_is_not_public_shows_nothing_to_nobody(filled: Api) -> None:
    for path in ("v3/datasets", "v4/datasets", f"v3/{RAW_PATH}", "../", "../datasets/p%2Fraw%201"):
        assert filled.anonymous("GET", path).status_code == 403
    assert filled.anonymous("GET", "v3/health").json()["status"] == "ok"


def test_public_reading_is_refused_beyond_the_loopback_interface(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"public reading on 0\.0\.0\.0"):
        serve(tmp_path / "c.sqlite", "0.0.0.0", 0, public=True)


def test_a_restart_keeps_account_tokens_and_documents(tmp_path: Path) -> None:
    database = tmp_path / "c.sqlite"
    with BackgroundServer(database) as server:
        first = Api(server.url, database)
        first("POST", "v4/datasets", RAW)
        first.session.close()
    password = password_file(database).read_text()
    password_file(database).unlink()
    with BackgroundServer(database) as server:
        assert not password_file(database).exists()
        answer = requests.get(
            f"{server.url}/api/v3/{RAW_PATH}", headers={"Authorization": f"Bearer {first.token}"}, timeout=5
        )
        assert answer.json()["pid"] == "p/raw 1"
    assert len(password.strip()) >= 32


# --- datasets ---------------------------------------------------------------------------------------------


def test_a_v3_dataset_is_stored_in_the_shape_of_v4(api: Api) -> None:
    v3 = {name: value for name, value in RAW.items() if name != "principalInvestigators"} | {
        "principalInvestigator": "Ada",
        "creationLocation": "BL",
        "proposalId": "20260001",
    }
    stored = api("POST", "v3/datasets", v3).json()
    assert (stored["proposalId"], stored["principalInvestigator"]) == ("20260001", "Ada")
    v4 = api("GET", f"v4/{RAW_PATH}").json()
    assert v4["proposalIds"] == ["20260001"]
    assert v4["principalInvestigators"] == ["Ada"]
    assert v4["sampleIds"] == v4["instrumentIds"] == []
    assert "proposalId" not in v4


def test_times_and_folders_are_put_into_one_form(filled: Api) -> None:
    raw = filled("GET", f"v4/{RAW_PATH}").json()
    assert raw["creationTime"] == "2026-01-05T09:00:00.000Z"
    assert raw["sourceFolder"] == "/data/run/1"
    assert filled("GET", "v4/datasets/p%2Fderived").json()["creationTime"] == "2026-02-05T10:00:00.000Z"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"foo": 1}, "property foo should not exist"),
        ({"proposalId": "x"}, "property proposalId should not exist"),
        ({"owner": None}, "owner must be a string"),
        ({"ownerGroup": ""}, "ownerGroup must be a string"),
        ({"size": 1.5}, "size must be an integer number"),
        ({"keywords": "a"}, "keywords each value must be a string"),
        ({"creationTime": "soon"}, "creationTime must be a valid ISO 8601 date string"),
        ({"ownerEmail": "a@b.c;d@e.f"}, "ownerEmail must be an email"),
        ({"contactEmail": "nobody"}, "contactEmail must be an email"),
        ({"scientificMetadata": []}, "scientificMetadata must be an object"),
    ],
)
def test_a_wrong_field_is_named(filled: Api, change: dict, words: str) -> None:
    wrong = RAW | {"pid": "p/wrong"} | change
    answer = filled("POST", "v4/datasets", wrong)
    assert answer.status_code == 400
    assert any(words in message for message in answer.json()["message"])
    valid = filled("POST", "v4/datasets/isValid", wrong).json()
    assert valid["valid"] is False
    assert words in valid["error"]


def test_every_wrong_field_is_named_at_once(filled: Api) -> None:
    answer = filled("POST", "v3/datasets", {"type": "derived", "startTime": "2026-01-01T00:00:00Z"})
    assert len(answer.json()["message"]) == 9


@pytest.mark.parametrize("body", [b"{", b'{"a": NaN}', b"\xff", b"[" * 100_000, b"[]", b"3", b""])
def test_rubbish_is_a_400(filled: Api, body: bytes) -> None:
    assert filled("POST", "v4/datasets", data=body).status_code == 400


def test_a_body_over_the_limit_is_a_413(filled: Api) -> None:
    assert filled("POST", "v4/datasets", data=b" " * 16_000_001).status_code == 413


def test_a_taken_pid_is_a_409(filled: Api) -> None:
    answer = filled("POST", "v4/datasets", RAW)
    assert answer.status_code == 409
    assert answer.json()["message"] == "A dataset with pid p/raw 1 already exists!"


def test_many_at_once_are_all_stored(api: Api) -> None:
    def post(number: int) -> int:
        headers = {"Authorization": f"Bearer {api.token}"}
        return api.anonymous(
            "POST", "v4/datasets", RAW | {"pid": f"p/{number % 8}"}, headers=headers
        ).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(post, range(24))) == [201] * 8 + [409] * 16
    assert api("GET", "v3/datasets/count").json() == {"count": 8}


def test_a_patch_replaces_fields_and_a_merge_patch_goes_in_depth(api: Api) -> None:
    api("POST", "v4/datasets", RAW)
    patch = {"scientificMetadata": {"energy": None, "more": {"value": 1, "unit": ""}}, "type": "raw"}
    merge = {"Content-Type": "application/merge-patch+json"}
    merged = api("PATCH", f"v4/{RAW_PATH}", patch, headers=merge).json()
    assert merged["scientificMetadata"].keys() == {"count", "more"}
    replaced = api("PATCH", f"v3/{RAW_PATH}", {"scientificMetadata": {}, "proposalId": "x"}).json()
    assert (replaced["scientificMetadata"], replaced["proposalIds"]) == ({}, ["x"])
    assert replaced["owner"] == "Ada"
    assert api("PATCH", f"v4/{RAW_PATH}", {"type": "derived"}).status_code == 400
    assert api("PATCH", "v4/datasets/none", {}).status_code == 404


# --- file lists and pictures ----------------------------------------------------------------------------------


def test_sizes_come_from_the_file_lists_and_no_patch_resets_them(api: Api) -> None:
    api("POST", "v4/datasets", RAW | {"size": 5, "numberOfFiles": 9})
    for _ in range(2):
        assert api("POST", f"v3/{RAW_PATH}/origdatablocks", BLOCK).status_code == 201
    other = {**BLOCK, "datasetId": "p/raw 1", "dataFileList": [{**BLOCK["dataFileList"][0], "path": "b"}]}
    assert api("POST", "v4/origdatablocks", other).json()["datasetId"] == "p/raw 1"
    patched = api("PATCH", f"v4/{RAW_PATH}", {"size": 0, "numberOfFiles": 0}).json()
    assert (patched["size"], patched["numberOfFiles"]) == (14, 2)
    assert api("GET", f"v3/{RAW_PATH}/origdatablocks/count").json() == {"count": 2}
    found = api("GET", "v4/origdatablocks", params={"filter": '{"where": {"datasetId": "p/raw 1"}}'})
    assert len(found.json()) == 2


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"size": 1, "dataFileList": []}, "should not be empty"),
        ({"size": 1, "dataFileList": [{"path": "a"}]}, "dataFileList.0.size must be an integer"),
        ({**BLOCK, "datasetId": "x"}, "property datasetId should not exist"),
    ],
)
def test_a_wrong_file_list_is_named(filled: Api, block: dict, words: str) -> None:
    answer = filled("POST", f"v3/{RAW_PATH}/origdatablocks", block)
    assert answer.status_code == 400
    assert words in " ".join(answer.json()["message"])


def test_a_picture_is_found_by_every_route(filled: Api) -> None:
    [picture] = filled("GET", f"v3/{RAW_PATH}/attachments").json()
    assert filled("GET", f"v4/attachments/{picture['aid']}").json() == picture
    assert filled("GET", f"v3/{RAW_PATH}/thumbnail").json() == {"thumbnail": DATA_URI}
    assert filled("GET", "v3/datasets/p%2Fderived/thumbnail").json() == {}
    included = filled("GET", f"v4/{RAW_PATH}?include=attachments&include=origdatablocks").json()
    assert included["attachments"] == [picture]
    assert len(included["origdatablocks"]) == 1
    assert filled("GET", f"v4/{RAW_PATH}?include=rubbish").status_code == 400


@pytest.mark.parametrize(
    "uri", ["http://evil/x.png", "data:text/html;base64,AAAA", "data:image/svg+xml;base64,AAAA"]
)
def test_a_picture_is_nothing_but_a_picture(filled: Api, uri: str) -> None:
    assert filled("POST", f"v3/{RAW_PATH}/attachments", PICTURE | {"thumbnail": uri}).status_code == 400


def test_a_part_of_an_unknown_dataset_is_a_404(filled: Api) -> None:
    for kind, body in (("origdatablocks", BLOCK), ("attachments", PICTURE)):
        assert filled("POST", f"v3/datasets/none/{kind}", body).status_code == 404
        assert filled("GET", f"v3/datasets/none/{kind}").status_code == 404


# --- filters ------------------------------------------------------------------------------------------------

FOUND = [
    ({}, {"raw", "derived"}),
    ({"type": "raw"}, {"raw"}),
    ({"keywords": "bone"}, {"raw"}),
    ({"inputDatasets": "p/raw 1"}, {"derived"}),
    ({"datasetName": "scan 1", "ownerGroup": "g1"}, {"raw"}),
    ({"datasetName": {"$in": ["volume", "x"]}}, {"derived"}),
    ({"datasetName": {"$nin": ["volume", "x"]}}, {"raw"}),
    ({"keywords": {"$in": []}}, set()),
    ({"type": {"$ne": "raw"}}, {"derived"}),
    ({"scientificMetadata.energy.value": {"$gt": 20}}, {"raw"}),
    ({"scientificMetadata.energy.value": {"$gt": 20, "$lt": 20.4}}, set()),
    ({"scientificMetadata.energy.value": {"$gt": "1"}}, set()),
    ({"scientificMetadata.count.value": 3.0}, {"raw"}),
    ({"scientificMetadata.energy": {"$exists": False}}, {"derived"}),
    ({"description": None}, {"raw", "derived"}),
    ({"creationTime": {"$gte": "2026-02-01"}}, {"derived"}),
    ({"creationTime": "2026-01-05T09:00:00Z"}, {"raw"}),
    ({"isPublished": False}, {"raw", "derived"}),
    ({"isPublished": 0}, set()),
    ({"datasetName": {"$regex": "^SCAN", "$options": "i"}}, {"raw"}),
    ({"datasetName": {"$not": {"$regex": "scan"}}}, {"derived"}),
    ({"$or": [{"type": "raw"}, {"ownerGroup": "g2"}]}, {"raw", "derived"}),
    ({"$and": [{"type": "raw"}, {"ownerGroup": "g2"}]}, set()),
    ({"$nor": [{"type": "raw"}]}, {"derived"}),
    ({"datasetName": "x' OR 1=1 --"}, set()),
    ({"size": 10**30}, set()),
]
FOUND_V3 = [
    ({"datasetName": {"like": "vol"}}, {"derived"}),
    ({"datasetName": {"ilike": "VOL"}}, {"derived"}),
    ({"keywords": {"inq": ["bone"]}}, {"raw"}),
    ({"or": [{"type": "raw"}, {"type": "x"}]}, {"raw"}),
    ({"principalInvestigator": "Ada"}, {"raw"}),
    ({"scientificMetadata.energy.value": {"lte": 20.5}}, {"raw"}),
]


@pytest.mark.parametrize(("where", "expected"), FOUND)
def test_both_versions_find(filled: Api, where: dict, expected: set[str]) -> None:
    names = {"raw": "p/raw 1", "derived": "p/derived"}
    for version in ("v3", "v4"):
        assert set(filled.find(version, {"where": where})) == {names[name] for name in expected}
        counted = filled("GET", f"{version}/datasets/count", params={"filter": json.dumps({"where": where})})
        assert counted.json() == {"count": len(expected)}


@pytest.mark.parametrize(("where", "expected"), FOUND_V3)
def test_v3_finds_with_loopbacks_words(filled: Api, where: dict, expected: set[str]) -> None:
    names = {"raw": "p/raw 1", "derived": "p/derived"}
    assert set(filled.find("v3", {"where": where})) == {names[name] for name in expected}


@pytest.mark.parametrize(
    "given",
    [
        {"where": {"type": {"like": "x"}}},
        {"limits": {"order": "creationTime:desc"}},
        {"where": {"type": {"$where": "x"}}},
        {"where": {"type": {"$regex": "("}}},
        {"where": {'a"b': 1}},
        {"where": []},
        {"limits": {"limit": -1}},
        {"limits": {"limit": "x"}},
        {"include": ["rubbish"]},
        {"where": {"type": {"$in": ["x"] * 501}}},
        {"where": {"type": {"a": {}}}},
        [],
    ],
)
def test_a_filter_that_is_not_understood_is_refused(filled: Api, given: object) -> None:
    assert filled("GET", "v4/datasets", params={"filter": json.dumps(given)}).status_code == 400


@pytest.mark.parametrize("word", ["$and", "$or", "$nor"])
def test_a_filter_nested_too_deeply_is_refused(filled: Api, word: str) -> None:
    deepest = f'{{"{word}": [' * 20 + '{"type": "raw"}' + "]}" * 20
    assert filled("GET", "v4/datasets", params={"filter": f'{{"where": {deepest}}}'}).status_code == 200
    deep = f'{{"{word}": [{deepest}]}}'
    answer = filled("GET", "v4/datasets", params={"filter": f'{{"where": {deep}}}'})
    assert (answer.status_code, answer.json()["message"]) == (400, "nested too deeply")


def test_strangers_have_no_regular_expressions(tmp_path: Path) -> None:
    with BackgroundServer(tmp_path / "c.sqlite", public=True) as server:
        api = Api(server.url, tmp_path / "c.sqlite")
        for version, where in (
            ("v3", {"type": {"like": "r"}}),
            ("v4", {"$nor": [{"type": {"$regex": "r"}}]}),
        ):
            params = {"filter": json.dumps({"where": where})}
            for path in (f"{version}/datasets", f"{version}/datasets/count"):
                assert api("GET", path, params=params).status_code == 200
                assert api.anonymous("GET", path, params=params).status_code == 403
        assert api.anonymous("GET", "v3/datasets").status_code == 200
        api.session.close()


def test_order_limits_and_fields(filled: Api) -> None:
    by_time = {"limits": {"order": "creationTime:desc", "limit": 1}}
    assert filled.find("v3", by_time) == ["p/derived"]
    assert filled.find("v3", {"limits": {"order": "creationTime:desc", "skip": 1}}) == ["p/raw 1"]
    assert filled.find("v4", {"limits": {"sort": {"creationTime": "asc"}}}) == ["p/raw 1", "p/derived"]
    assert filled.find("v4", {}) == ["p/derived", "p/raw 1"]
    chosen = filled(
        "GET", "v3/datasets", params={"filter": '{"fields": {"type": 1}, "limits": {"limit": 1}}'}
    )
    assert chosen.json()[0].keys() == {"pid", "_id", "type"}
    left_out = filled("GET", "v4/datasets", params={"filter": '{"fields": {"type": 0}}'})
    assert "type" not in left_out.json()[0]
    assert "owner" in left_out.json()[0]


def test_find_one_answers_with_an_empty_body_if_there_is_none(filled: Api) -> None:
    for version in ("v3", "v4"):
        path = f"{version}/datasets/findOne"
        assert filled("GET", path, params={"filter": '{"where": {"type": "x"}}'}).content == b""
        assert filled("GET", path, params={"filter": '{"where": {"type": "raw"}}'}).json()["pid"] == "p/raw 1"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"text": "BONE"}, ["p/raw 1"]),
        ({"text": "keywords"}, []),
        ({"type": ["derived"]}, ["p/derived"]),
        ({"keywords": ["bone", "x"], "ownerGroup": ["g1"]}, ["p/raw 1"]),
        ({"creationTime": {"begin": "2026-02-01T00:00:00Z", "end": "2026-03-01T00:00:00Z"}}, ["p/derived"]),
    ],
)
def test_full_query(filled: Api, fields: dict, expected: list[str]) -> None:
    params = {"fields": json.dumps(fields), "limits": '{"order": "creationTime:desc", "limit": 5}'}
    answer = filled("GET", "v3/datasets/fullquery", params=params)
    assert [dataset["pid"] for dataset in answer.json()] == expected
    assert filled("GET", "v3/datasets/fullquery", params={"fields": '{"x": {"y": 1}}'}).status_code == 400


def test_two_starts_at_once_agree_on_one_password(tmp_path: Path) -> None:
    stores = [Store(tmp_path / "c.sqlite") for _ in range(2)]
    secret = tmp_path / "password"
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda store: create_admin(store, secret), stores))
    tokens = Tokens(stores[0].secret(), 60)
    for store in stores:
        assert log_in(store, tokens, {"username": ADMIN, "password": secret.read_text().strip()})
        store.close()
    assert sorted(path.name for path in tmp_path.iterdir() if "password" in path.name) == ["password"]
