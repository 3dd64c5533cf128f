"""Pack a function's code: the same files always give the same bytes, so that the digest names the code.

Names are sorted, time stamps fixed, modes reduced to plain or executable. What never belongs to code
(``__pycache__``, ``.git``) stays out. Links are packed as what they point at, and refused where that lies outside the
packed directory: a template must not be able to publish the machine's other files by accident.
"""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import ArchiveError

_EXCLUDED_DIRECTORIES = frozenset({"__pycache__", ".git", ".hg", ".svn", ".mypy_cache", ".ruff_cache", ".pytest_cache"})
_EXCLUDED_SUFFIXES = (".pyc", ".pyo")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say
_COMPRESSION_LEVEL = 6
_MAX_UNPACKED_BYTES = 250 * 1024 * 1024  # Lambda's limit, spec 1.5


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip in memory. ``digest`` is the SHA-256 of ``data`` in hex; ``origin`` is what was packed, for messages."""

    digest: str
    data: bytes = field(repr=False)
    origin: str
    names: tuple[str, ...]


def pack(path: Path) -> Archive:
    """Return the archive of a directory, of one file, or of a ``.zip`` as it is. Raises ``ArchiveError``."""
    try:
        if path.is_dir():
            return _zip(dict(_walk(path, path.resolve(), ())), str(path))
        if path.suffix == ".zip" and path.is_file():
            return _given(path)
        if path.is_file():
            return _zip({path.name: path}, str(path))
    except OSError as error:
        raise ArchiveError(f"{error.filename or path} cannot be read: {error.strerror}") from error
    raise ArchiveError(f"{path} does not exist" if not path.exists() else f"{path} is neither a directory nor a file")


def pack_text(name: str, text: str, *, origin: str) -> Archive:
    """Return the archive of one file with the given text (a template's InlineCode)."""
    return _written([(name, text.encode(), False)], origin)


def _given(path: Path) -> Archive:
    data = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            names = tuple(file.namelist())
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{path} is not a zip file: {error}") from error
    return Archive(hashlib.sha256(data).hexdigest(), data, str(path), names)


def _walk(directory: Path, root: Path, within: tuple[Path, ...]) -> Iterator[tuple[str, Path]]:
    """Yield (name in the archive, file) for every file under ``directory``; ``within`` are the directories above it."""
    real = directory.resolve()
    if real in within:
        raise ArchiveError(f"{directory} is a link to a directory that contains it")
    for entry in sorted(directory.iterdir()):
        target = entry.resolve()
        if entry.is_symlink() and not target.is_relative_to(root):
            raise ArchiveError(f"{entry} is a link to {target}, which is outside {root}")
        if entry.is_dir():
            if entry.name not in _EXCLUDED_DIRECTORIES:
                for name, file in _walk(entry, root, (*within, real)):
                    yield f"{entry.name}/{name}", file
        elif entry.name.endswith(_EXCLUDED_SUFFIXES):
            continue
        elif entry.is_file():
            yield entry.name, entry
        else:
            raise ArchiveError(f"{entry} is {_kind(entry)}, which cannot be packed")


def _kind(entry: Path) -> str:
    mode = entry.lstat().st_mode
    if stat.S_ISLNK(mode):
        return "a link to nothing"
    return "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


def _zip(files: dict[str, Path], origin: str) -> Archive:
    if not files:
        raise ArchiveError(f"{origin} holds no files")
    total = sum(file.stat().st_size for file in files.values())
    if total > _MAX_UNPACKED_BYTES:
        raise ArchiveError(f"{origin} holds {total} bytes; a function's code may have {_MAX_UNPACKED_BYTES}")
    entries = [(name, files[name].read_bytes(), bool(files[name].stat().st_mode & 0o111)) for name in sorted(files)]
    return _written(entries, origin)


def _written(entries: list[tuple[str, bytes, bool]], origin: str) -> Archive:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content, executable in entries:
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system = 3  # Unix: without it the mode below is not read
            member.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED, _COMPRESSION_LEVEL)
    data = buffer.getvalue()
    return Archive(hashlib.sha256(data).hexdigest(), data, origin, tuple(name for name, _, _ in entries))
