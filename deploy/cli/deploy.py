"""``glowplug deploy``: templates to the node that runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from .. import apply
from ..apply import DeployResult
from ..building import Builder
from ..client import NodeClient
from ..exchange import Progress
from .bake import all_baked, show_engines
from .options import (
    connect,
    of_a_node,
    pairs,
    parameter_option,
    refuse_one_name_for_several,
    stack_option,
    strict_option,
    templates_argument,
)
from .output import counted, show_json, size
from .progress import display
from .watch import watch

no_build_option = click.option(
    "--no-build", "--skip-build", "no_build", is_flag=True, help="Install nothing that a requirements.txt asks for."
)


@click.command()
@templates_argument
@stack_option
@parameter_option
@click.option("--refresh", is_flag=True, help="Resolve model sources anew, for checkpoints that have changed.")
@no_build_option
@click.option("--wait", is_flag=True, help="Return when the engines are baked too.")
@strict_option
@click.option("--watch", "watching", is_flag=True, help="Deploy again whenever template or code change, until Ctrl-C.")
@of_a_node
def deploy(
    templates: tuple[Path, ...],
    stack: str | None,
    parameters: tuple[str, ...],
    refresh: bool,
    no_build: bool,
    wait: bool,
    strict: bool,
    watching: bool,
    endpoint: str | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Deploy templates to the running node.

    Each is a stack, which becomes exactly the template: what is gone from it is deleted. A stack is put as a whole or
    not at all. Functions serve at once; engines are baked in the background, unless --wait.
    """
    given = pairs(parameters)
    refuse_one_name_for_several(stack, templates)
    client = connect(endpoint, state)
    if watching:
        if wait or as_json:
            raise click.UsageError("--watch takes neither --wait nor --json")
        carry_out = again(
            templates, client, stack, given, builder(no_build=no_build), refresh=refresh, strict=strict
        )  # fmt: skip
        watch(templates, given, carry_out, ended=_pause)
        return
    with display(quiet=as_json) as progress:
        results = apply.deploy_all(
            templates, client, stack=stack, parameters=given, refresh=refresh, strict=strict,
            builder=builder(no_build=no_build), on_progress=progress,
        )  # fmt: skip
        engines = {name: found for one in results if wait for name, found in bake_all(one, client, progress).items()}
    if as_json:
        show_json(all_described(results, client) | ({"engines": engines} if wait else {}))
    else:
        for result in results:
            show(result)
        for name, listing in engines.items():
            show_engines(name, listing)
    if not all(map(all_baked, engines.values())):
        sys.exit(1)  # deployed and serving, but not with what --wait waited for


def again(
    templates: Sequence[Path],
    client: NodeClient,
    stack: str | None,
    parameters: dict[str, str],
    builder: Builder | None,
    *,
    refresh: bool,
    strict: bool,
) -> Callable[[], None]:
    """Return what deploys the templates and shows what has changed; sources are refreshed the first time only."""
    left = [refresh]

    def deploy() -> None:
        with display(quiet=False) as progress:
            results = apply.deploy_all(
                templates, client, stack=stack, parameters=parameters, refresh=bool(left) and left.pop(),
                strict=strict, builder=builder, on_progress=progress,
            )  # fmt: skip
        for result in results:
            show(result)

    return deploy


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def builder(*, no_build: bool) -> Builder | None:
    """Return what installs requirements, or None where nothing is to be installed."""
    return None if no_build else Builder.of(os.environ)


def bake_all(result: DeployResult, client: NodeClient, progress: Progress) -> dict[str, list[dict[str, Any]]]:
    """Bake each function of the stack that has a model, wait, and return their engines by function."""
    return {
        row["name"]: client.bake(row["name"], wait=True, on_progress=progress)["engines"]
        for row in client.functions()
        if row["name"] in result.functions and row["engines"]
    }


def all_described(results: Sequence[DeployResult], client: NodeClient) -> dict[str, Any]:
    """Return deploys as JSON-able values: one as it is, several as a list."""
    if len(results) == 1:
        return described(results[0], client)
    return {"stacks": [described(result, client) for result in results]}


def described(result: DeployResult, client: NodeClient) -> dict[str, Any]:
    """Return a deploy as JSON-able values."""
    return {
        "stack": result.stack,
        "endpoint": client.endpoint,
        "changes": [change.to_json() | {"fields": list(change.fields)} for change in result.changes],
        "notes": list(result.notes),
        "outputs": dict(result.outputs),
        "uploaded_bytes": result.uploaded_bytes,
    }


def show_notes(result: DeployResult) -> None:
    """Print what has no effect, and what a deploy has set back, beside the answer."""
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    for change in result.changes:
        if change.drifted:
            click.echo(f"drift: {change.shown} {change.drifted}; this deploy has undone it", err=True)


def show(result: DeployResult) -> None:
    """Print what a deploy changed."""
    show_notes(result)
    for change in result.changes:
        click.echo(str(change))
    uploaded = f", {size(result.uploaded_bytes)} of code uploaded" if result.uploaded_bytes else ""
    click.echo(f"stack {result.stack}: {counted(len(result.functions), 'function')}{uploaded}")
    for name, value in result.outputs.items():
        click.echo(f"{name} = {value}")
