"""``glowplug ls``, ``warm`` and ``cool``: functions and how warm they are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from .options import connect, of_a_node
from .output import ago, console, milliseconds, show_json, table, tier


@click.command()
@of_a_node
def ls(endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """List functions: tier, instances, engine, last start."""
    client = connect(endpoint, state)
    functions = with_last_start(client.functions(), client.starts())
    if as_json:
        show_json({"functions": functions})
    elif functions:
        show_functions(functions)
    else:
        click.echo("no functions; deploy some with `glowplug deploy TEMPLATE`", err=True)


def with_last_start(functions: list[dict[str, Any]], starts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``functions`` with the latest of ``starts`` (newest first) as ``last_start`` of each, None without one."""
    latest: dict[str, dict[str, Any]] = {}
    for start in starts:
        latest.setdefault(start["function"], start)
    return [row | {"last_start": latest.get(row["name"])} for row in functions]


def show_functions(functions: list[dict[str, Any]]) -> None:
    """Print functions as a table, and URLs and routes below it: those are for copying and must not be broken into
    lines."""
    columns = [("FUNCTION", "left"), ("TIER", "left"), ("BUSY", "right"), ("HELD", "right"),
               ("ENGINE", "left"), ("LAST START", "left")]  # fmt: skip
    rows: list[tuple[str | Text, ...]] = [
        (
            row["name"],
            tier(row["tier"]),
            f"{row['busy']}/{row['instances']}",
            str(row["held"]),
            row["engine"] or "-",
            last_start(row["last_start"]),
        )
        for row in functions
    ]
    events = [waiting(row) for row in functions]
    if any(events):
        columns.append(("EVENTS", "left"))
        rows = [(*row, told or "-") for row, told in zip(rows, events, strict=True)]
    console().print(table(columns, rows))
    urls = [url for row in functions for url in (*row["urls"], *row["routes"])]
    if urls:
        click.echo()
    for url in urls:
        click.echo(url)


def waiting(row: Mapping[str, Any]) -> str:
    """Return how a function is doing with its asynchronous events: ``12, oldest 3 s; 2 retries, 1 dead letter``."""
    waits = f"{row['events']}, oldest {row['oldest_event_s']:.0f} s" if row["events"] else ""
    counts = ((row["event_retries"], "retry", "retries"), (row["dead_letters"], "dead letter", "dead letters"))
    troubles = ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts if count)
    return "; ".join(filter(None, (waits, troubles)))


def last_start(start: Mapping[str, Any] | None) -> str:
    """Return a start in a few words: ``12.4 ms from parked, 3 min ago``."""
    if start is None:
        return "-"
    age = ago(time.time() - start["started_at_s"])
    if start["outcome"] != "ready":
        return f"{start['outcome']}, {age}"
    return f"{milliseconds(start['total_ms'])} from {start['tier']}, {age}"


@click.command()
@click.argument("name")
@of_a_node
def warm(name: str, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Start an instance of a function, unless one is ready; return when it is."""
    _show_tier(name, connect(endpoint, state).warm(name), as_json)


@click.command()
@click.argument("name")
@click.option("--to", type=click.Choice(["parked", "stored", "remote"]), required=True, help="The tier to sink to.")
@of_a_node
def cool(name: str, to: str, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Sink a function to a colder tier; return when it is there."""
    _show_tier(name, connect(endpoint, state).cool(name, to), as_json)


def _show_tier(name: str, answer: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(answer)
    else:
        click.echo(f"{name} is {answer['tier']}")
