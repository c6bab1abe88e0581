"""Reading scans off disk, for the daemon and the workers alike. No file is ever locked or written."""

from srctd.formats.reader import ScanReader, index_scan, open_scan, probe

__all__ = ["ScanReader", "index_scan", "open_scan", "probe"]
