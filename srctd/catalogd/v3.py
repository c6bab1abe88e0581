"""Version 3 of SciCat's API: login, datasets, their file lists and pictures.

Handlers that both versions share take the version, or the reader of its filters, as an argument; `v4` uses them.
"""

from typing import Any

from srctd.catalogd import filters
from srctd.catalogd.auth import log_in, profile
from srctd.catalogd.documents import (
    Document,
    as_v3,
    changes,
    merged,
    new_attachment,
    new_block,
    new_dataset,
    now,
)
from srctd.catalogd.filters import Every, Query, Test
from srctd.catalogd.problem import Problem, forbidden
from srctd.catalogd.router import Access, Call, Routes
from srctd.catalogd.store import Table
from srctd.core.errors import StorageUnavailable

PID_PREFIX = "local"
"""Of identifiers that the catalogue gives itself."""

routes = Routes("/api/v3")


# --- accounts and health ------------------------------------------------------------------------------------


@routes.add("POST", "/auth/login", status=201, access=Access.ANYBODY)
@routes.add("POST", "/auth/ldap", status=201, access=Access.ANYBODY)
@routes.add("POST", "/auth/msad", status=201, access=Access.ANYBODY)
@routes.add("POST", "/users/login", status=201, access=Access.ANYBODY)
def login(call: Call) -> Any:
    """Log in by name and password."""
    return log_in(call.store, call.tokens, call.body)


@routes.add("GET", "/auth/whoami", access=Access.ANYBODY)
def whoami(call: Call) -> Any:
    """The caller; an empty body for nobody."""
    account = call.identity and call.store.account(call.identity.username)
    return {**profile(account), "currentGroups": account.groups} if account else None


@routes.add("GET", "/users/my/self", access=Access.ANYBODY)
def myself(call: Call) -> Any:
    """The caller; 401 for nobody."""
    account = call.identity and call.store.account(call.identity.username)
    if not account:
        raise Problem(401, "Unauthenticated")
    return profile(account)


@routes.add("GET", "/health", access=Access.ANYBODY)
def health(call: Call) -> Any:
    """Whether the database answers."""
    try:
        call.store.ping()
    except StorageUnavailable as exc:
        raise Problem(503, str(exc)) from exc
    up = {"database": {"status": "up"}}
    return {"status": "ok", "info": up, "error": {}, "details": up}


# --- datasets ---------------------------------------------------------------------------------------------


def create(call: Call, version: int) -> Document:
    """Check and store a dataset."""
    document = new_dataset(call.body, version, call.username, PID_PREFIX)
    call.store.insert_dataset(document)
    return document


def validity(call: Call, version: int) -> Document:
    """Whether a dataset would be taken."""
    try:
        new_dataset(call.body, version, call.username, PID_PREFIX)
    except Problem as problem:
        reasons = problem.message if isinstance(problem.message, list) else [problem.message]
        return {"valid": False, "error": "; ".join(reasons), "reason": reasons}
    return {"valid": True}


def update(call: Call, version: int, *, merge: bool) -> Document:
    """Change fields of a dataset; `merge`: objects in depth, else they are replaced."""

    def change(stored: Document) -> Document:
        patch = changes(call.body, stored, version)
        changed = merged(stored, patch) if merge else {**stored, **patch}
        return {**changed, "updatedBy": call.username, "updatedAt": now()}

    return call.store.update_dataset(call.parts["pid"], change)


def existing(call: Call) -> Document:
    """The dataset that the path names; raises `Problem` 404."""
    document = call.store.get("dataset", call.parts["pid"])
    if document is None:
        raise Problem(404, f"dataset: {call.parts['pid']} not found")
    return document


def with_relations(call: Call, document: Document, include: tuple[str, ...]) -> Document:
    """The dataset with its file lists and pictures, where they are asked for."""
    tables: tuple[tuple[str, Table], ...] = (
        ("origdatablocks", "origdatablock"),
        ("attachments", "attachment"),
    )
    wanted = [(name, table) for name, table in tables if name in include or "all" in include]
    return document | {name: call.store.of_dataset(table, document["pid"]) for name, table in wanted}


def asked(call: Call, query: Query) -> Query:
    """The query, if this caller may ask it.

    A regular expression can be made to run for ever, so strangers have none: in a public catalogue, any web page
    in the user's browser could send one.
    """
    if call.identity is None and filters.has_pattern(query.where):
        raise forbidden()
    return query


