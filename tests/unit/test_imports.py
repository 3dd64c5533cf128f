"""Who may import whom: the one-way rules of docs/architecture.md, read from every module's syntax tree."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("runtime", "snapshot", "cache", "handlers", "deploy")

# folder -> folders it may import, itself aside. `deploy -> runtime -> snapshot -> cache`; nobody imports handlers.
ALLOWED: dict[str, tuple[str, ...]] = {
    "deploy": ("runtime", "snapshot", "cache"),
    "runtime": ("snapshot", "cache"),
    "snapshot": ("cache",),
    "cache": (),
    "handlers": ("snapshot", "runtime.worker"),
}
# Inside the runtime: http calls routing, routing calls process; what runs in a child knows none of the node.
FORBIDDEN_IN_RUNTIME: dict[str, tuple[str, ...]] = {
    "runtime.http": ("runtime.process", "runtime.worker", "runtime.node"),
    "runtime.events": ("runtime.http", "runtime.process", "runtime.worker", "runtime.node"),
    "runtime.routing": ("runtime.http", "runtime.events", "runtime.node"),
    "runtime.process": ("runtime.http", "runtime.events", "runtime.routing", "runtime.node"),
    "runtime.worker": ("runtime.http", "runtime.events", "runtime.routing", "runtime.node"),
}
CHILD_PROGRAMS = ("runtime.worker.__main__", "runtime.worker.loop", "runtime.process.zygote")


@dataclass(frozen=True)
class Import:
    """One import: who, whom (dotted, ``glowplug.`` taken off), where, and whether it runs when the module is loaded."""

    importer: str
    imported: str
    line: int
    at_load: bool
    relative: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules() -> dict[str, Path]:
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(name: str) -> list[Import]:
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return list(_imports(ast.parse(path.read_text()), name, package, at_load=True))


def _imports(tree: ast.AST, name: str, package: str, *, at_load: bool) -> Iterator[Import]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name.removeprefix("glowplug."), node.lineno, at_load, False)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])]).removeprefix("glowplug.")
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield Import(name, full if full in MODULES else base, node.lineno, at_load, node.level > 0)
        else:
            checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or checking
            yield from _imports(node, name, package, at_load=at_load and not later)


ALL = [one for name in MODULES for one in imports_of(name)]


def inside(name: str, folder: str) -> bool:
    return name == folder or name.startswith(f"{folder}.")


def test_folders_import_one_way() -> None:
    wrong = []
    for one in ALL:
        folder, other = one.importer.split(".")[0], one.imported.split(".")[0]
        if other in FOLDERS and other != folder and not any(inside(one.imported, ok) for ok in ALLOWED[folder]):
            wrong.append(str(one))
    assert [] == wrong


def test_nobody_imports_handlers() -> None:
    assert [] == [str(one) for one in ALL if inside(one.imported, "handlers") and not inside(one.importer, "handlers")]


def test_inside_the_runtime_nobody_calls_back() -> None:
    wrong = [
        str(one)
        for one in ALL
        for folder, forbidden in FORBIDDEN_IN_RUNTIME.items()
        if inside(one.importer, folder) and any(inside(one.imported, other) for other in forbidden)
    ]
    assert [] == wrong


def test_imports_are_relative_beside_each_other_and_absolute_across_folders() -> None:
    wrong = []
    for one in ALL:
        folder, other = one.importer.split(".")[0], one.imported.split(".")[0]
        if other not in FOLDERS or folder == "handlers":  # an author's module is loaded on its own, without a package
            continue
        beside = MODULES[one.importer].parent == MODULES[one.imported].parent if one.imported in MODULES else False
        if (folder != other and one.relative) or (beside and not one.relative):
            wrong.append(str(one))
    assert [] == wrong


def test_no_module_is_imported_without_its_package() -> None:
    wrong = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                tops = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                tops = [(node.module or "").split(".")[0]]
            else:
                continue
            wrong += [f"{name}:{node.lineno} imports {top}, not glowplug.{top}" for top in tops if top in FOLDERS]
    assert [] == wrong


def loaded_with(program: str) -> set[str]:
    """Return every module of ours that is loaded when ``program`` is, its packages included."""
    found: set[str] = set()
    waiting = [program]
    while waiting:
        name = waiting.pop()
        if name in found or name not in MODULES:
            continue
        found.add(name)
        waiting += [one.imported for one in imports_of(name) if one.at_load]
        waiting += [".".join(name.split(".")[:length]) for length in range(1, name.count(".") + 1)]
    return found


@pytest.mark.parametrize("program", CHILD_PROGRAMS)
def test_what_is_loaded_in_a_child_is_standard_library_and_msgpack(program: str) -> None:
    if program not in MODULES:
        pytest.fail(f"{program} does not exist; CHILD_PROGRAMS must name the programs of children")
    allowed = {*sys.stdlib_module_names, "msgpack", "glowplug", *FOLDERS}
    wrong = [
        str(one)
        for name in sorted(loaded_with(program))
        for one in imports_of(name)
        if one.at_load and one.imported.split(".")[0] not in allowed
    ]
    assert [] == wrong


def test_the_rules_can_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import aiohttp\nfrom glowplug.deploy import plan\ndef f():\n    from ..http import server\n")
    monkeypatch.setitem(MODULES, "runtime.process.bad", bad)
    assert [
        ("aiohttp", True, False),
        ("deploy.plan", True, False),
        ("runtime.http.server", False, True),
    ] == [(one.imported, one.at_load, one.relative) for one in imports_of("runtime.process.bad")]
