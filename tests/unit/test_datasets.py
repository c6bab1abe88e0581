"""Catalogue documents: deterministic, within SciCat's rules, honest about what is unknown."""

import json
import re
from collections.abc import Iterator

import msgspec
import pytest
from catalog_examples import COMPLETED_AT, DATA_URI, acquisition, header, manifest, reconstruction, site
from factories import a_scan

from srctd.core.datasets import (
    BLOCK_BYTES,
    BLOCK_FILES,
    MARKER,
    CatalogObject,
    derived_documents,
    derived_pid,
    raw_documents,
    raw_pid,
    record,
)
from srctd.core.messages import Measure
from srctd.core.scan import FileEntry, Manifest, Owner, Quantity, Series, Shortfall


def body(item: CatalogObject) -> dict:
    return json.loads(bytes(item.body))


def raw_dataset(**changes: object) -> dict:
    return body(raw_documents(site(), acquisition(**changes))[0])


def derived_dataset(**changes: object) -> dict:
    return body(derived_documents(site(), acquisition(), reconstruction(**changes))[0])


def test_identifiers_are_functions_of_what_they_name() -> None:
    assert raw_pid("x", "bl", "scan") == raw_pid("x", "bl", "scan")
    assert len({raw_pid("x", "bl", "scan"), raw_pid("x", "bls", "can"), raw_pid("x", "bl", "scan2")}) == 3
    assert re.fullmatch(r"20\.500/[0-9a-f-]{36}", raw_pid("20.500", "scan"))
    assert derived_pid("x", "x/1", "d") != derived_pid("x", "x/1", "e")


def test_identifiers_stay_the_same_from_version_to_version() -> None:
    assert raw_pid("x", "scan") == "x/00577c12-7475-538f-846c-81d212fa6211"
    assert derived_pid("x", "x/1", "d") == "x/eb12289d-86e8-5e06-b46b-3f23c7c2ba6a"


def test_the_same_scan_gives_the_same_objects() -> None:
    assert raw_documents(site(), acquisition()) == raw_documents(site(), acquisition())
    made = [derived_documents(site(), acquisition(), reconstruction()) for _ in range(2)]
    assert made[0] == made[1]


def test_keys_name_every_object_once_in_the_order_of_posting() -> None:
    objects = (
        *raw_documents(site(), acquisition()),
        *derived_documents(site(), acquisition(), reconstruction()),
    )
    digest = reconstruction().parameters.digest()
    assert [item.key for item in objects] == [
        "raw/dataset",
        "raw/block/0",
        f"derived/{digest}/dataset",
        f"derived/{digest}/block/0",
        f"derived/{digest}/attachment/0",
        f"derived/{digest}/attachment/1",
    ]


def test_an_object_survives_the_outbox() -> None:
    item = raw_documents(site(), acquisition())[0]
    assert msgspec.json.decode(msgspec.json.encode(item), type=CatalogObject) == item


def test_other_content_at_the_same_path_is_another_dataset() -> None:
    same, other = manifest(), manifest(files=3)
    assert raw_dataset(files=same)["pid"] == raw_dataset()["pid"]
    assert raw_dataset(files=other)["pid"] != raw_dataset()["pid"]


def test_the_derived_dataset_names_the_raw_one_and_changes_with_its_parameters() -> None:
    derived = derived_dataset()
    assert derived["inputDatasets"] == [raw_dataset()["pid"]]
    assert derived_dataset(center=31.5)["pid"] != derived["pid"]


def test_a_raw_dataset_is_what_v4_demands() -> None:
    dataset = raw_dataset()
    for name in (
        "ownerGroup",
        "contactEmail",
        "sourceFolder",
        "creationTime",
        "datasetName",
        "type",
        "owner",
    ):
        assert dataset[name]
    assert dataset["sourceFolder"] == "/shared/p1/tooth_20260105/input"
    assert dataset["creationTime"] == "2025-11-24T16:00:00.123Z"
    assert dataset["datasetName"] == "tooth"
    assert dataset["accessGroups"] == ["p1", "staff", "ingestor"]


@pytest.mark.parametrize("dataset", [raw_dataset(), derived_dataset()], ids=["raw", "derived"])
def test_what_scicat_would_count_twice_or_refuse_is_left_out(dataset: dict) -> None:
    forbidden = {
        "size",
        "numberOfFiles",
        "packedSize",
        "relationships",
        "sourceFolderHost",
        "version",
        "proposalId",
    }
    assert not forbidden & dataset.keys()
    assert None not in dataset.values()


