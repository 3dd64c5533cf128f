"""What a function sees of the file system: its code, its layers and a /tmp of its own, and what is left of it: nothing.

Where this kernel refuses namespaces, what stands in for them is tested instead, by the same tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.process import view, wire
from glowplug.runtime.process.view import Place, View

USER = 210_002
SEES = """
import glob, os, sys, tempfile
import brought
if "WRITES":
    os.makedirs("/tmp/made/at", exist_ok=True)
    open("/tmp/made/at/import", "w").write("import")

def handler(event, context):
    if event == "fill":
        with open(tempfile.gettempdir() + "/big", "wb", buffering=0) as file:
            try:
                while file.write(bytes(1 << 20)):
                    pass
            except OSError as error:
                return [os.strerror(error.errno), os.path.getsize(file.name)]
    if event == "touch":
        open(tempfile.gettempdir() + "/big", "w").close()
    if event == "escape":
        return os.system("unshare --user --mount true 2>/dev/null")
    if event == "change":
        open("/tmp/made/at/import", "a").write(os.environ["AWS_LAMBDA_LOG_STREAM_NAME"])
    if event == "raise":
        raise ValueError("boom")
    written = open("/tmp/made/at/import").read() if os.path.exists("/tmp/made/at/import") else ""
    return {"file": __file__, "brought": brought.__file__, "cwd": os.getcwd(), "task": os.environ["LAMBDA_TASK_ROOT"],
            "tmp": sorted(os.listdir(tempfile.gettempdir())), "written": written, "layers": sorted(os.listdir("/opt")),
            "where": tempfile.gettempdir(), "uid": os.getuid()}
"""


@pytest.fixture(scope="module")
def refusal() -> str:
    """Why this kernel lets no function have a view of its own; empty when it does."""
    program = "from glowplug.runtime.process import view; print(view.refusal())"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("src"))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def laid(refusal: str) -> bool:
    """Whether code and layers can be laid at least: Landlock forbids only what comes after it, each instance's /tmp."""
    return "/var/task" not in refusal


class Site:
    """A function's code, and a layer with a module; processes of that function."""

    def __init__(self, programs: Any) -> None:
        self.programs = programs
        self.users = os.geteuid() == 0
        layers = programs.root / "layers"
        (layers / "python").mkdir(parents=True)
        (layers / "python" / "brought.py").write_text("")
        code = programs.root / "code"
        code.mkdir()
        (code / "app.py").write_text("")
        programs.root.parent.chmod(0o755)
        self.place = Place(str(code), str(layers), 8)

    def source(self, *, writes: bool) -> None:
        Path(self.place.code, "app.py").write_text(SEES.replace('"WRITES"', str(writes)))

    def load(self, process: Any, **changes: Any) -> wire.Loaded:
        environment = {"LAMBDA_TASK_ROOT": "/var/task", "TMPDIR": "/tmp", "PYTHONPATH": "/var/runtime"}
        frame = self.programs.load_frame(
            "", environment=environment, task_root="/var/task", import_paths=["/var/task", "/opt/python"], **changes
        )
        loaded = process.control.ask(frame)
        assert isinstance(loaded, wire.Loaded), loaded
        return loaded

    def zygote(self, *, writes: bool = False) -> Any:
        self.source(writes=writes)
        base = self.programs.base(users=self.users)
        zygote = base.spawn("zygote", "z", uid=USER if self.users else -1, place=self.place)
        zygote.loaded = self.load(zygote)
        return zygote


@pytest.fixture
def site(programs: Any) -> Site:
    return Site(programs)


def sees(worker: Any, event: str = "look") -> Any:
    return json.loads(worker.result(json.dumps(event)))


