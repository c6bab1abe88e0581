"""The catalogue for people: two plain pages without scripts, and the pictures on them.

Everything that comes out of a document is escaped; the pages forbid themselves all but their own pictures.
"""

import base64
import binascii
from collections.abc import Iterable
from html import escape
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.responses import Response

from srctd.catalogd.documents import Document
from srctd.catalogd.filters import EVERYTHING, Every, Query, Test
from srctd.catalogd.problem import Problem
from srctd.catalogd.router import Call, Routes
from srctd.catalogd.v3 import existing

PER_PAGE = 50
FILES_SHOWN = 200

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
a { color: #0b5394; text-decoration: none } a:hover { text-decoration: underline }
table { border-collapse: collapse; width: 100% } th { text-align: left; font-weight: 600 }
td, th { border-bottom: 1px solid #ddd; padding: .35rem .6rem; vertical-align: top; overflow-wrap: anywhere }
.list img { height: 64px; width: 160px; object-fit: cover; background: #eee } figure { margin: 0 0 1rem }
figure img { max-width: 100% } .faint { color: #777 } code { font-size: .85em }
"""

routes = Routes()


@routes.add("GET", "/")
def index(call: Call) -> Response:
    """All datasets, the newest first."""
    text = call.one("skip") or "0"
    skip = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    query = Query(order="createdAt", descending=True, limit=PER_PAGE, skip=skip)
    total = call.store.count("dataset", EVERYTHING)
    rows = "".join(_row(call, document) for document in call.store.find("dataset", query))
    pages = ""
    if skip:
        pages += f'<a href="/?skip={max(0, skip - PER_PAGE)}">newer</a> '
    if skip + PER_PAGE < total:
        pages += f'<a href="/?skip={skip + PER_PAGE}">older</a>'
    names = ("", "Dataset", "Type", "Files", "Size", "Group", "Created")
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    table = f'<table class="list">{head}{rows}</table>' if rows else '<p class="faint">No datasets yet.</p>'
    return _page("Catalogue", f"<h1>Catalogue</h1><p>{total} datasets</p>{table}<p>{pages}</p>")


@routes.add("GET", "/datasets/{pid}")
def show(call: Call) -> Response:
    """One dataset: pictures, metadata, files, and what it was made of or into."""
    document = existing(call)
    pid = document["pid"]
    sources = [call.store.get("dataset", source) or {"pid": source} for source in document["inputDatasets"]]
    made_of_it = Query(where=Every((Test(("inputDatasets",), "eq", pid),)), order="createdAt", limit=PER_PAGE)
    sections = [
        f'<p><a href="/">Catalogue</a></p><h1>{escape(str(document["datasetName"]))}</h1>',
        _figures(call, pid),
        _links("Made from", sources),
        _links("Made into", call.store.find("dataset", made_of_it)),
        "<h2>Dataset</h2>" + _table(_general(document)),
        "<h2>Scientific metadata</h2>" + _table(document["scientificMetadata"].items()),
        _parameters(document),
        _files(call.store.of_dataset("origdatablock", pid)),
    ]
    return _page(str(document["datasetName"]), "".join(sections))


@routes.add("GET", "/pictures/{aid}")
def picture(call: Call) -> Response:
    """The bytes of a picture."""
    attachment = call.store.get("attachment", call.parts["aid"]) or {}
    head, _, encoded = str(attachment.get("thumbnail", "")).partition(";base64,")
    try:
        raw = base64.b64decode(encoded)
    except binascii.Error:
        raw = b""
    if not raw:
        raise Problem(404, f"picture: {call.parts['aid']} not found")
    return Response(raw, media_type=head.removeprefix("data:"), headers=_HEADERS)


def _page(title: str, body: str) -> Response:
    text = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )
    return Response(text, media_type="text/html", headers=_HEADERS)


def _row(call: Call, document: Document) -> str:
    pictures = call.store.pictures(document["pid"])
    image = f'<img src="/pictures/{quote(pictures[0][0], safe="")}" alt="">' if pictures else ""
    cells = (
        escape(str(document["type"])),
        str(document["numberOfFiles"]),
        _bytes(document["size"]),
        escape(str(document["ownerGroup"])),
        escape(str(document["creationTime"])),
    )
    others = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><td>{image}</td><td>{_link(document)}</td>{others}</tr>"


def _link(document: Document) -> str:
    pid = str(document["pid"])
    name = escape(str(document.get("datasetName", pid)))
    return f'<a href="/datasets/{quote(pid, safe="")}">{name}</a><br><code class="faint">{escape(pid)}</code>'


def _links(title: str, documents: list[Document]) -> str:
    items = "".join(f"<li>{_link(document)}</li>" for document in documents)
    return f"<h2>{title}</h2><ul>{items}</ul>" if items else ""


def _figures(call: Call, pid: str) -> str:
    return "".join(
        f'<figure><img src="/pictures/{quote(aid, safe="")}" alt=""><figcaption>{escape(str(caption))}'
        "</figcaption></figure>"
        for aid, caption in call.store.pictures(pid)
    )


def _general(document: Document) -> Iterable[tuple[str, Any]]:
    elsewhere = {"_id", "datasetName", "scientificMetadata", "jobParameters", "inputDatasets"}
    for name, value in document.items():
        if name not in elsewhere and value not in (None, "", [], {}):
            yield name, value


def _parameters(document: Document) -> str:
    parameters = document.get("jobParameters") or {}
    nested = parameters.get("parameters")
    flat = {name: value for name, value in parameters.items() if name != "parameters"}
    rows = [*flat.items(), *(nested.items() if isinstance(nested, dict) else ())]
    return "<h2>Parameters</h2>" + _table(rows) if rows else ""


def _files(blocks: list[Document]) -> str:
    files = [file | {"alg": block.get("chkAlg", "")} for block in blocks for file in block["dataFileList"]]
    rows = "".join(
        f"<tr><td>{escape(file['path'])}</td><td>{_bytes(file['size'])}</td><td>{escape(file['time'])}</td>"
        f"<td><code>{escape(file['alg'])} {escape(file.get('chk', ''))}</code></td></tr>"
        for file in files[:FILES_SHOWN]
    )
    rest = len(files) - FILES_SHOWN
    more = f'<p class="faint">and {rest} more</p>' if rest > 0 else ""
    head = "<tr><th>Path</th><th>Size</th><th>Time</th><th>Checksum</th></tr>"
    return f"<h2>Files</h2><table>{head}{rows}</table>{more}" if rows else ""


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{_value(value)}</td></tr>" for name, value in rows)
    return f"<table>{cells}</table>"


def _value(value: Any) -> str:
    """A value; of `{value, unit}` the value with its unit, and where it came from."""
    if isinstance(value, dict) and "value" in value:
        known = value["value"] is not None
        text = f"{_value(value['value'])} {escape(str(value.get('unit') or '')) if known else ''}"
        origin = " ".join(str(value[name]) for name in ("origin", "source") if value.get(name))
        return f'{text} <span class="faint">{escape(origin)}</span>' if origin else text
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return escape(", ".join(value))
    if isinstance(value, dict | list):
        return f"<code>{escape(msgspec.json.encode(value).decode())}</code>"
    return escape("not set" if value is None else str(value))


def _bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.4g} TB"
