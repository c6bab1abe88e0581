"""Version 4 of SciCat's API: datasets, file lists and pictures, with Mongo's filters."""

from typing import Any

from srctd.catalogd import filters
from srctd.catalogd.documents import new_attachment
from srctd.catalogd.problem import Problem
from srctd.catalogd.router import Access, Call, Routes
from srctd.catalogd.v3 import (
    asked,
    create,
    create_own_block,
    existing,
    matching,
    update,
    validity,
    with_relations,
)

routes = Routes("/api/v4")


@routes.add("POST", "/datasets", status=201, access=Access.WRITER)
def create_dataset(call: Call) -> Any:
    """Create a dataset."""
    return create(call, 4)


@routes.add("POST", "/datasets/isValid", access=Access.WRITER)
def is_valid(call: Call) -> Any:
    """Check a dataset without storing it."""
    return validity(call, 4)


@routes.add("GET", "/datasets")
def list_datasets(call: Call) -> Any:
    """The datasets that fit `?filter=`, newest first."""
    query = asked(call, filters.read_v4(call.one("filter")))
    return [filters.project(document, query.fields) for document in matching(call, query)]


@routes.add("GET", "/datasets/count")
def count_datasets(call: Call) -> Any:
    """How many datasets fit `?filter=`."""
    return {"count": call.store.count("dataset", asked(call, filters.read_v4(call.one("filter"))).where)}


@routes.add("GET", "/datasets/findOne")
def find_dataset(call: Call) -> Any:
    """The first dataset that fits `?filter=`; an empty body if none does."""
    return next(iter(list_datasets(call)), None)


@routes.add("GET", "/datasets/{pid}")
def get_dataset(call: Call) -> Any:
    """One dataset, with what `?include=` names."""
    include = tuple(filters.known_relation(name) for name in call.query.get("include", ()))
    return with_relations(call, existing(call), include)


@routes.add("PATCH", "/datasets/{pid}", access=Access.WRITER)
def patch_dataset(call: Call) -> Any:
    """Change fields of a dataset."""
    return update(call, 4, merge=call.merge_patch)


routes.add("POST", "/origdatablocks", status=201, access=Access.WRITER)(create_own_block)


@routes.add("GET", "/origdatablocks")
def find_blocks(call: Call) -> Any:
    """The file lists that fit `?filter=`, newest first."""
    query = asked(call, filters.read_v4(call.one("filter")))
    return [filters.project(block, query.fields) for block in call.store.find("origdatablock", query)]


@routes.add("POST", "/attachments", status=201, access=Access.WRITER)
def create_attachment(call: Call) -> Any:
    """Add a picture to the dataset that it names."""
    return call.store.insert_attachment(new_attachment(call.body, call.username))


@routes.add("GET", "/attachments/{aid}")
def get_attachment(call: Call) -> Any:
    """One picture."""
    attachment = call.store.get("attachment", call.parts["aid"])
    if attachment is None:
        raise Problem(404, f"attachment: {call.parts['aid']} not found")
    return attachment
