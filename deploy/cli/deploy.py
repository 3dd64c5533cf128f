"""``glowplug deploy``: a template to the node that runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .. import apply
from ..apply import DeployResult
from ..building import Builder
from ..client import NodeClient, Progress
from .bake import all_baked, show_engines
from .options import connect, of_a_node
from .output import counted, show_json, size
from .progress import display
from .watch import watch

no_build_option = click.option(
    "--no-build", "--skip-build", "no_build", is_flag=True, help="Install nothing that a requirements.txt asks for."
)


@click.command()
@click.argument("template", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--stack", metavar="NAME", help="Name of the stack (else that of the template's directory).")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A template parameter; repeatable."
)
@click.option("--refresh", is_flag=True, help="Resolve model sources anew, for checkpoints that have changed.")
@no_build_option
@click.option("--wait", is_flag=True, help="Return when the engines are baked too.")
@click.option("--watch", "watching", is_flag=True, help="Deploy again whenever template or code change, until Ctrl-C.")
@of_a_node
def deploy(
    template: Path,
    stack: str | None,
    parameters: tuple[str, ...],
    refresh: bool,
    no_build: bool,
    wait: bool,
    watching: bool,
    endpoint: str | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Deploy a template to the running node.

    The template's stack becomes exactly the template: what is gone from it is deleted. Functions serve at once; engines
    are baked in the background, unless --wait.
    """
    given = pairs(parameters)
    client = connect(endpoint, state)
    if watching:
        if wait or as_json:
            raise click.UsageError("--watch takes neither --wait nor --json")
        carry_out = again(template, client, stack, given, builder(no_build=no_build), refresh=refresh)
        watch([template], given, carry_out, ended=_pause)
        return
    with display(quiet=as_json) as progress:
        result = apply.deploy(
            template, client, stack=stack, parameters=given, refresh=refresh, builder=builder(no_build=no_build),
            on_progress=progress,
        )  # fmt: skip
        engines = bake_all(result, client, progress) if wait else {}
    if as_json:
        show_json(described(result, client) | ({"engines": engines} if wait else {}))
    else:
        show(result)
        for name, listing in engines.items():
            show_engines(name, listing)
    if not all(map(all_baked, engines.values())):
        sys.exit(1)  # deployed and serving, but not with what --wait waited for


def again(
    template: Path,
    client: NodeClient,
    stack: str | None,
    parameters: dict[str, str],
    builder: Builder | None,
    *,
    refresh: bool,
) -> Callable[[], None]:
    """Return what deploys the template and shows what has changed; sources are refreshed the first time only."""
    left = [refresh]

    def deploy() -> None:
        with display(quiet=False) as progress:
            result = apply.deploy(
                template, client, stack=stack, parameters=parameters, refresh=bool(left) and left.pop(),
                builder=builder, on_progress=progress,
            )  # fmt: skip
        show(result)

    return deploy


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def builder(*, no_build: bool) -> Builder | None:
    """Return what installs requirements, or None where nothing is to be installed."""
    return None if no_build else Builder.of(os.environ)


def pairs(parameters: tuple[str, ...]) -> dict[str, str]:
    """Return ``NAME=VALUE`` words as a mapping. Raises ``click.BadParameter``."""
    given: dict[str, str] = {}
    for word in parameters:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{word!r} is not NAME=VALUE", param_hint="--parameter")
        given[name] = value
    return given


def bake_all(result: DeployResult, client: NodeClient, progress: Progress) -> dict[str, list[dict[str, Any]]]:
    """Bake each function of the stack that has a model, wait, and return their engines by function."""
    deployed = {change.function for change in result.changes if change.action != "delete"}
    return {
        row["name"]: client.bake(row["name"], wait=True, on_progress=progress)["engines"]
        for row in client.functions()
        if row["name"] in deployed and row["engines"]
    }


def described(result: DeployResult, client: NodeClient) -> dict[str, Any]:
    """Return a deploy as JSON-able values."""
    return {
        "stack": result.stack,
        "endpoint": client.endpoint,
        "changes": [
            {"function": change.function, "change": change.action, "fields": list(change.fields)}
            for change in result.changes
        ],
        "notes": list(result.notes),
        "outputs": dict(result.outputs),
        "uploaded_bytes": result.uploaded_bytes,
    }


def show(result: DeployResult) -> None:
    """Print what a deploy changed."""
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    for change in result.changes:
        click.echo(str(change))
    uploaded = f", {size(result.uploaded_bytes)} of code uploaded" if result.uploaded_bytes else ""
    click.echo(f"stack {result.stack}: {counted(len(result.changes), 'function')}{uploaded}")
    for name, value in result.outputs.items():
        click.echo(f"{name} = {value}")
