"""Sources on this machine: ``package://`` and ``file://``. Both give only files whose real path is below their root.

That is checked on the descriptor after opening (``/proc/self/fd``), not on the name before: a link that is swapped in
between would otherwise be followed. The descriptor's inode, size and times are those of the listing when it is opened
and still after the last byte; otherwise the file has changed under way.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast
from urllib.parse import unquote, urlsplit

from glowplug.cache.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
)

from .listing import ListedFile, checked_name, select
from .shards import one_file
from .stream import SourceStream, source_errors


def open_file(url: str, file_roots: Sequence[Path]) -> tuple[ListedFile, ...]:
    """List a ``file://`` URL. Raises ``SourceForbidden`` when it is not below one of ``file_roots``."""
    return _open_below(url, _file_path(url), tuple(file_roots))


def _file_path(url: str) -> Path:
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
        raise SourceInvalid(f"{url}: write file:///absolute/path")
    return Path(path)


def open_package(url: str) -> tuple[ListedFile, ...]:
    """List a ``package://`` URL. Raises ``SourceNotFound`` when no such package or path is installed."""
    parts = urlsplit(url)
    name, path = parts.netloc, unquote(parts.path).strip("/")
    if not name:
        raise SourceInvalid(f"{url}: write package://<module or distribution>/<path>")
    if path:
        checked_name(path, url)
    roots = _module_directories(name) or _distribution_directories(name)
    if not roots:
        raise SourceNotFound(f"{url}: no package {name!r} is installed here")
    for root in roots:
        target = root / path if path else root
        if target.exists():
            return _open_below(url, target, (root,))
    raise SourceNotFound(f"{url}: package {name!r} has no {path!r}")


def _module_directories(name: str) -> list[Path]:
    """Where the top-level package ``name`` lives. ``find_spec`` of a top-level name runs none of the package's code."""
    if not name.isidentifier():
        return []
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # ValueError: a module in sys.modules that has no spec, such as __main__
        return []
    return [Path(entry) for entry in (spec.submodule_search_locations or [])] if spec is not None else []


def _distribution_directories(name: str) -> list[Path]:
    """Where the top-level packages of the distribution ``name`` live, as its RECORD says."""
    try:
        files = importlib.metadata.files(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    tops = {file.parts[0]: file for file in files if len(file.parts) > 1 and file.parts[0].isidentifier()}
    return [Path(str(file.locate())).resolve().parents[len(file.parts) - 2] for file in tops.values()]


def _open_below(url: str, target: Path, roots: tuple[Path, ...]) -> tuple[ListedFile, ...]:
    real_roots = tuple(root.resolve() for root in roots)
    real = target.resolve()
    if not any(real.is_relative_to(root) for root in real_roots):
        allowed = ", ".join(map(str, roots)) or "none; the operator sets GLOWPLUG_FILE_ROOTS"
        raise SourceForbidden(f"{url}: not below a file root ({allowed})")
    try:
        if real.is_dir():
            return select(_walk(url, real, real_roots), url)
        if real.exists():
            file = _local_file(url, real, real.name, real_roots)
            return one_file(file, lambda shard: _local_file(url, real.parent / shard, shard, real_roots), url)
    except PermissionError as error:
        raise SourceForbidden(f"{url}: {error.strerror}: {error.filename}") from error
    raise SourceNotFound(f"{url}: nothing there")


def _walk(url: str, directory: Path, roots: tuple[Path, ...]) -> Iterator[ListedFile]:
    for parent, names, files in os.walk(directory, onerror=_raise):
        names[:] = [name for name in names if not name.startswith(".") and name != "__pycache__"]
        for file in files:
            path = Path(parent, file)
            if not file.startswith("."):
                yield _local_file(url, path, path.relative_to(directory).as_posix(), roots)


def _raise(error: OSError) -> None:
    raise error


def _local_file(url: str, path: Path, name: str, roots: tuple[Path, ...]) -> ListedFile:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise SourceNotFound(f"{url}: {name} points to nothing") from None
    if not stat.S_ISREG(status.st_mode):  # opening a pipe or a device could wait for ever
        raise SourceInvalid(f"{url}: {name} is not a regular file")
    version, size = _version(status), status.st_size
    label = f"{url}: {name}"

    def opener(start: int = 0, stop: int | None = None) -> BinaryIO:
        with source_errors(lambda error: _mapped(label, error)):
            file = _open(label, path, roots)
            descriptor = file.fileno()

            def unchanged() -> None:
                if (now := _version(os.fstat(descriptor))) != version:
                    raise SourceChanged(f"{label}: changed since it was listed: {version} then, {now} now")

            try:
                unchanged()
                file.seek(start)
            except BaseException:
                file.close()
                raise
        length = max(0, (size if stop is None else min(stop, size)) - start)
        stream = SourceStream(
            file, length=length, label=label, mapped=lambda error: _mapped(label, error), ended=unchanged
        )
        return cast("BinaryIO", stream)

    return ListedFile(name, size, version, opener, ranged=True)


def _version(status: os.stat_result) -> str:
    return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def _open(label: str, path: Path, roots: tuple[Path, ...]) -> io.FileIO:
    # O_NONBLOCK: what was a regular file when it was listed may be a pipe by now, and opening that would wait
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb", buffering=0)
    opened = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    if not any(opened.is_relative_to(root) for root in roots):
        file.close()
        raise SourceForbidden(f"{label} leads to {opened}, which is not below a file root")
    return file


def _mapped(label: str, error: Exception) -> SourceError:
    if isinstance(error, FileNotFoundError):
        return SourceChanged(f"{label}: gone since it was listed")
    if isinstance(error, PermissionError):
        return SourceForbidden(f"{label}: {error.strerror}")
    return SourceUnreachable(f"{label}: {type(error).__name__}: {error}")  # EIO, ESTALE: a disk or a network mount
