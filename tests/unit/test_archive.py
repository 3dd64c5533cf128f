"""Packing code: the same files give the same digest, and nothing outside a CodeUri gets in."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import pytest

from glowplug.deploy.archive import pack, pack_text
from glowplug.deploy.errors import ArchiveError


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_the_digest_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    files = {"b.py": "b", "a.py": "a", "pkg/c.py": "c"}
    first = pack(tree(tmp_path / "one", files))
    other = tree(tmp_path / "two", dict(reversed(files.items())))
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    second = pack(other)
    assert first.data == second.data
    assert hashlib.sha256(first.data).hexdigest() == first.digest == second.digest
    assert ("a.py", "b.py", "pkg/c.py") == first.names
    (other / "a.py").write_text("changed")
    assert first.digest != pack(other).digest


def test_caches_and_repositories_stay_out(tmp_path: Path) -> None:
    root = tree(
        tmp_path, {"a.py": "", "__pycache__/a.pyc": "", "a.pyc": "", ".git/config": "", "pkg/__pycache__/x": ""}
    )
    assert ("a.py",) == pack(root).names


def test_executables_stay_executable_whatever_the_other_bits(tmp_path: Path) -> None:
    root = tree(tmp_path, {"bootstrap": "#!/bin/sh", "data": ""})
    (root / "bootstrap").chmod(0o700)
    (root / "data").chmod(0o600)
    with zipfile.ZipFile(io.BytesIO(pack(root).data)) as archive:
        modes = {member.filename: member.external_attr >> 16 & 0o777 for member in archive.infolist()}
    assert {"bootstrap": 0o755, "data": 0o644} == modes


def test_one_file_and_inline_text_are_archives_of_one(tmp_path: Path) -> None:
    tree(tmp_path, {"index.py": "x = 1"})
    assert pack(tmp_path / "index.py").data == pack_text("index.py", "x = 1", origin="Inline").data


def test_a_zip_is_taken_as_it_is(tmp_path: Path) -> None:
    data = pack_text("a.py", "a", origin="Inline").data
    (tmp_path / "code.zip").write_bytes(data)
    assert (data, ("a.py",)) == (pack(tmp_path / "code.zip").data, pack(tmp_path / "code.zip").names)


def test_links_inside_are_packed_as_what_they_point_at(tmp_path: Path) -> None:
    root = tree(tmp_path, {"pkg/a.py": "a"})
    (root / "alias.py").symlink_to("pkg/a.py")
    (root / "again").symlink_to("pkg")
    assert ("again/a.py", "alias.py", "pkg/a.py") == pack(root).names


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", ".."])
def test_a_link_that_leaves_the_directory_is_refused(tmp_path: Path, target: str) -> None:
    tree(tmp_path, {"secret": "s", "code/a.py": ""})
    (tmp_path / "code" / "link").symlink_to(target)
    with pytest.raises(ArchiveError, match="which is outside"):
        pack(tmp_path / "code")


def test_a_link_to_its_own_parent_does_not_go_round_for_ever(tmp_path: Path) -> None:
    tree(tmp_path, {"code/a.py": ""})
    (tmp_path / "code" / "loop").symlink_to(".")
    with pytest.raises(ArchiveError, match="a link to a directory that contains it"):
        pack(tmp_path / "code")


def test_what_cannot_be_packed_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    tree(tmp_path, {"pipes/a.py": "", "dangling/a.py": ""})
    os.mkfifo(tmp_path / "pipes" / "p")
    (tmp_path / "dangling" / "d").symlink_to("gone")
    messages = {
        "absent": "absent does not exist",
        "empty": "empty holds no files",
        "bad.zip": "bad.zip is not a zip file",
        "pipes": "p is a pipe, which cannot be packed",
        "dangling": "d is a link to nothing, which cannot be packed",
    }
    for name, message in messages.items():
        with pytest.raises(ArchiveError, match=message):
            pack(tmp_path / name)
