"""Comparing an answer with a recorded one, in which names, ids and times are placeholders such as ``<uuid:1>``.

A placeholder stands for a text of its kind: for the same one wherever it stands in the exchanges of one test, and for
one that no other placeholder of that kind stands for. So two of AWS's ids are two here, and one is one. A time or a
size is the account's or the moment's own and is not compared; that it is there, with its type and in its form, is:
``FORMS`` has the form of each.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

PLACEHOLDER = re.compile(r"<[a-zA-Z_][a-zA-Z0-9_ -]*(?::[a-zA-Z0-9_()-]+)?>")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:?\d\d)")
_URL = re.compile(r"https?://\S+")
_FUNCTION_URL = re.compile(r"https?://\S+/")
_LONG = re.compile(r"<a:len\((\d+)\)>")


def _text(form: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda answered: isinstance(answered, str) and form.fullmatch(answered) is not None


FORMS: dict[str, Callable[[Any], bool]] = {
    "date": _text(_TIME),
    "datetime": lambda answered: isinstance(answered, datetime.datetime),
    "lambda-url": _text(_FUNCTION_URL),
    "<location>": _text(_URL),
    "<layer-location>": _text(_URL),
    "<code-size>": lambda answered: type(answered) is int and answered > 0,
}
"""Recorded text that stands for any value, each for another one -> whether an answer has its form."""

_WORD = r"\S+?"
_KINDS = {
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "code-sha256": r"[A-Za-z0-9+/]{43}=",
    "description": r".+?",
    "license-info": r".+?",
}
"""What a placeholder of a kind may stand for; of every other, for a text without white space."""


class Matcher:
    """Compares the answers of one test; remembers what each placeholder stood for."""

    def __init__(self, **known: str) -> None:
        self.bound: dict[str, str] = {f"<{name}>": value for name, value in known.items()}

    def differences(self, recorded: Any, answered: Any, where: str = "") -> list[str]:
        """Return what is otherwise, a line each; empty when all is equal."""
        if isinstance(recorded, dict) and isinstance(answered, dict):
            names = [*recorded, *(name for name in answered if name not in recorded)]
            return [
                line
                for name in names
                for line in self._member(recorded, answered, name, f"{where}.{name}" if where else str(name))
            ]
        if isinstance(recorded, list) and isinstance(answered, list):
            if len(recorded) != len(answered):
                return [f"{where}: {len(answered)} items, not {len(recorded)}: {answered!r:.300}"]
            pairs = enumerate(zip(recorded, answered, strict=True))
            return [line for place, pair in pairs for line in self.differences(*pair, f"{where}[{place}]")]
        if isinstance(recorded, str):
            return self._text(recorded, answered, where)
        same = type(recorded) is type(answered) and recorded == answered
        return [] if same else [f"{where}: {answered!r:.300}, not {recorded!r:.300}"]

    def _member(self, recorded: dict[str, Any], answered: dict[str, Any], name: str, where: str) -> list[str]:
        if name not in answered:
            return [f"{where}: missing; recorded is {recorded[name]!r:.200}"]
        if name not in recorded:
            return [f"{where}: {answered[name]!r:.200} is not recorded"]
        return self.differences(recorded[name], answered[name], where)

    def _text(self, recorded: str, answered: Any, where: str) -> list[str]:
        if recorded in FORMS:
            return [] if FORMS[recorded](answered) else [f"{where}: {answered!r:.200} is no {recorded}"]
        if not isinstance(answered, str):
            return [f"{where}: {answered!r:.200}, not {recorded!r:.200}"]
        recorded = _LONG.sub(lambda match: "a" * int(match[1]), recorded)
        names: list[str] = []
        pattern, end = "", 0
        for match in PLACEHOLDER.finditer(recorded):
            pattern += re.escape(recorded[end : match.start()])
            end = match.end()
            name = match[0]
            if name in self.bound:
                pattern += re.escape(self.bound[name])
            elif name in names:
                pattern += f"(?P=g{names.index(name)})"
            else:
                pattern += f"(?P<g{len(names)}>{_KINDS.get(_kind(name), _WORD)})"
                names.append(name)
        found = re.fullmatch(pattern + re.escape(recorded[end:]), answered, re.DOTALL)
        if found is None:
            return [f"{where}: {answered!r:.600}, not {recorded!r:.600}"]
        return [line for number, name in enumerate(names) for line in self._bind(name, found[f"g{number}"], where)]

    def _bind(self, name: str, value: str, where: str) -> Iterator[str]:
        taken = next((one for one, text in self.bound.items() if text == value and _kind(one) == _kind(name)), None)
        self.bound[name] = value
        if taken is not None:
            yield f"{where}: {name} and {taken} are both {value!r:.200}"


def _kind(placeholder: str) -> str:
    return placeholder[1:-1].partition(":")[0]


def plain(answer: Any) -> Any:
    """Return an answer of boto3 as plain values: policies parsed, and of its metadata what was recorded, the status;
    the recorder emptied the headers."""
    if isinstance(answer, dict):
        out = {name: plain(value) for name, value in answer.items()}
        for name in ("Policy", "Statement"):
            if isinstance(out.get(name), str):
                out[name] = json.loads(out[name])
        if "ResponseMetadata" in out:
            out["ResponseMetadata"] = {"HTTPStatusCode": out["ResponseMetadata"]["HTTPStatusCode"], "HTTPHeaders": {}}
        return out
    return [plain(item) for item in answer] if isinstance(answer, list) else answer
