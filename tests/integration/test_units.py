"""The systemd units, as systemd itself reads them."""

import re
import subprocess
from pathlib import Path

import needs
import pytest

UNITS = Path(__file__).parents[2] / "units"
SERVICES = ["srctd.service", "srctd-worker@0.service"]
EXPOSURE_LIMIT = 20
"""Tenths; systemd calls less than 2.0 `OK`, and 9.6, a service without any protection, `UNSAFE`."""


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with programs that exist."""
    for unit in (*UNITS.glob("*.service"), *UNITS.glob("*.target")):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE)
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [needs.program("systemd-analyze"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_systemd_has_nothing_to_say_against_them(units: Path) -> None:
    """`verify` returns 0 for unknown keys, too: what counts is that it is silent."""
    result = analyze(units, "verify", "./srctd.target", *(f"./{name}" for name in SERVICES))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_verify_would_say_something(units: Path) -> None:
    unit = units / "srctd.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "Unknown key" in analyze(units, "verify", "./srctd.service").stderr


@pytest.mark.parametrize("service", SERVICES)
def test_they_are_hardened(units: Path, service: str) -> None:
    result = analyze(units, "security", "--offline=true", f"--threshold={EXPOSURE_LIMIT}", f"./{service}")
    assert result.returncode == 0, result.stdout[-2000:]


def test_the_user_is_understood(tmp_path: Path) -> None:
    command = [needs.program("systemd-sysusers"), "--dry-run", f"--root={tmp_path}", UNITS / "srctd.sysusers"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "Creating user 'srctd'" in result.stdout + result.stderr


def test_the_folder_is_understood(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nsrctd:x:990:990::/:/bin/sh\n")
    (tmp_path / "etc" / "group").write_text("root:x:0:\nsrctd:x:990:\n")
    command = [needs.program("systemd-tmpfiles"), "--clean", f"--root={tmp_path}", UNITS / "srctd.tmpfiles"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
