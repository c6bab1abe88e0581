"""What a valid document is, and how v3 and v4 say the same thing differently.

Field lists are those of SciCat's backend (4.27 to 5.3). A document is stored in the shape of v4. More lenient than
SciCat where its own clients would otherwise fail: a time may have a space for its T, `chkAlg` may be a number.
"""

import hashlib
import re
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from srctd.catalogd.problem import Problem

Document = dict[str, Any]

DATES = frozenset({"creationTime", "startTime", "endTime", "createdAt", "updatedAt"})

_EMAIL = re.compile(r"[^@\s;]+@[^@\s;]+\.[^@\s;.]+")
_THUMBNAIL = re.compile(r"data:image/(png|jpe?g|gif|webp);base64,[A-Za-z0-9+/=\s]*")

_COMMON = {
    "pid": "text",
    "owner": "text",
    "ownerEmail": "email",
    "ownerGroup": "name",
    "orcidOfOwner": "text",
    "contactEmail": "emails",
    "sourceFolder": "name",
    "sourceFolderHost": "text",
    "size": "int",
    "packedSize": "int",
    "numberOfFiles": "int",
    "numberOfFilesArchived": "int",
    "creationTime": "date",
    "type": "name",
    "validationStatus": "text",
    "keywords": "texts",
    "description": "text",
    "datasetName": "text",
    "classification": "text",
    "license": "text",
    "isPublished": "bool",
    "techniques": "objects",
    "sharedWith": "texts",
    "relationships": "objects",
    "datasetlifecycle": "object",
    "scientificMetadata": "object",
    "scientificMetadataSchema": "text",
    "scientificMetadataValid": "bool",
    "comment": "text",
    "dataQualityMetrics": "number",
    "runNumber": "text",
    "accessGroups": "texts",
    "instrumentGroup": "text",
    "inputDatasets": "texts",
    "usedSoftware": "texts",
    "jobParameters": "object",
    "jobLogData": "text",
}
_V4 = _COMMON | {
    "principalInvestigators": "texts",
    "startTime": "date",
    "endTime": "date",
    "creationLocation": "text",
    "dataFormat": "text",
    "proposalIds": "texts",
    "sampleIds": "texts",
    "instrumentIds": "texts",
}
_V3_DERIVED = _COMMON | {"version": "text", "proposalId": "text", "investigator": "text"}
_V3_RAW = _V3_DERIVED | {
    "principalInvestigator": "text",
    "creationLocation": "text",
    "startTime": "date",
    "endTime": "date",
    "dataFormat": "text",
    "sampleId": "text",
    "instrumentId": "text",
}
_REQUIRED = ("ownerGroup", "contactEmail", "sourceFolder", "creationTime", "type", "owner")
_REQUIRED_V4 = (*_REQUIRED, "datasetName")
_REQUIRED_V3 = {
    "raw": (*_REQUIRED, "principalInvestigator", "creationLocation"),
    "derived": (*_REQUIRED, "investigator", "inputDatasets", "usedSoftware"),
}
_PLURAL = {"proposalId": "proposalIds", "sampleId": "sampleIds", "instrumentId": "instrumentIds"}
_COUNTED = ("size", "numberOfFiles", "packedSize", "numberOfFilesArchived")

_BLOCK = {"size": "int", "dataFileList": "objects", "chkAlg": "algorithm", "isPublished": "bool"}
_BLOCK_OWN = _BLOCK | {
    "datasetId": "text",
    "ownerGroup": "text",
    "accessGroups": "texts",
    "instrumentGroup": "text",
}
_FILE = {"path": "name", "size": "int", "time": "date"} | dict.fromkeys(
    ("chk", "uid", "gid", "perm", "type", "createdBy", "updatedBy", "createdAt", "updatedAt"), "text"
)
_ATTACHMENT = {
    "caption": "text",
    "ownerGroup": "text",
    "thumbnail": "thumbnail",
    "accessGroups": "texts",
    "instrumentGroup": "text",
    "isPublished": "bool",
    "datasetId": "text",
    "sampleId": "text",
    "proposalId": "text",
    "id": "text",
    "aid": "text",
    "relationships": "objects",
}