def matching(call: Call, query: Query) -> list[Document]:
    """The datasets of a query, with relations, all their fields."""
    return [with_relations(call, document, query.include) for document in call.store.find("dataset", query)]


def _shown(call: Call, query: Query) -> list[Document]:
    return [filters.project(as_v3(document), query.fields) for document in matching(call, query)]


@routes.add("POST", "/datasets", status=201, access=Access.WRITER)
def create_dataset(call: Call) -> Any:
    """Create a dataset."""
    return as_v3(create(call, 3))


@routes.add("POST", "/datasets/isValid", access=Access.WRITER)
def is_valid(call: Call) -> Any:
    """Check a dataset without storing it."""
    return validity(call, 3)


@routes.add("GET", "/datasets")
def list_datasets(call: Call) -> Any:
    """The datasets that fit `?filter=`."""
    return _shown(call, asked(call, filters.read_v3(call.one("filter"))))


@routes.add("GET", "/datasets/count")
def count_datasets(call: Call) -> Any:
    """How many datasets fit `?filter=`."""
    return {"count": call.store.count("dataset", asked(call, filters.read_v3(call.one("filter"))).where)}


@routes.add("GET", "/datasets/findOne")
def find_dataset(call: Call) -> Any:
    """The first dataset that fits `?filter=`; an empty body if none does."""
    return next(iter(_shown(call, asked(call, filters.read_v3(call.one("filter"))))), None)


@routes.add("GET", "/datasets/fullquery")
def full_query(call: Call) -> Any:
    """The datasets that fit `?fields=`, within `?limits=`."""
    return _shown(call, filters.read_fullquery(call.one("fields"), call.one("limits")))


@routes.add("GET", "/datasets/{pid}")
def get_dataset(call: Call) -> Any:
    """One dataset."""
    query = asked(call, filters.read_v3(call.one("filter")))
    return as_v3(with_relations(call, existing(call), query.include)) | {"history": []}


@routes.add("PATCH", "/datasets/{pid}", access=Access.WRITER)
def patch_dataset(call: Call) -> Any:
    """Replace fields of a dataset."""
    return as_v3(update(call, 3, merge=False))


@routes.add("GET", "/datasets/{pid}/thumbnail")
def thumbnail(call: Call) -> Any:
    """The dataset's first picture."""
    pictures = call.store.of_dataset("attachment", existing(call)["pid"])
    found = (picture["thumbnail"] for picture in pictures if picture.get("thumbnail"))
    return {"thumbnail": uri} if (uri := next(found, None)) else {}


# --- file lists and pictures --------------------------------------------------------------------------------


@routes.add("POST", "/datasets/{pid}/origdatablocks", status=201, access=Access.WRITER)
def create_block(call: Call) -> Any:
    """Add a file list."""
    return call.store.insert_block(call.parts["pid"], new_block(call.body, call.username, nested=True))


@routes.add("GET", "/datasets/{pid}/origdatablocks")
def list_blocks(call: Call) -> Any:
    """The dataset's file lists."""
    return call.store.of_dataset("origdatablock", existing(call)["pid"])


@routes.add("GET", "/datasets/{pid}/origdatablocks/count")
def count_blocks(call: Call) -> Any:
    """How many file lists the dataset has."""
    pid = existing(call)["pid"]
    return {"count": call.store.count("origdatablock", Every((Test(("datasetId",), "eq", pid),)))}


@routes.add("POST", "/origdatablocks", status=201, access=Access.WRITER)
def create_own_block(call: Call) -> Any:
    """Add a file list to the dataset that it names."""
    block = new_block(call.body, call.username, nested=False)
    return call.store.insert_block(block["datasetId"], block)


@routes.add("GET", "/origdatablocks")
def find_blocks(call: Call) -> Any:
    """The file lists that fit `?filter=`."""
    return call.store.find("origdatablock", asked(call, filters.read_v3(call.one("filter"))))


@routes.add("POST", "/datasets/{pid}/attachments", status=201, access=Access.WRITER)
def create_attachment(call: Call) -> Any:
    """Add a picture."""
    return call.store.insert_attachment(new_attachment(call.body, call.username, call.parts["pid"]))


@routes.add("GET", "/datasets/{pid}/attachments")
def list_attachments(call: Call) -> Any:
    """The dataset's pictures."""
    return call.store.of_dataset("attachment", existing(call)["pid"])
