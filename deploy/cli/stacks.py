"""``glowplug stacks`` and ``glowplug destroy``: the stacks of a node, and taking one off."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from glowplug.runtime.contents import Contents
from glowplug.runtime.errors import ResourceNotFound

from ..client import NodeClient
from ..plan import plan
from ..together import stack_name
from .options import connect, of_a_node
from .output import console, show_json, table

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-_]*")  # of a stack; a path is none


@click.command()
@of_a_node
def stacks(endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """List stacks: their functions, when they were deployed, and what they export."""
    found = connect(endpoint, state).stacks()
    if as_json:
        show_json({"stacks": found})
        return
    if not found:
        click.echo("no stacks; deploy one with `glowplug deploy TEMPLATE`", err=True)
        return
    columns = (("STACK", "left"), ("FUNCTIONS", "right"), ("DEPLOYED", "left"), ("IMPORTS FROM", "left"))
    rows = [
        (
            one["Name"],
            str(len(one["Functions"])),
            one["LastModified"][:19].replace("T", " "),
            ", ".join(sorted(set(one["Imports"].values()))) or "-",
        )
        for one in found
    ]
    console().print(table(columns, rows))
    exports = [(name, text) for one in found for name, text in one["Exports"].items()]
    if exports:
        click.echo()
    for name, text in exports:
        click.echo(f"{name} = {text}")


@click.command()
@click.argument("stack")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@of_a_node
def destroy(stack: str, yes: bool, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Take a stack off the node: its functions with their versions, aliases and URLs, its layers, APIs, mappings and
    triggers, its queues with all that is in them, and what it exports.

    Queues with a DeletionPolicy of Retain stay, and so do functions that were made through the API, model files and
    logs. Asks first, unless --yes; with --json it is refused without --yes.
    """
    client = connect(endpoint, state)
    found = client.stack(stack) if _NAME.fullmatch(stack) else None
    if found is None:
        raise ResourceNotFound(_unknown(client, stack))
    if not as_json:
        for line in _goes(found):
            click.echo(line)
    if not yes:
        if as_json:
            raise click.UsageError("--json asks nobody: say --yes too")
        click.confirm(f"Delete all of the stack {stack} at {client.endpoint}?", abort=True)
    changes = client.delete_stack(stack)
    if as_json:
        show_json({"stack": stack, "endpoint": client.endpoint, "changes": changes})
    else:
        click.echo(f"stack {stack} is gone from {client.endpoint}")


def _goes(stack: Mapping[str, Any]) -> list[str]:
    """Return in lines what goes with a stack, and which of its queues stay."""
    changes = plan(stack, Contents())
    lines = [f"- {change.words}" if change.section == "Functions" else change.line for change in changes]
    return [*lines, *(f"- export {name}" for name in stack["Exports"])]


def _unknown(client: NodeClient, stack: str) -> str:
    names = [str(one["Name"]) for one in client.stacks()]
    known = f"there are {', '.join(names)}" if names else "there are none"
    if Path(stack).is_file():
        return f"{stack} is a file; the stack of such a template is {stack_name(Path(stack).absolute())}, {known}"
    return f"no stack {stack} at {client.endpoint}: {known}"
