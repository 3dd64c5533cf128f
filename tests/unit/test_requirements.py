"""Which code requires something, and what makes another layer of it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glowplug.deploy.pythons import Python, Pythons, own
from glowplug.deploy.requirements import requirements_of

PYTHON = Python("python3.11", "/usr/bin/python3.11", "3.11.7", "linux-x86_64")


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def key(root: Path, python: Python = PYTHON) -> str:
    found = requirements_of(root / "code", python)
    assert found is not None
    return found.key


@pytest.mark.parametrize(
    "files",
    [
        {"code/app.py": ""},
        {"code/requirements.txt": ""},
        {"code/requirements.txt": "# nothing yet\n\n"},
        {"code/requirements.txt": "--index-url https://example.org/simple\n"},
        {"code/requirements.txt": "requests\n", "code/requests-2.0.dist-info/METADATA": ""},
    ],
    ids=["no file", "empty", "comments", "an option alone", "installed already"],
)
def test_code_that_asks_for_nothing(tmp_path: Path, files: dict[str, str]) -> None:
    assert requirements_of(tree(tmp_path, files) / "code", PYTHON) is None


def test_what_sam_has_built_is_left_alone(tmp_path: Path) -> None:
    tree(tmp_path, {".aws-sam/build/Hello/requirements.txt": "requests\n"})
    assert requirements_of(tmp_path / ".aws-sam" / "build" / "Hello", PYTHON) is None


def test_a_zip_is_left_alone(tmp_path: Path) -> None:
    tree(tmp_path, {"code.zip": ""})
    assert requirements_of(tmp_path / "code.zip", PYTHON) is None


def test_the_key_is_of_the_file_and_the_python_and_not_of_the_place(tmp_path: Path) -> None:
    first = key(tree(tmp_path / "one", {"code/requirements.txt": "requests\n", "code/app.py": "1"}))
    assert first == key(tree(tmp_path / "two", {"code/requirements.txt": "requests\n", "code/app.py": "2"}))
    for other in (
        replace(PYTHON, runtime="python3.12"), replace(PYTHON, version="3.11.8"), replace(PYTHON, platform="linux-aarch64")
    ):  # fmt: skip
        assert first != key(tmp_path / "one", other)
    assert first != key(tree(tmp_path / "one", {"code/requirements.txt": "requests>2\n"}))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("-r more.txt", "code/more.txt"),
        ("-rmore.txt", "code/more.txt"),
        ("--requirement=../shared/more.txt", "shared/more.txt"),
        ("-c constraints.txt  # pinned", "code/constraints.txt"),
        ("requests \\\n-c", ""),
        ("./wheels/tiny-1.0-py3-none-any.whl", "code/wheels/tiny-1.0-py3-none-any.whl"),
        ("wheels/tiny-1.0.tar.gz[extra] ; python_version > '3'", "code/wheels/tiny-1.0.tar.gz"),
        ("-e ../library", "library/setup.py"),
        ("tiny @ file://ROOT/library/tiny.whl", "library/tiny.whl"),
    ],
)
def test_a_change_in_what_is_named_is_a_change(tmp_path: Path, line: str, named: str) -> None:
    text = f"requests\n{line.replace('ROOT', str(tmp_path))}\n"
    tree(tmp_path, {"code/requirements.txt": text} | ({named: "1"} if named else {}))
    before = key(tmp_path)
    assert before == key(tmp_path)
    if named:
        tree(tmp_path, {named: "2"})
        assert before != key(tmp_path)


def test_a_file_that_an_included_one_includes_counts_and_a_circle_ends(tmp_path: Path) -> None:
    tree(
        tmp_path,
        {
            "code/requirements.txt": "-r a/one.txt\n",
            "code/a/one.txt": "-r two.txt\n",
            "code/a/two.txt": "-r one.txt\nx\n",
        },
    )
    before = key(tmp_path)
    tree(tmp_path, {"code/a/two.txt": "-r one.txt\ny\n"})
    assert before != key(tmp_path)


def test_what_is_not_there_is_pips_to_complain_of(tmp_path: Path) -> None:
    assert key(
        tree(tmp_path, {"code/requirements.txt": "x\n-r missing.txt\n./missing.whl\nhttps://example.org/a.whl\n"})
    )


def test_the_python_is_the_one_that_runtime_names_or_our_own(tmp_path: Path) -> None:
    fake = tmp_path / "python3.99"
    fake.write_text(f'#!{sys.executable}\nprint(\'[[3, 99], "3.99.1", "linux-x86_64"]\')\n')
    fake.chmod(0o755)
    broken = tmp_path / "python3.98"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    pythons = Pythons({"PATH": str(tmp_path)})
    assert Python("python3.99", str(fake), "3.99.1", "linux-x86_64") == pythons.of("python3.99")
    assert own() == pythons.of("python3.99", models=True)
    assert own() == pythons.of("python3.98") == pythons.of("python3.97") == pythons.of(own().runtime)
    assert str(fake) == Pythons({"PATH": "", "GLOWPLUG_PYTHONS": f"{broken}:{fake}"}).of("python3.99").path
