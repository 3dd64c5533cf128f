"""``glowplug logs``: a function's log as the node keeps it."""

from __future__ import annotations

import time
from pathlib import Path

import click

from ..client import NodeClient
from .options import connect, of_a_node
from .output import show_json

FOLLOW_PAUSE_S = 0.5
"""Between two looks at the log: quick for a person, nothing for the node."""

_FOLLOWED_LINES = 2000  # what one look returns; a function that prints more than this in half a second loses lines


@click.command()
@click.argument("name")
@click.option("--request-id", help="Only the lines of one request.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Only the last N lines.")
@click.option("--follow", is_flag=True, help="Go on printing what is added, until Ctrl-C.")
@of_a_node
def logs(
    name: str,
    request_id: str | None,
    last: int | None,
    follow: bool,
    endpoint: str | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Print a function's log, in Lambda's format."""
    if follow and (as_json or request_id):
        raise click.UsageError("--follow goes with neither --json nor --request-id")
    client = connect(endpoint, state)
    text = client.logs(name, request_id=request_id, last=_FOLLOWED_LINES if follow else last)
    lines = text.splitlines()
    if as_json:
        show_json({"function": name, "lines": lines})
        return
    for line in lines[-last:] if last else lines:
        click.echo(line)
    if follow:
        _follow(client, name, lines)


def _follow(client: NodeClient, name: str, seen: list[str]) -> None:
    while True:
        time.sleep(FOLLOW_PAUSE_S)
        now = client.logs(name, last=_FOLLOWED_LINES).splitlines()
        for line in added(seen, now):
            click.echo(line)
        seen = now


def added(seen: list[str], now: list[str]) -> list[str]:
    """Return the lines of ``now`` that came after ``seen``; both are the end of one log at two times.

    The longest end of ``seen`` that ``now`` begins with is what they share. Where they share nothing (the log was
    rotated, or grew by more than one look returns) all of ``now`` is new.
    """
    for start in range(len(seen)):
        shared = len(seen) - start
        if seen[start:] == now[:shared]:
            return now[shared:]
    return now
