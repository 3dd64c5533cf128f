"""What a target gets of an event: all of it, a constant, a part, or a text in which parts are filled in.

Source: EventBridge's user guide, "Input transformation". Paths are the subset of JSONPath that names one place:
`$`, `$.detail.name`, `$.resources[0]`, `$.detail['a name']`. Where the guide is silent: a path that leads nowhere is
`null`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from glowplug.runtime.errors import DefinitionError, InvalidEntry
from glowplug.runtime.reader import Reader, kind

from .envelopes import seconds

FIELDS: Final = frozenset({"Input", "InputPath", "InputTransformer"})
_PATH: Final = re.compile(r"\$(?:\.[A-Za-z0-9_-]+|\[\d{1,9}\]|\['[^']+'\])*")
_STEP: Final = re.compile(r"\.([A-Za-z0-9_-]+)|\[(\d+)\]|\['([^']+)'\]")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+")
_PIECE: Final = re.compile(r'<([A-Za-z0-9_.-]+)>|(\\.)|(")', re.DOTALL)
_MOST_PATHS: Final = 100
_TEMPLATE_LENGTH: Final = 8192

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class About:
    """What a template may say besides what is in the event: `<aws.events.rule-arn>` and the like."""

    rule_arn: str
    rule_name: str
    ingested: datetime


@dataclass(frozen=True, slots=True)
class Transformer:
    """InputTransformer: a template, and the paths of its placeholders by name."""

    paths: Mapping[str, Path]
    template: str


@dataclass(frozen=True, slots=True)
class Input:
    """At most one of these is given; without any the target gets the event."""

    constant: str | None = None
    path: Path | None = None
    transformer: Transformer | None = None

    def payload(self, event: Mapping[str, Any], about: About) -> bytes:
        """Return what the target gets. Raises ``InvalidEntry`` where a filled template is not JSON."""
        if self.constant is not None:
            return self.constant.encode()
        if self.transformer is not None:
            text = _filled(self.transformer, event, about)
            _parsed(text)
            return text.encode(errors="surrogatepass")
        return _json(event if self.path is None else _found(event, self.path)).encode()


WHOLE: Final = Input()


@dataclass(slots=True)
class _Filling:
    """A template while it is filled: whether the place is inside a JSON string decides how a value is written."""

    values: Mapping[str, Any]
    quoted: bool = False
    pieces: list[str] = field(default_factory=list)

    def take(self, piece: re.Match[str]) -> str:
        name, _escaped, quote = piece.groups()
        if quote:
            self.quoted = not self.quoted
        if not name or name not in self.values:
            return piece[0]
        value = self.values[name]
        if not self.quoted:
            return _json(value)
        return _json(value if isinstance(value, str) else _json(value))[1:-1]


def input_of(reader: Reader) -> Input:
    """Read the Input, InputPath or InputTransformer of a target. Raises ``DefinitionError``."""
    given = [name for name in sorted(FIELDS) if reader.values.get(name) is not None]
    if len(given) > 1:
        raise DefinitionError(reader.at(given[1]), f"{given[0]} is given too; a target has one of them")
    constant = reader.values.get("Input")
    if constant is not None:
        text = reader.text("Input")
        try:
            _parsed(text)
        except InvalidEntry as error:
            raise DefinitionError(reader.at("Input"), f"is not JSON: {text[:40]!r}") from error
        return Input(constant=text)
    if reader.values.get("InputPath") is not None:
        return Input(path=_path(reader.text("InputPath"), reader.at("InputPath")))
    if reader.values.get("InputTransformer") is not None:
        return Input(transformer=_transformer(reader.section("InputTransformer", {"InputPathsMap", "InputTemplate"})))
    return WHOLE


def _transformer(reader: Reader) -> Transformer:
    given = Reader(reader.values.get("InputPathsMap") or {}, reader.at("InputPathsMap"))
    if len(given.values) > _MOST_PATHS:
        raise DefinitionError(given.path, f"has {len(given.values)} paths; {_MOST_PATHS} are taken")
    for name in given.values:
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower().startswith("aws"):
            raise DefinitionError(given.path, f"{name!r} is no name of a placeholder, or one of AWS's own")
    paths = {name: _path(given.text(name, required=True), given.at(name)) for name in given.values}
    template = reader.text("InputTemplate", required=True)
    at = reader.at("InputTemplate")
    if len(template) > _TEMPLATE_LENGTH:
        raise DefinitionError(at, f"has {len(template)} characters; {_TEMPLATE_LENGTH} are taken")
    transformer = Transformer(paths, template)
    try:
        _parsed(_filled_with(transformer, dict.fromkeys([*paths, *_OWN], 0)))
    except InvalidEntry as error:
        raise DefinitionError(at, "is not JSON once its placeholders are filled in; a text needs its quotes") from error
    return transformer


_OWN: Final = ("aws.events.rule-arn", "aws.events.rule-name", "aws.events.event.ingestion-time",
               "aws.events.event", "aws.events.event.json")  # fmt: skip


def _filled(transformer: Transformer, event: Mapping[str, Any], about: About) -> str:
    without_detail = {name: value for name, value in event.items() if name != "detail"}
    own = (about.rule_arn, about.rule_name, seconds(about.ingested), without_detail, event)
    values = {name: _found(event, path) for name, path in transformer.paths.items()}
    return _filled_with(transformer, values | dict(zip(_OWN, own, strict=True)))


def _filled_with(transformer: Transformer, values: Mapping[str, Any]) -> str:
    return _PIECE.sub(_Filling(values).take, transformer.template)


def _path(text: str, at: str) -> Path:
    if not _PATH.fullmatch(text):
        raise DefinitionError(at, f"{text!r} is no path to one place, such as $.detail.name or $.resources[0]")
    return tuple(int(index) if index else name or quoted for name, index, quoted in _STEP.findall(text))


def _found(event: Any, path: Path) -> Any:
    value = event
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and step < len(value) else None
        else:
            value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidEntry("InvalidInput", f"The input is not JSON: {kind(text[:80])}") from error
