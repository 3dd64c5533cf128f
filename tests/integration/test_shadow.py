"""A function's own copies of modules that base zygotes and workers have loaded: it gets them, and nobody else's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.process import wire

WHERE = """
import sys
import {name} as brought

def handler(event, context):
    return [getattr(brought, "mine", "the node's"), brought.__file__.startswith(sys.path[0])]
"""


def bring(programs: Any, *paths: str) -> None:
    """Write modules that know that they are the function's."""
    for path in paths:
        file = programs.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("mine = 'mine'\n")


def loaded_by_a_zygote(programs: Any, source: str, preload: str = "lean", **changes: Any) -> wire.Loaded:
    zygote = programs.base(preload).spawn("zygote", "z")
    loaded = zygote.control.ask(programs.load_frame(source, **changes))
    assert isinstance(loaded, wire.Loaded), loaded
    programs.said = zygote.log()
    return loaded


class TestForked:
    """A forked process has what was preloaded, so it refuses before it imports anything."""

    @pytest.mark.parametrize("parked", [True, False])
    @pytest.mark.parametrize("path", ["msgpack.py", "msgpack/__init__.py", "uuid.py"])
    def test_code_with_a_preloaded_module_is_refused_by_name(self, programs: Any, path: str, *, parked: bool) -> None:
        bring(programs, path)
        loaded = loaded_by_a_zygote(programs, "print('imported')\n", parked=parked)
        name = Path(path).parts[0].removesuffix(".py")
        assert f"its code brings its own {name}, which the zygote has loaded already" == loaded.obstacle
        assert "" == programs.said

    def test_several_are_listed(self, programs: Any) -> None:
        bring(programs, "msgpack.py", "uuid.py", "base64.py")
        loaded = loaded_by_a_zygote(programs, "")
        assert "its code brings its own base64, msgpack and uuid, which" in loaded.obstacle

    @pytest.mark.slow
    def test_what_torch_brought_in_counts_as_well(self, programs: Any) -> None:
        bring(programs, "typing_extensions.py", "torch/__init__.py")
        loaded = loaded_by_a_zygote(programs, "", "torch")
        assert "its code brings its own torch and typing_extensions, which" in loaded.obstacle

    def test_a_handler_named_like_a_loaded_module_is_not_looked_up_there(self, programs: Any) -> None:
        (programs.root / "logging.py").write_text("def handler(event, context):\n    return 'mine'\n")
        loaded = loaded_by_a_zygote(programs, "", handler="logging.handler")
        assert "its code brings its own logging, which" in loaded.obstacle

    def test_what_cannot_take_a_modules_place_is_no_obstacle(self, programs: Any) -> None:
        """A directory without __init__.py, data, builtin and frozen modules, a zip's __main__, a module not loaded."""
        bring(programs, "msgpack/weights.py", "uuid.json", "sys.py", "os.py", "__main__.py", "glowplug.py", "mine.py")
        loaded = loaded_by_a_zygote(programs, "import mine\nhandler = print\n")
        assert ("", "") == (loaded.obstacle, programs.said)

    def test_what_the_runtime_itself_needs_stays_the_standard_librarys_and_the_log_says_so(self, programs: Any) -> None:
        bring(programs, "json.py")
        assert "" == loaded_by_a_zygote(programs, "import json\njson.dumps\nhandler = print\n").obstacle
        assert "glowplug: json is the standard library's, not the code's own: the runtime needs it\n" == programs.said


class TestExec:
    """A worker in a process of its own imports the function's copies."""

    def result(self, programs: Any, source: str, **changes: Any) -> str:
        worker = programs.exec_worker()
        loaded = worker.control.ask(programs.load_frame(source, parked=False, **changes))
        assert isinstance(loaded, wire.Loaded), loaded
        assert "" == loaded.obstacle
        worker.control.ask(programs.start_frame(restored=False))
        answer: str = worker.result()
        assert answer == worker.result(), "the worker goes on with its own"
        return answer

    @pytest.mark.parametrize("name", ["msgpack", "typing_extensions", "uuid"])
    def test_imports_what_the_code_brings(self, programs: Any, name: str) -> None:
        bring(programs, f"{name}.py")
        assert '["mine", true]' == self.result(programs, WHERE.format(name=name))

    def test_imports_a_submodule_of_what_the_code_brings(self, programs: Any) -> None:
        bring(programs, "msgpack/__init__.py", "msgpack/exceptions.py")
        assert '["mine", true]' == self.result(programs, WHERE.format(name="msgpack.exceptions"))

    def test_a_handler_may_be_named_like_a_module_of_the_runtime(self, programs: Any) -> None:
        (programs.root / "logging.py").write_text("def handler(event, context):\n    return 'mine'\n")
        assert '"mine"' == self.result(programs, "", handler="logging.handler")

    def test_what_the_runtime_needs_stays_the_standard_librarys(self, programs: Any) -> None:
        bring(programs, "json.py")
        assert '["the node\'s", false]' == self.result(programs, WHERE.format(name="json"))
