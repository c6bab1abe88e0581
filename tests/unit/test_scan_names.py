"""What scans and their task directories are called."""

import pytest

from srctd.core.scan import LONGEST_NAME, scan_id, task_name


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("/d/bone.nxs", "bone"),
        ("/d/bone.b.h5", "bone.b"),
        ("/d/steps_0.5mm", "steps_0.5mm"),
        ("/d/0.5N", "0.5N"),
        ("/d/Knöchel links", "Knöchel_links"),
        ("/d/.h5", "h5"),
    ],
)
def test_a_task_is_called_by_its_input_and_when_it_was_complete(path, word):
    assert task_name(path, 0.0) == f"{word}_19700101T000000Z"


def test_an_identifier_has_the_word_and_a_digest_of_the_whole_path():
    first, second = scan_id("/d/0.5mm", 1), scan_id("/d/0.7mm", 1)
    assert first.startswith("0_5mm-")
    assert second.startswith("0_7mm-")
    assert first[-8:] != second[-8:] != scan_id("/d/0.7mm", 2)[-8:]


@pytest.mark.parametrize("letter", ["n", "ü", "微"])
def test_a_long_name_is_cut_so_that_a_directory_can_bear_it(letter):
    name = task_name(f"/d/{letter * 240}.nxs", 0.0)
    assert len(f".{name}-12-m000.part-12".encode()) < 255
    assert name.startswith(letter * (LONGEST_NAME // 4))
