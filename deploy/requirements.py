"""What a ``requirements.txt`` asks for, and the key of the layer that is made of it.

The key is a digest of all that decides what is installed, as far as it can be seen here: the file, the files that it
includes (``-r``, ``-c``), the local files and directories that it names, and the Python. What an index answers to a
range of versions is not part of it: a layer that was made once is used until one of these changes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .archive import pack
from .errors import ArchiveError
from .pythons import Python

FILE = "requirements.txt"
_FORMAT = "glowplug-requirements-2"
_BUILT_BY_SAM = ".aws-sam"
_INCLUDE = re.compile(r"(?:-[rc]\s*|--(?:requirement|constraint)(?:\s+|=))(?P<file>\S+)")
_EDITABLE = re.compile(r"(?:-e\s*|--editable(?:\s+|=))")
_CONTINUED = re.compile(r"\\\r?\n")
_COMMENT = re.compile(r"(^|\s)#.*$")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tar.bz2", ".tgz")


@dataclass(frozen=True, slots=True)
class Requirements:
    """A requirements file that asks for something, and the Python that it is for. ``key`` is 64 hexadecimal digits."""

    file: Path
    python: Python
    key: str


def requirements_of(code: Path, python: Python) -> Requirements | None:
    """Return what the code in a directory requires; None where it says nothing, or was built already.

    Built is what ``sam build`` has made, and a directory with installed packages in it. Raises ``ArchiveError`` for a
    file that cannot be read.
    """
    file = code / FILE
    if not code.is_dir() or not file.is_file() or _is_built(code):
        return None
    digest = hashlib.sha256("\0".join((_FORMAT, python.runtime, python.version, python.platform)).encode())
    asks = False
    try:
        for name, path in _inputs(file, file.parent, set()):
            content = pack(path).digest.encode() if path.is_dir() else path.read_bytes()
            digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
            asks = asks or any(_asks(line) for line in _lines(content.decode(errors="replace")))
    except OSError as error:
        raise ArchiveError(f"{error.filename or file} cannot be read: {error.strerror}") from error
    return Requirements(file, python, digest.hexdigest()) if asks else None


def local_files(code: Path) -> list[Path]:
    """Return every file and directory of this machine that the code's requirements name, their own file included.
    Raises ``OSError``."""
    file = code / FILE
    return [path for _, path in _inputs(file, file.parent, set())] if file.is_file() else []


def is_sams(code: Path) -> bool:
    """Return whether ``sam build`` has made this."""
    return _BUILT_BY_SAM in code.resolve().parts


def _is_built(code: Path) -> bool:
    return is_sams(code) or next(code.glob("*.dist-info"), None) is not None


def _inputs(file: Path, base: Path, seen: set[Path]) -> Iterator[tuple[str, Path]]:
    """Yield (name, path) of a requirements file and of everything local that it names.

    Included files are found beside the file that includes them, packages below ``base``, which pip is run in. What is
    not there is left to pip, which says so.
    """
    yield file.name, file
    seen.add(file.resolve())
    for line in _lines(file.read_text(errors="replace")):
        included = _INCLUDE.match(line)
        if included is not None:
            path = file.parent / included["file"]
            if path.is_file() and path.resolve() not in seen:
                yield from _inputs(path, base, seen)
        elif (local := _local(line)) and (base / local).exists():
            yield local, base / local


def _lines(text: str) -> Iterator[str]:
    """Yield the lines that say something, continued ones joined and without comments."""
    for line in _CONTINUED.sub(" ", text).splitlines():
        stripped = _COMMENT.sub("", line).strip()
        if stripped:
            yield stripped


def _asks(line: str) -> bool:
    """Whether a line names a package; an option alone (an index, another file) does not."""
    return not line.startswith("-") or _EDITABLE.match(line) is not None


def _local(line: str) -> str:
    """Return the path that a requirement names on this machine; empty for one that comes from an index or the net."""
    named = _EDITABLE.sub("", line).split(" @ ")[-1].partition(";")[0].split(" --")[0].strip()
    if named.startswith("file:"):
        return unquote(urlsplit(named).path)
    if "://" in named or named.startswith("-"):
        return ""
    path = named.partition("[")[0]
    return path if path.startswith((".", "/")) or "/" in path or path.endswith(_ARCHIVES) else ""
