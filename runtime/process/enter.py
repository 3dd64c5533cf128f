"""The first stage of an exec'ed worker that gets a user of its own: confine, then become the worker.

    python -m glowplug.runtime.process.enter --uid 200007 --gid 200007 --environment-fd 5 --expose … -- python …

A function that starts by exec often does so because its environment says how programs are loaded (LD_PRELOAD,
PYTHONPATH). Were that environment the first thing a root process saw, it could load the function's code as root. So
this stage runs with the node's allow-listed environment, gives up everything, and only then execs the worker with the
function's environment, which came as ``NAME=value`` strings, each ended by NUL, in a file. A bake is made nice and
limited here too.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import confine, view


def main(arguments: Sequence[str]) -> NoReturn:
    """Confine this process and replace it by the program after ``--``."""
    options = argparse.ArgumentParser(prog="python -m glowplug.runtime.process.enter", allow_abbrev=False)
    options.add_argument("--uid", type=int, required=True)
    options.add_argument("--gid", type=int, required=True)
    options.add_argument("--environment-fd", type=int, required=True)
    options.add_argument("--nice", type=int, default=0)
    options.add_argument("--data-bytes", type=int)
    options.add_argument("--expose", action="append", default=[], metavar="PATH")
    view.add_options(options)
    options.add_argument("program", nargs="+")
    given = options.parse_args(arguments)
    with open(given.environment_fd, "rb") as file:
        environment = parse_environment(file.read())
    if given.data_bytes is not None:  # from outside a node needs rights over other users that it may not have
        resource.setrlimit(resource.RLIMIT_DATA, (given.data_bytes, given.data_bytes))
    os.nice(given.nice)
    confinement = confine.Confinement.arrange(given.expose)
    seen = view.View.of(given, confinement.exposed)
    seen.lay()  # while this is root, who needs no user namespace for it
    confinement.enter(given.uid, given.gid)
    told = [*(["--laid"] if seen.laid else []), *(["--refusal", seen.refusal] if seen.refusal else [])]
    os.execve(given.program[0], [*given.program, *told], environment)  # noqa: S606 - no shell is the point


def format_environment(environment: dict[str, str]) -> bytes:
    """Return the file form of an environment, as in ``/proc/<pid>/environ``."""
    return b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environment.items())


def parse_environment(text: bytes) -> dict[bytes, bytes]:
    """Read what ``format_environment`` wrote."""
    pairs = (entry.partition(b"=") for entry in text.split(b"\0") if entry)
    return {name: value for name, _, value in pairs}


if __name__ == "__main__":
    main(sys.argv[1:])
