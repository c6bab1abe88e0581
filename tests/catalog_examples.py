"""A small scan and its reconstruction, as the catalogue is told of them."""

import base64

from factories import a_header, a_scan

from srctd.core.datasets import Acquisition, Picture, Reconstruction, Site
from srctd.core.messages import Measure, PreviewResult
from srctd.core.recipe import DEFAULT_RECIPE, Origin, Parameter, ParameterFile, resolve
from srctd.core.scan import FileEntry, Manifest, Owner, Quantity, ScanHeader, Volume

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
DATA_URI = "data:image/png;base64," + base64.b64encode(PNG).decode()
COMPLETED_AT = 1_764_000_000.0


def site(**changes: object) -> Site:
    given = {
        "pid_prefix": "20.500.1",
        "beamline": "BL13HB",
        "access_groups": ("ingestor",),
        "software": "srctd 0.1",
    }
    return Site(**(given | changes))  # type: ignore[arg-type]


def header(**changes: object) -> ScanHeader:
    told = {
        "title": "A tooth <in> resin & air",
        "sample": "tooth",
        "energy": Quantity(value=20.0, unit="keV", origin="entry/beam/energy"),
        "start_time": "2026-01-05T10:00:00+01:00",
        "end_time": "2026-01-05T10:05:00",
    }
    return a_header(**(told | changes))


def manifest(
    folder: str = "/shared/p1/tooth_20260105/input", files: int = 2, digest: bool = True
) -> Manifest:
    return Manifest(
        folder=folder,
        files=tuple(
            FileEntry(
                path=f"tooth_{i:05}.h5",
                size=1000 + i,
                mtime_ns=1_764_000_000_123_456_789 + i,
                digest=f"{i:032x}" if digest else "",
            )
            for i in range(files)
        ),
    )


def acquisition(
    scan_id: str = "tooth-12345678", files: Manifest | None = None, **changes: object
) -> Acquisition:
    listed = files or manifest()
    owner = Owner(
        account="p1", owner="Ada L.", owner_group="p1", access_groups=("p1", "staff"), email="ada@site.org"
    )
    scan = a_scan(id=scan_id, completed_at=COMPLETED_AT)
    given: dict[str, object] = {"scan": scan, "header": header(), "manifest": listed, "owner": owner}
    return Acquisition(**(given | changes))  # type: ignore[arg-type]


def reconstruction(center: float = 31.25, measures: tuple[Measure, ...] = ()) -> Reconstruction:
    found = Parameter(value=center, unit="pixel", origin=Origin.ESTIMATED, source="two estimators")
    return Reconstruction(
        parameters=ParameterFile(
            scan="tooth-12345678",
            input="/shared/p1/tooth_20260105/input/tooth_00000.h5",
            input_in_place=False,
            format="nxtomo",
            entry="entry",
            recipe="built-in",
            parameters=resolve(header(), DEFAULT_RECIPE, {}) | {"center": found},
            center_confidence=0.9,
        ),
        preview=PreviewResult(
            center=center,
            center_confidence=0.9,
            estimates=(),
            measures=measures,
            pictures=("orthogonal.png",),
            volume_shape=(32, 64, 64),
            unit="1/pixel",
            n_angles=180,
        ),
        volume=Volume(
            path="output/volume.h5",
            shape=(32, 64, 64),
            dtype="float32",
            unit="1/pixel",
            digest="ab" * 16,
            size=524_288,
        ),
        files=Manifest(
            folder="/shared/p1/tooth_20260105/output",
            files=(
                FileEntry(
                    path="volume.h5", size=524_288, mtime_ns=1_764_000_100_000_000_000, digest="ab" * 16
                ),
            ),
        ),
        finished_at=COMPLETED_AT + 100,
        pictures=(
            Picture(caption="orthogonal slices", data_uri=DATA_URI),
            Picture(caption="slices around the axis", data_uri=DATA_URI),
        ),
    )
