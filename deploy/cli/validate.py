"""``glowplug validate``: what a deploy would refuse or note, without a node."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from .. import together
from ..errors import TemplateError
from ..parameters import shared_out
from ..pythons import Pythons
from ..review import Review, review
from ..template import load
from .options import (
    as_json,
    pairs,
    parameter_option,
    refuse_one_name_for_several,
    stack_option,
    strict_option,
    templates_argument,
)
from .output import counted, show_json


@click.command()
@templates_argument
@stack_option
@parameter_option
@strict_option
@as_json
def validate(
    templates: tuple[Path, ...], stack: str | None, parameters: tuple[str, ...], strict: bool, as_json: bool
) -> None:
    """Check templates as a deploy would, without a node.

    Prints each problem with its file and line, and what is accepted without effect. What only a node knows is not
    checked: model sources, GPUs, what other stacks export. Exits with 1 where there is a problem.
    """
    given = pairs(parameters)
    refuse_one_name_for_several(stack, templates)
    reviews = _reviewed(templates, stack, given, strict=strict)
    if as_json:
        show_json({"templates": [_described(one) for one in reviews]})
    else:
        for one in reviews:
            _show(one)
    if any(one.problems for one in reviews):
        sys.exit(1)


def _reviewed(paths: tuple[Path, ...], stack: str | None, given: dict[str, str], *, strict: bool) -> list[Review]:
    """Review each template by itself, and, where they are well, all together."""
    reviews, readable = [], []
    for path in paths:
        try:
            load(path)
            readable.append(path)
        except TemplateError as error:
            reviews.append(Review(str(path), stack or together.stack_name(path.absolute()), None, (error,)))
    named = together.named(readable, stack)
    site = together.Site(runtimes=_Runtimes(Pythons(os.environ)))
    reviews += [
        review(template, name, site, parameters=values, strict=strict)
        for (name, template), values in zip(named.items(), shared_out(named.values(), given), strict=True)
    ]
    if len(named) > 1 and not any(one.problems for one in reviews):
        try:
            together.translated(named, site, parameters=given)
        except TemplateError as error:  # what two of them claim
            return [replace(one, stack=None, problems=(error,)) if one.file == error.file else one for one in reviews]
    return _with_imports(reviews)


def _with_imports(reviews: list[Review]) -> list[Review]:
    """Note what is imported and exported by none of the templates."""
    exported = {name for one in reviews if one.stack is not None for name in one.stack.exports}
    return [
        one if one.stack is None else replace(one, notes=(*one.notes, *(
            f"Fn::ImportValue {name} is looked up at the deploy" for name in one.stack.imports if name not in exported
        )))
        for one in reviews
    ]  # fmt: skip


class _Runtimes:
    """The Pythons of this machine, each looked for when it is asked about: starting them all would take seconds."""

    def __init__(self, pythons: Pythons) -> None:
        self._pythons = pythons

    def __contains__(self, runtime: object) -> bool:
        return self._pythons.of(str(runtime)).runtime == runtime


def _described(one: Review) -> dict[str, Any]:
    functions = (
        [] if one.stack is None else [given["FunctionName"] for given in one.stack.definitions.functions.values()]
    )
    problems = [{"file": error.file, "line": error.line, "problem": error.problem} for error in one.problems]
    return {
        "template": one.file, "stack": one.name, "functions": functions, "problems": problems,
        "notes": list(one.notes),
    }  # fmt: skip


def _show(one: Review) -> None:
    for error in one.problems:
        click.echo(str(error))
    for note in one.notes:
        click.echo(f"{one.file}: note: {note}")
    if one.problems:
        click.echo(f"{one.file}: {counted(len(one.problems), 'problem')}")
    elif one.stack is not None:
        click.echo(
            f"{one.file}: stack {one.name}, {counted(len(one.stack.definitions.functions), 'function')}, no problem"
        )
