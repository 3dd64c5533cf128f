"""What an exec'ed process inherits: a chosen environment and chosen descriptors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import glowplug
from glowplug.runtime.process.death import reap
from glowplug.runtime.process.enter import format_environment, parse_environment
from glowplug.runtime.process.execute import base_environment, execute

NAMES = st.text(st.characters(blacklist_characters="=\0", codec="utf-8"), min_size=1)
VALUES = st.text(st.characters(blacklist_characters="\0", codec="utf-8"))


def test_nothing_of_the_operators_environment_passes_but_what_programs_need_to_run() -> None:
    operators = {
        "PATH": "/usr/bin", "LANG": "de_DE.UTF-8", "TZ": "", "HOME": "/root", "AWS_SECRET_ACCESS_KEY": "x",
        "LD_PRELOAD": "/evil.so", "HTTPS_PROXY": "http://user:password@proxy", "GLOWPLUG_HOME": "/state",
        "OPENBLAS_NUM_THREADS": "64",
    }  # fmt: skip
    chosen = base_environment(operators)
    chosen.pop("PYTHONPATH", None)
    assert {
        "PATH": "/usr/bin", "LANG": "de_DE.UTF-8", "TZ": ":UTC", "HOME": "/tmp", "OPENBLAS_NUM_THREADS": "1",
        "GOMP_SPINCOUNT": "1000",
    } == chosen  # fmt: skip


def test_a_child_finds_the_package_that_the_node_runs_from() -> None:
    root = str(Path(glowplug.__file__).parent.parent)
    path = base_environment({"PYTHONPATH": "/libraries"}).get("PYTHONPATH", "")
    assert ("/libraries", root) == tuple(path.split(":"))


@given(st.dictionaries(NAMES, VALUES))
def test_an_environment_survives_its_file_form(environment: dict[str, str]) -> None:
    expected = {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}
    assert expected == parse_environment(format_environment(environment))


def test_descriptors_come_in_order_and_no_others_come_at_all() -> None:
    output, writing = os.pipe()
    first, second, leaked = (os.open(path, os.O_RDONLY) for path in ("/dev/zero", "/dev/full", "/dev/random"))
    os.set_inheritable(leaked, True)
    program = (
        "import os; print([os.readlink(f'/proc/self/fd/{n}')[-4:] for n in sorted(os.listdir('/proc/self/fd'))[3:-1]])"
    )
    command = ["/usr/bin/env", "python3", "-c", program]
    pid, pidfd = execute(command, environment={"PATH": os.environ["PATH"]}, inherited=[second, first], output=writing)
    os.close(writing)
    with open(output) as text:
        assert "['full', 'zero']\n" == text.read()
    while (ended := reap(pidfd, pid)) is None:
        pass
    assert 0 == ended.code
    for descriptor in (first, second, leaked, pidfd):
        os.close(descriptor)


def test_a_program_that_is_not_there_is_an_oserror_and_leaves_no_descriptor() -> None:
    reading, writing = os.pipe()
    before = sorted(os.listdir("/proc/self/fd"))
    try:
        execute(["/no/such/program"], environment={}, inherited=[], output=writing)
    except FileNotFoundError:
        assert before == sorted(os.listdir("/proc/self/fd"))
    else:
        raise AssertionError("it ran")
    finally:
        os.close(reading)
        os.close(writing)


def test_a_child_may_open_as_many_files_as_the_node_was_started_with_although_the_node_has_raised_its_own() -> None:
    """In a process of its own: the limit of the tests' process stays as it is."""
    program = (
        "import os, resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))\n"
        "from glowplug.cache.holds import raise_file_limit\n"
        "from glowplug.runtime.process.execute import execute\n"
        "raise_file_limit()\n"
        "assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)\n"
        "command = ['/bin/sh', '-c', 'sleep 0.05; ulimit -n']\n"
        "pid, _ = execute(command, environment={}, inherited=[], output=1)\n"
        "os.waitpid(pid, 0)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ("256\n", "", 0) == (ran.stdout, ran.stderr, ran.returncode)
