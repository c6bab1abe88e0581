"""From a scan to what the catalogue is told of it: datasets, file lists, pictures, and one JSON record.

Nothing here talks to a catalogue. The same scan gives the same objects, keys and identifiers every time, so an
object can be posted again after any failure without being doubled. The form is what SciCat 4.27 and later take
from every kind of ingest account: the dataset as v4, file lists and pictures as v3 sub-routes of the dataset.

Sizes and file counts are left out on purpose: SciCat adds those of the file lists to whatever was sent.
"""

import itertools
import math
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Literal

import msgspec

from srctd.core import labels
from srctd.core.lifecycle import Scan
from srctd.core.messages import Measure, PreviewResult
from srctd.core.quality import findings
from srctd.core.recipe import ParameterFile
from srctd.core.scan import Manifest, Owner, Quantity, ScanHeader, Volume, utc_text

MARKER = "srctd_id"
"""Key in the scientific metadata by which the daemon knows a dataset as its own."""
CHECKSUM = "xxh3-128"
BLOCK_FILES = 20_000
BLOCK_BYTES = 4_000_000
"""Of one file list as JSON. SciCat stores a list as one document and refuses bodies of 16 MB."""
UNKNOWN_EMAIL = "unknown@example.com"
"""SciCat demands a contact address; this one is reserved for documentation (RFC 2606)."""

_NAMESPACE = uuid.UUID("b54b9ac8-6b2c-5bb0-9a0e-3d6c3f5f5a0e")
_KEY = re.compile(r"[^A-Za-z0-9_]+")
_EMAIL = re.compile(r"[A-Za-z0-9._%+'-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}")


class CatalogObject(msgspec.Struct, frozen=True, kw_only=True):
    """One document for the catalogue, as it waits in the outbox."""

    kind: Literal["dataset", "origdatablock", "attachment"]
    key: str
    """Unique within the scan, the same each time it is built: `raw/dataset`, `derived/<digest>/block/0`..."""
    dataset_pid: str
    body: msgspec.Raw
    """JSON."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """What the configuration says of the place."""

    pid_prefix: str
    beamline: str
    contact_email: str = ""
    """Taken where a scan's owner has no address."""
    access_groups: tuple[str, ...] = ()
    """May read every dataset. Name the ingest account's own group here, or it cannot see what it created."""
    software: str = "srctd"


class Acquisition(msgspec.Struct, frozen=True, kw_only=True):
    """A scan that lies on shared storage."""

    scan: Scan
    header: ScanHeader
    manifest: Manifest
    """Where the files lie for good, with their digests."""
    owner: Owner


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture for the catalogue. Captions differ within a dataset: a picture is recognized by its own."""

    caption: str
    data_uri: str
    """`data:image/png;base64,...`, below 200 kB."""


class Reconstruction(msgspec.Struct, frozen=True, kw_only=True):
    """A finished volume and how it came about."""

    parameters: ParameterFile
    preview: PreviewResult
    volume: Volume
    files: Manifest
    """The output folder, with digests."""
    finished_at: float
    """UTC timestamp."""
    pictures: tuple[Picture, ...] = ()


def raw_pid(prefix: str, *identity: str) -> str:
    """Identifier of a raw dataset: `<prefix>/<uuid>`, a function of everything given."""
    return f"{prefix}/{uuid.uuid5(_NAMESPACE, chr(0).join(('raw', *identity)))}"


def derived_pid(prefix: str, raw: str, parameters_digest: str) -> str:
    """Identifier of what was made of a raw dataset with certain parameters."""
    return f"{prefix}/{uuid.uuid5(_NAMESPACE, chr(0).join(('derived', raw, parameters_digest)))}"


def raw_documents(site: Site, acquired: Acquisition) -> tuple[CatalogObject, ...]:
    """What to post of a scan, in this order: the dataset, then its file lists."""
    return _documents("raw", _raw_dataset(site, acquired), acquired.manifest, ())


def derived_documents(site: Site, acquired: Acquisition, made: Reconstruction) -> tuple[CatalogObject, ...]:
    """What to post of a reconstruction, in this order: the dataset, its file lists, its pictures.

    Other parameters make another dataset, so the keys name the parameters by their digest.
    """
    branch = f"derived/{made.parameters.digest()}"
    return _documents(branch, _derived_dataset(site, acquired, made), made.files, made.pictures)


def record(site: Site, acquired: Acquisition, made: Reconstruction) -> bytes:
    """All metadata of a scan and its volume as one indented JSON text, the same bytes every time.

    The three sections bear the labels of Wang et al., J. Synchrotron Rad. 31 (2024).
    """
    scan, volume = acquired.scan, made.volume
    sections = {
        "Scientific_metadata": {
            "raw": _raw_metadata(site, acquired),
            "derived": _derived_metadata(site, acquired, made),
        },
        "dataset": {
            "raw": _without_metadata(_raw_dataset(site, acquired)),
            "raw_files": list(_listed(acquired.manifest)),
            "derived": _without_metadata(_derived_dataset(site, acquired, made)),
            "derived_files": list(_listed(made.files)),
            "volume": volume,
            "checksum_algorithm": CHECKSUM,
        },
        "General": {
            "scan": scan.id,
            "path": scan.path,
            "revision": scan.revision,
            "task": scan.task,
            "completed_at": utc_text(scan.completed_at),
            "reconstructed_at": utc_text(made.finished_at),
            "beamline": site.beamline,
            "owner": acquired.owner,
            "software": site.software,
            "notes": made.parameters.notes,
            "findings": _findings(made),
            **_state(acquired),
        },
    }
    return msgspec.json.format(msgspec.json.encode(sections), indent=2) + b"\n"


# --- datasets ---------------------------------------------------------------------------------------------


def _raw_identifier(site: Site, acquired: Acquisition) -> str:
    """The files' digests take part: other content at the same path is another dataset."""
    files = [(file.path, file.size, file.digest) for file in acquired.manifest.files]
    scan = acquired.scan.leader or acquired.scan.id
    return raw_pid(site.pid_prefix, site.beamline, scan, msgspec.json.encode(files).decode())


