"""The ``glowplug`` command.

This module imports click and the error classes, nothing else. Each command lives in a module that is imported when the
command runs: the one place in ``deploy`` where imports are late, so that ``glowplug --help`` and ``glowplug ls`` do not
pay for the template translator, aiohttp, fsspec or torch.
"""

from __future__ import annotations

import difflib
import importlib
import json
import sys
from collections.abc import Mapping
from typing import IO, Any

import click

from glowplug import __version__
from glowplug.cache.errors import CacheError
from glowplug.runtime.errors import DefinitionError, GlowplugError, LoadFailed, Throttled

from ..errors import DeployError

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("up", "Start a node here and serve templates' functions."),
    "validate": ("validate", "Check templates, without a node."),
    "plan": ("plan", "Show what a deploy would change."),
    "deploy": ("deploy", "Deploy templates to the running node."),
    "destroy": ("stacks", "Take a stack off the node, with all that it has."),
    "stacks": ("stacks", "List stacks: their functions and what they export."),
    "ls": ("functions", "List functions: tier, instances, engine, last start."),
    "invoke": ("invoke", "Call a function and print its answer."),
    "map": ("map", "Run a function over every line of files."),
    "schedules": ("schedules", "List schedules: next runs, last results."),
    "warm": ("functions", "Start an instance of a function."),
    "cool": ("functions", "Sink a function to a colder tier."),
    "bake": ("bake", "Make a function's engines, and show what they were measured at."),
    "explain": ("starts", "Say in words what a request waited for."),
    "async": ("asynchronous", "List, show and cancel asynchronous events."),
    "logs": ("logs", "Print a function's log."),
    "queues": ("queues", "List, show, redrive and purge queues."),
    "credentials": ("credentials", "List, add and remove credentials: who may call the node."),
    "cache": ("cache", "List, fetch, check, evict and pin cached model files."),
    "doctor": ("doctor", "Check what this machine has, and what to do about the rest."),
}
"""Command -> (module in this package, short help as ``glowplug --help`` shows it without importing the module)."""


class LazyGroup(click.Group):
    """Commands by name, imported when they are asked for.

    ``commands_of`` maps a command to (module in ``package``, short help); the module has the command under its name.
    """

    def __init__(self, *args: Any, commands_of: Mapping[str, tuple[str, str]], package: str, **named: Any) -> None:
        super().__init__(*args, **named)
        self._commands_of = commands_of
        self._package = package

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order they were given."""
        return list(self._commands_of)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None."""
        if cmd_name not in self._commands_of:
            return None
        module = importlib.import_module(f".{self._commands_of[cmd_name][0]}", self._package)
        taken = f"{cmd_name}_"  # of a command that has the name of a keyword or of a builtin
        command: click.Command = getattr(module, taken, None) or getattr(module, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed, and name the nearest one when there is none."""
        if args[0] not in self._commands_of and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self._commands_of, n=1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from their short helps, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._commands_of.items()])


class Main(LazyGroup):
    """The commands of ``glowplug``. Errors that were raised on purpose end here."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. An expected error is one message on stderr and exit code 1, never a traceback."""
        try:
            return super().invoke(ctx)
        except (GlowplugError, DeployError, CacheError) as error:
            raise Refused(error) from error


class Refused(click.ClickException):
    """Shows an expected error: in words, or as JSON where the command was given ``--json``."""

    def __init__(self, error: Exception) -> None:
        super().__init__(_words(error))
        self.error = error

    def show(self, file: IO[Any] | None = None) -> None:
        """Write the error to stderr."""
        if "--json" not in sys.argv:
            click.echo("\n".join([f"glowplug: {self.message}", *notes_of(self.error)]), err=True)
            return
        fields: dict[str, Any] = {"type": type(self.error).__name__, "message": self.message}
        if notes := notes_of(self.error):
            fields["notes"] = notes
        if isinstance(self.error, DefinitionError):
            fields["field"] = self.error.field
        click.echo(json.dumps({"error": fields}, ensure_ascii=False), err=True)


def notes_of(error: Exception) -> list[str]:
    """Return what was said with an error of its consequences (PEP 678)."""
    return list(getattr(error, "__notes__", ()))


def _words(error: Exception) -> str:
    if isinstance(error, LoadFailed):
        return "\n".join([f"{error.reported_type}: {error}", *(line.rstrip() for line in error.stack_trace)])
    if isinstance(error, Throttled):
        return f"{error}; try again in {error.retry_after_s:.0f} s"
    return str(error)


@click.command(
    cls=Main,
    commands_of=COMMANDS,
    package=__name__,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="glowplug")
def main() -> None:
    """Serve model functions that cost nothing while idle and answer within milliseconds when called."""
