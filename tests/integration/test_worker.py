"""What an author's handler experiences in a forked worker: results, errors, logs, deaths."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from typing import Any

import pytest

from glowplug.runtime.process import wire
from glowplug.runtime.process.wire import ExitCode


def body(outcome: wire.Outcome) -> dict[str, object]:
    assert outcome.failed
    return dict(json.loads(outcome.results[0]))


def test_result_is_the_handlers_json(worker_of: Any) -> None:
    worker = worker_of("def handler(event, context):\n    return {'got': event, 'none': None}\n")

    assert '{"got": {"a": [1, "\\u00e9"]}, "none": null}' == worker.result('{"a": [1, "é"]}')


def test_none_becomes_null(worker_of: Any) -> None:
    assert "null" == worker_of("def handler(event, context): pass\n").result()


def test_exception_becomes_lambdas_error_body_and_log_line(worker_of: Any, programs: Any) -> None:
    worker = worker_of("def inner():\n    raise ValueError('boom')\n\ndef handler(event, context):\n    inner()\n")

    outcome = worker.call(request_id="r-7")

    path = programs.root / "app.py"
    assert {
        "errorMessage": "boom",
        "errorType": "ValueError",
        "requestId": "r-7",
        "stackTrace": [
            f'  File "{path}", line 5, in handler\n    inner()\n',
            f"  File \"{path}\", line 2, in inner\n    raise ValueError('boom')\n",
        ],
    } == body(outcome)
    assert "ValueError" == outcome.error_type
    assert (
        "[ERROR] ValueError: boom\rTraceback (most recent call last):\r"
        f'\u00a0\u00a0File "{path}", line 5, in handler\r\u00a0\u00a0\u00a0\u00a0inner()\r'
        f"\u00a0\u00a0File \"{path}\", line 2, in inner\r\u00a0\u00a0\u00a0\u00a0raise ValueError('boom')\n"
    ) == worker.log()
    assert "null" != worker.call().results[0].decode(), "an exception alone does not end the worker"


@pytest.mark.parametrize(
    ("returned", "event", "error_type", "message"),
    [
        ("object()", "{}", "Runtime.MarshalError", "Unable to marshal response: Object of type object"),
        ("b'x'", "{}", "Runtime.MarshalError", "Unable to marshal response: Object of type bytes"),
        ("event", "{", "Runtime.UnmarshalError", "Unable to unmarshal input: Expecting property name"),
    ],
)
def test_what_is_not_json_is_refused_by_name(
    worker_of: Any, returned: Any, event: Any, error_type: Any, message: Any
) -> None:
    outcome = worker_of(f"def handler(event, context):\n    return {returned}\n").call(event)

    assert error_type == outcome.error_type
    assert str(body(outcome)["errorMessage"]).startswith(message)
    assert [] == body(outcome)["stackTrace"]


def test_print_logging_and_c_output_are_in_the_pipe_when_the_outcome_is(worker_of: Any) -> None:
    worker = worker_of(
        "import ctypes, logging, sys, os\n"
        "logging.getLogger().setLevel('INFO')\n"
        "print('importing')\n"
        "def handler(event, context):\n"
        "    ctypes.CDLL(None).puts(b'from C')\n"
        "    sys.stdout.write('no newline ')\n"
        "    logging.info('told %s', 1)\n"
        "    print('error', file=sys.stderr)\n"
        "    os.system('echo from a shell')\n"
    )

    assert "importing\n" == worker.zygote.log()
    worker.call(request_id="r-9")

    log = worker.log()
    assert re.search(r"no newline \[INFO\]\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\tr-9\ttold 1\n", log)
    assert {"error", "from C", "from a shell"} <= set(log.splitlines())
    assert "" == worker.zygote.log()


@pytest.mark.parametrize(("code", "status"), [("3", 3), ("", 0), ("'why'", 1)])
def test_sys_exit_ends_the_process_with_its_code(worker_of: Any, code: Any, status: Any) -> None:
    worker = worker_of(f"import sys\ndef handler(event, context):\n    print('bye')\n    sys.exit({code})\n")

    worker.data.send(worker_invoke(worker))

    exited = worker.zygote.control.receive()
    assert ("w", status) == (exited.child_id, os.waitstatus_to_exitcode(exited.status))
    assert worker.log().startswith("bye\n")
    with pytest.raises(EOFError):
        worker.data.receive()


def worker_invoke(worker: Any) -> wire.Invoke:
    return wire.Invoke("r-1", [b"{}"], int(time.time() * 1000) + 3000, "arn", "", b"", b"", 1)


def test_a_handler_that_kills_itself_is_reported_with_its_signal(worker_of: Any) -> None:
    worker = worker_of("import os\ndef handler(event, context):\n    os.kill(os.getpid(), 9)\n")

    worker.data.send(worker_invoke(worker))

    assert -signal.SIGKILL == os.waitstatus_to_exitcode(worker.zygote.control.receive().status)


def test_allocating_past_the_limit_ends_with_out_of_memory(worker_of: Any) -> None:
    worker = worker_of(
        "def handler(event, context):\n    return len(bytearray(event))\n", start={"memory_bytes": 64 << 20}
    )
    assert str(32 << 20) == worker.result(str(32 << 20))

    worker.data.send(wire.Invoke("r-2", [str(128 << 20).encode()], 0, "arn", "", b"", b"", 1))

    assert ExitCode.OUT_OF_MEMORY == os.waitstatus_to_exitcode(worker.zygote.control.receive().status)
    assert "Runtime.OutOfMemory" in worker.log()


@pytest.mark.slow
def test_a_tensor_past_the_limit_ends_with_out_of_memory(worker_of: Any) -> None:
    source = "import torch\ndef handler(event, context):\n    return torch.ones(event, dtype=torch.uint8).numel()\n"
    worker = worker_of(source, preload="torch", start={"memory_bytes": 64 << 20})

    worker.data.send(wire.Invoke("r-1", [str(1 << 30).encode()], 0, "arn", "", b"", b"", 1))

    assert ExitCode.OUT_OF_MEMORY == os.waitstatus_to_exitcode(worker.zygote.control.receive().status)


def test_a_forked_child_that_runs_off_the_handlers_end_does_not_answer(worker_of: Any) -> None:
    worker = worker_of(
        "import os\n"
        "def handler(event, context):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        print('child')\n"
        "        return 'from the child'\n"
        "    os.waitpid(pid, 0)\n"
        "    return 'from the worker'\n"
    )

    for _ in range(3):
        assert '"from the worker"' == worker.result()
        assert "child\n" == worker.log()


def test_subprocesses_work_and_inherit_no_channel(worker_of: Any) -> None:
    worker = worker_of(
        "import os, subprocess, sys\n"
        "def handler(event, context):\n"
        "    script = 'import os; print(sorted(os.listdir(\"/proc/self/fd\")))'\n"
        "    return subprocess.run([sys.executable, '-c', script], capture_output=True, text=True).stdout\n"
    )

    assert "['0', '1', '2', '3']\\n" == json.loads(worker.result()).replace("\n", "\\n")  # 3 is the listing itself


def test_environment_is_the_functions_and_nothing_else(worker_of: Any) -> None:
    worker = worker_of(
        "import os, time, sys\n"
        "at_import = dict(os.environ)\n"
        "def handler(event, context):\n"
        "    return [at_import, dict(os.environ), os.getcwd(), sys.argv, time.tzname[0]]\n",
        environment={"NAME": "value", "TZ": "Europe/Berlin"},
        start={"environment": {"AWS_LAMBDA_LOG_STREAM_NAME": "mine"}},
    )

    at_import, now, cwd, argv, zone = json.loads(worker.result(trace_id="Root=1-2-3"))

    assert {"PATH", "LANG", "TZ", "HOME", "NAME"} == set(at_import)
    assert at_import | {"AWS_LAMBDA_LOG_STREAM_NAME": "mine", "_X_AMZN_TRACE_ID": "Root=1-2-3"} == now
    assert cwd.endswith("/code")
    assert (["app.handler"], "CET") == (argv, zone)
    assert "_X_AMZN_TRACE_ID" not in json.loads(worker.result())[1], "the next call has no trace id"


def test_a_large_event_and_a_large_result_pass_through(worker_of: Any) -> None:
    worker = worker_of("def handler(event, context):\n    return event[::-1]\n")
    text = "a" + "b" * 3_000_000

    assert json.dumps(text[::-1]) == worker.result(json.dumps(text))


def test_requests_sent_together_are_answered_in_order(worker_of: Any, programs: Any) -> None:
    worker = worker_of("def handler(event, context):\n    return event\n")

    for number in range(20):
        worker.data.send(programs.invoke_frame(str(number), f"r-{number}"))

    answers = [worker.data.receive() for _ in range(20)]
    assert [(f"r-{number}", [str(number).encode()]) for number in range(20)] == [
        (answer.invocation_id, answer.results) for answer in answers
    ]


def test_stop_ends_with_ok_and_tells_an_author_who_listens_for_sigterm(worker_of: Any) -> None:
    worker = worker_of(
        "import signal, sys\n"
        "def leave(*_):\n    print('leaving')\n    sys.exit(9)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "def handler(event, context): pass\n"
    )
    os.kill(worker.zygote.pid, signal.SIGTERM)  # of a service manager: the zygote's end is the node's decision

    worker.control.send(wire.Stop(1.0))

    assert ExitCode.OK == os.waitstatus_to_exitcode(worker.zygote.control.receive().status)
    assert "leaving\n" == worker.log()


def test_stop_right_behind_start_is_heard(programs: Any) -> None:
    zygote = programs.function_zygote("def handler(event, context): pass\n")
    worker = zygote.spawn("worker", "w")

    worker.control.send_bytes(wire.encode(programs.start_frame()).data + wire.encode(wire.Stop(1.0)).data)

    assert isinstance(worker.control.receive(), wire.Ready)
    assert ExitCode.OK == os.waitstatus_to_exitcode(zygote.control.receive().status)


def test_a_worker_whose_node_is_gone_exits_by_itself(worker_of: Any) -> None:
    worker = worker_of("def handler(event, context): pass\n")

    worker.control.close()

    assert ExitCode.NODE_GONE == os.waitstatus_to_exitcode(worker.zygote.control.receive().status)


@pytest.mark.parametrize("garbage", [b"\xff" * 64, b"\0\0\0\1\0\xc0", wire.encode(wire.Stop(1.0)).data])
def test_garbage_on_the_data_channel_ends_only_that_worker(worker_of: Any, garbage: Any) -> None:
    worker = worker_of("def handler(event, context):\n    return 1\n")
    other = worker.zygote.worker("other")

    worker.data.send_bytes(garbage)

    exited = worker.zygote.control.receive()
    assert ("w", ExitCode.PROTOCOL_ERROR) == (exited.child_id, os.waitstatus_to_exitcode(exited.status))
    assert "1" == other.result()


@pytest.mark.slow
def test_threads_are_granted_with_the_invocation(worker_of: Any) -> None:
    worker = worker_of(
        "import torch\ndef handler(event, context):\n    return torch.get_num_threads()\n", preload="torch"
    )

    assert ["1", "2", "1"] == [worker.result(threads=threads) for threads in (1, 2, 1)]


class TestExec:
    """A worker in a process of its own."""

    def test_does_what_a_forked_one_does(self, programs: Any) -> None:
        worker = programs.exec_worker()
        source = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True, name='mine').start()\n"
        source += "def handler(event, context):\n    return context.log_stream_name\n"

        loaded = worker.control.ask(programs.load_frame(source, parked=False))
        ready = worker.control.ask(programs.start_frame(restored=False))

        assert isinstance(ready, wire.Ready)
        assert "" == loaded.obstacle, "nothing is forked from it, so that a thread is none"
        assert '"stream"' == worker.result()
        worker.control.send(wire.Stop(1.0))
        assert ExitCode.OK == worker.popen.wait(10)

    def test_busy_when_the_node_dies_it_ends_with_what_it_started(self, programs: Any) -> None:
        worker = programs.exec_worker()
        source = "import subprocess\ndef handler(event, context):\n"
        source += "    child = subprocess.Popen(['sleep', '60'])\n    print(child.pid, flush=True)\n    child.wait()\n"
        worker.control.ask(programs.load_frame(source, parked=False))
        worker.control.ask(programs.start_frame(restored=False))
        worker.data.send(programs.invoke_frame())
        child = ""
        while not child.endswith("\n"):
            child += worker.log()

        worker.control.close()

        assert -signal.SIGKILL == worker.popen.wait(10)
        assert programs.wait_gone(int(child))


def test_a_canary_tells_what_its_function_has_read_where_it_was_asked_to(programs: Any) -> None:
    """The zygote's import is in it, what the base had before is not; unasked, it costs nothing and tells nothing."""
    (programs.root / "beside.py").write_text("x = 1\n")
    source = "import beside, os, wave\ndef handler(event, context): pass\n"
    reads = []
    for observe in (True, False):
        zygote = programs.function_zygote(source, observe=observe)
        checked = zygote.spawn("worker", f"canary-{observe}").control.ask(wire.Check(threads=1))
        assert isinstance(checked, wire.Checked)
        reads.append([os.path.basename(path) for path, _, _ in checked.reads])
    named = {name.partition(".")[0] for name in reads[0]}
    assert ({"app", "beside", "wave"}, set()) == (named & {"app", "beside", "wave", "os"}, set(reads[1]))
