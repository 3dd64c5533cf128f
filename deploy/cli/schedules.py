"""``glowplug schedules``: when schedules run next, and what became of their last runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import connect, of_a_node
from .output import console, show_json, table


@click.command()
@of_a_node
def schedules(endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """List schedules: when each runs next, when it last did, and what became of that. Times are UTC.

    With the result are counted, where there are any, runs that were missed because the node was down, and runs that
    failed because no function could be given their event.
    """
    found = connect(endpoint, state).schedules()
    if as_json:
        show_json({"schedules": found})
        return
    if not found:
        click.echo("no schedules; a template's functions have them as Events of the type Schedule", err=True)
        return
    columns = (("SCHEDULE", "left"), ("RUNS", "left"), ("FUNCTION", "left"), ("NEXT", "words"), ("LAST", "words"),
               ("RESULT", "left"))  # fmt: skip
    console().print(table(columns, [_row(one) for one in found]))


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    in_zone = "" if one["zone"] == "UTC" else f" {one['zone']}"
    return (
        one["name"],
        one["expression"] + in_zone,
        ", ".join(one["functions"]),
        _time(one["next"]) if one["next"] and one["state"] == "ENABLED" else one["state"].lower(),
        _time(one["last"]),
        ", ".join([one["result"] or one["error"] or "-", *_counted(one)]),
    )


def _counted(one: dict[str, Any]) -> list[str]:
    return [f"{one[what]} {what}" for what in ("missed", "failed") if one[what]]


def _time(text: str) -> str:
    return text[:19].replace("T", " ") or "-"
