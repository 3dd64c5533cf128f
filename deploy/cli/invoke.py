"""``glowplug invoke``: call a function through the Lambda API, as boto3 would."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..client import Invoked, NodeClient
from .asynchronous import show_event
from .options import connect, of_a_node
from .output import show_json


@click.command()
@click.argument("name")
@click.option("--payload", default="{}", metavar="JSON|@FILE|-", help="The event: JSON, a file, or - for stdin.")
@click.option("--async", "later", is_flag=True, help="Let the node run it later; print the request id.")
@click.option("--wait", is_flag=True, help="With --async: print the answer when it is there.")
@click.option("--tail", is_flag=True, help="Print the end of the request's log to stderr.")
@of_a_node
def invoke(
    name: str,
    payload: str,
    later: bool,
    wait: bool,
    tail: bool,
    endpoint: str | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Call a function and print its answer.

    The answer goes to stdout as the handler gave it; exit code 1 when the function failed. With --json: the answer
    together with the request id, the tier that was found and what the request waited for.
    """
    if wait and not later:
        raise click.UsageError("--wait goes with --async")
    if tail and later:
        raise click.UsageError("--tail does not go with --async; see `glowplug logs --request-id`")
    event = read_payload(payload)
    client = connect(endpoint, state)
    if later:
        _later(client, name, event, wait=wait, as_json=as_json)
        return
    answer = client.invoke(name, event, tail=tail)
    if as_json:
        show_json(described(answer), indent=None)  # an embedding has a line for each number otherwise
    else:
        click.echo(answer.payload.decode(errors="replace"))
        if tail:
            click.echo(answer.log_tail, err=True, nl=False)
        if answer.function_error:
            click.echo(f"glowplug: {name} failed ({answer.function_error}); see `glowplug logs {name}`", err=True)
    if answer.function_error:
        sys.exit(1)


def _later(client: NodeClient, name: str, event: bytes, *, wait: bool, as_json: bool) -> None:
    request_id = client.enqueue(name, event)
    if wait:
        show_event(client.wait_for(request_id), as_json)
    elif as_json:
        show_json({"request_id": request_id})
    else:
        click.echo(request_id)


def read_payload(given: str) -> bytes:
    """Return the event as bytes of JSON. Raises ``click.BadParameter`` (exit code 2) for what is not JSON."""
    try:
        if given == "-":
            data = sys.stdin.buffer.read()
        elif given.startswith("@"):
            data = Path(given[1:]).read_bytes()
        else:
            data = given.encode()
        json.loads(data)
    except OSError as error:
        raise click.BadParameter(f"{given[1:]}: {error.strerror}", param_hint="--payload") from None
    except ValueError as error:
        raise click.BadParameter(f"not JSON: {error}", param_hint="--payload") from None
    return data


def described(answer: Invoked) -> dict[str, object]:
    """Return an answer as JSON-able values, with the payload parsed."""
    try:
        payload = json.loads(answer.payload) if answer.payload else None
    except ValueError:
        payload = answer.payload.decode(errors="replace")
    return {
        "request_id": answer.request_id,
        "payload": payload,
        "function_error": answer.function_error or None,
        "executed_version": answer.executed_version,
        "tier": answer.tier,
        "server_timing": answer.server_timing,
        "log_tail": answer.log_tail or None,
    }