@pytest.mark.parametrize("dataset", [raw_dataset(), derived_dataset()], ids=["raw", "derived"])
def test_scientific_metadata_are_values_with_units_under_plain_keys(dataset: dict) -> None:
    metadata = dataset["scientificMetadata"]
    assert metadata[MARKER]["value"] == dataset["pid"].split("/")[1]
    assert metadata["energy"] == {"value": 20.0, "unit": "keV"}
    for key, entry in metadata.items():
        assert re.fullmatch(r"[A-Za-z0-9_]+", key)
        assert entry.keys() == {"value", "unit"}
        assert entry["value"] is not None


def test_what_is_unknown_is_left_out_and_not_null() -> None:
    metadata = raw_dataset(header=header(energy=None, sample="", angle_first_deg=float("nan")))[
        "scientificMetadata"
    ]
    assert not {"energy", "sample", "angle_first", "pixel_size", "notes"} & metadata.keys()


def test_a_measure_that_is_no_number_is_left_out_and_its_name_made_a_plain_key() -> None:
    measures = (Measure(name="a.b c", value=1.5, unit="px"), Measure(name="lost", value=float("inf")))
    metadata = derived_dataset(measures=measures)["scientificMetadata"]
    assert metadata["quality_a_b_c"] == {"value": 1.5, "unit": "px"}
    assert "quality_lost" not in metadata


def test_a_time_without_its_zone_is_told_as_text_only() -> None:
    dataset = raw_dataset()
    assert dataset["startTime"] == "2026-01-05T09:00:00.000Z"
    assert "endTime" not in dataset
    assert dataset["scientificMetadata"]["end_time"]["value"] == "2026-01-05T10:05:00"


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-13-01T00:00:00Z"])
def test_rubbish_is_no_time(text: str | None) -> None:
    assert "startTime" not in raw_dataset(header=header(start_time=text))


@pytest.mark.parametrize(
    ("owner_email", "site_email", "contact"),
    [
        ("ada@site.org", "desk@site.org", "ada@site.org"),
        ("ada@site.org;eve@site.org", "desk@site.org", "desk@site.org"),
        ("ada@localhost", "", "unknown@example.com"),
        ("", "no address", "unknown@example.com"),
    ],
)
def test_the_contact_is_one_valid_address(owner_email: str, site_email: str, contact: str) -> None:
    owner = Owner(account="a", owner="o", owner_group="g", email=owner_email)
    dataset = body(raw_documents(site(contact_email=site_email), acquisition(owner=owner))[0])
    assert dataset["contactEmail"] == contact
    assert dataset.get("ownerEmail", contact) == contact


def test_every_parameter_is_there_with_its_unit_and_origin() -> None:
    parameters = derived_dataset()["jobParameters"]["parameters"]
    assert parameters["center"] == {
        "value": 31.25,
        "unit": "pixel",
        "origin": "estimated",
        "source": "two estimators",
    }
    assert parameters["energy"]["origin"] == "file"
    assert parameters.keys() == reconstruction().parameters.parameters.keys()


def test_a_file_list_has_sizes_times_and_checksums() -> None:
    block = body(raw_documents(site(), acquisition())[1])
    assert block["size"] == 2001
    assert block["chkAlg"] == "xxh3-128"
    assert block["dataFileList"][1] == {
        "path": "tooth_00001.h5",
        "size": 1001,
        "time": "2025-11-24T16:00:00.123Z",
        "chk": f"{1:032x}",
    }


def test_without_digests_no_algorithm_is_claimed() -> None:
    block = body(raw_documents(site(), acquisition(files=manifest(digest=False)))[1])
    assert "chkAlg" not in block
    assert "chk" not in block["dataFileList"][0]


def blocks_of(files: Manifest) -> Iterator[dict]:
    return (
        body(item) for item in raw_documents(site(), acquisition(files=files)) if item.kind == "origdatablock"
    )


def test_many_files_are_split_into_lists_that_miss_and_repeat_none() -> None:
    files = manifest(files=BLOCK_FILES + 7)
    blocks = list(blocks_of(files))
    paths = [file["path"] for block in blocks for file in block["dataFileList"]]
    assert [len(block["dataFileList"]) for block in blocks] == [BLOCK_FILES, 7]
    assert paths == [file.path for file in files.files]
    assert sum(block["size"] for block in blocks) == files.size


