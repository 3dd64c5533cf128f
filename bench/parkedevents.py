"""How long an event waits for a function that is parked, against a synchronous call of it, in turns.

The function says in its log when its handler began. Both are counted from the moment in which the client sends.
"""

from __future__ import annotations

import contextlib
import json
import re
import time

from .figures import Figure, at_most, median, percentile
from .served import Node

ROUNDS = 40
HANDLER = "import time\\ndef handler(event, context): print('began', event['id'], time.time())"
"""For ``InlineCode`` in a template, in double quotes."""
_PATH = "/2015-03-31/functions/stamp/invocations"
_LIMIT_S = 20.0


def figures(node: Node) -> list[Figure]:
    """Measure; the function ``stamp`` with ``HANDLER`` is deployed."""
    _began_s(node, "first", "RequestResponse")
    waits_ms: dict[str, list[float]] = {"RequestResponse": [], "Event": []}
    for number in range(ROUNDS):
        for kind, spent in waits_ms.items():
            node.admin("POST", "functions/stamp/cool", {"to": "parked"})
            spent.append(_began_s(node, f"{kind}{number}", kind) * 1000)
    called, queued = median(waits_ms["RequestResponse"]), median(waits_ms["Event"])
    section = "a parked function: from sending to its handler's beginning"
    return [
        Figure(section, "synchronous call, p50", called, "ms"),
        Figure(section, "event, p50", queued, "ms"),
        Figure(section, "event, p99", percentile(waits_ms["Event"], 0.99), "ms"),
        at_most(section, "event beyond the call, p50", queued - called, "ms", 20),
    ]


def _began_s(node: Node, name: str, kind: str) -> float:
    """Invoke; return the seconds until the handler began."""
    with contextlib.closing(node.connect()) as connection:
        connection.request("GET", "/_glowplug/health")  # the connection's own set-up is not the start's
        connection.getresponse().read()
        sent_s = time.time()
        connection.request("POST", _PATH, json.dumps({"id": name}), {"X-Amz-Invocation-Type": kind})
        status = connection.getresponse().status
    if status not in (200, 202):
        raise RuntimeError(f"{kind} invocation: {status}")
    end_s = time.monotonic() + _LIMIT_S
    while time.monotonic() < end_s:
        text = "".join(file.read_text() for file in (node.state / "logs").glob("stamp*"))
        found = re.search(rf"^began {name} (\S+)$", text, re.MULTILINE)
        if found is not None:
            return float(found[1]) - sent_s
        time.sleep(0.01)
    raise RuntimeError(f"the handler did not begin within {_LIMIT_S:.0f} s")
