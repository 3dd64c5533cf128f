"""``glowplug async``: events that were accepted to be run later, and what became of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from .options import connect, of_a_node
from .output import console, counted, show_json, table

_STATES = ("queued", "running", "retrying", "succeeded", "failed", "cancelled")


@click.group("async")
def async_() -> None:
    """List, show and cancel asynchronous events."""


@async_.command("ls")
@click.argument("function", required=False)
@click.option("--in", "wanted", type=click.Choice(_STATES), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@of_a_node
def ls(
    function: str | None, wanted: str | None, limit: int, endpoint: str | None, state: Path | None, as_json: bool
) -> None:
    """List events, the newest first: of one function, or of all."""
    events = connect(endpoint, state).events(function, wanted, limit)
    if as_json:
        show_json({"events": events})
        return
    columns = (("REQUEST", "left"), ("FUNCTION", "left"), ("STATE", "left"), ("ATTEMPTS", "right"), ("AGE", "right"))
    rows = [
        (one["requestId"], one["function"], one["state"], str(one["attempts"]), f"{one['ageSeconds']:.1f} s")
        for one in events
    ]
    console().print(table(columns, rows))


@async_.command()
@click.argument("request_id")
@click.option("--wait", is_flag=True, help="Return when it is over.")
@of_a_node
def show(request_id: str, wait: bool, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Show an event: its state, its attempts, its answer. Exit code 1 when it failed or was cancelled."""
    client = connect(endpoint, state)
    show_event(client.wait_for(request_id) if wait else client.event(request_id), as_json)


@async_.command()
@click.argument("request_id")
@of_a_node
def cancel(request_id: str, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Cancel an event. If it runs, its process is killed."""
    event = connect(endpoint, state).cancel(request_id)
    if as_json:
        show_json(event)
    else:
        click.echo(f"{request_id} is {event['state']}")


def show_event(event: Mapping[str, Any], as_json: bool) -> None:
    """Print an event: its answer alone where there is one."""
    if as_json:
        show_json(event)
    elif "result" in event:
        click.echo(json.dumps(event["result"], ensure_ascii=False))
    elif "error" in event:
        click.echo(json.dumps(event["error"], ensure_ascii=False))
        attempts = counted(event["attempts"], "attempt")
        click.echo(f"glowplug: {event['function']}: {event['state']} after {attempts}", err=True)
    else:
        click.echo(f"{event['requestId']} is {event['state']}, attempts: {event['attempts']}")
    if "error" in event:
        sys.exit(1)
