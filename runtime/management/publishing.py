"""Publishing: freezing ``$LATEST`` as a version with a number."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from glowplug.runtime.catalog import LATEST, Function, Version
from glowplug.runtime.spec import FunctionSpec


def publish(
    function: Function, *, description: str | None = None, new_id: Callable[[], str], now: str
) -> tuple[Function, Version]:
    """Return the function with ``$LATEST`` published, and the version.

    Nothing new is published where the last version has the same code and configuration: that version is returned
    (recorded). ``description`` of None takes that of ``$LATEST``; another is no difference, a changed one of
    ``$LATEST`` is. Both the version and ``$LATEST`` get a new RevisionId (recorded). A version with SnapStart is
    ``Pending`` until its snapshot has been made and checked.
    """
    latest = function.latest
    newest = function.versions[max(function.versions)] if function.versions else None
    if newest is not None and newest.latest_description == latest.spec.description and same(newest, latest):
        return function, newest
    number = function.next_version
    spec = replace(
        latest.spec,
        version=str(number),
        description=latest.spec.description if description is None else description,
    )
    version = replace(latest, spec=spec, revision_id=new_id(), modified=now, latest_description=latest.spec.description)
    if spec.snap_start:
        version = replace(
            version, state="Pending", state_reason="The function is being created.", state_reason_code="Creating"
        )
    function = replace(function, latest=replace(latest, revision_id=new_id()), next_version=number + 1)
    return function.with_version(version), version


def same(one: Version, other: Version) -> bool:
    """Return whether two versions of a function run the same, and say so."""
    return _anonymous(one.spec) == _anonymous(other.spec) and dict(one.settings) == dict(other.settings)


def _anonymous(spec: FunctionSpec) -> FunctionSpec:
    return replace(spec, version=LATEST, description="")
