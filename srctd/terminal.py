"""What the terminal shows: the six stages as boxes, scans, workers, arrivals."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

STYLES = {
    "done": "white on rgb(26,127,55)",
    "current": "bold blink black on rgb(74,222,128)",
    "partial": "black on rgb(250,204,21)",
    "waiting": "grey62 on grey23",
    "held": "bold white on rgb(185,28,28)",
}
"""Colors are given in full: a terminal's own "green" is olive in some."""


def boxes(states: Mapping[str, str]) -> Text:
    """The six stages: blinking green is current, solid green done, yellow done with
    what there is of an incomplete scan, gray waiting, red held.
    """
    text = Text()
    for stage, state in states.items():
        mark = {"done": "✓", "partial": "~", "held": "!", "current": "▶"}.get(state, " ")
        text.append(f"{mark}{stage} ", style=STYLES[state])
        text.append(" ")
    return text


def status_view(status: Mapping[str, Any]) -> RenderableType:
    """The whole answer to `status`, drawn."""
    daemon = status["daemon"]
    head = Text(f"srctd {daemon['version']} on {daemon['host']}, up {_duration(daemon['uptime_seconds'])}")
    catalog = status["catalog"]
    if catalog["configured"]:
        waiting = catalog["waiting"]
        head.append(f" · catalogue {catalog['url']}" + (f", {waiting} documents wait" if waiting else ""))
    parts: list[RenderableType] = [head]
    for root in status["roots"]:
        parts += [Text(f"! {problem}", style="red") for problem in root["problems"]]
    parts += [Text(f"! {problem}", style="red") for problem in status["retention"]["problems"]]
    parts.append(_scans(status["scans"]))
    if status["arriving"]:
        parts.append(_arriving(status["arriving"]))
    parts.append(_workers(status["workers"]))
    parts += [_disk(row) for row in status["disks"]]
    return Group(*parts)


def _scans(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    if not rows:
        return Text("no scans yet", style="dim")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, overflow="ellipsis", min_width=12)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    for row in rows:
        progress = f"{row['progress']:.0%}" if row["state"] == "running" else row["state"]
        source = "" if row["source"] == "there" else f", source {row['source']}"
        table.add_row(row["scan"], boxes(row["boxes"]), f"{progress}{source}")
    reasons = [
        Text(
            f"! {row['scan']}: {row['reason']}",
            style="yellow" if row["state"] in ("retrying", "superseded") else "red",
        )
        for row in rows
        if row["reason"]
    ]
    return Group(table, *reasons)


def _arriving(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        table.add_row(
            Text(row["verdict"], style="cyan"), Text(row["path"]), _frames(row), Text(row["reason"])
        )
    return table


def _frames(row: Mapping[str, Any]) -> str:
    """`150/200 frames`, as far as it is known."""
    found, expected = row["frames_found"], row["frames_expected"]
    if found is None:
        return ""
    return f"{found} frames" if expected is None else f"{found}/{expected} frames"


def _workers(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    if not rows:
        return Text("no workers", style="yellow")
    table = Table(box=None, pad_edge=False, show_header=False)
    for row in rows:
        busy = f"{row['phase']} {row['done']:.0%} {row['scan']}" if row["scan"] else "idle"
        table.add_row(Text(row["name"], style="dim"), row["device"], busy)
    return table


def _disk(row: Mapping[str, Any]) -> RenderableType:
    """`shared storage /data/srctd: 1.2 of 8.0 TB free, full in about 7 h at the rate of the last 2 h`."""
    free, total = row["free_bytes"], row["total_bytes"]
    room = "" if free is None else f"{free / 1e12:.3g} of {total / 1e12:.3g} TB free"
    told = "; ".join(filter(None, (room, *row["sentences"])))
    text = f"{', '.join(row['purposes'])} {', '.join(row['paths'])}: {told}"
    return Text(text, style="dim" if row["good"] else "yellow")


def retention_view(answer: Mapping[str, Any]) -> RenderableType:
    """What would be removed, and why every other scan stays."""
    parts: list[RenderableType] = []
    if not answer["enabled"]:
        parts.append(Text("retention is off; if it were on:", style="yellow"))
    parts += [Text(f"! {problem}", style="red") for problem in answer["problems"]]
    for disk in answer["disks"]:
        marks = f"removing begins above {answer['high_water_percent']:g} % and ends at"
        parts.append(
            Text(
                f"{', '.join(disk['roots'])}: {disk['used_percent']:.1f} % of {disk['size_bytes'] / 1e9:.1f} GB "
                f"used; {marks} {answer['low_water_percent']:g} %"
            )
        )
        parts.append(_decisions(disk["scans"]))
    if answer["proof"] == "digests" and any(
        row["remove"] for disk in answer["disks"] for row in disk["scans"]
    ):
        told = "not looked at yet: the bytes of the copies; each copy is read in full right before its source goes"
        parts.append(Text(told, style="dim"))
    return Group(*parts)


def _decisions(rows: Sequence[Mapping[str, Any]]) -> RenderableType:
    if not rows:
        return Text("no scans there", style="dim")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", min_width=12)
    table.add_column(no_wrap=True, justify="right")
    table.add_column()
    for row in rows:
        mark = Text("remove", style="bold yellow") if row["remove"] else Text("stays", style="dim")
        table.add_row(mark, row["scan"], f"{row['bytes'] / 1e9:.2f} GB", Text("; ".join(row["reasons"])))
    return table


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def console(stderr: bool = False) -> Console:
    """A console that is plain text where the output is no terminal."""
    return Console(stderr=stderr, highlight=False)
