"""The command line."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.live import Live

from srctd import __version__, simulation, terminal
from srctd.adapters import control_client
from srctd.config import Config, FormatsSection
from srctd.configfile import load
from srctd.core.errors import ConfigError, FatalError, HoldError, SrctdError

DEFAULT_CONFIG = "/etc/srctd/srctd.toml"
EXIT_FAILED = 1
DRY_RUN_SECONDS = 35.0
"""A dry run looks at files; after 30 s the daemon itself says that it takes too long."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: one sentence on stderr and an exit status where something is wrong."""
    options = parser().parse_args(arguments)
    try:
        status = options.run(options)
    except FatalError as exc:
        print(f"srctd: {exc.sentence}", file=sys.stderr)  # noqa: T201
        status = exc.exit_code
    except SrctdError as exc:
        print(f"srctd: {exc.sentence}", file=sys.stderr)  # noqa: T201
        status = EXIT_FAILED
    except KeyboardInterrupt:
        status = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_FAILED
    sys.exit(status)


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(
        prog="srctd", description="From detector files to catalogued tomographic volumes, unattended."
    )
    top.add_argument("--version", action="version", version=f"srctd {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    _add_daemon(commands)
    _add_by_hand(commands)
    return top


def _add_daemon(commands: Any) -> None:
    """The daemon, and what is asked of a running one."""
    run = _command(commands, "run", _run, "run the daemon")
    _config(run)
    check = _command(commands, "check", _check, "validate a configuration and say what the daemon would do")
    _config(check)

    status = _command(commands, "status", _status, "show scans, workers and problems")
    status.add_argument("--watch", action="store_true", help="refresh until interrupted")
    _client(status)
    why = _command(commands, "why", _why, "say why a scan is where it is")
    why.add_argument("scan", help="identifier, path or file name")
    _client(why)
    submit = _command(commands, "submit", _submit, "say that the scan at a path has ended")
    submit.add_argument("path", help="its file or folder")
    submit.add_argument(
        "--frames", type=simulation.positive, help="how many were taken, of all kinds together"
    )
    submit.add_argument("--aborted", metavar="REASON", default="", help="the acquisition was broken off")
    _client(submit)
    retry = _command(commands, "retry", _retry, "let a held scan go on, or do steps again")
    retry.add_argument("scan", help="identifier, path or file name")
    retry.add_argument("--step", help="do this step and all that follow again")
    retry.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="reconstruction parameter"
    )
    retry.add_argument("--center", type=float, help="column of the rotation axis, pixel")
    retry.add_argument(
        "--incomplete", action="store_true", help="take what is there, if its angles are known"
    )
    _client(retry)

    retention = _command(
        commands, "retention", _retention, "say which sources would be removed, and why the others stay"
    )
    retention.add_argument("--dry-run", action="store_true", help="remove nothing; required")
    _client(retention)


def _add_by_hand(commands: Any) -> None:
    """What needs no daemon."""
    reconstruct = _command(commands, "reconstruct", _reconstruct, "reconstruct one scan by hand")
    reconstruct.add_argument("input", help="scan: its file, the folder of a stack, or its header file")
    reconstruct.add_argument("output", help="folder to make; with a name like x.h5: the volume alone")
    reconstruct.add_argument(
        "--config",
        metavar="FILE",
        help="configuration whose tag tables and layouts are used, else the shipped ones",
    )
    reconstruct.add_argument("--recipe", metavar="FILE", help="recipe; else the shipped ones decide")
    reconstruct.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="parameter")
    reconstruct.add_argument(
        "--center", type=float, help="column of the rotation axis, pixel; else estimated"
    )
    reconstruct.add_argument("--rows", metavar="A:B", help="detector rows A to B-1 only")
    reconstruct.add_argument("--incomplete", action="store_true", help="take what is there of the scan")
    reconstruct.add_argument(
        "--member", type=_counted, default=0, metavar="K", help="which of the scans in the input, from 0"
    )
    reconstruct.add_argument("--threads", type=int, default=0, help="0: all cores")
    reconstruct.add_argument("--json", action="store_true", help="last line of output: one JSON object")

    simulate = _command(
        commands, "simulate", simulation.simulate, "write a simulated scan as a detector would"
    )
    simulation.add_options(simulate)

    catalog = _command(commands, "catalog", _catalog, "run the embedded catalogue")
    catalog.add_argument("--database", required=True, help="SQLite file; made if it is not there")
    catalog.add_argument("--host", default="127.0.0.1")
    catalog.add_argument("--port", type=int, default=8090)

    demo = _command(commands, "demo", _demo, "the whole way on this machine, in a fresh folder")
    simulation.add_size(demo)
    demo.add_argument("--dir", help="folder for everything; else a fresh one below the temporary folder")
    demo.add_argument("--scan", metavar="FILE", help="a real scan instead of the simulated one")
    demo.add_argument("--workers", type=simulation.positive, default=2)
    demo.add_argument(
        "--keep-serving", action="store_true", help="leave daemon and catalogue running at the end"
    )
    demo.add_argument("--json", action="store_true", help="last line of output: one JSON object")