def _derived_identifier(site: Site, acquired: Acquisition, made: Reconstruction) -> str:
    return derived_pid(site.pid_prefix, _raw_identifier(site, acquired), made.parameters.digest())


def _raw_dataset(site: Site, acquired: Acquisition) -> dict[str, object]:
    header, manifest = acquired.header, acquired.manifest
    newest = max(file.mtime_ns for file in manifest.files) / 1e9
    return {
        "pid": _raw_identifier(site, acquired),
        "type": "raw",
        "datasetName": _name(acquired.scan),
        **_common(site, acquired),
        "sourceFolder": manifest.folder,
        "creationTime": utc_text(newest),
        **_times(header),
        "dataFormat": header.format,
        "keywords": ["tomography", *_keywords(header)],
        "scientificMetadata": _raw_metadata(site, acquired),
    }


def _derived_dataset(site: Site, acquired: Acquisition, made: Reconstruction) -> dict[str, object]:
    parameters = made.parameters
    return {
        "pid": _derived_identifier(site, acquired, made),
        "type": "derived",
        "datasetName": f"{_name(acquired.scan)} reconstruction",
        **_common(site, acquired),
        "sourceFolder": made.files.folder,
        "creationTime": utc_text(made.finished_at),
        "inputDatasets": [_raw_identifier(site, acquired)],
        "usedSoftware": [parameters.software or site.software],
        "jobParameters": {
            "recipe": parameters.recipe,
            "input": parameters.input,
            "entry": parameters.entry,
            "digest": parameters.digest(),
            "parameters": parameters.parameters,
        },
        "dataFormat": "hdf5",
        "keywords": ["tomography", "reconstruction", *_keywords(acquired.header)],
        "scientificMetadata": _derived_metadata(site, acquired, made),
    }


def _common(site: Site, acquired: Acquisition) -> dict[str, object]:
    header, owner = acquired.header, acquired.owner
    addresses = (owner.email, header.email, site.contact_email)
    contact = next(filter(_EMAIL.fullmatch, addresses), UNKNOWN_EMAIL)
    proposal = owner.proposal or header.proposal
    fields: dict[str, object] = {
        "owner": owner.owner,
        "ownerGroup": owner.owner_group,
        "accessGroups": list(dict.fromkeys((*owner.access_groups, *site.access_groups))),
        "contactEmail": contact,
        "principalInvestigators": [header.experimenter or owner.owner],
        "creationLocation": site.beamline,
        "isPublished": False,
    }
    if _EMAIL.fullmatch(owner.email):
        fields["ownerEmail"] = owner.email
    if header.title:
        fields["description"] = header.title
    if proposal:
        fields["proposalIds"] = [proposal]
    return fields


def _name(scan: Scan) -> str:
    return scan.path.rsplit("/", 1)[-1].rsplit(".", 1)[0] or scan.id


def _times(header: ScanHeader) -> dict[str, object]:
    """Start and end where the file gives them with their zone; a time without one would be a guess."""
    found = {"startTime": _zoned(header.start_time), "endTime": _zoned(header.end_time)}
    return {name: utc_text(moment) for name, moment in found.items() if moment is not None}