def instant(text: object) -> str | None:
    """A time as the catalogue keeps it: UTC, milliseconds, Z; None for what is no time. Naive means UTC."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    except (ValueError, OverflowError):
        return None


def now() -> str:
    """The present moment as the catalogue keeps it."""
    return instant(datetime.now(UTC).isoformat()) or ""


# --- datasets ---------------------------------------------------------------------------------------------


def new_dataset(body: object, version: int, username: str, prefix: str) -> Document:
    """Check what a client posts and complete it to a stored dataset; raises `Problem` 400."""
    given = _mapping(body)
    kind = given.get("type")
    if version == 3 and kind in ("raw", "derived"):
        fields, required = (_V3_RAW if kind == "raw" else _V3_DERIVED), _REQUIRED_V3[kind]
    else:
        fields, required = _V4, _REQUIRED_V4
    checked = _plural(_checked(given, fields, required))
    folder = checked["sourceFolder"].rstrip("/") or "/"
    pid = checked.get("pid") or f"{prefix}/{uuid.uuid4()}"
    moment = now()
    texts = [name for name, kind in _V4.items() if kind in ("texts", "objects")]
    return {
        **{name: [] for name in texts},
        **dict.fromkeys(_COUNTED, 0),
        "isPublished": False,
        "scientificMetadata": {},
        "datasetName": "/".join(folder.split("/")[-2:]).strip("/"),
        "classification": "IN=medium,AV=low,CO=low",
        **checked,
        "pid": pid,
        "_id": pid,
        "sourceFolder": folder,
        "version": str(version),
        "createdBy": username,
        "updatedBy": username,
        "createdAt": moment,
        "updatedAt": moment,
    }


def changes(body: object, stored: Document, version: int) -> Document:
    """Check a partial dataset, and return the fields to change; raises `Problem` 400.

    Clients send whole models: `type` and `pid` are dropped where they say what is stored, and so are sizes and
    counts where the file lists have them.
    """
    given = dict(_mapping(body))
    for name in ("type", "pid"):
        if given.get(name) == stored[name]:
            del given[name]
        elif name in given:
            raise Problem(400, [f"property {name} should not exist"])
    if stored["numberOfFiles"]:
        given = {name: value for name, value in given.items() if name not in _COUNTED}
    v3 = _V3_DERIVED if stored["type"] == "derived" else _V3_RAW
    return _plural(_checked(given, v3 if version == 3 else _V4, ()))


def as_v3(document: Document) -> Document:
    """A stored dataset as v3 shows it: with the singular names beside the plural ones."""
    singular = {one: document[many][0] for one, many in _PLURAL.items() if document.get(many)}
    investigators = document.get("principalInvestigators")
    if investigators:
        singular["principalInvestigator"] = investigators[0]
        if document.get("type") == "derived":
            singular["investigator"] = investigators[0]
    return {**document, **singular}


def merged(target: Any, patch: Any) -> Any:
    """JSON merge patch: objects merge in depth, null deletes, all else replaces (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def _plural(checked: Document) -> Document:
    """Singular names of v3 as the stored plural ones; never a list of null."""
    result = {name: value for name, value in checked.items() if name != "version"}
    for one, many in _PLURAL.items():
        if value := result.pop(one, None):
            result[many] = [value]
    investigators = [result.pop(name, None) for name in ("principalInvestigator", "investigator")]
    if any(investigators):
        result["principalInvestigators"] = [next(filter(None, investigators))]
    return result


# --- file lists and pictures --------------------------------------------------------------------------------


def new_block(body: object, username: str, *, nested: bool) -> Document:
    """Check a posted origdatablock; `nested`: the route names the dataset, the body must not."""
    required = ("size", "dataFileList") if nested else ("size", "dataFileList", "datasetId")
    block = _checked(_mapping(body), _BLOCK if nested else _BLOCK_OWN, required)
    files = block["dataFileList"]
    if not files:
        raise Problem(400, ["dataFileList should not be empty"])
    block["dataFileList"] = [
        {"time": now()} | _checked(file, _FILE, ("path", "size"), f"dataFileList.{index}.")
        for index, file in enumerate(files)
    ]
    return _owned(block, username) | {"version": "3" if nested else "4"}


def block_fingerprint(block: Document) -> str:
    """Equal for lists of the same files with the same sizes and checksums."""
    files = [(file["path"], file["size"], file.get("chk")) for file in block["dataFileList"]]
    return hashlib.blake2b(msgspec.json.encode([block["size"], files]), digest_size=16).hexdigest()


def new_attachment(body: object, username: str, dataset: str | None = None) -> Document:
    """Check a posted attachment; `dataset`: the one that the route names, if it names one."""
    attachment = _checked(_mapping(body), _ATTACHMENT, ("caption", "ownerGroup"))
    relations = attachment.get("relationships") or []
    related = (item.get("targetId") for item in relations if item.get("targetType") == "dataset")
    target = dataset or attachment.get("datasetId") or next(related, None)
    if not isinstance(target, str):
        raise Problem(400, ["an attachment must name a dataset in its relationships"])
    relation = {"targetId": target, "targetType": "dataset", "relationType": "is attached to"}
    made = _owned(attachment, username)
    made["aid"] = made["id"] = made["_id"] = attachment.get("aid") or made["_id"]
    return made | {"datasetId": target, "relationships": relations or [relation]}


def attachment_fingerprint(attachment: Document) -> str:
    """Equal for the same picture under the same caption."""
    subject = [attachment["caption"], attachment.get("thumbnail")]
    return hashlib.blake2b(msgspec.json.encode(subject), digest_size=16).hexdigest()


def _owned(document: Document, username: str) -> Document:
    moment, identifier = now(), str(uuid.uuid4())
    return {
        "isPublished": False,
        "accessGroups": [],
        **document,
        "_id": identifier,
        "id": identifier,
        "createdBy": username,
        "updatedBy": username,
        "createdAt": moment,
        "updatedAt": moment,
    }


# --- checking ---------------------------------------------------------------------------------------------


def _mapping(body: object) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise Problem(400, ["the body must be a JSON object"])
    return body


def _texts(value: Any) -> list[str] | None:
    fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return value if fits else None


def _objects(value: Any) -> list[Any] | None:
    fits = isinstance(value, list) and all(isinstance(item, dict) for item in value)
    return value if fits else None


def _natural(value: Any) -> int | None:
    fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**53
    return int(value) if fits and value == int(value) else None


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _emails(value: Any) -> str | None:
    fits = isinstance(value, str) and all(_EMAIL.fullmatch(part.strip()) for part in value.split(";"))
    return value if fits else None


_KINDS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "text": (_text, "must be a string"),
    "name": (lambda v: _text(v) or None, "must be a string and should not be empty"),
    "texts": (_texts, "each value must be a string"),
    "int": (_natural, "must be an integer number"),
    "number": (_number, "must be a number"),
    "bool": (lambda v: v if isinstance(v, bool) else None, "must be a boolean value"),
    "object": (lambda v: v if isinstance(v, dict) else None, "must be an object"),
    "objects": (_objects, "must be an array of objects"),
    "date": (instant, "must be a valid ISO 8601 date string"),
    "email": (lambda v: v if isinstance(v, str) and _EMAIL.fullmatch(v) else None, "must be an email"),
    "emails": (_emails, "must be an email, or several separated by ';'"),
    "thumbnail": (
        lambda v: v if isinstance(v, str) and _THUMBNAIL.fullmatch(v) else None,
        "must be data:image/(png|jpeg|gif|webp);base64,...",
    ),
    "algorithm": (lambda v: str(v) if isinstance(v, str | int) and v != "" else None, "must be a string"),
}
"""Kind of a field: what makes a value of it (None: it is not one), and what the client is told."""


def _checked(
    given: Mapping[str, Any], fields: Mapping[str, str], required: tuple[str, ...], prefix: str = ""
) -> Document:
    """The given fields, each of its kind, nulls left out; raises `Problem` 400 with everything that is wrong."""
    wrong = [f"property {prefix}{name} should not exist" for name in given if name not in fields]
    checked: Document = {}
    for name, kind in fields.items():
        value = given.get(name)
        if value is None:
            if name in required:
                wrong.append(f"{prefix}{name} {_KINDS[kind][1]}")
            continue
        accept, complaint = _KINDS[kind]
        checked[name] = accept(value)
        if checked[name] is None:
            wrong.append(f"{prefix}{name} {complaint}")
    if wrong:
        raise Problem(400, wrong)
    return checked
