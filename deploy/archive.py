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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from .errors import ArchiveError

EXCLUDED_DIRECTORIES = frozenset({"__pycache__", ".git", ".hg", ".svn", ".mypy_cache", ".ruff_cache", ".pytest_cache"})
EXCLUDED_SUFFIXES = (".pyc", ".pyo")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can say
_COMPRESSION_LEVEL = 6
MAX_UNPACKED_BYTES = 250 * 1024 * 1024
"""Lambda's limit, spec 1.5."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A zip in memory. ``digest`` is the SHA-256 of ``data`` in hex; ``origin`` is what was packed, for messages.

    ``path`` is what was packed on disk; None where that was no one file or directory.
    """

    digest: str
    data: bytes = field(repr=False)
    origin: str
    names: tuple[str, ...]
    path: Path | None = None


def pack(path: Path) -> Archive:
    """Return the archive of a directory, of one file, or of a ``.zip`` as it is. Raises ``ArchiveError``."""
    try:
        if path.is_dir():
            return replace(_zip(_files(path), str(path)), path=path)
        if path.suffix == ".zip" and path.is_file():
            return replace(given(path), path=path)
        if path.is_file():
            return replace(_zip({path.name: path}, str(path)), path=path)
    except OSError as error:
        raise _unreadable(path, error) from error
    raise ArchiveError(f"{path} does not exist" if not path.exists() else f"{path} is neither a directory nor a file")


def pack_below(prefix: str, directory: Path, *, origin: str, over: Archive | None = None) -> Archive:
    """Return the archive of a directory's contents below ``prefix``, which may be none, on top of those of ``over``.

    Raises ``ArchiveError``.
    """
    entries = {} if over is None else {name: (content, mode) for name, content, mode in _entries(over)}
    try:
        for name, file in _files(directory).items():
            entries[f"{prefix}/{name}"] = (file.read_bytes(), _is_executable(file))
    except OSError as error:
        raise _unreadable(directory, error) from error
    _refuse_size(sum(len(content) for content, _ in entries.values()), origin)
    return _written(((name, *entries[name]) for name in sorted(entries)), origin)


def pack_text(name: str, text: str, *, origin: str) -> Archive:
    """Return the archive of one file with the given text (a template's InlineCode)."""
    return _written([(name, text.encode(), False)], origin)


def given(path: Path) -> Archive:
    """Return the archive that a zip file is. Raises ``ArchiveError`` when it is none, ``OSError``."""
    return zipped(path.read_bytes(), str(path))


def zipped(data: bytes, origin: str) -> Archive:
    """Return the archive that a zip is. Raises ``ArchiveError`` when it is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            names = tuple(file.namelist())
    except zipfile.BadZipFile as error:
        raise ArchiveError(f"{origin} is not a zip file: {error}") from error
    return Archive(hashlib.sha256(data).hexdigest(), data, origin, names)


def _files(directory: Path) -> dict[str, Path]:
    """Return what is packed of a directory, by its name in the archive."""
    return dict(_walk(directory, directory.resolve(), ()))


def _unreadable(path: Path, error: OSError) -> ArchiveError:
    return ArchiveError(f"{error.filename or path} cannot be read: {error.strerror}")


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
            if entry.name not in EXCLUDED_DIRECTORIES:
                for name, file in _walk(entry, root, (*within, real)):
                    yield f"{entry.name}/{name}", file
        elif entry.name.endswith(EXCLUDED_SUFFIXES):
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


def _zip(files: Mapping[str, Path], origin: str) -> Archive:
    if not files:
        raise ArchiveError(f"{origin} holds no files")
    _refuse_size(sum(file.stat().st_size for file in files.values()), origin)
    return _written(((name, files[name].read_bytes(), _is_executable(files[name])) for name in sorted(files)), origin)


def _refuse_size(total: int, origin: str) -> None:
    if total > MAX_UNPACKED_BYTES:
        raise ArchiveError(f"{origin} holds {total} bytes; a function's code may have {MAX_UNPACKED_BYTES}")


def _is_executable(file: Path) -> bool:
    return bool(file.stat().st_mode & 0o111)


def _entries(archive: Archive) -> Iterator[tuple[str, bytes, bool]]:
    """Yield (name, content, executable) of an archive that was made here."""
    with zipfile.ZipFile(io.BytesIO(archive.data)) as file:
        for member in file.infolist():
            yield member.filename, file.read(member), bool(member.external_attr >> 16 & 0o111)


def _written(entries: Iterable[tuple[str, bytes, bool]], origin: str) -> Archive:
    buffer, names = io.BytesIO(), []
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content, executable in entries:
            member = zipfile.ZipInfo(name, _EPOCH)
            member.create_system = 3  # Unix: without it the mode below is not read
            member.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
            archive.writestr(member, content, zipfile.ZIP_DEFLATED, _COMPRESSION_LEVEL)
            names.append(name)
    data = buffer.getvalue()
    return Archive(hashlib.sha256(data).hexdigest(), data, origin, tuple(names))