def _zoned(text: str | None) -> float | None:
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return None if moment.tzinfo is None else moment.astimezone(UTC).timestamp()


def _without_metadata(dataset: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in dataset.items() if name != "scientificMetadata"}


# --- scientific metadata: {value, unit}, keys [A-Za-z0-9_], never a null ------------------------------------


_USED = {
    "pixel_size": "pixel_size",
    "energy": "energy",
    "sample_detector_distance": "distance",
    "algorithm": "algorithm",
    "filter": "filter",
    "center": "center",
}
"""Entry of a derived dataset: the parameter it shows. Where the file was silent, a recipe may have known."""


def _raw_metadata(site: Site, acquired: Acquisition) -> dict[str, object]:
    header = acquired.header
    marker = _raw_identifier(site, acquired).rsplit("/", 1)[-1]
    return _entries(
        {
            MARKER: (marker, ""),
            "scan": (acquired.scan.id, ""),
            "beamline": (site.beamline, ""),
            **_physics(header),
            **_place(header),
            **_lacking(header),
            "layout": (header.layout, ""),
            "entry": (header.entry, ""),
            "n_projections": (header.n_projections, ""),
            "n_flats": (header.n_flats, ""),
            "n_darks": (header.n_darks, ""),
            "n_rows": (header.n_rows, "pixel"),
            "n_columns": (header.n_columns, "pixel"),
            "dtype": (header.dtype, ""),
            "angle_first": (header.angle_first_deg, "deg"),
            "angle_last": (header.angle_last_deg, "deg"),
            "start_time": (header.start_time, ""),
            "end_time": (header.end_time, ""),
            "notes": ("; ".join(header.notes), ""),
            **_unmapped(header),
        }
    )


def _derived_metadata(site: Site, acquired: Acquisition, made: Reconstruction) -> dict[str, object]:
    preview, volume, parameters = made.preview, made.volume, made.parameters
    n_slices, n_y, n_x = volume.shape
    marker = _derived_identifier(site, acquired, made).rsplit("/", 1)[-1]
    center = parameters.parameters["center"]
    given = {
        entry: (parameters.parameters[name].value, parameters.parameters[name].unit)
        for entry, name in _USED.items()
    }
    return _entries(
        {
            MARKER: (marker, ""),
            "scan": (acquired.scan.id, ""),
            "beamline": (site.beamline, ""),
            **_physics(acquired.header),
            **_place(acquired.header),
            **_lacking(acquired.header),
            **given,
            "center_origin": (str(center.origin), ""),
            "center_confidence": (parameters.center_confidence, ""),
            "n_angles": (preview.n_angles, ""),
            "n_slices": (n_slices, "pixel"),
            "n_y": (n_y, "pixel"),
            "n_x": (n_x, "pixel"),
            "dtype": (volume.dtype, ""),
            "voxel_values_in": (volume.unit, ""),
            "value_offset": (volume.offset, volume.unit),
            "value_scale": (volume.scale, volume.unit),
            "clipped_fraction": (volume.clipped_fraction, ""),
            **{f"quality_{measure.name}": (measure.value, measure.unit) for measure in preview.measures},
            "notes": ("; ".join(parameters.notes), ""),
        }
    )


def _findings(made: Reconstruction) -> tuple[str, ...]:
    """What is off with raw data or result, in sentences."""
    clipped = Measure(name="clipped_fraction", value=made.volume.clipped_fraction or 0.0)
    return findings((*made.preview.measures, clipped), made.parameters.shortfall)


def _physics(header: ScanHeader) -> dict[str, tuple[object, str]]:
    """What both datasets say of the experiment."""

    def pair(quantity: Quantity | None) -> tuple[object, str]:
        return (quantity.value, quantity.unit) if quantity else (None, "")

    return {
        "sample": (header.sample, ""),
        "instrument": (header.instrument, ""),
        "energy": pair(header.energy),
        "pixel_size": pair(header.pixel_size),
        "sample_detector_distance": pair(header.distance),
        "exposure_time": pair(header.exposure_time),
    }


def _place(header: ScanHeader) -> dict[str, tuple[object, str]]:
    """Where in a series, a mosaic or a stack of heights the scan was taken."""
    series = header.series
    told: dict[str, tuple[object, str]] = {
        f"position_{axis}": (found.value, found.unit) for axis, found in header.positions.items()
    }
    if series is not None:
        told |= {
            "series": (series.name, ""),
            "series_member": (series.member, ""),
            "series_members": (series.members, ""),
            "series_origin": (series.origin, ""),
        }
    return told


