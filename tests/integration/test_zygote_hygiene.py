"""Each trap of forking, and what keeps functions apart: what a worker inherits and what it must not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ECHO = "def handler(event, context):\n    return event\n"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give functions users of their own")


class TestAfterFork:
    """The traps of forking, each with its test."""

    def test_random_generators_differ_between_instances_unless_the_author_seeded_them(self, programs: Any) -> None:
        draw = "import random, uuid\ndef handler(event, context):\n    return [random.random(), str(uuid.uuid4())]\n"
        fresh = programs.function_zygote(draw + "random.random()\n")
        seeded = programs.function_zygote("import random\nrandom.seed(42)\n" + draw)

        ours = [json.loads(fresh.worker(name).result()) for name in "ab"]
        theirs = [json.loads(seeded.worker(name).result()) for name in "ab"]

        assert 2 == len({number for number, _ in ours})
        assert 4 == len({text for _, text in ours + theirs})
        assert [0.6394267984578837] * 2 == [number for number, _ in theirs]

    @pytest.mark.slow
    def test_numpy_and_torch_too(self, programs: Any) -> None:
        draw = (
            "import numpy as np, torch\nSEEDING\nnp.random.rand(3); torch.rand(3)\n"
            "def handler(event, context):\n    return [np.random.rand(), torch.rand(1).item()]\n"
        )
        base = programs.base("torch")
        drawn = {}
        for name, seeding in (("fresh", ""), ("again", ""), ("seeded", "np.random.seed(1); torch.manual_seed(1)")):
            zygote = base.spawn("zygote", name)
            zygote.control.ask(programs.load_frame(draw.replace("SEEDING", seeding)))
            drawn[name] = [tuple(json.loads(zygote.worker(worker).result())) for worker in "ab"]

        assert 1 == len(set(drawn["seeded"]))
        fresh = drawn["fresh"] + drawn["again"]
        assert (4, 4) == (len({number for number, _ in fresh}), len({number for _, number in fresh}))

    def test_descriptors_of_siblings_and_parents_are_not_inherited(self, programs: Any) -> None:
        zygote = programs.function_zygote(
            "import os\ndef handler(event, context):\n"
            "    return sorted(os.readlink(f'/proc/self/fd/{n}').partition(':')[0] for n in os.listdir('/proc/self/fd')"
            " if os.path.lexists(f'/proc/self/fd/{n}'))\n"
        )
        zygote.worker("one")

        inherited = json.loads(zygote.worker("two").result())

        assert ["/dev/null", "pipe", "pipe", "socket", "socket"] == inherited

    def test_a_wakeup_descriptor_left_by_an_import_is_forgotten(self, programs: Any) -> None:
        zygote = programs.function_zygote(
            "import os, signal\nr, w = os.pipe()\nos.set_blocking(w, False)\nsignal.set_wakeup_fd(w)\n"
            "def handler(event, context):\n    return signal.set_wakeup_fd(-1)\n"
        )

        assert "-1" == zygote.worker().result()

    def test_an_inherited_logging_handler_writes_to_the_workers_log(self, programs: Any) -> None:
        zygote = programs.function_zygote(
            "import logging, sys\nlog = logging.getLogger('mine')\nlog.propagate = False\n"
            "log.addHandler(logging.StreamHandler(sys.stdout))\n"
            "def handler(event, context):\n    log.warning('from the worker')\n"
        )
        worker = zygote.worker()
        worker.result()

        assert ("from the worker\n", "") == (worker.log(), zygote.log())

    def test_the_heap_is_frozen_so_that_collecting_does_not_copy_it(self, programs: Any) -> None:
        zygote = programs.function_zygote(
            "import gc\ndef handler(event, context):\n    return [gc.get_freeze_count() > 5000, gc.isenabled()]\n"
        )

        assert "[true, true]" == zygote.worker().result()

    def test_workers_and_only_workers_are_first_for_the_oom_killer(self, programs: Any) -> None:
        zygote = programs.function_zygote(ECHO)
        worker = zygote.worker()

        scores = [Path(f"/proc/{process.pid}/oom_score_adj").read_text().strip() for process in (worker, zygote)]

        assert "1000" == scores[0] != scores[1]


@root_only
class TestUsers:
    """Where the node is root, a function has a user of its own and sees only what it needs."""

    PROBE = (
        "import os\n"
        "def look(path):\n"
        "    try:\n        return sorted(os.listdir(path))\n"
        "    except OSError as error:\n        return type(error).__name__\n"
        "def handler(event, context):\n"
        "    status = dict(line.split(':\\t') for line in open('/proc/self/status').read().splitlines() if ':\\t' in line)\n"
        "    return {'uid': os.getresuid(), 'gid': os.getresgid(), 'groups': os.getgroups(),\n"
        "            'privileges': status['NoNewPrivs'], 'look': look(event)}\n"
    )

    def test_a_function_runs_as_its_user_for_good(self, programs: Any) -> None:
        programs.root.parent.chmod(0o755)

        worker = programs.function_zygote(self.PROBE, users=True).worker()
        found = json.loads(worker.result('"/tmp"'))

        assert {"uid": [210_001] * 3, "gid": [210_001] * 3, "groups": [], "privileges": "1"} == {
            name: found[name] for name in ("uid", "gid", "groups", "privileges")
        }

    def test_a_closed_directory_shows_only_what_is_exposed(self, programs: Any) -> None:
        state = programs.root.parent
        state.chmod(0o700)
        (state / "registry.db").write_text("secret")
        worker = programs.function_zygote(self.PROBE, users=True).worker()

        assert ["code"] == json.loads(worker.result(json.dumps(str(state))))["look"]
        assert {"code", "registry.db"} <= set(os.listdir(state)), "only the functions see the veil"

    def test_dev_stdout_can_be_opened_by_name(self, programs: Any) -> None:
        zygote = programs.function_zygote("print('x', file=open('/dev/stdout', 'w'))\n" + ECHO, users=True)

        assert "x\n" == zygote.log()


@pytest.mark.skipif(os.geteuid() != 0, reason="Landlock is for other users; root tries it on itself")
def test_landlock_lets_a_process_read_what_it_needs_and_write_in_tmp(tmp_path: Path) -> None:
    from glowplug.runtime.process import landlock

    if not landlock.version():
        pytest.skip("this kernel has no Landlock")
    (tmp_path / "shown").mkdir()
    (tmp_path / "hidden").mkdir()
    script = (
        "import os, sys\n"
        "from glowplug.runtime.process import confine, landlock\n"
        "confinement = confine.Confinement(False, landlock.Rules((sys.argv[1] + '/shown', '/usr', '/proc'), (), ()))\n"
        "confinement.enter(-1, -1)\n"
        "print(os.listdir(sys.argv[1] + '/shown'), confine.is_confined())\n"
        "for attempt in (lambda: os.listdir(sys.argv[1] + '/hidden'), lambda: open(sys.argv[1] + '/shown/x', 'w'),\n"
        "                lambda: os.kill(os.getppid(), 0)):\n"
        "    try:\n        attempt()\n        print('allowed')\n"
        "    except PermissionError:\n        print('refused')\n"
    )

    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)

    signals = "refused" if landlock.version() >= 6 else "allowed"
    assert ["[] True", "refused", "refused", signals] == done.stdout.splitlines()
