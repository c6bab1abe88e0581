"""Names that tell what the files and folders of a stack of images are for, as plain data."""

import re

FRAME_SUFFIXES = frozenset({".tif", ".tiff", ".edf", ".raw"})
"""Of files that hold frames, in lower case."""
HEADER_SUFFIXES = frozenset({".log", ".sct", ".info", ".json", ".ini", ".par", ".xml", ".csv", ".toml"})
"""Of files that may describe a stack, so that one of several in a folder is named by it; in lower case."""
TEXT_SUFFIXES = HEADER_SUFFIXES | {".txt", ".cfg", ".dat", ".yaml", ".yml"}
"""Of files that are looked into for what they say of a stack, in lower case."""

_ROLE = (
    r"tiff?s?|radios?|radiographs?|projections?|proj|tomo|frames|180[_-]?deg"
    r"|flats?|flat[_-]?fields?|refs?|references?|whites?|bright[_-]?fields?|open[_-]?beam|ff|ob"
    r"|darks?|dark[_-]?fields?|dark[_-]?currents?|df|dc"
)
ROLE_FOLDER = re.compile(
    rf"(?:{_ROLE})(?:[_-]?(?:before|after|pre|post))?(?:[_-]?\d{{1,2}})?"
    r"|before|after|pre|post|ccd|camera\d*|pco\d*|scan_000\d",
    re.IGNORECASE,
)
"""The whole name of a folder within a scan's folder; what it is in is the scan, or leads to it.

`scan_` with one digit after its zeros: at PETRA III a scan is a few such runs, elsewhere a scan itself
is called so.
"""
