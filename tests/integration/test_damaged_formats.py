"""Files and folders changed at random, always the same ones: a sentence or an answer, and nobody harmed."""

import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[1] / "bench" / "fuzz_formats.py"


def test_damage_of_any_kind_never_harms_who_looks_at_it():
    command = [sys.executable, str(FUZZ), "--seconds", "10"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum(int(line.split()[0]) for line in done.stdout.splitlines() if ": " in line) > 50
