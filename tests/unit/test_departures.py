"""What is left of a source that is being removed is no new scan, until the listings know that it is gone."""

from srctd.core.scan import FileEntry, Manifest
from srctd.departures import Departures


def a_stack(folder: str = "/d/scan") -> Manifest:
    names = ("log.txt", "tif/1.tif", "tif/2.tif")
    return Manifest(folder=folder, files=tuple(FileEntry(path=name, size=1, mtime_ns=1) for name in names))


def test_the_files_of_a_source_leave_and_no_others() -> None:
    departures = Departures()
    assert not departures.touch(["/d/scan"])
    departures.begin("s", a_stack())
    assert departures.touch(["/d/other", "/d/scan/tif"])
    assert not departures.touch(["/d"])
    assert departures.concern(["/d/scan/tif/2.tif", "/d/scan/tif/3.tif"])
    assert not departures.concern(["/d/scan/tif/3.tif"]), "something else in its folder"


def test_they_are_forgotten_once_the_folders_were_listed_after_the_end() -> None:
    departures = Departures()
    departures.begin("s", a_stack())
    assert departures.over() == frozenset()
    departures.end("s")
    over = departures.over()
    assert departures.folders(over) == {"/d/scan", "/d/scan/tif"}
    assert departures.concern(["/d/scan/log.txt"]), "the last listing may be of before"
    departures.begin("other", a_stack("/d/other"))
    departures.end("other")
    departures.forget(over)
    assert not departures.touch(["/d/scan"])
    assert departures.over() == {"other"}, "it ended while the folders were being listed"