def _counted(text: str) -> int:
    """An argument that names one of several, counted from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return int(text)


def _command(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=function)
    return command


def _config(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", default=os.environ.get("SRCTD_CONFIG", DEFAULT_CONFIG), metavar="FILE")


def _client(command: argparse.ArgumentParser) -> None:
    _config(command)
    command.add_argument("--endpoint", help="control socket of the daemon; else the configuration's")
    command.add_argument("--json", action="store_true", help="the answer as JSON")


# --- commands ---------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from srctd import daemon
    from srctd.adapters import logs

    config = load(options.config)
    logs.configure(config.logs.level)
    daemon.run(config)
    return 0


def _check(options: argparse.Namespace) -> int:
    from srctd import checkup

    config = load(options.config)
    say = terminal.console().print
    say(f"{options.config}: valid")
    problems = 0
    for finding in checkup.findings(config):
        mark, style = ("  ", "") if finding.good else ("! ", "yellow")
        say(mark + finding.sentence, style=style, markup=False, soft_wrap=True)
        problems += not finding.good
    return EXIT_FAILED if problems else 0


def _ask(
    options: argparse.Namespace, request: dict[str, Any], timeout_seconds: float = 5.0
) -> dict[str, Any]:
    endpoint = options.endpoint or _configured(options).control.endpoint
    try:
        answer = control_client.request(endpoint, request, timeout_seconds=timeout_seconds)
    except UnicodeEncodeError as exc:
        raise HoldError(f"{exc.object!r} is no text", hint="name the scan by its identifier") from exc
    if not answer.get("ok", True):
        raise HoldError(answer["error"]["sentence"])
    return answer


def _configured(options: argparse.Namespace) -> Config:
    if options.config == DEFAULT_CONFIG and not os.path.exists(options.config):
        raise ConfigError("which daemon?", hint="give --config FILE or --endpoint tcp://127.0.0.1:5590")
    return load(options.config)


def _json(answer: object) -> None:
    print(msgspec.json.encode(answer).decode())  # noqa: T201


def _status(options: argparse.Namespace) -> int:
    answer = _ask(options, {"cmd": "status"})
    if options.json:
        _json(answer)
    elif not options.watch:
        terminal.console().print(terminal.status_view(answer))
    else:
        with Live(terminal.status_view(answer), console=terminal.console(), screen=True) as live:
            while True:
                time.sleep(1.0)
                live.update(terminal.status_view(_ask(options, {"cmd": "status"})))
    return 0


def _why(options: argparse.Namespace) -> int:
    answer = _ask(options, {"cmd": "why", "scan": options.scan})
    if options.json:
        _json(answer)
    else:
        for sentence in answer["sentences"]:
            terminal.console().print(sentence, markup=False)
    return 0


def _submit(options: argparse.Namespace) -> int:
    request = {"cmd": "submit", "path": os.path.abspath(options.path), "aborted": options.aborted}
    answer = _ask(options, request | ({"frames": options.frames} if options.frames else {}))
    if options.json:
        _json(answer)
    else:
        terminal.console().print(
            f"{answer['path']}: noted; `srctd why` says what becomes of it", markup=False
        )
    return 0


def _retry(options: argparse.Namespace) -> int:
    request = {"cmd": "retry", "scan": options.scan, "step": options.step, "set": _settings(options)}
    request |= {"incomplete": options.incomplete}
    answer = _ask(options, request)
    if options.json:
        _json(answer)
    else:
        terminal.console().print(f"{answer['scan']}: {answer['state']}, stage {answer['stage']}")
    return 0


def _retention(options: argparse.Namespace) -> int:
    if not options.dry_run:
        raise ConfigError(
            "sources are removed by the daemon alone, by itself, where retention.enabled is true",
            hint="`srctd retention --dry-run` says what it would remove now, and why every other scan stays",
        )
    answer = _ask(options, {"cmd": "retention"}, DRY_RUN_SECONDS)
    if options.json:
        _json(answer)
    else:
        terminal.console().print(terminal.retention_view(answer))
    return 0


def _reconstruct(options: argparse.Namespace) -> int:
    from srctd import byhand

    rows = byhand.parse_rows(options.rows) if options.rows else ()
    formats = load(options.config).formats if options.config else FormatsSection()
    asked = byhand.ByHand(
        input=options.input,
        output=options.output,
        recipe=options.recipe,
        settings=(*_settings(options), *rows),
        threads=options.threads,
        json=options.json,
        options=formats.read_options,
        incomplete=options.incomplete,
        member=options.member,
    )
    return byhand.reconstruct(asked)


def _catalog(options: argparse.Namespace) -> int:
    from srctd.catalogd.server import LOOPBACK, serve

    serve(Path(options.database), options.host, options.port, public=options.host in LOOPBACK)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from srctd import demo

    asked = demo.Demo(
        folder=options.dir,
        scan=options.scan,
        workers=options.workers,
        rows=options.rows,
        columns=options.columns,
        angles=options.angles,
        format=options.format,
        keep_serving=options.keep_serving,
        json=options.json,
    )
    return demo.demo(asked)


def _settings(options: argparse.Namespace) -> list[str]:
    """`--set` and `--center` as settings."""
    return [*options.set, *([f"center={options.center}"] if options.center is not None else [])]
