"""Volumes of 16-bit integers: within half a step, what is clipped is counted, wherever the bytes are cut."""

import itertools

import h5py
import msgspec
import numpy as np
import pytest
import xxhash
from factories import a_header
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from gpu import quality
from gpu.volume import DATASET, NAME, ShardWriter, VolumeSpec, encode, ensure, page_aligned, stored
from srctd.core import recipe, voxels
from srctd.core.errors import ConfigError, HoldError
from srctd.core.messages import AxisEstimate, Measure, PreviewResult
from srctd.core.quality import findings
from srctd.core.recipe import DEFAULT_RECIPE, Origin, Parameter, ParameterFile, parse_setting
from srctd.core.voxels import Scaling

BOUNDS = st.floats(-1e6, 1e6, width=32)


def parameters(**overrides: object) -> ParameterFile:
    return recipe.parameter_file(
        a_header(n_rows=9, n_columns=48),
        DEFAULT_RECIPE,
        overrides,
        scan="bead-01",
        input="/data/bead.h5",
        input_in_place=True,
        raw="bead.h5",
        member=0,
        software="srctd 1.2",
    )


def spec(**overrides: object) -> VolumeSpec:
    given = {"output_dtype": "uint16", "output_minimum": -1.0, "output_maximum": 3.0} | overrides
    return VolumeSpec(parameters(**given), a_header(n_rows=9, n_columns=48))


def preview(**changes: object) -> PreviewResult:
    values = {
        "center": 31.5,
        "center_confidence": 0.9,
        "estimates": (AxisEstimate(method="symmetry", center=31.5, score=1.0),),
        "measures": (),
        "pictures": ("orthogonal.png",),
        "volume_shape": (9, 48, 48),
        "unit": "1/m",
        "n_angles": 180,
        "value_range": (-20.0, 120.0),
    }
    return PreviewResult(**{**values, **changes})


# --- values -----------------------------------------------------------------------------------------------


@given(
    values=arrays.arrays(np.float32, st.integers(1, 50), elements=st.floats(-2e6, 2e6, width=32)),
    bounds=st.tuples(BOUNDS, BOUNDS).map(sorted).filter(lambda pair: pair[1] - pair[0] > 1e-3),
)
def test_values_come_back_within_half_a_step_and_the_rest_is_clipped_and_counted(values, bounds) -> None:
    low, high = bounds
    scaling = Scaling(low, (high - low) / voxels.LARGEST)
    stored = np.empty(values.shape, np.uint16)
    clipped = encode(values, scaling, stored)
    back = scaling.offset + scaling.scale * stored.astype(np.float64)
    inside = (values >= low) & (values <= scaling.maximum)
    exact = 1 + 1e-9 * max(abs(low), abs(high)) / scaling.scale  # of double precision
    assert (np.abs(back - values)[inside] <= 0.5 * exact * scaling.scale).all()
    assert clipped == np.count_nonzero(~inside)
    assert (stored[values < low] == 0).all()
    assert (stored[values > high] == voxels.LARGEST).all()


def test_what_is_no_number_is_clipped_too() -> None:
    stored = np.empty(4, np.uint16)
    values = np.array([np.nan, np.inf, -np.inf, 0.5], np.float32)
    assert encode(values, Scaling(0.0, 1 / voxels.LARGEST), stored) == 3
    assert stored.tolist() == [0, 65535, 0, 32768]


def test_a_slice_of_more_than_one_piece() -> None:
    values = np.linspace(0, 1, (1 << 20) + 1000, dtype=np.float32)
    stored = np.empty(values.shape, np.uint16)
    scaling = Scaling(0.0, 1 / voxels.LARGEST)
    assert encode(values, scaling, stored) == 0
    np.testing.assert_array_equal(stored, np.rint(values.astype(float) / scaling.scale))


def test_a_range_holds_what_the_slices_show_but_single_hot_voxels() -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(10, 1, (200, 200)).astype(np.float32) for _ in range(3)]
    images[0][5, 5], images[1][6, 6] = 1e6, np.nan
    low, high = voxels.widened(*quality.span(images))
    assert low < 4.5
    assert 15.5 < high < 30
    assert voxels.widened(*quality.span([np.zeros((4, 4))])) == (-0.5, 0.5)
    assert quality.span([np.full((4, 4), np.nan)]) == (0.0, 0.0)


# --- the file ---------------------------------------------------------------------------------------------


