"""From detector files to catalogued tomographic volumes, unattended."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("srctd")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+checkout"