def test_long_names_keep_a_list_below_its_bytes() -> None:
    long = tuple(FileEntry(path=f"{i:05}" + "n" * 4000, size=1, mtime_ns=0) for i in range(1200))
    blocks = list(blocks_of(Manifest(folder="/f", files=long)))
    assert len(blocks) == 2
    assert all(len(json.dumps(block["dataFileList"])) < 1.05 * BLOCK_BYTES for block in blocks)


def test_pictures_follow_with_their_captions() -> None:
    pictures = [
        body(item)
        for item in derived_documents(site(), acquisition(), reconstruction())
        if item.kind == "attachment"
    ]
    assert [picture["caption"] for picture in pictures] == ["orthogonal slices", "slices around the axis"]
    assert pictures[0]["thumbnail"] == DATA_URI
    assert pictures[0]["ownerGroup"] == "p1"
    assert "isPublished" not in pictures[0]


def test_the_record_has_three_sections_and_the_same_bytes_each_time() -> None:
    text = record(site(), acquisition(), reconstruction())
    assert text == record(site(), acquisition(), reconstruction())
    sections = json.loads(text)
    assert list(sections) == ["Scientific_metadata", "dataset", "General"]
    assert sections["dataset"]["raw"]["pid"] == raw_dataset()["pid"]
    assert sections["dataset"]["raw_files"][0]["chk"]
    assert sections["Scientific_metadata"]["derived"]["center"] == {"value": 31.25, "unit": "pixel"}
    assert sections["General"]["scan"] == "tooth-12345678"


LACKING = Shortfall(reason="150 of 180 projections are there", expected=180, gaps=((3, 3), (151, 179)))


def partial() -> dict[str, object]:
    verdict = msgspec.Raw(b'{"state":"INCOMPLETE_USABLE","reason":"r","evidence":[]}')
    return {
        "scan": a_scan(id="tooth-12345678", completed_at=COMPLETED_AT, verdict=verdict),
        "header": header(n_projections=150, shortfall=LACKING),
    }


def test_an_incomplete_scan_is_labeled_in_both_datasets() -> None:
    derived = body(derived_documents(site(), acquisition(**partial()), reconstruction())[0])
    for dataset in (raw_dataset(**partial()), derived):
        assert "incomplete" in dataset["keywords"]
        found = {name: entry["value"] for name, entry in dataset["scientificMetadata"].items()}
        assert found["incomplete"] is True
        assert found["incomplete_because"] == LACKING.reason
        assert (found["n_projections_expected"], found["n_projections_missing"]) == (180, 30)
        assert found["missing_projections"] == "3, 151-179"
    assert "incomplete" not in raw_dataset()["keywords"]
    assert "incomplete" not in raw_dataset()["scientificMetadata"]


def test_the_record_says_whether_the_scan_is_whole_and_by_which_verdict() -> None:
    general = json.loads(record(site(), acquisition(**partial()), reconstruction()))["General"]
    assert general["complete"] is False
    assert general["shortfall"]["gaps"] == [[3, 3], [151, 179]]
    assert general["verdict"]["state"] == "INCOMPLETE_USABLE"
    whole = json.loads(record(site(), acquisition(), reconstruction()))["General"]
    assert whole["complete"] is True
    assert None not in whole.values()
    assert not {"shortfall", "series", "positions", "verdict"} & whole.keys()


def test_place_layout_and_unknown_entries_are_told() -> None:
    told = header(
        layout="tomcat",
        series=Series(name="d/fatigue", member=2, members=None, origin="names"),
        positions={"z": Quantity(value=0.01, unit="m", origin="log")},
        unmapped={"Ring [mA]": "401", "Ring (mA)": "402", "Ring_mA_": "", "Ring  mA ": "403"},
    )
    metadata = raw_dataset(header=told)["scientificMetadata"]
    assert metadata["layout"]["value"] == "tomcat"
    assert (metadata["series"]["value"], metadata["series_member"]["value"]) == ("d/fatigue", 2)
    assert "series_members" not in metadata
    assert metadata["position_z"] == {"value": 0.01, "unit": "m"}
    rings = {name: entry["value"] for name, entry in metadata.items() if name.startswith("log_")}
    assert rings == {"log_Ring_mA_": "401", "log_Ring_mA__2": "402", "log_Ring_mA__4": "403"}
    general = json.loads(record(site(), acquisition(header=told), reconstruction()))["General"]
    assert general["series"]["member"] == 2
    assert general["positions"]["z"]["unit"] == "m"
