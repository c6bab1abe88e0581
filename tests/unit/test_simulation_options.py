import argparse

import pytest

from srctd import cli, simulation
from srctd.core.errors import ConfigError
from srctd.sim import Faults, Hdf5Options, Series, SimulationSpec, TiffOptions
from srctd.sim.writer import FORMATS


def spec_of(*arguments):
    return simulation.specification(cli.parser().parse_args(["simulate", "scan", *arguments]))


def test_without_options_it_is_the_shipped_scan():
    assert spec_of() == SimulationSpec(tilt_deg=0.05, seed=1)


def test_every_option_finds_its_field():
    words = (
        "--rows 8 --columns 24 --angles 6 --format tomcat --angle-start 45 --angle-range 360 --rotations 2 "
        "--flats 3 --flats-every 4 --flats-after 5 --darks 6 --darks-after 7 --return-images 2 --tilt 0.1 --seed 9 "
        "--rate 20 --distinct 3 --presized --pco-stamps --big-endian --bigtiff --pages 2 --parameters ini "
        "--storage virtual --parts 4 --compression zstd --swmr --entries 2 --repeats 2 --places-x 3 --places-z 4 "
        "--step-x 0.001 --step-z 0.002 --abort-after 5 --drop 5,17 --pause-after 3 --pause-seconds 1.5 --burst 4 "
        "--shuffle 6 --arrival renamed --finish-after 2 --late-seconds 0.5 --rewrite"
    )
    assert spec_of(*words.split()) == SimulationSpec(
        rows=8,
        columns=24,
        angles=6,
        format="tomcat",
        angle_start_deg=45.0,
        angle_range_deg=360.0,
        rotations=2,
        flats=3,
        flats_every=4,
        flats_after=5,
        darks=6,
        darks_after=7,
        return_images=2,
        tilt_deg=0.1,
        seed=9,
        frames_per_second=20.0,
        distinct=3,
        presized=True,
        pco_stamps=True,
        parameters="ini",
        tiff=TiffOptions(byte_order="big", bigtiff=True, pages=2),
        hdf5=Hdf5Options(storage="virtual", parts=4, compression="zstd", swmr=True, entries=2),
        series=Series(repeats=2, columns=3, levels=4, step_x=0.001, step_z=0.002),
        faults=Faults(
            abort_after=5,
            drop=(5, 17),
            pause_after=3,
            pause_seconds=1.5,
            burst=4,
            shuffle=6,
            arrival="renamed",
            finish_after=2,
            late_seconds=0.5,
            rewrite=True,
        ),
    )


def test_the_demo_takes_every_format_too():
    assert cli.parser().parse_args(["demo", "--format", "tomcat"]).format == "tomcat"


def test_the_help_names_every_format(capsys):
    with pytest.raises(SystemExit):
        cli.parser().parse_args(["simulate", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ", ".join(FORMATS) in said
    assert "examples:" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "spe"], "invalid choice: 'spe' (choose from 'nxtomo'"),
        (["--drop", "5-17"], "'5-17' is no list of numbers such as 5,17"),
        (["--rows", "0"], "'0' is no positive number"),
        (["--burst", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_values_are_named(capsys, arguments, said):
    with pytest.raises(SystemExit):
        spec_of(*arguments)
    assert said in capsys.readouterr().err


def test_what_cannot_be_written_or_simulated_is_one_sentence(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for output, options, code, said in (
        (tmp_path / "file" / "scan.nxs", [], 1, "cannot be written: "),
        (
            tmp_path / "scan",
            ["--format", "kit", "--swmr"],
            78,
            "the format kit is not simulated with swmr (nxtomo can be)",
        ),
    ):
        with pytest.raises(SystemExit) as exit_:
            cli.main(["simulate", str(output), "--angles", "3", "--rows", "4", "--columns", "16", *options])
        assert exit_.value.code == code
        assert said in capsys.readouterr().err


def test_a_value_of_the_wrong_kind_is_refused():
    options = argparse.Namespace(
        rows=1, columns=1, angles=1, format="nxtomo", **{"spec.faults.arrival": "sideways"}
    )
    with pytest.raises(ConfigError, match="Invalid enum value 'sideways'"):
        simulation.specification(options)
