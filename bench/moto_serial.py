"""``python -m bench.moto_serial PORT``: a moto server that hands each message to one receiver.

moto answers each request in a thread of its own and looks at a queue without a lock, so two that receive in the same
moment can get the same message (1 of 1,000 with five clients that do nothing but receive and delete), and one that
deletes can bring back what another has just deleted. Whether a mapping processes each message once shows only against a
server that gives it once: here all that looks at messages holds one lock, and who waits for messages does not.
"""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

from moto.server import main
from moto.sqs.models import SQSBackend

_LOOK_S = 0.02
_turn = threading.Lock()
_receive, _delete, _send = SQSBackend.receive_message, SQSBackend.delete_message, SQSBackend.send_message


def receive_message(self: SQSBackend, queue_name: str, count: int, wait_seconds_timeout: int, *rest: Any) -> Any:
    """Receive as moto does, without waiting within."""
    end_s = time.monotonic() + wait_seconds_timeout
    while True:
        with _turn:
            found = _receive(self, queue_name, count, 0, *rest)
        if found or time.monotonic() > end_s:
            return found
        time.sleep(_LOOK_S)


def delete_message(self: SQSBackend, *given: Any) -> None:
    """Delete as moto does."""
    with _turn:
        _delete(self, *given)


def send_message(self: SQSBackend, *given: Any, **named: Any) -> Any:
    """Send as moto does."""
    with _turn:
        return _send(self, *given, **named)


if __name__ == "__main__":
    SQSBackend.receive_message = receive_message  # type: ignore[method-assign, assignment]
    SQSBackend.delete_message = delete_message  # type: ignore[method-assign, assignment]
    SQSBackend.send_message = send_message  # type: ignore[method-assign]
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
