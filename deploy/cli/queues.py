"""``glowplug queues``: what waits in the node's queues, and what became a dead letter."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from .options import connect, of_a_node
from .output import ago, console, counted, show_json, size, table

_PATH = "/_glowplug/queues"


@click.group()
def queues() -> None:
    """List queues, look into them, move dead letters back, empty them."""


@queues.command()
@of_a_node
def ls(endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """List queues: depth, age, dead letters."""
    answer = connect(endpoint, state).ask("GET", _PATH)
    if as_json:
        show_json(answer)
    elif answer["queues"]:
        columns = (("QUEUE", "left"), ("VISIBLE", "right"), ("IN FLIGHT", "right"), ("DELAYED", "right"),
                   ("OLDEST", "left"), ("DEAD LETTERS TO", "left"))  # fmt: skip
        console().print(table(columns, [_row(queue) for queue in answer["queues"]]))
    else:
        click.echo("no queues; templates, and boto3's sqs client, make some", err=True)


def _row(queue: dict[str, Any]) -> tuple[str, ...]:
    waiting = queue["visible"] + queue["in_flight"] + queue["delayed"]
    return (
        queue["name"],
        str(queue["visible"]),
        str(queue["in_flight"]),
        str(queue["delayed"]),
        ago(queue["oldest_s"]) if waiting else "-",
        f"{queue['dead_letter']} ({queue['dead_letters']})" if queue["dead_letter"] else "-",
    )


@queues.command()
@click.argument("name")
@of_a_node
def show(name: str, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Print a queue's counts and settings. Durations are seconds, the time at which it was made is UTC."""
    answer = connect(endpoint, state).ask("GET", _of(name))
    if as_json:
        show_json(answer)
        return
    settings, created = answer.pop("settings"), datetime.fromtimestamp(answer.pop("created_ms") / 1000, UTC)
    shown = answer | settings | {"created": f"{created:%Y-%m-%d %H:%M:%S}"}
    rows = [(key, _plain(value)) for key, value in shown.items() if value not in (None, "", {})]
    console().print(table((("", "left"), ("", "left")), rows))


def _plain(value: object) -> str:
    return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else json.dumps(value)


@queues.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many.")
@of_a_node
def peek(name: str, limit: int, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Print the next messages of a queue. None is received."""
    answer = connect(endpoint, state).ask("GET", f"{_of(name)}/messages?limit={limit}")
    if as_json:
        show_json(answer)
        return
    columns = (("SENT", "left"), ("RECEIVES", "right"), ("SIZE", "right"), ("FROM", "left"), ("BODY", "left"))
    now_s = time.time()
    rows = [
        (
            ago(now_s - one["sent_ms"] / 1000),
            str(one["receives"]),
            size(one["bytes"]),
            one["source"] or "-",
            one["body"][:200],
        )
        for one in answer["messages"]
    ]
    console().print(table(columns, rows))


@queues.command()
@click.argument("name")
@click.option("--to", help="The queue to move them to. Without it each goes back to the queue that it came from.")
@of_a_node
def redrive(name: str, to: str | None, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Move the visible messages of a dead-letter queue back."""
    answer = connect(endpoint, state).ask("POST", f"{_of(name)}/redrive", {} if to is None else {"to": to})
    if as_json:
        show_json(answer)
    else:
        click.echo(f"moved {counted(answer['moved'], 'message')}")
        if answer["left"] and to is None:
            click.echo(f"left are {answer['left']} that came from no queue of this node; --to moves them", err=True)


@queues.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@of_a_node
def purge(name: str, yes: bool, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Delete all messages of a queue, also those in flight."""
    client = connect(endpoint, state)
    if not yes:
        click.confirm(f"Delete all messages of {name}?", abort=True, err=True)
    answer = client.ask("POST", f"{_of(name)}/purge")
    if as_json:
        show_json(answer)
    else:
        click.echo(f"deleted {counted(answer['purged'], 'message')}")


def _of(name: str) -> str:
    return f"{_PATH}/{quote(name, safe='')}"
