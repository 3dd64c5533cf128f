"""Comparing an answer with a recorded one, in which names, ids and times are placeholders such as ``<uuid:1>``.

A placeholder stands for any text, and for the same text wherever it stands again in the exchanges of one test. Values
that are the account's or the moment's own are not compared, as far as they are there: ``IGNORED`` names them.
"""

from __future__ import annotations

import datetime
import json
import re
from typing import Any

PLACEHOLDER = re.compile(r"<[a-zA-Z_][a-zA-Z0-9_ -]*(?::[a-zA-Z0-9_()-]+)?>")
IGNORED = frozenset({"RuntimeVersionConfig", "CodeSha256", "CodeSize", "LastModified", "HTTPHeaders"})
_ANY = frozenset({"date", "datetime", "lambda-url", "<location>", "<layer-location>", "<code-size>"})
_LONG = re.compile(r"<a:len\((\d+)\)>")


class Matcher:
    """Compares the answers of one test; remembers what each placeholder stood for."""

    def __init__(self, **known: str) -> None:
        self.bound: dict[str, str] = {f"<{name}>": value for name, value in known.items()}

    def differences(self, recorded: Any, answered: Any, where: str = "") -> list[str]:
        """Return what is otherwise, a line each; empty when all is equal."""
        if isinstance(recorded, dict) and isinstance(answered, dict):
            names = [name for name in [*recorded, *(answered.keys() - recorded.keys())] if name not in IGNORED]
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
        return [] if recorded == answered else [f"{where}: {answered!r:.300}, not {recorded!r:.300}"]

    def _member(self, recorded: dict[str, Any], answered: dict[str, Any], name: str, where: str) -> list[str]:
        if name not in answered:
            return [f"{where}: missing; recorded is {recorded[name]!r:.200}"]
        if name not in recorded:
            return [f"{where}: {answered[name]!r:.200} is not recorded"]
        return self.differences(recorded[name], answered[name], where)

    def _text(self, recorded: str, answered: Any, where: str) -> list[str]:
        if recorded in _ANY:
            return []
        if isinstance(answered, datetime.datetime):
            answered = answered.isoformat()
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
                pattern += f"(?P<g{len(names)}>.+?)"
                names.append(name)
        found = re.fullmatch(pattern + re.escape(recorded[end:]), answered, re.DOTALL)
        if found is None:
            return [f"{where}: {answered!r:.600}, not {recorded!r:.600}"]
        for number, name in enumerate(names):
            self.bound[name] = found[f"g{number}"]
        return []


def plain(answer: Any) -> Any:
    """Return an answer of boto3 as plain values: policies parsed, the body of a refusal in its place."""
    if isinstance(answer, dict):
        out = {name: plain(value) for name, value in answer.items()}
        for name in ("Policy", "Statement"):
            if isinstance(out.get(name), str):
                out[name] = json.loads(out[name])
        if "ResponseMetadata" in out:
            out["ResponseMetadata"] = {"HTTPStatusCode": out["ResponseMetadata"]["HTTPStatusCode"]}
        return out
    return [plain(item) for item in answer] if isinstance(answer, list) else answer
