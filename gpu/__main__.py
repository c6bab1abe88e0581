"""``python -m gpu worker`` and ``python -m gpu reconstruct``.

Nothing numerical is imported before the number of threads is in the environment: the libraries read it once.
"""

import argparse
import os
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run a worker, or one reconstruction by hand; returns the exit status."""
    options = _parser().parse_args(arguments)
    threads = options.threads or len(os.sched_getaffinity(0))
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)
    if options.command == "reconstruct":
        from gpu import once

        return once.main(
            options.parameters,
            options.output,
            threads=threads,
            memory_bytes=options.memory_bytes,
            device=options.device,
        )
    from gpu import worker

    os.nice(options.nice)
    return worker.main(
        worker.Settings(
            endpoint=options.connect,
            name=options.name,
            threads=threads,
            memory_bytes=options.memory_bytes,
            die_with_parent=options.die_with_parent,
            device=options.device,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gpu", description="Reconstruction of tomographic scans")
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--threads", type=int, default=0, help="0: all cores that this process may use")
    common.add_argument(
        "--device", choices=("auto", "cpu", "gpu"), default="auto", help="auto: a GPU if there is one"
    )
    common.add_argument(
        "--memory-bytes", type=int, help="what a job may take; else by threads a share of what is free"
    )
    worker = commands.add_parser("worker", parents=[common], help="serve a pool until told to stop")
    worker.add_argument("--connect", required=True, metavar="ENDPOINT", help="ZeroMQ endpoint of the pool")
    worker.add_argument("--name", required=True, help="unique among the pool's workers")
    worker.add_argument("--nice", type=int, default=0, help="niceness to add")
    worker.add_argument(
        "--die-with-parent", action="store_true", help="leave when the process that started it is gone"
    )
    once = commands.add_parser("reconstruct", parents=[common], help="reconstruct one scan, no pool")
    once.add_argument("--parameters", required=True, metavar="FILE", help="parameter file, JSON")
    once.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    return parser


if __name__ == "__main__":
    sys.exit(main())
