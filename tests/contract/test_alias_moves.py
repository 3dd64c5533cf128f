"""An alias moves while requests come in: none fails, and none that is sent after UpdateAlias's answer is behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from nodes import ServedNode

HANDLER = "def handler(event, context):\n    return context.function_version\n"
NAME = {"FunctionName": "moved"}
SWITCHES = 12
CALLERS = 4


def test_no_request_fails_and_each_sent_after_the_answer_is_on_the_new_version(
    empty: ServedNode, client: Any, zipped: Callable[..., bytes]
) -> None:
    client.create_function(
        **NAME, Role="arn:aws:iam::000000000000:role/any", Runtime="python3.11", Handler="index.handler",
        Code={"ZipFile": zipped(index=HANDLER)}, Publish=True,
    )  # fmt: skip
    waiter = client.get_waiter("function_updated_v2")
    waiter.wait(**NAME, WaiterConfig={"Delay": 0, "MaxAttempts": 999})
    client.update_function_configuration(**NAME, Description="the second")
    waiter.wait(**NAME, WaiterConfig={"Delay": 0, "MaxAttempts": 999})
    client.publish_version(**NAME)
    client.create_alias(**NAME, Name="live", FunctionVersion="1")
    answers: list[tuple[float, int, str]] = []
    done = threading.Event()

    def call() -> None:
        while not done.is_set():
            sent = time.monotonic()
            path = "/2015-03-31/functions/moved/invocations?Qualifier=live"
            status, headers, answer = empty.request("POST", path, {})
            assert answer == headers["x-amz-executed-version"]
            answers.append((sent, status, answer))

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    for caller in callers:
        caller.start()
    switches = []
    for number in range(SWITCHES):
        begun, version = time.monotonic(), str(2 - number % 2)
        client.update_alias(**NAME, Name="live", FunctionVersion=version)
        switches.append((begun, time.monotonic(), version))
        seen = len(answers)
        while len(answers) < seen + 3 * CALLERS and any(caller.is_alive() for caller in callers):
            time.sleep(0.005)
    done.set()
    for caller in callers:
        caller.join()
    assert {200} == {status for _, status, _ in answers}
    ends = [begun for begun, _, _ in switches[1:]] + [float("inf")]
    for (_, moved, version), end in zip(switches, ends, strict=True):
        during = [answer for sent, _, answer in answers if moved < sent < end]
        assert len(during) > CALLERS
        # One that was sent before the next switch began may have been answered after it.
        assert {version} == set(during[:-CALLERS])
