"""``glowplug bake``: make a function's engines, say which one serves, show what each was measured at, move one away."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from .options import connect, of_a_node
from .output import console, milliseconds, show_json, size, table
from .portable import Move, moves_snapshots, show_move
from .progress import display

_COLUMNS = (
    ("ENGINE", "left"), ("PARKED", "right"), ("COLD", "right"), ("WARM", "right"), ("OWN", "right"),
    ("SHARED", "right"), ("ERROR", "right"),
)  # fmt: skip
_LIVE_COLUMNS = (
    ("LIVE", "left"), ("PARKED", "right"), ("COLD", "right"), ("WARM", "right"), ("CALLS", "right"),
    ("FAILED", "right"),
)  # fmt: skip


@click.command()
@click.argument("name", required=False)
@click.option("--engine", default="", metavar="LABEL", help="Serve with this one, such as onnxruntime, if it passes.")
@click.option("--wait", is_flag=True, help="Return when the snapshots are made, with a progress bar.")
@click.option("--report", is_flag=True, help="Show what each engine was measured at; bakes only with --wait.")
@moves_snapshots
@of_a_node
def bake(
    name: str | None,
    engine: str,
    wait: bool,
    report: bool,
    endpoint: str | None,
    state: Path | None,
    as_json: bool,
    **moving: Any,
) -> None:
    """Make engines for a function's models, measure them, and serve with the best; or move a snapshot as a signed file.

    The function goes on serving with the engine it has, and moves to the new one when that is ready.
    """
    move = Move(name, **moving)
    client = connect(endpoint, state)
    if name is None or move.export is not None:
        if engine or report:
            raise click.UsageError("--engine and --report do not go with --export and --import.")
        if name is not None and wait:
            with display(quiet=as_json) as progress:
                client.bake(name, wait=True, on_progress=progress)
        show_move(client, move, wait=wait, as_json=as_json)
        return
    if report and not wait and not engine:
        answer = client.engines(name)
    else:
        with display(quiet=as_json) as progress:
            answer = client.bake(name, wait=wait, engine=engine, on_progress=progress)
    if as_json:
        show_json(answer)
    elif report:
        show_report(name, answer["engines"])
    else:
        show_engines(name, answer["engines"])
    if wait and not all_baked(answer["engines"]):
        sys.exit(1)  # the reason is in the lines above


def all_baked(engines: list[dict[str, Any]]) -> bool:
    """Return whether every model has the best engine that was asked for."""
    return all(engine["state"] in ("ready", "none") for engine in engines)


def show_engines(name: str, engines: list[dict[str, Any]]) -> None:
    """Print one line per model: which engine serves, and why not a better one."""
    for engine in engines:
        click.echo(f"{_model(name, engine)}: {described(engine)}")


def show_report(name: str, engines: list[dict[str, Any]]) -> None:
    """Print tables per model: every engine that was measured, and how those did that have served since the node
    started; below them which were given up, which must not serve, and why."""
    for engine in engines:
        reason, rows = engine["reason"].partition(" (")[0], ordered(engine["measurements"])
        click.echo(f"{_model(name, engine)} is served by {described({**engine, 'reason': reason})}")
        if rows:
            console().print(table(_COLUMNS, [_row(row, engine) for row in rows if row["warm_ms"] is not None]))
        if engine["figures"]:
            console().print(table(_LIVE_COLUMNS, [_live_row(row, engine) for row in engine["figures"]]))
        for lost in engine["given_up"]:
            click.echo(f"{lost['engine']}! was given up ({lost['kind']}): {_first_line(lost['reason'])}")
        for row in rows:
            if row["refused"]:
                click.echo(f"{row['engine']}: {_first_line(row['refused'])}")


def ordered(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return measurements, the fastest warm one first and those that must not serve last."""
    return sorted(rows, key=lambda row: (bool(row["refused"]), row["warm_ms"] or 0.0, row["engine"]))


def described(engine: Mapping[str, Any]) -> str:
    """Return what a bake came to: the engine that serves, and why not a better one."""
    words = engine["engine"] if engine["state"] in ("ready", "none") else f"{engine['engine']}, {engine['state']}"
    return f"{words} ({engine['reason']})" if engine["reason"] else str(words)


def _model(name: str, engine: Mapping[str, Any]) -> str:
    return f"{name} {engine['model']}".rstrip()


def _first_line(text: str) -> str:
    return next(iter(text.splitlines()), "")


def _label(label: str, engine: Mapping[str, Any]) -> Text:
    """Return an engine's label: with a star where it serves, with ``!`` where it was given up."""
    lost = any(one["engine"] == label for one in engine["given_up"])
    return Text(label + (" *" if label == engine["engine"] else "!" if lost else ""), no_wrap=True)


def _times(row: Mapping[str, Any]) -> list[str]:
    """Return what an engine adds to a start from parked and from stored, and a warm call."""
    found = (row[name] for name in ("parked_ms", "cold_ms", "warm_ms"))
    return ["-" if took is None else milliseconds(took) for took in found]


def _live_row(row: Mapping[str, Any], engine: Mapping[str, Any]) -> list[str | Text]:
    return [_label(row["engine"], engine), *_times(row), str(row["calls"]), str(row["failed"])]


def _row(row: Mapping[str, Any], engine: Mapping[str, Any]) -> list[str | Text]:
    return [
        _label(row["engine"], engine),
        *_times(row),
        size(row["private_bytes"]),
        size(row["shared_bytes"]),
        f"{row['worst_error']:.1g}",
    ]
