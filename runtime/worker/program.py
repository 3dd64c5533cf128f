"""What every exec'ed program of ours does first: base zygotes and workers that were not forked."""

from __future__ import annotations

import argparse
import sys

from glowplug.runtime.process import afterfork
from glowplug.runtime.process.view import add_options

from . import shadow, streams


def parser(name: str) -> argparse.ArgumentParser:
    """Return a parser with the options that both programs have."""
    options = argparse.ArgumentParser(prog=f"python -m {name}", allow_abbrev=False)
    options.add_argument("--control-fd", type=int, required=True, help="socket to the node")
    options.add_argument("--expose", action="append", default=[], metavar="PATH", help="functions may read this")
    add_options(options)
    return options


def begin() -> None:
    """Set up streams, signals and the import path, as every later fork child will find them. Call before a preload."""
    streams.prepare()
    afterfork.quiet_signals()
    if not getattr(sys.flags, "safe_path", False) and sys.path:
        del sys.path[0]  # `python -m` put the node's working directory there: no function imports from it
    shadow.settle()