def test_the_file_says_how_to_get_the_values_back(tmp_path) -> None:
    described = spec()
    volume = ensure(tmp_path, described)
    assert volume.row_bytes == 2 * 48 * 48
    rows = page_aligned((9, 48, 48), np.float32)
    rows[:] = np.random.default_rng(0).uniform(-1, 3, rows.shape)
    rows[0, 0, :3] = 5.0, -7.0, np.nan
    with ShardWriter(volume, 0, 9) as writer:
        writer.write(stored(rows[:4], volume.scaling))
        writer.write(stored(rows[4:7], volume.scaling))
        writer.write(stored(rows[7:], volume.scaling))
        result = writer.finish()
    with h5py.File(tmp_path / NAME) as file:
        data = file[DATASET]
        assert (data.dtype, data.shape, data.chunks) == (np.uint16, (9, 48, 48), None)
        integers, scale, offset = data[:], data.attrs["scale_factor"], data.attrs["add_offset"]
        assert data.attrs["units"] == described.unit
    assert (offset, scale) == (-1.0, pytest.approx(4 / 65535))
    error = np.abs(offset + scale * integers.astype(float) - rows)
    error[0, 0, :3] = 0
    assert error.max() <= scale / 2 * (1 + 1e-6)
    assert result.clipped == 3
    assert result.digest == xxhash.xxh3_128(integers.tobytes()).hexdigest()


def test_shards_make_the_same_bytes_as_one(tmp_path) -> None:
    rows = np.random.default_rng(1).normal(1, 1, (9, 48, 48)).astype(np.float32)
    made = []
    for cuts in ((0, 9), (0, 4, 9), (0, 1, 8, 9)):
        folder = tmp_path / str(len(cuts))
        folder.mkdir()
        clipped = 0
        for first, end in itertools.pairwise(cuts):
            with ShardWriter(ensure(folder, spec()), first, end) as writer:
                writer.write(stored(rows[first:end], spec().scaling))
                clipped += writer.finish().clipped
        made.append(((folder / NAME).read_bytes(), clipped))
    assert made[0] == made[1] == made[2]
    assert made[0][1] > 0


def test_a_volume_of_another_type_is_not_written_over(tmp_path) -> None:
    ensure(tmp_path, spec())
    with pytest.raises(HoldError, match=r"holds .* uint16, not the .* float32"):
        ensure(tmp_path, spec(output_dtype="float32"))


def test_a_range_that_is_unknown_or_none_is_refused() -> None:
    with pytest.raises(HoldError, match="range of a 16-bit volume is not known"):
        voxels.scaling(parameters(output_dtype="uint16", output_minimum=1.0))
    with pytest.raises(HoldError, match="output_minimum = 2 is not below output_maximum = 1"):
        voxels.scaling(parameters(output_dtype="uint16", output_minimum=2.0, output_maximum=1.0))
    assert voxels.scaling(parameters()) is None


def test_a_volume_is_half_as_large() -> None:
    header = a_header(n_rows=9, n_columns=48)
    assert voxels.volume_bytes(parameters(), header) == 4 * 9 * 48 * 48
    assert voxels.volume_bytes(parameters(output_dtype="uint16"), header) == 2 * 9 * 48 * 48
    assert voxels.volume_bytes(parameters(first_row=2, end_row=5), header) == 4 * 3 * 48 * 48
    assert voxels.volume_bytes(parameters(first_row=20), header) == 0


# --- parameters -------------------------------------------------------------------------------------------


def test_the_type_is_a_parameter_like_any_other() -> None:
    assert parse_setting("output_dtype=uint16") == ("output_dtype", "uint16")
    with pytest.raises(ConfigError, match="'uint8' is not one of float32, uint16"):
        parse_setting("output_dtype=uint8")


def test_what_a_preview_finds_is_filled_in_where_nobody_gave_it() -> None:
    plain = parameters().with_estimates(preview())
    assert (plain.value("center"), plain.value("output_minimum")) == (31.5, None)
    assert plain.center_confidence == 0.9
    both = parameters(output_dtype="uint16", output_minimum=0.0).with_estimates(preview())
    assert both.parameters["output_minimum"] == Parameter(value=0.0, origin=Origin.OPERATOR)
    assert both.parameters["output_maximum"] == Parameter(
        value=120.0, unit="1/m", origin=Origin.ESTIMATED, source="the preview's slices, widened"
    )
    again = both.without_estimates()
    assert (again.value("center"), again.value("output_maximum")) == (None, None)
    assert again.value("output_minimum") == 0.0
    assert again.with_estimates(preview()) == both


def test_want_of_space_halves_the_volume_and_is_noted() -> None:
    smaller = parameters().in_sixteen_bit("3 GB are free")
    assert smaller.parameters["output_dtype"] == Parameter(
        value="uint16", origin=Origin.SPACE, source="3 GB are free"
    )
    assert smaller.notes[-1] == "the volume is of 16-bit integers: 3 GB are free"
    assert smaller.digest() != parameters().digest()
    for operator in ("float32", "uint16"):
        asked = parameters(output_dtype=operator)
        assert asked.in_sixteen_bit("3 GB are free") == asked, "an operator's word goes before"


def test_what_is_clipped_is_told_from_where_it_matters() -> None:
    (told,) = findings([Measure(name="clipped_fraction", value=0.004)])
    assert told.startswith("0.4 % of the voxels lie outside the range of the 16-bit volume")
    assert findings([Measure(name="clipped_fraction", value=1e-5)]) == ()


def test_an_older_result_without_a_range_is_read() -> None:
    raw = msgspec.json.encode(preview(value_range=None)).replace(b',"value_range":null', b"")
    assert msgspec.json.decode(raw, type=PreviewResult) == preview(value_range=None)
