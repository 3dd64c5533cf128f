"""``glowplug plan``: what a deploy would change, without changing it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from ..apply import Prepared, prepare
from ..plan import Action
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
    "retain": "to leave behind",
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

    + is created, ~ changed, - deleted: functions, layers, APIs, queues, event source mappings, schedules, rules,
    notifications of buckets and subscriptions. What somebody has changed through the API since the last deploy (drift)
    is told too: a deploy undoes it. What the code requires is installed in the cache of this machine, unless
    --no-build.
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
    return {
        "stack": one.stack.name, "changes": [change.to_json() for change in one.changes], "notes": list(one.notes),
    }  # fmt: skip


def _show(one: Prepared) -> None:
    for note in one.notes:
        click.echo(f"note: {note}", err=True)
    for change in one.changes:
        click.echo(change.line)
        for difference in change.differences:
            click.echo(f"    {difference}")
        if change.drift:
            click.echo(f"    drift: {change.drifted}")
    counts = Counter(change.action for change in one.changes)
    told = ", ".join(f"{counts[action]} {words}" for action, words in _VERBS.items() if counts[action])
    click.echo(f"stack {one.stack.name}: {told or 'nothing'}")
