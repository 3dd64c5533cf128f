"""The folders at the top are the package: links for development, a mapping for the wheel, both complete."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
FOLDERS = ("runtime", "snapshot", "cache", "handlers", "deploy")


def source_files() -> set[str]:
    """Return what the wheel must hold, under the names it has there."""
    files = {
        f"glowplug/{path.relative_to(ROOT).as_posix()}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return files | {"glowplug/__init__.py", "glowplug/py.typed"}


def test_src_holds_five_links_and_two_files() -> None:
    held = {path.name: path for path in (ROOT / "src" / "glowplug").iterdir() if path.name != "__pycache__"}
    assert {*FOLDERS, "__init__.py", "py.typed"} == set(held)
    for folder in FOLDERS:
        assert held[folder].is_symlink(), f"src/glowplug/{folder} lost its link (a checkout without symbolic links?)"
        assert (ROOT / folder) == held[folder].resolve()


def test_the_wheel_would_hold_every_source_file() -> None:
    listed = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert source_files() == listed


def test_every_folder_with_modules_is_a_package() -> None:
    without = {
        str(path.parent.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    }
    assert set() == without


@pytest.mark.parametrize("folder", [folder for folder in FOLDERS if folder != "handlers"])
def test_a_folder_cannot_be_imported_under_its_bare_name(folder: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert 1 == ran.returncode
    assert f"ImportError: import glowplug.{folder}, not {folder}" in ran.stderr


def test_constraints_pin_every_dependency_within_what_the_project_accepts() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    lowered = {name.lower() for name in pinned}
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *optional["onnx"], *optional["quantize"]]
    wanted += [entry for entry in optional["dev"] if not entry.startswith("glowplug[")]
    assert set() == {
        name for entry in wanted if (name := entry.partition(">=")[0].partition("[")[0]).lower() not in lowered
    }
    assert "2.13.0" == pinned["torch"]