def _lacking(header: ScanHeader) -> dict[str, tuple[object, str]]:
    """What an incomplete scan lacks; of a complete one, how many projections were announced."""
    shortfall = header.shortfall
    if shortfall is None:
        return {"n_projections_expected": (header.expected_projections, "")}
    return {
        "incomplete": (True, ""),
        "incomplete_because": (shortfall.reason, ""),
        "n_projections_expected": (shortfall.expected or header.expected_projections, ""),
        "n_projections_missing": (labels.missing_projections(header), ""),
        "missing_projections": (labels.ranges_text(shortfall.gaps), ""),
    }


def _keywords(header: ScanHeader) -> list[str]:
    return [labels.KEYWORD] if header.shortfall else []


def _unmapped(header: ScanHeader) -> dict[str, tuple[object, str]]:
    """What a log says that no table knows, verbatim; two names that differ in signs only stay two."""
    told: dict[str, tuple[object, str]] = {}
    for name, text in header.unmapped.items():
        plain = "log_" + _KEY.sub("_", name)
        numbered = (f"{plain}_{n}" for n in itertools.count(2))
        told[next(key for key in itertools.chain((plain,), numbered) if key not in told)] = (text, "")
    return told


def _state(acquired: Acquisition) -> dict[str, object]:
    """Of the record: whether the scan is whole, by which verdict, and its place in a series; never a null."""
    header = acquired.header
    told: dict[str, object] = {"complete": header.shortfall is None}
    if header.shortfall is not None:
        told["shortfall"] = header.shortfall
    if bytes(acquired.scan.verdict) != b"null":
        told["verdict"] = acquired.scan.verdict
    if header.series is not None:
        told["series"] = header.series
    if header.positions:
        told["positions"] = header.positions
    return told


def _entries(values: Mapping[str, tuple[object, str]]) -> dict[str, object]:
    """`{name: {value, unit}}` of what is known.

    A null at this level stops some SciCat servers, and JSON has no NaN, so both are left out, as is empty text.
    """

    def known(value: object) -> bool:
        return value not in (None, "") and (not isinstance(value, float) or math.isfinite(value))

    return {
        _KEY.sub("_", name): {"value": value, "unit": unit}
        for name, (value, unit) in values.items()
        if known(value)
    }


# --- objects of the outbox --------------------------------------------------------------------------------


def _documents(
    branch: str, dataset: dict[str, object], files: Manifest, pictures: Iterable[Picture]
) -> tuple[CatalogObject, ...]:
    pid = str(dataset["pid"])

    def made(
        kind: Literal["dataset", "origdatablock", "attachment"], key: str, body: object
    ) -> CatalogObject:
        raw = msgspec.Raw(msgspec.json.encode(body))
        return CatalogObject(kind=kind, key=f"{branch}/{key}", dataset_pid=pid, body=raw)

    objects = [made("dataset", "dataset", dataset)]
    objects += [made("origdatablock", f"block/{i}", block) for i, block in enumerate(_blocks(files))]
    for index, picture in enumerate(pictures):
        body = {
            "caption": picture.caption,
            "ownerGroup": dataset["ownerGroup"],
            "accessGroups": dataset["accessGroups"],
            "thumbnail": picture.data_uri,
        }
        objects.append(made("attachment", f"attachment/{index}", body))
    return tuple(objects)


class _File(msgspec.Struct, omit_defaults=True):
    """A file as SciCat lists it."""

    path: str
    size: int
    time: str
    chk: str = ""


class _Block(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A file list as SciCat takes it."""

    size: int
    chkAlg: str = ""  # noqa: N815 - SciCat's name
    dataFileList: list[_File]  # noqa: N815


def _listed(files: Manifest) -> Iterator[_File]:
    for file in files.files:
        yield _File(file.path, file.size, utc_text(file.mtime_ns / 1e9), file.digest)


def _blocks(files: Manifest) -> Iterator[_Block]:
    """File lists of at most `BLOCK_FILES` files and about `BLOCK_BYTES` of JSON."""
    listed: list[_File] = []
    length = 0
    for file in _listed(files):
        added = len(msgspec.json.encode(file)) + 1
        if listed and (len(listed) == BLOCK_FILES or length + added > BLOCK_BYTES):
            yield _block(listed)
            listed, length = [], 0
        listed.append(file)
        length += added
    if listed:
        yield _block(listed)


def _block(listed: list[_File]) -> _Block:
    algorithm = CHECKSUM if any(file.chk for file in listed) else ""
    return _Block(size=sum(file.size for file in listed), chkAlg=algorithm, dataFileList=listed)
