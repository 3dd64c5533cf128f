"""``glowplug schedules``: when schedules run next, and what became of their last runs."""

from __future__ import annotations

from pathlib import Path

import click

from .options import connect, of_a_node
from .output import console, show_json, table


@click.command()
@of_a_node
def schedules(endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """List schedules: when each runs next, when it last did, and what became of that. Times are UTC.

    MISSED counts runs that were passed over because the node was down; FAILED those whose event no function could be
    given.
    """
    found = connect(endpoint, state).schedules()
    if as_json:
        show_json({"schedules": found})
        return
    if not found:
        click.echo("no schedules; a template's functions have them as Events of the type Schedule", err=True)
        return
    columns = (("SCHEDULE", "left"), ("RUNS", "left"), ("FUNCTION", "left"), ("NEXT", "left"), ("LAST", "left"),
               ("RESULT", "left"), ("MISSED", "right"), ("FAILED", "right"))  # fmt: skip
    rows = [
        (
            one["name"], one["expression"], ", ".join(one["functions"]),
            _time(one["next"]) if one["next"] and one["state"] == "ENABLED" else one["state"].lower(),
            _time(one["last"]), one["result"] or one["error"] or "-", str(one["missed"]), str(one["failed"]),
        )
        for one in found
    ]  # fmt: skip
    console().print(table(columns, rows))


def _time(text: str) -> str:
    return text[:19].replace("T", " ") or "-"
