"""Names that tell what files and folders are for (stand-in)."""

import re

FRAME_SUFFIXES = frozenset({".tif", ".tiff", ".edf", ".raw"})
ROLE_FOLDER = re.compile(r"tiff?s?|radios|projections|flats?|darks?|ccd|pco\d+|scan_\d{4}", re.IGNORECASE)