class TestForked:
    """Instances forked from a function's zygote."""

    def test_code_and_layers_are_where_lambda_has_them(self, site: Site, refusal: str) -> None:
        found = sees(site.zygote().worker())
        root, layers = ("/var/task", "/opt") if laid(refusal) else (site.place.code, site.place.layers)
        assert [f"{root}/app.py", f"{layers}/python/brought.py", root, root] == [
            found[name] for name in ("file", "brought", "cwd", "task")
        ]
        assert not os.path.exists("/var/task"), "nothing of the host is written"
        assert not laid(refusal) or "python" in found["layers"]

    def test_each_has_a_tmp_of_its_own_of_the_size_asked_for(self, site: Site, refusal: str) -> None:
        zygote = site.zygote()
        one, two = zygote.worker("one"), zygote.worker("two")
        assert (refusal, refusal) == (one.ready.refusal, two.ready.refusal)
        if refusal:
            assert sees(one)["where"].startswith(f"/tmp/glowplug-{one.pid}-")
            return
        why, size = sees(one, "fill")
        assert ("No space left on device", True) == (why, 7 << 20 <= size <= 8 << 20)
        assert "big" in sees(one)["tmp"]
        assert "big" not in sees(two)["tmp"]
        assert not Path("/tmp/big").exists()
        assert 0.0 < one.ready.namespace_ms

    def test_a_larger_tmp_is_not_one_namespace_away(self, site: Site, refusal: str) -> None:
        if refusal or not site.users:
            pytest.skip(f"no user namespace of ours: {refusal}")
        assert 0 != sees(site.zygote().worker(), "escape")

    def test_what_the_import_wrote_is_in_every_tmp_until_one_changes_it(self, site: Site, refusal: str) -> None:
        if refusal:
            pytest.skip(f"/tmp is the machine's: {refusal}")
        zygote = site.zygote(writes=True)
        one, two = zygote.worker("one"), zygote.worker("two")
        assert ["importstream", "import"] == [sees(one, "change")["written"], sees(two)["written"]]

    def test_a_function_error_leaves_tmp_as_it_is_and_the_next_instance_has_another(
        self, site: Site, refusal: str
    ) -> None:
        zygote = site.zygote()
        worker = zygote.worker("one")
        sees(worker, "touch")
        assert worker.call('"raise"').failed
        assert "big" in sees(worker)["tmp"]
        os.kill(worker.pid, 9)
        zygote.control.receive()
        assert "big" not in sees(zygote.worker("two"))["tmp"]
        assert [] == view._in_tmp(f"glowplug-{worker.pid}-"), "nothing is left of it"


class TestOthers:
    """Processes that were never forked, or only once."""

    def test_a_worker_that_imports_by_itself_has_the_same(self, site: Site, refusal: str) -> None:
        site.source(writes=False)
        base = site.programs.base(users=site.users)
        worker = base.spawn("worker", "w", uid=USER if site.users else -1, place=site.place)
        site.load(worker, parked=False)
        ready = worker.control.ask(site.programs.start_frame(restored=False))
        assert laid(refusal) or refusal == ready.refusal
        found = sees(worker)
        assert ("/var/task" if laid(refusal) else site.place.code) == found["task"]
        assert not laid(refusal) or found["where"] == "/tmp"

    def test_an_execd_worker_has_the_same(self, site: Site, refusal: str) -> None:
        site.source(writes=False)
        worker = site.programs.exec_worker(*site.place.options(), "--expose", str(site.programs.root))
        site.load(worker, parked=False)
        worker.control.ask(site.programs.start_frame(restored=False))
        found = sees(worker)
        assert ("/var/task" if laid(refusal) else site.place.code) == found["task"]

    def test_the_zygote_of_one_function_has_the_same(self, site: Site, refusal: str) -> None:
        site.source(writes=False)
        zygote = site.programs.own_zygote(*site.place.options(), "--expose", str(site.programs.root))
        site.load(zygote)
        found = sees(zygote.worker())
        assert ("/var/task" if laid(refusal) else site.place.code) == found["task"]


class TestRefused:
    """Where the kernel has no namespaces to give."""

    def test_names_are_those_of_the_real_directories(self) -> None:
        seen = View(Place("/state/code/abc", "/state/layers/def", 512))
        load = wire.Load(
            "f", "app.handler", "/var/task", ["/var/task", "/opt/python"],
            {"PWD": "/var/task", "LAMBDA_RUNTIME_DIR": "/var/runtime", "PYTHONPATH": "/var/runtime", "MINE": "/opt/x",
             "LD_LIBRARY_PATH": "/var/task:/var/task/lib:/opt/lib"},
            [], "on-demand", parked=True, observe=False,
        )  # fmt: skip
        inside = seen.inside(load)
        assert ("/state/code/abc", ["/state/code/abc", "/state/layers/def/python"]) == (
            inside.task_root,
            inside.import_paths,
        )
        assert {
            "PWD": "/state/code/abc",
            "LAMBDA_RUNTIME_DIR": view._WORKER,
            "MINE": "/opt/x",
            "LD_LIBRARY_PATH": "/state/code/abc:/state/code/abc/lib:/state/layers/def/lib",
        } == inside.environment
        assert "/var/task/x.py" == seen.outside("/var/task/x.py")
        laid = View(seen.place, laid=True)
        assert (load, "/state/code/abc/x.py", "/usr/x.py") == (
            laid.inside(load),
            laid.outside("/var/task/x.py"),
            laid.outside("/usr/x.py"),
        )

    def test_a_process_says_why_and_gets_a_directory_that_goes_with_it(self) -> None:
        seen = View(Place("/nowhere", "", 512))
        seen.refusal = "no /var/task and no /tmp of its own: Operation not permitted"
        seen.divide()
        try:
            assert seen.scratch.startswith(f"/tmp/glowplug-{os.getpid()}-")
            Path(seen.scratch, "file").touch()
        finally:
            view.forget_scratch(os.getpid())
        assert not Path(seen.scratch).exists()
