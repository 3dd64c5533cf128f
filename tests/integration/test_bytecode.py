"""The process that compiles uploads."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glowplug.runtime import bytecode
from glowplug.runtime.bytecode import ByteCompiler


@pytest.fixture
def compiler() -> ByteCompiler:
    return ByteCompiler()


def tree(directory: Path, name: str, **modules: str) -> Path:
    root = directory / name
    (root / "package").mkdir(parents=True)
    for module, text in modules.items():
        (root / f"{module}.py").write_text(text)
    (root / "package" / "__init__.py").write_text("VALUE = 1\n")
    return root


def names(paths: list[Path]) -> list[str]:
    return [path.name.partition(".")[0] for path in paths]


def kept(compiler: ByteCompiler) -> list[int]:
    return [process.pid for process in compiler._idle]


def process_names() -> list[str]:
    """Return the command lines of this process's children."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{pid}/cmdline").read_text() for pid in children]


def test_modules_are_found_compiled_where_they_will_be(compiler: ByteCompiler, tmp_path: Path) -> None:
    root = tree(tmp_path, "code", index="def handler():\n    return __file__, handler.__code__.co_filename\n")
    made = compiler.compile_tree(root, tmp_path / "at")
    assert ["index", "__init__"] == names(made)
    assert [0o444, 0o444] == [path.stat().st_mode & 0o777 for path in made]
    root.rename(tmp_path / "at")
    (tmp_path / "at" / "index.py").write_text("raise SystemExit('compiled again')\n")  # never compared with its source
    found = subprocess.check_output(
        [sys.executable, "-c", "import index; print(index.handler()[1])"], cwd=tmp_path / "at", text=True
    )
    assert str(tmp_path / "at" / "index.py") == found.strip()


def test_one_process_compiles_one_upload_after_the_other(compiler: ByteCompiler, tmp_path: Path) -> None:
    pids = set()
    for number in range(3):
        assert 2 == len(compiler.compile_tree(tree(tmp_path, f"code-{number}", index="A = 1\n"), tmp_path))
        pids.update(kept(compiler))
    assert 1 == len(pids)


def test_what_does_not_compile_is_left_to_the_import(compiler: ByteCompiler, tmp_path: Path) -> None:
    root = tree(
        tmp_path, "code", broken="def (:\n", nul="\0", odd="# coding: nonsense\n", deep="(" * 100_000, good="A = 1\n"
    )
    assert ["good", "__init__"] == names(compiler.compile_tree(root, tmp_path))
    assert 2 == len(compiler.compile_tree(tree(tmp_path, "next", index="A = 1\n"), tmp_path))


def test_several_at_once_and_one_is_kept(compiler: ByteCompiler, tmp_path: Path) -> None:
    roots = [tree(tmp_path, f"code-{number}", index=f"A = {number}\n") for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda root: compiler.compile_tree(root, tmp_path), roots))
    assert [2] * 6 == [len(files) for files in made]
    assert 1 == len(kept(compiler))


def test_one_that_died_costs_its_upload_the_byte_code_and_the_next_nothing(
    compiler: ByteCompiler, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compiler.compile_tree(tree(tmp_path, "first", index="A = 1\n"), tmp_path)
    [pid] = kept(compiler)
    os.kill(pid, signal.SIGKILL)
    compiler.compile_tree(tree(tmp_path, "second", index="A = 1\n"), tmp_path / "there")
    assert f"byte code of {tmp_path / 'there'}: the compiler ended" in caplog.text
    assert 2 == len(compiler.compile_tree(tree(tmp_path, "third", index="A = 1\n"), tmp_path))


def test_one_that_takes_too_long_is_ended(
    compiler: ByteCompiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bytecode, "TIME_LIMIT_S", 0.001)
    compiler.compile_tree(tree(tmp_path, "code", index="A = 1\n" * 1000), tmp_path)
    assert "not finished after" in caplog.text
    assert [] == kept(compiler)


def test_it_ends_when_nothing_is_asked_of_it_and_with_who_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bytecode, "IDLE_S", 0.05)
    compiler = ByteCompiler()
    compiler.compile_tree(tree(tmp_path, "code", index="A = 1\n"), tmp_path)
    end = time.monotonic() + 10
    while kept(compiler):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert "compiling.py" not in "".join(process_names())
    monkeypatch.setattr(bytecode, "IDLE_S", 60.0)
    compiler.compile_tree(tree(tmp_path, "more", index="A = 1\n"), tmp_path)
    [pid] = kept(compiler)
    del compiler
    gc.collect()
    assert not Path(f"/proc/{pid}").exists()
