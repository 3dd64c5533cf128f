"""The fork server: who is forked, who dies with whom, and who is told."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.process import wire
from glowplug.runtime.process.wire import ExitCode

ECHO = "def handler(event, context):\n    return event\n"
PID = "import os\ndef handler(event, context):\n    return [os.getpid(), os.getppid(), os.getsid(0)]\n"


def status_of(exited: object) -> int:
    assert isinstance(exited, wire.Exited), exited
    return os.waitstatus_to_exitcode(exited.status)


def test_hello_says_what_was_preloaded(programs: Any) -> None:
    base = programs.base()

    assert (base.pid, wire.PROTOCOL) == (programs.hello.pid, programs.hello.protocol)
    assert {"json", "msgpack", "logging", "decimal"} <= set(programs.hello.preloaded)
    assert not {"torch", "asyncio", "ssl", "sqlite3", "aiohttp", "subprocess"} & set(programs.hello.preloaded)


@pytest.mark.slow
def test_torch_zygote_is_single_threaded_after_its_preloads(programs: Any) -> None:
    base = programs.base("torch")

    assert {"torch", "numpy", "safetensors", "sympy"} <= set(programs.hello.preloaded)
    assert [str(base.pid)] == os.listdir(f"/proc/{base.pid}/task")


def test_workers_are_forked_from_the_function_zygote_into_sessions_of_their_own(programs: Any) -> None:
    zygote = programs.function_zygote(PID)

    pids = [json.loads(zygote.worker(name).result()) for name in ("one", "two")]

    assert [zygote.pid, zygote.pid] == [parent for _, parent, _ in pids]
    assert [True, True] == [pid == session for pid, _, session in pids]
    assert 2 == len({pid for pid, _, _ in pids})


def test_parking_off_a_worker_forked_from_the_base_takes_every_step_itself(programs: Any) -> None:
    base = programs.base()
    worker = base.spawn("worker", "w")

    assert isinstance(worker.control.ask(programs.load_frame(ECHO, parked=False)), wire.Loaded)
    assert isinstance(worker.control.ask(programs.start_frame(restored=False)), wire.Ready)
    assert "1" == worker.result("1")


def test_module_state_is_made_once_and_not_shared_by_writing(programs: Any) -> None:
    zygote = programs.function_zygote(
        "print('once')\ncount = 0\ndef handler(event, context):\n    global count\n    count += 1\n    return count\n"
    )
    one, two = zygote.worker("one"), zygote.worker("two")

    assert ["1", "2", "1"] == [one.result(), one.result(), two.result()]
    assert "once\n" == zygote.log()
    assert "" == one.log() + two.log()


def test_a_canary_is_checked_and_stopped_without_start(programs: Any) -> None:
    zygote = programs.function_zygote(ECHO)
    canary = zygote.spawn("worker", "canary")

    assert isinstance(canary.control.ask(wire.Check(threads=1)), wire.Checked)
    canary.control.send(wire.Stop(1.0))

    assert ExitCode.OK == status_of(zygote.control.receive())


class TestLoadFailures:
    """The node hears why, in Lambda's terms; the zygote ends; its base goes on."""

    @pytest.mark.parametrize(
        ("handler", "source", "error_type", "message"),
        [
            ("nodot", ECHO, "Runtime.MalformedHandlerName", "Bad handler 'nodot': "),
            (
                "absent.handler",
                ECHO,
                "Runtime.ImportModuleError",
                "Unable to import module 'absent': No module named 'a",
            ),
            ("app.handler", "import absent", "Runtime.ImportModuleError", "Unable to import module 'app': No module n"),
            ("app.absent", ECHO, "Runtime.HandlerNotFound", "Handler 'absent' missing on module 'app'"),
            ("app.handler", "def broken(:\n", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app': "),
            ("sys.handler", ECHO, "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys"),
            ("app.handler", "raise LookupError('no')", "LookupError", "no"),
        ],
    )
    def test_each_has_its_error_type(
        self, programs: Any, handler: Any, source: Any, error_type: Any, message: Any
    ) -> None:
        base = programs.base()
        zygote = base.spawn("zygote", "z")

        failed = zygote.control.ask(programs.load_frame(source, handler))

        assert ("load", error_type) == (failed.step, failed.error_type)
        assert failed.error_message.startswith(message)
        assert zygote.log().startswith(f"[ERROR] {error_type}: {message}")
        assert ExitCode.LOAD_FAILED == status_of(base.control.receive())
        assert isinstance(base.spawn("zygote", "next").control.ask(programs.load_frame(ECHO)), wire.Loaded)

    def test_the_trace_of_an_import_error_starts_at_the_authors_frame(self, programs: Any) -> None:
        zygote = programs.base().spawn("zygote", "z")

        failed = zygote.control.ask(programs.load_frame("def f():\n    raise LookupError('no')\nf()\n"))

        path = programs.root / "app.py"
        assert [
            f'  File "{path}", line 3, in <module>\n    f()\n',
            f"  File \"{path}\", line 2, in f\n    raise LookupError('no')\n",
        ] == failed.stack_trace

    def test_a_child_forked_by_the_import_does_not_answer(self, programs: Any) -> None:
        zygote = programs.function_zygote("import os\nif os.fork():\n    os.wait()\n" + ECHO)

        assert "1" == zygote.worker().result("1")

    def test_a_missing_task_root_is_named(self, programs: Any) -> None:
        zygote = programs.base().spawn("zygote", "z")

        failed = zygote.control.ask(programs.load_frame(ECHO, task_root="/nowhere/at/all"))

        assert "FileNotFoundError" == failed.error_type
        assert "/nowhere/at/all" in failed.error_message

    def test_a_module_that_exits_ends_the_zygote_with_its_status(self, programs: Any) -> None:
        base = programs.base()
        zygote = base.spawn("zygote", "z")

        zygote.control.send(programs.load_frame("import sys\nprint('leaving')\nsys.exit(4)\n"))

        assert 4 == status_of(base.control.receive())
        assert "leaving\n" == zygote.log()


class TestObstacles:
    """What must not be forked says so, in words."""

    @pytest.mark.parametrize(
        ("source", "obstacle"),
        [
            ("import threading, time\nt = threading.Thread(target=time.sleep, args=(60,), name='poller')\n"
             "t.daemon = True\nt.start()\n", "thread poller (tid "),
            ("import socket\ns = socket.create_server(('127.0.0.1', 0))\n", "a listening socket on 127.0.0.1:"),
            ("import socket\na, b = socket.socketpair()\n", "a connected socket to an unnamed peer"),
            ("import select\ne = select.epoll()\n", "an epoll descriptor"),
            ("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n", ""),
            ("import tempfile, os\nf = tempfile.TemporaryFile()\np = os.pipe()\nm = os.memfd_create('m')\n", ""),
        ],
    )  # fmt: skip
    def test_is_named_when_loaded(self, programs: Any, source: Any, obstacle: Any) -> None:
        loaded = programs.function_zygote(source + ECHO).loaded

        assert loaded.obstacle.startswith(obstacle)
        assert bool(obstacle) == bool(loaded.obstacle)

    def test_numpy_in_a_lean_function_is_none_and_its_environment_stays_the_functions_own(self, programs: Any) -> None:
        """OpenBLAS would start a thread per core; what keeps it from that is not left behind for the function."""
        source = (
            "import numpy, os, subprocess\n"
            "def handler(event, context):\n"
            "    there = subprocess.run(['env'], capture_output=True, text=True, check=True).stdout\n"
            "    return [int(numpy.ones(3).sum()), 'OPENBLAS' in str(dict(os.environ)) + there]\n"
        )
        zygote = programs.function_zygote(source)

        assert "" == zygote.loaded.obstacle
        assert "[3, false]" == zygote.worker().result("1")

    def test_onnxruntime_is_none_until_it_has_a_session(self, programs: Any) -> None:
        """Its import would start a thread that sends telemetry; the variable against that is not left behind either."""
        source = (
            "import onnxruntime, os, subprocess\n"
            "def handler(event, context):\n"
            "    there = subprocess.run(['env'], capture_output=True, text=True, check=True).stdout\n"
            "    return ['CPUExecutionProvider' in onnxruntime.get_available_providers(), 'ORT_' in there]\n"
        )
        zygote = programs.function_zygote(source)

        assert "" == zygote.loaded.obstacle
        assert "[true, false]" == zygote.worker().result("1")

    def test_a_before_snapshot_hook_may_remove_it(self, programs: Any) -> None:
        source = (
            "import socket\nfrom snapshot_restore_py import register_before_snapshot\n"
            "s = socket.create_server(('127.0.0.1', 0))\nregister_before_snapshot(s.close)\n"
        )

        assert "" == programs.function_zygote(source + ECHO).loaded.obstacle


class TestEventLoops:
    """A loop of asyncio's that the import made and left idle is one in each instance; another is an obstacle."""

    SOURCE = (
        "import asyncio, os\n"
        "loop = asyncio.new_event_loop()\nasyncio.set_event_loop(loop)\n"
        "async def work():\n"
        "    await asyncio.to_thread(int)\n"  # wakes the loop through its own socket
        "    await asyncio.sleep(0.001)\n"
        "    return loop is asyncio.get_running_loop()\n"
        "def handler(event, context):\n"
        "    return [loop.run_until_complete(work()), loop._selector.fileno(), loop._ssock.fileno()]\n"
    )

    def test_an_idle_one_runs_in_every_instance_with_descriptors_of_its_own(self, programs: Any) -> None:
        zygote = programs.function_zygote(self.SOURCE)

        assert "" == zygote.loaded.obstacle
        workers = [zygote.worker("one"), zygote.worker("other")]
        for worker in [*workers, *workers]:
            same, *descriptors = json.loads(worker.result())
            assert same
            assert all(descriptor > 2 for descriptor in descriptors)

    @pytest.mark.parametrize(
        "more",
        [
            "loop.call_later(60, print)\n",
            "loop.call_soon(print)\n",
            "r, w = os.pipe()\nloop.add_reader(r, print)\n",
            "asyncio.set_event_loop(None)\n",
        ],
    )
    def test_one_that_has_something_to_do_or_is_not_set_is_an_obstacle(self, programs: Any, more: str) -> None:
        assert "an epoll descriptor" == programs.function_zygote(self.SOURCE + more).loaded.obstacle

    def test_without_parking_it_is_left_alone(self, programs: Any) -> None:
        worker = programs.base().spawn("worker", "w")
        worker.control.ask(programs.load_frame(self.SOURCE, parked=False))
        worker.control.ask(programs.start_frame(restored=False))

        assert json.loads(worker.result())[0]


class TestHooks:
    """``snapshot_restore_py`` keeps its meaning: before parking, after the fork."""

    SOURCE = (
        "from snapshot_restore_py import register_before_snapshot, register_after_restore\n"
        "calls = []\n"
        "register_before_snapshot(calls.append, 'before 1')\nregister_before_snapshot(calls.append, 'before 2')\n"
        "register_after_restore(calls.append, 'after 1')\nregister_after_restore(calls.append, 'after 2')\n"
        "def handler(event, context):\n    return calls\n"
    )

    def test_before_in_reverse_after_in_order(self, programs: Any) -> None:
        worker = programs.function_zygote(self.SOURCE).worker()

        assert ["before 2", "before 1", "after 1", "after 2"] == json.loads(worker.result())

    def test_without_parking_none_runs(self, programs: Any) -> None:
        worker = programs.base().spawn("worker", "w")
        worker.control.ask(programs.load_frame(self.SOURCE, parked=False))
        worker.control.ask(programs.start_frame(restored=False))

        assert "[]" == worker.result()

    def test_with_snapstart_they_run_without_parking_too(self, programs: Any) -> None:
        worker = programs.base().spawn("worker", "w")
        worker.control.ask(programs.load_frame(self.SOURCE, parked=False, initialization_type="snap-start"))
        worker.control.ask(programs.start_frame(restored=False))

        assert ["before 2", "before 1", "after 1", "after 2"] == json.loads(worker.result())

    def test_a_failing_before_hook_is_64(self, programs: Any) -> None:
        base = programs.base()
        zygote = base.spawn("zygote", "z")
        source = "import snapshot_restore_py as s\n@s.register_before_snapshot\ndef hook():\n    raise OSError('no')\n"

        failed = zygote.control.ask(programs.load_frame(source + ECHO))

        assert ("Runtime.BeforeSnapshotError", "OSError: no") == (failed.error_type, failed.error_message)
        assert ExitCode.BEFORE_SNAPSHOT_FAILED == status_of(base.control.receive())

    def test_a_failing_after_hook_is_65_and_costs_that_worker_only(self, programs: Any) -> None:
        source = "import snapshot_restore_py as s\n@s.register_after_restore\ndef hook():\n    raise OSError('no')\n"
        zygote = programs.function_zygote(source + ECHO)
        worker = zygote.spawn("worker", "w")

        failed = worker.control.ask(programs.start_frame())

        assert ("start", "Runtime.AfterRestoreError") == (failed.step, failed.error_type)
        assert ExitCode.AFTER_RESTORE_FAILED == status_of(zygote.control.receive())


class TestDeaths:
    """The zygote is the only one who reaps, and nothing outlives its owner."""

    def test_a_killed_worker_is_reported_with_its_group_gone(self, programs: Any) -> None:
        zygote = programs.function_zygote(
            "import subprocess\ndef handler(event, context):\n    return subprocess.Popen(['sleep', '60']).pid\n"
        )
        worker = zygote.worker()
        child = int(worker.result())

        os.kill(worker.pid, signal.SIGKILL)

        exited = zygote.control.receive()
        assert ("w", worker.pid, -signal.SIGKILL) == (exited.child_id, exited.pid, status_of(exited))
        assert exited.max_rss_kib > 1000
        assert programs.wait_gone(child)

    def test_a_daemon_that_left_the_session_is_reaped_and_killed(self, programs: Any) -> None:
        zygote = programs.function_zygote(
            "import os, time\n"
            "def handler(event, context):\n"
            "    r, w = os.pipe()\n"
            "    if os.fork() == 0:\n"
            "        os.setsid()\n"
            "        if os.fork() == 0:\n"
            "            os.write(w, str(os.getpid()).encode())\n"
            "            time.sleep(60)\n"
            "        os._exit(0)\n"
            "    os.wait()\n"
            "    return int(os.read(r, 20))\n"
        )
        worker, other = zygote.worker("w"), zygote.worker("other")
        daemon, others = int(worker.result()), int(other.result())
        assert str(zygote.pid) == Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[1]

        worker.control.send(wire.Stop(1.0))

        assert ExitCode.OK == status_of(zygote.control.receive())
        assert programs.wait_gone(daemon)
        assert programs.wait_gone(others), "a daemon has no owner, so it does not outlive the next reaping"
        assert str(other.pid) == Path(f"/proc/{zygote.pid}/task/{zygote.pid}/children").read_text().strip()

    def test_an_orphan_in_the_session_of_a_living_worker_is_left_alone(self, programs: Any) -> None:
        zygote = programs.function_zygote(
            "import subprocess\ndef handler(event, context):\n"
            "    script = 'sleep 60 >/dev/null 2>&1 & echo $!'\n"
            "    return int(subprocess.run(['sh', '-c', script], capture_output=True).stdout)\n"
        )
        worker, other = zygote.worker("w"), zygote.worker("other")
        orphan, others = int(worker.result()), int(other.result())

        worker.control.send(wire.Stop(1.0))

        zygote.control.receive()
        assert programs.wait_gone(orphan)
        assert os.path.exists(f"/proc/{others}")

    def test_when_the_node_goes_everything_below_goes_busy_or_not(self, programs: Any) -> None:
        zygote = programs.function_zygote("import time\ndef handler(event, context):\n    time.sleep(60)\n")
        worker, idle = zygote.worker("busy"), zygote.worker("idle")
        worker.data.send(programs.invoke_frame())

        zygote.control.close()

        assert ExitCode.NODE_GONE == status_of(zygote.base.control.receive())
        assert programs.wait_gone(worker.pid)
        assert programs.wait_gone(idle.pid)

    def test_the_end_of_the_bases_channel_ends_a_zygote_that_hangs_in_an_import(self, programs: Any) -> None:
        base = programs.base()
        zygote = base.spawn("zygote", "z")
        zygote.control.send(programs.load_frame("import time\ntime.sleep(60)\n"))

        base.control.close()

        assert ExitCode.NODE_GONE == base.popen.wait(10)
        assert programs.wait_gone(zygote.pid)

    def test_a_worker_survives_its_zygote_and_dies_with_the_base(self, programs: Any) -> None:
        zygote = programs.function_zygote(ECHO)
        worker = zygote.worker()

        os.kill(zygote.pid, signal.SIGKILL)

        assert "z" == zygote.base.control.receive().child_id
        assert "1" == worker.result("1")
        zygote.base.control.close()
        assert programs.wait_gone(worker.pid)

    def test_stop_waits_for_the_workers_and_then_kills_them(self, programs: Any) -> None:
        zygote = programs.function_zygote(ECHO)
        worker = zygote.worker()

        zygote.control.send(wire.Stop(grace_s=0.2))

        exited = zygote.base.control.receive()
        assert ("z", ExitCode.OK) == (exited.child_id, status_of(exited))
        assert programs.wait_gone(worker.pid)

    def test_sigterm_and_sigint_are_the_nodes_business(self, programs: Any) -> None:
        zygote = programs.function_zygote(ECHO)

        for signum in (signal.SIGTERM, signal.SIGINT):
            os.kill(zygote.base.pid, signum)
            os.kill(zygote.pid, signum)

        assert "1" == zygote.worker().result("1")

    @pytest.mark.parametrize("message", [wire.Stop(1.0), wire.Check(1), wire.Bind([])])
    def test_a_frame_that_is_not_a_zygotes_ends_the_base_as_protocol_error(self, programs: Any, message: Any) -> None:
        base = programs.base()

        base.control.send(wire.Invoke("r", [b""], 0, "", "", b"", b"", 1) if message.CODE == 25 else message)

        assert ExitCode.PROTOCOL_ERROR == base.popen.wait(10)

    def test_a_spawn_without_its_descriptors_is_a_protocol_error(self, programs: Any) -> None:
        base = programs.base()

        base.control.send(wire.Spawn("w", "worker", -1, -1))

        assert ExitCode.PROTOCOL_ERROR == base.popen.wait(10)
