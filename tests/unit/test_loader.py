"""Handler strings."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.worker import faults
from glowplug.runtime.worker.loader import find_handler


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(path: str, source: str) -> None:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


HANDLER = "def handler(event, context):\n    return __name__\n"


@pytest.mark.parametrize("name", ["gp_pkg/gp_mod.handler", "gp_pkg.gp_mod.handler"])
def test_a_module_in_a_package_is_found_by_slash_and_by_dot(write: Any, name: Any) -> None:
    write("gp_pkg/__init__.py", "")
    write("gp_pkg/gp_mod.py", HANDLER)

    assert "gp_pkg.gp_mod" == find_handler(name)(None, None)


def test_an_attribute_of_an_attribute_is_found(write: Any) -> None:
    write("gp_nested.py", "class App:\n    @staticmethod\n    def run(event, context):\n        return 'ran'\n")

    assert "ran" == find_handler("gp_nested.App.run")(None, None)


@pytest.mark.parametrize("name", ["nodot", ".handler", "module."])
def test_a_name_without_two_parts_is_malformed(name: Any) -> None:
    with pytest.raises(faults.MalformedHandlerName, match="Bad handler"):
        find_handler(name)


def test_a_missing_module_is_named() -> None:
    with pytest.raises(
        faults.ImportModuleError, match=r"^Unable to import module 'gp_absent': No module named 'gp_abs"
    ):
        find_handler("gp_absent.handler")


def test_what_the_module_itself_misses_is_named_not_the_module(write: Any) -> None:
    write("gp_pkg2/__init__.py", "")
    write("gp_pkg2/broken.py", "import gp_absent_too\n")

    with pytest.raises(faults.ImportModuleError, match="No module named 'gp_absent_too'"):
        find_handler("gp_pkg2.broken.handler")


@pytest.mark.parametrize(("source", "complaint"), [("", "missing on module"), ("handler = 3", "cannot be called")])
def test_a_handler_that_is_not_there_or_no_function(write: Any, source: Any, complaint: Any) -> None:
    write("gp_empty.py", source)

    with pytest.raises(faults.HandlerNotFound, match=complaint):
        find_handler("gp_empty.handler")


def test_a_syntax_error_shows_where(write: Any) -> None:
    write("gp_syntax.py", "x = (\n")

    with pytest.raises(faults.UserCodeSyntaxError, match=r"^Syntax error in module 'gp_syntax': ") as caught:
        find_handler("gp_syntax.handler")

    assert "gp_syntax.py" in caught.value.stack_trace[0]
    assert "Line 1" in caught.value.stack_trace[0]


def test_other_errors_of_the_import_pass_through(write: Any) -> None:
    write("gp_raises.py", "1 / 0\n")

    with pytest.raises(ZeroDivisionError):
        find_handler("gp_raises.handler")


def test_a_built_in_module_is_refused() -> None:
    with pytest.raises(faults.BuiltInModuleConflict, match="sys"):
        find_handler("sys.exit")
