"""TOML files with a fixed form: read into typed data, or one sentence naming the place of the mistake.

Also where the shipped ones lie. Configuration, recipes, tables of tags and layouts of stacks are all read by this.
"""

import difflib
import os
import re
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import tomli

from srctd.core.errors import ConfigError

ETC_CHECKOUT = Path(__file__).parent.parent / "etc"
ETC_INSTALLED = Path(sysconfig.get_path("data")) / "share" / "srctd" / "etc"

Form = TypeVar("Form")


def etc_folder() -> Path:
    """The folder of shipped configuration files, installed or in a checkout."""
    return ETC_CHECKOUT if (ETC_CHECKOUT / "srctd.toml").is_file() else ETC_INSTALLED


def read_toml(path: Path, form: type[Form], *, unreadable: str = "", keys: str = "") -> Form:
    """A file as `form`; raises `ConfigError`.

    `unreadable`: what to do where the file cannot be read; `keys`: where a person finds all keys.
    """
    try:
        raw = tomli.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(raw, form)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}", hint=unreadable) from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: byte {exc.start} is not UTF-8") from exc
    except tomli.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not TOML: {exc}") from exc
    except msgspec.ValidationError as exc:
        raise ConfigError(f"{path}: {_plain(str(exc))}", hint=_hint(str(exc), form, keys)) from exc


def toml_files(folders: Iterable[str], what: str) -> tuple[tuple[str, int], ...]:
    """Path and time of every TOML file in some folders, by name within each; raises `ConfigError`.

    The time is there so that what was read once is read again where a file was edited.
    """
    found: list[tuple[str, int]] = []
    for folder in folders:
        try:
            there = [(entry.path, entry.stat().st_mtime_ns) for entry in os.scandir(folder)]
        except OSError as exc:
            raise ConfigError(f"{folder}: no such folder of {what}: {exc.strerror}") from exc
        found += sorted(file for file in there if file[0].endswith(".toml"))
    return tuple(found)


def _plain(message: str) -> str:
    """Msgspec's message with the place in front: `watch[0].settle: unknown key`."""
    text, _, place = message.partition(" - at ")
    place = place.strip("`").removeprefix("key` in `").removeprefix("$").removeprefix(".")
    text = text.replace("Object contains unknown field", "unknown key").replace(
        "Object missing required field", "missing key"
    )
    return f"{place}: {text}" if place else text


def _hint(message: str, form: type, keys: str) -> str:
    unknown = re.search(r"unknown field `(\w+)`", message)
    if not unknown:
        return ""
    near = difflib.get_close_matches(unknown[1], _all_keys(form), 1)
    return f"did you mean {near[0]!r}?" if near else keys


def _all_keys(form: Any) -> list[str]:
    found: list[str] = []
    for field in msgspec.structs.fields(form):
        found.append(field.encode_name)
        for inner in (field.type, *get_args(field.type)):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                found += _all_keys(inner)
    return found
