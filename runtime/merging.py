"""Several layers as one directory, for /opt: what a later layer has hides what an earlier one has of the same name.

Directories of one name are merged, anything else is hidden whole: a file hides the directory of its name in earlier
layers, and all that is in there. Files are hard links to those of the layers, which never change. Byte code that was
made at upload goes along only where it is of the source that won: it is never compared with it (``bytecode.py``).
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

_CACHE = "__pycache__"
_NO_LINK = (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP)  # linked too often, or none can be made here


def merged_name(digests: Sequence[str]) -> str:
    """Return the name of the directory that layers with these digests make together, in this order."""
    return f"opt-{hashlib.sha256(' '.join(digests).encode()).hexdigest()}"


def merge(layers: Sequence[Path], target: Path) -> None:
    """Make ``target`` of the contents of ``layers``, the later over the earlier. On disk when it returns, but for
    ``target``'s own name. Raises ``OSError``."""
    _directory([(number, str(layer)) for number, layer in reversed(list(enumerate(layers)))], str(target), {})


def _directory(sources: Sequence[tuple[int, str]], target: str, beside: Mapping[str, int]) -> None:
    """Make one directory. ``sources`` are (number of the layer, path), the latest first; ``beside`` says whose the
    files around this directory are."""
    os.mkdir(target)
    os.chmod(target, 0o755)  # noqa: S103 - functions of other users read it
    owners: dict[str, int] = {}
    directories: dict[str, list[tuple[int, str]]] = {}
    for name, found in _entries(sources):
        owners[name] = found[0][0]
        if os.path.basename(target) == _CACHE:
            whose = beside.get(_source_of(name), owners[name])
            found = [one for one in found if one[0] == whose]
        if found and found[0][1].is_dir(follow_symlinks=False):
            directories[name] = [(number, entry.path) for number, entry in _directories(found)]
        elif found:
            _link(found[0][1].path, f"{target}/{name}")
    for name, merged in directories.items():
        _directory(merged, f"{target}/{name}", owners)
    descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(sources: Sequence[tuple[int, str]]) -> Iterator[tuple[str, list[tuple[int, os.DirEntry[str]]]]]:
    """Yield each name with what the layers have of it, the latest first."""
    found: dict[str, list[tuple[int, os.DirEntry[str]]]] = {}
    for number, path in sources:
        with os.scandir(path) as entries:
            for entry in entries:
                found.setdefault(entry.name, []).append((number, entry))
    yield from sorted(found.items())


def _directories(found: Sequence[tuple[int, os.DirEntry[str]]]) -> Iterator[tuple[int, os.DirEntry[str]]]:
    """Yield the directories down to the first that is none, which hides those below."""
    for number, entry in found:
        if not entry.is_dir(follow_symlinks=False):
            return
        yield number, entry


def _source_of(name: str) -> str:
    """Return the source of a file of byte code: ``app.py`` for ``app.cpython-311.pyc``."""
    return f"{name.partition('.')[0]}.py"


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copy2(source, target)
        descriptor = os.open(target, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
