"""Where in a template something was written that is refused later, as part of a definition.

What belongs to a function (an alias, a URL, a permission) may be a resource of its own, or a property of an
AWS::Serverless::Function from which the translator made that resource: ``written`` says which resource it is, and the
template whether somebody wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping

from .template import KeyPath, Template

Written = Mapping[str, KeyPath]
"""The properties of the resource that a part of a definition came from, such as ``Urls.live``, of one function."""

_SERVERLESS = {  # what the translator makes of a property of SAM's function, and how that is called
    "Urls": "FunctionUrlConfig",
    "Permissions": "FunctionUrlConfig",
    "EventInvokeConfigs": "EventInvokeConfig",
    "Aliases": "AutoPublishAlias",
    "Versions": "VersionDescription",
}
_SETTINGS = {"KMSKeyArn": ("KmsKeyArn",), "TracingConfig": ("Tracing", "TracingConfig"),
             "DeadLetterConfig": ("DeadLetterQueue", "DeadLetterConfig")}  # fmt: skip


def properties_at(template: Template, logical_id: str) -> KeyPath:
    """Return where the properties of a translated resource are written: those of an event where SAM made the resource
    of one, which it calls by the function and the event."""
    if template.get(("Resources", logical_id)) is None:
        for function, resource in (template.get(("Resources",)) or {}).items():
            for event in (resource.get("Properties") or {}).get("Events") or {}:
                if f"{function}{event}" == logical_id:
                    return ("Resources", function, "Properties", "Events", event, "Properties")
    return ("Resources", logical_id, "Properties")


def of_an_event(properties: KeyPath) -> bool:
    """Return whether properties, where ``properties_at`` found them, are those of an event."""
    return len(properties) > len(("Resources", "LogicalId", "Properties"))


def place_of(template: Template, logical_id: str, field_path: str, written: Written | None = None) -> KeyPath:
    """Return where in the template a definition's field was written: at the function, in what it inherits, or in a
    resource of its own."""
    parts = tuple(field_path.split("."))
    resource = (written or {}).get(".".join(parts[:2]))
    if resource is not None and resource in template.lines:
        return (*resource, *parts[2:])
    function: KeyPath = ("Resources", logical_id)
    if parts[0] == "Glowplug":
        candidates: list[tuple[KeyPath, KeyPath]] = [((*function, "Metadata"), parts), (("Metadata",), parts)]
    else:
        bases: tuple[KeyPath, ...] = ((*function, "Properties"), ("Globals", "Function"))
        candidates = [(base, spelling) for base in bases for spelling in _spellings(parts)]
    base, spelling = max(candidates, key=lambda one: _spelled(template, *one))
    return (*base, *spelling)


def _spellings(parts: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return how a field of a definition may be called in the properties of a function."""
    if parts[0] == "CodeSha256":
        return [("CodeUri",)]
    if parts[0] == "Settings" and len(parts) > 1:
        return [(name, *parts[2:]) for name in _SETTINGS.get(parts[1], (parts[1],))]
    if parts[0] in _SERVERLESS:
        provisioned = [parts[2:]] if parts[2:3] == ("ProvisionedConcurrencyConfig",) else []
        return [*provisioned, (_SERVERLESS[parts[0]], *parts[2:])]
    return [parts]


def _spelled(template: Template, base: KeyPath, spelling: KeyPath) -> int:
    """Count how many of the field's own keys the file spells out at ``base``."""
    return sum((*base, *spelling[:count]) in template.lines for count in range(1, len(spelling) + 1))
