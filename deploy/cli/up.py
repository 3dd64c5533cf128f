"""``glowplug up``: a node in this process, and a template's functions on it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import uvloop

from glowplug.runtime import operatorkey
from glowplug.runtime.config import NodeConfig, default_state
from glowplug.runtime.node import Node, serve

from ..apply import DeployResult
from ..apply import deploy as deploy_template
from ..building import Builder
from ..client import NodeClient
from ..supported import check
from ..template import load
from . import deploy
from .functions import show_functions, with_last_start
from .options import as_json as json_option
from .options import state_option
from .output import counted, show_json
from .progress import display
from .watch import watch


@click.command()
@click.argument("template", required=False, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the control listener (9000; 0 takes a free one).")
@click.option("--public-port", type=click.IntRange(0, 65535), help="Port of a listener with function URLs only (off).")
@click.option(
    "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="A template parameter; repeatable."
)
@deploy.no_build_option
@click.option("--watch", "watching", is_flag=True, help="Deploy the template again whenever it or its code change.")
@state_option
@json_option
def up(
    template: Path | None,
    port: int | None,
    public_port: int | None,
    parameters: tuple[str, ...],
    no_build: bool,
    watching: bool,
    state: Path | None,
    as_json: bool,
) -> None:
    """Start a node here and serve a template's functions, until Ctrl-C.

    With TEMPLATE, its stack becomes exactly the template, by the same API as `glowplug deploy`. Without one, the node
    serves what was deployed before.
    """
    config = NodeConfig.from_env(os.environ, state=state, port=port, public_port=public_port)
    given = deploy.pairs(parameters)
    if watching and (template is None or as_json):
        raise click.UsageError("--watch takes a template, and no --json")
    if template is not None:
        check(load(template))  # what can be seen without translating is said before anything is started
    found = config.state == default_state(os.environ).expanduser().absolute()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)

    async def ready(node: Node) -> None:
        # In a thread: the client waits for the node, whose loop this is.
        client = NodeClient(node.endpoint, operatorkey.read(config.state))
        builder, where = deploy.builder(no_build=no_build), "" if found else found_by(config.state, node.endpoint)
        await asyncio.to_thread(_serve_template, client, template, given, builder, as_json=as_json, where=where)
        if watching and template is not None:
            await _watched(template, given, deploy.again(template, client, None, given, builder, refresh=False))

    uvloop.run(serve(config, ready=ready))


async def _watched(template: Path, parameters: dict[str, str], carry_out: Callable[[], None]) -> None:
    """Deploy what changes, in a thread, until the node ends."""
    ending = threading.Event()
    try:
        await asyncio.to_thread(watch, [template], parameters, carry_out, ended=ending.wait, deployed=True)
    finally:
        ending.set()


def _serve_template(
    client: NodeClient,
    template: Path | None,
    parameters: dict[str, str],
    builder: Builder | None,
    *,
    as_json: bool,
    where: str,
) -> None:
    """Deploy the template, if any, and say what is served. What the template gets wrong ends ``up``.

    ``where`` is the setting by which other commands find the node; empty where they find it by themselves.
    """
    result: DeployResult | None = None
    if template is not None:
        with display(quiet=as_json) as progress:
            result = deploy_template(template, client, parameters=parameters, builder=builder, on_progress=progress)
    functions = with_last_start(client.functions(), client.starts())
    if as_json:
        deployed: dict[str, Any] = {} if result is None else deploy.described(result, client)
        show_json({"endpoint": client.endpoint, "functions": functions} | deployed)
        return
    if result is not None:
        for note in result.notes:
            click.echo(f"note: {note}", err=True)
    click.echo(f"glowplug serves {counted(len(functions), 'function')} at {client.endpoint}; Ctrl-C stops it")
    if where:
        click.echo(f"for other terminals:  export {where}")
    if functions:
        click.echo()
        show_functions(functions)
        click.echo()
        click.echo(f"try:  {example(functions, client.endpoint)}")


def found_by(state: Path, endpoint: str) -> str:
    """Return the setting by which other commands find a node: its state directory where that has the key to it."""
    return f"GLOWPLUG_ENDPOINT={endpoint}" if operatorkey.read(state) is None else f"GLOWPLUG_HOME={state}"


def example(functions: list[dict[str, Any]], endpoint: str) -> str:
    """Return a command that calls a function, ready to paste: one with a URL before others, then one with a model."""
    chosen = min(functions, key=lambda row: (not row["urls"], not row["engines"]))
    event = '{"text": "The quick brown fox jumps over the lazy dog."}'
    if chosen["urls"]:
        return f"curl -s {chosen['urls'][0]} -H 'content-type: application/json' -d '{event}'"
    return f"glowplug invoke {chosen['name']} --endpoint {endpoint} --payload '{event}'"
