"""``glowplug plan``: what a deploy would change, without changing it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from ..apply import Prepared, prepare
from ..plan import Action, Change
from .deploy import builder, no_build_option
from .options import (
    connect,
    of_a_node,
    pairs,
    parameter_option,
    refuse_one_name_for_several,
    stack_option,
    strict_option,
    templates_argument,
)
from .output import show_json
from .progress import display

_VERBS: dict[Action, str] = {
    "create": "to create",
    "update": "to change",
    "delete": "to delete",
    "unchanged": "unchanged",
}


@click.command()
@templates_argument
@stack_option
@parameter_option
@no_build_option
@strict_option
@of_a_node
def plan(
    templates: tuple[Path, ...],
    stack: str | None,
    parameters: tuple[str, ...],
    no_build: bool,
    strict: bool,
    endpoint: str | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Show what deploying templates would change on the running node; nothing is changed.

    + is created, ~ changed, - deleted. What somebody has changed through the API since the last deploy (drift) is told
    too: a deploy undoes it. What the code requires is installed in the cache of this machine, unless --no-build.
    """
    given = pairs(parameters)
    refuse_one_name_for_several(stack, templates)
    client = connect(endpoint, state)
    with display(quiet=as_json) as progress:
        stacks = prepare(
            templates, client, stack=stack, parameters=given, strict=strict, builder=builder(no_build=no_build),
            on_progress=progress,
        )  # fmt: skip
    if as_json:
        show_json({"endpoint": client.endpoint, "stacks": [_described(one) for one in stacks]})
        return
    for one in stacks:
        _show(one)


def _described(one: Prepared) -> dict[str, Any]:
    changes = [
        {
            "function": change.function, "change": change.action,
            "fields": [difference.to_json() for difference in change.differences], "drift": list(change.drift),
        }
        for change in (*one.changes, *one.apis)
    ]  # fmt: skip
    return {"stack": one.stack.name, "changes": changes, "notes": list(one.notes)}


def _show(one: Prepared) -> None:
    for note in one.notes:
        click.echo(f"note: {note}", err=True)
    for change in (*one.changes, *one.apis):
        _show_change(change)
    counts = Counter(change.action for change in (*one.changes, *one.apis))
    told = ", ".join(f"{counts[action]} {words}" for action, words in _VERBS.items() if counts[action])
    click.echo(f"stack {one.stack.name}: {told or 'no functions'}")


def _show_change(change: Change) -> None:
    click.echo(f"{str(change).partition(' (')[0]}")
    for difference in change.differences:
        click.echo(f"    {difference}")
    if change.drifted:
        click.echo(f"    drift: {change.drifted.removeprefix(change.function).strip()}")
