"""Measured scans of four kinds, with what is wrong in them; they lie outside the project."""

from pathlib import Path

import numpy as np
import pytest

from srctd.core.completion import Rule, State, judge
from srctd.core.errors import ScanUnreadable
from srctd.formats import open_scan, probe


def line_integrals(scan, row):
    """Flat-corrected, log-transformed projections of one row, shape (n_angles, n_columns)."""
    dark = scan.read("darks", slice(row, row + 1)).mean(axis=0)
    flat = scan.read("flats", slice(row, row + 1)).mean(axis=0)
    counts = scan.read("projections", slice(row, row + 1))
    return -np.log((counts - dark) / (flat - dark))[:, 0]


def test_tooth(data):
    path = str(data / "tooth_aps/tooth.h5")
    seen = probe(path)
    assert (seen.frames_found, seen.expectations, seen.end_marks) == (201, (), ())
    assert (
        judge(seen, 20.0, Rule()).state is State.ARRIVING
    )  # nothing announces frames, nothing marks the end
    assert judge(seen, 70.0, Rule()).state is State.COMPLETE
    assert seen.coverage.hole_deg == pytest.approx(1.0, abs=0.01)
    with open_scan(path) as scan:
        header = scan.header
        assert (header.format, header.sample, header.dtype) == ("dataexchange", "Tooth", "float32")
        assert (header.n_projections, header.n_flats, header.n_darks) == (181, 10, 10)
        assert (header.n_rows, header.n_columns) == (2, 640)
        assert header.pixel_size is None
        assert header.energy is None
        np.testing.assert_allclose(scan.angles(), np.load(data / "tooth_aps/ref/row0_theta_rad.npy"))
        np.testing.assert_allclose(
            line_integrals(scan, 0), np.load(data / "tooth_aps/ref/row0_sino.npy"), atol=1e-4
        )


def test_diamond_i13(data):
    path = str(data / "savu_24737/24737_repack.nxs")
    assert judge(probe(path), 70.0, Rule()).state is State.COMPLETE
    with open_scan(path) as scan:
        header = scan.header
        assert (header.format, header.entry, header.instrument) == ("nxtomo", "/entry1/tomo_entry", "i13")
        assert (header.n_projections, header.n_flats, header.n_darks) == (91, 1, 1)
        assert header.angle_first_deg == pytest.approx(-88.2)
        assert header.angle_last_deg == pytest.approx(91.8, abs=1e-3)
        # the reference leaves out the last frame, which is 180 degrees from the first
        np.testing.assert_allclose(scan.angles()[:90], np.load(data / "savu_24737/ref/row090_theta_rad.npy"))
        np.testing.assert_allclose(
            line_integrals(scan, 90)[:90], np.load(data / "savu_24737/ref/row090_sino.npy"), atol=1e-3
        )


def test_k11_frames_and_image_keys_without_an_nxtomo_entry(data):
    path = str(data / "k11_18014/k11-18014.nxs")
    seen = probe(path)
    assert judge(seen, 20.0, Rule()).state is State.COMPLETE
    assert seen.end_marks[0].text == "/entry/end_time = 2022-10-15T13:51:18.264"
    assert seen.open_for_writing is False
    with open_scan(path) as scan:
        header = scan.header
        assert (header.format, header.instrument) == ("nexus", "k11")
        assert (header.n_projections, header.n_flats, header.n_darks) == (3001, 100, 100)
        assert (header.n_rows, header.n_columns) == (22, 26)
        assert {Path(name).name for name in header.references} == {
            "k11-18014-imaging.h5",
            "k11-18014-pcompPanda.h5",
        }
        assert scan.read("darks", slice(None)).mean() < 200
        assert scan.read("flats", slice(None)).mean() > scan.read("projections", slice(None)).mean()
        assert np.degrees(np.ptp(scan.angles())) == pytest.approx(180, abs=0.1)


def test_the_pieces_of_a_scan_are_no_scans(data):
    for name in ("k11-18014-imaging.h5", "k11-18014-pcompPanda.h5"):
        assert probe(str(data / "k11_18014/k11-18014" / name)).foreign


@pytest.mark.parametrize(
    ("name", "lost"),
    [("24888.nxs", "/dls/i13/data/2014/mt9396-1/raw/pco1-24888.hdf"), ("112482.nxs", "pco1-112482.hdf")],
)
def test_metadata_without_pixels_is_refused_naming_the_missing_file(data, name, lost):
    path = str(data / "nxtomo_metadata" / name)
    with pytest.raises(ScanUnreadable) as caught:
        open_scan(path)
    sentence = str(caught.value)
    assert sentence.endswith(f"{lost}, which does not exist")
    seen = probe(path)
    assert seen.missing == (sentence,)
    assert judge(seen, 20.0, Rule()).state is State.ARRIVING
    assert judge(seen, 1000.0, Rule()).state is State.STALLED
