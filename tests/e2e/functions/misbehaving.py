"""Handlers that do what handlers should not, one per line of the bad-input list."""

import ctypes
import logging
import os
import subprocess
import sys
import time

counter = 0


def answers(event, context):
    global counter
    counter += 1
    return {"event": event, "calls": counter, "pid": os.getpid(), "arn": context.invoked_function_arn}


def raises(event, context):
    raise ValueError("boom")


def exits(event, context):
    sys.exit(event.get("code", 0))


def killed(event, context):
    os.kill(os.getpid(), 9)


def segfaults(event, context):
    ctypes.string_at(0)


def hangs(event, context):
    time.sleep(600)


def too_large(event, context):
    return "x" * (7 * 1024 * 1024)


def large(event, context):
    return "x" * event["bytes"]


def not_json(event, context):
    return {"set": {1, 2}}


def allocates(event, context):
    blocks = []
    for _ in range(event.get("megabytes", 2000)):
        blocks.append(bytearray(os.urandom(1024) * 1024))
    return len(blocks)


def forks(event, context):
    child = os.fork()
    if child == 0:
        return {"from": "child"}  # must never reach the caller
    os.waitpid(child, 0)
    return {"from": "parent", "shell": subprocess.run(["echo", "hi"], capture_output=True, text=True).stdout}


def strays(event, context):
    subprocess.Popen(["sleep", "300"], start_new_session=True)
    return "left one behind"


def sleeps(event, context):
    time.sleep(event.get("seconds", 1))
    return event


def talks(event, context):
    print("printed line")
    logging.getLogger().warning("logged line")
    os.write(1, b"written straight to descriptor 1\n")
    print("to stderr", file=sys.stderr)
    return context.aws_request_id


def chatters(event, context):
    for number in range(2000):
        print(f"line {number} \u20ac")
    return "said it"


def calls_next(event, context):
    """A chain: asks the node for the function named next, through the Lambda API it was told about."""
    import json
    import urllib.request

    if not event["chain"]:
        return ["end"]
    following, *rest = event["chain"]
    url = f"{os.environ['AWS_ENDPOINT_URL']}/2015-03-31/functions/{following}/invocations"
    request = urllib.request.Request(url, data=json.dumps({"chain": rest}).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=20) as response:
        return [context.function_name, *json.load(response)]


def environment(event, context):
    return {
        "names": sorted(os.environ),
        "values": {name: os.environ.get(name) for name in event["names"]},
        "uid": os.getuid(),
        "cwd": os.getcwd(),
        "argv": sys.argv,
    }
