"""``glowplug credentials``: who may call the node. Works on the file itself, with or without a node that runs.

Nothing here asks the node, so that the first credential can be made before there is a node that would check it.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.credentials import CredentialsFile, Identity
from glowplug.runtime.principal import Right

from .options import as_json as json_option
from .options import state_option
from .output import console, show_json, table


@click.group()
def credentials() -> None:
    """List, add and remove credentials: who may call the node.

    They are in GLOWPLUG_CREDENTIALS, else in credentials.toml of the state directory. A node that checks signatures
    sees a change at once; one that was started without credentials begins to check at its next start.
    """


@credentials.command()
@click.argument("name")
@click.option("--invoke-only", is_flag=True, help="May call functions, and neither deploy nor control.")
@state_option
@json_option
def add(name: str, invoke_only: bool, state: Path | None, as_json: bool) -> None:
    """Make a credential. Its secret is printed now and never again."""
    rights: tuple[Right, ...] = ("invoke",) if invoke_only else ("control", "invoke")
    made = _file(state).add(name, rights)
    if as_json:
        show_json(_described(made) | {"secret_access_key": made.key.secret_access_key})
        return
    click.echo(f"GLOWPLUG_ACCESS_KEY_ID={made.key.access_key_id}")
    click.echo(f"GLOWPLUG_SECRET_ACCESS_KEY={made.key.secret_access_key}")
    click.echo("the secret is not shown again; boto3 and the aws CLI want both as AWS_… names", err=True)


@credentials.command("list")
@state_option
@json_option
def list_(state: Path | None, as_json: bool) -> None:
    """List credentials, without their secrets."""
    known = sorted(_file(state).read().values(), key=lambda one: one.principal.name)
    if as_json:
        show_json({"credentials": [_described(one) for one in known]})
    elif known:
        columns = (("NAME", "left"), ("ACCESS KEY ID", "left"), ("ACCOUNT", "left"), ("RIGHTS", "left"))
        rows = [
            (who.name, who.access_key_id, who.account_id, ", ".join(sorted(who.rights)))
            for who in (one.principal for one in known)
        ]
        console().print(table(columns, rows))
    else:
        click.echo("no credentials; add some with `glowplug credentials add NAME`", err=True)


@credentials.command()
@click.argument("name")
@state_option
@json_option
def remove(name: str, state: Path | None, as_json: bool) -> None:
    """Take a credential out. What it signs from now on is refused."""
    _file(state).remove(name)
    if as_json:
        show_json({"removed": name})
    else:
        click.echo(f"{name} is removed")


def _file(state: Path | None) -> CredentialsFile:
    config = NodeConfig.from_env(os.environ, state=state)
    return CredentialsFile(config.credentials_file, config.account_id)


def _described(identity: Identity) -> dict[str, object]:
    who = identity.principal
    return {
        "name": who.name,
        "access_key_id": who.access_key_id,
        "account_id": who.account_id,
        "arn": who.arn,
        "rights": sorted(who.rights),
    }
