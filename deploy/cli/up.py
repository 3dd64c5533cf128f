"""``glowplug up``: a node in this process, and the functions of templates on it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click
import uvloop

from glowplug.runtime import operatorkey
from glowplug.runtime.config import NodeConfig, default_state
from glowplug.runtime.node import Node, serve

from ..apply import DeployResult, deploy_all
from ..client import NodeClient
from ..together import look_over
from . import deploy
from .functions import show_functions, with_last_start
from .options import as_json as json_option
from .options import pairs, parameter_option, refuse_one_name_for_several, stack_option, state_option, strict_option
from .output import counted, show_json
from .progress import display
from .watch import watch


@click.command()
@click.argument(
    "templates", nargs=-1, metavar="[TEMPLATE]...", type=click.Path(path_type=Path, dir_okay=False, exists=True)
)
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the control listener (9000; 0 takes a free one).")
@click.option("--public-port", type=click.IntRange(0, 65535), help="Port of a listener with function URLs only (off).")
@stack_option
@parameter_option
@deploy.no_build_option
@strict_option
@click.option("--watch", "watching", is_flag=True, help="Deploy the template again whenever it or its code change.")
@state_option
@json_option
def up(
    templates: tuple[Path, ...],
    port: int | None,
    public_port: int | None,
    stack: str | None,
    parameters: tuple[str, ...],
    no_build: bool,
    strict: bool,
    watching: bool,
    state: Path | None,
    as_json: bool,
) -> None:
    """Start a node here and serve the functions of templates, until Ctrl-C.

    The stack of each TEMPLATE becomes exactly the template, by the same API as `glowplug deploy`. Other stacks stay;
    without a template the node serves what was deployed before.
    """
    config = NodeConfig.from_env(os.environ, state=state, port=port, public_port=public_port)
    given = pairs(parameters)
    refuse_one_name_for_several(stack, templates)
    if stack is not None and not templates:
        raise click.BadParameter("names the stack of a template, and there is none", param_hint="--stack")
    if watching and (not templates or as_json):
        raise click.UsageError("--watch takes a template, and no --json")
    look_over(templates, given, strict=strict)
    found = config.state == default_state(os.environ).expanduser().absolute()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)

    async def ready(node: Node) -> None:
        # In a thread: the client waits for the node, whose loop this is.
        client = NodeClient(node.endpoint, operatorkey.read(config.state))
        builder, where = deploy.builder(no_build=no_build), "" if found else found_by(config.state, node.endpoint)
        carry_out = partial(
            deploy_all, templates, client, stack=stack, parameters=given, strict=strict, builder=builder,
        ) if templates else None  # fmt: skip
        await asyncio.to_thread(_serve_templates, client, carry_out, as_json=as_json, where=where)
        if watching:
            again = deploy.again(templates, client, stack, given, builder, refresh=False, strict=strict)
            await _watched(templates, given, again)

    uvloop.run(serve(config, ready=ready))


async def _watched(templates: Sequence[Path], parameters: dict[str, str], carry_out: Callable[[], None]) -> None:
    """Deploy what changes, in a thread, until the node ends."""
    ending = threading.Event()
    try:
        await asyncio.to_thread(watch, templates, parameters, carry_out, ended=ending.wait, deployed=True)
    finally:
        ending.set()


def _serve_templates(
    client: NodeClient, carry_out: Callable[..., list[DeployResult]] | None, *, as_json: bool, where: str
) -> None:
    """Deploy the templates, if any, and say what is served. What a template gets wrong ends ``up``.

    ``where`` is the setting by which other commands find the node; empty where they find it by themselves.
    """
    results: list[DeployResult] = []
    if carry_out is not None:
        with display(quiet=as_json) as progress:
            results = carry_out(on_progress=progress)
    functions = with_last_start(client.functions(), client.starts())
    if as_json:
        deployed = deploy.all_described(results, client) if results else {}
        show_json({"endpoint": client.endpoint, "functions": functions} | deployed)
        return
    for result in results:
        deploy.show_notes(result)
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
    """Return a command that calls a function, ready to paste: one with a URL before one with a route and others, then
    one with a model."""
    chosen = min(functions, key=lambda row: (not row["urls"], not row["routes"], not row["engines"]))
    event = '{"text": "The quick brown fox jumps over the lazy dog."}'
    if chosen["urls"]:
        return f"curl -s {chosen['urls'][0]} -H 'content-type: application/json' -d '{event}'"
    if chosen["routes"]:
        method, _, url = min(chosen["routes"], key=lambda route: "{" in route).partition(" ")
        sent = f" -H 'content-type: application/json' -d '{event}'" if method in ("PATCH", "POST", "PUT") else ""
        shown = url.replace("{", "").replace("+}", "").replace("}", "")
        return f"curl -s {shown}{'' if method in ('ANY', 'GET') else f' -X {method}'}{sent}"
    return f"glowplug invoke {chosen['name']} --endpoint {endpoint} --payload '{event}'"
