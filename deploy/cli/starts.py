"""``glowplug explain``: what a request waited for, in words."""

from __future__ import annotations

from pathlib import Path

import click

from .options import connect, of_a_node
from .output import show_json


@click.command()
@click.argument("request_id")
@of_a_node
def explain(request_id: str, endpoint: str | None, state: Path | None, as_json: bool) -> None:
    """Say in words what a request waited for.

    REQUEST_ID is the x-amzn-RequestId of the response. With --json: the record of the start itself.
    """
    client = connect(endpoint, state)
    if as_json:
        show_json(client.start(request_id))
    else:
        click.echo(client.explain(request_id).rstrip("\n"))
