"""The ``glowplug`` command.

This module imports click and the error classes, nothing else. Each command lives in a module of its own that is
imported when the command runs: the one place in ``deploy`` where imports are late, so that ``glowplug --help`` and
``glowplug ls`` do not pay for the template translator, aiohttp or torch.
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from typing import IO, Any

import click

from glowplug import __version__
from glowplug.runtime.errors import DefinitionError, GlowplugError, LoadFailed, Throttled

from ..errors import DeployError

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("up", "Start a node here and serve a template's functions."),
    "deploy": ("deploy", "Deploy a template to the running node."),
    "ls": ("functions", "List functions: tier, instances, engine, last start."),
    "invoke": ("invoke", "Call a function and print its answer."),
    "warm": ("functions", "Start an instance of a function."),
    "cool": ("functions", "Sink a function to a colder tier."),
    "bake": ("functions", "Compile a function's models into snapshots."),
    "explain": ("starts", "Say in words what a request waited for."),
    "logs": ("logs", "Print a function's log."),
    "doctor": ("doctor", "Check what this machine has, and what to do about the rest."),
}
"""Command -> (module in this package, short help as ``glowplug --help`` shows it without importing the module)."""


class LazyGroup(click.Group):
    """Commands by name, imported when they are asked for. Errors that were raised on purpose end here."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of ``COMMANDS``."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{COMMANDS[cmd_name][0]}", __name__)
        command: click.Command = getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed, and name the nearest one when there is none."""
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from ``COMMANDS``, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. An expected error is one message on stderr and exit code 1, never a traceback."""
        try:
            return super().invoke(ctx)
        except (GlowplugError, DeployError) as error:
            raise Refused(error) from error


class Refused(click.ClickException):
    """Shows an expected error: in words, or as JSON where the command was given ``--json``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(_words(error))
        self.error = error

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the error to stderr."""
        if "--json" not in sys.argv:
            click.echo(f"glowplug: {self.message}", err=True)
            return
        fields: dict[str, Any] = {"type": type(self.error).__name__, "message": self.message}
        if isinstance(self.error, DefinitionError):
            fields["field"] = self.error.field
        click.echo(json.dumps({"error": fields}, ensure_ascii=False), err=True)


def _words(error: Exception) -> str:
    if isinstance(error, LoadFailed):
        return "\n".join([f"{error.reported_type}: {error}", *(line.rstrip() for line in error.stack_trace)])
    if isinstance(error, Throttled):
        return f"{error}; try again in {error.retry_after_s:.0f} s"
    return str(error)


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="glowplug")
def main() -> None:
    """Serve model functions that cost nothing while idle and answer within milliseconds when called."""
