"""A source's listing: its files, which of them are worth having, and which names are refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from glowplug.cache.errors import PickledWeights, SourceInvalid, SourceNotFound

MAX_FILES = 10_000
"""Files of one source; the wire's frame limit counts on it."""

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


class Opener(Protocol):
    """Opens bytes of one listed file."""

    def __call__(self, start: int = 0, stop: int | None = None) -> BinaryIO:
        """Return a stream of the bytes from ``start`` up to ``stop`` (None: the end) of the listed version.

        Opening it and reading from it raise ``SourceError`` subclasses only: ``SourceChanged`` when the listed version
        is gone, ``SourceUnreachable`` for what may pass. A stream that ends early is the caller's to notice. Safe to
        call from several threads.
        """


@dataclass(frozen=True, slots=True)
class ListedFile:
    """One file of a source.

    ``size`` in bytes, None if the far side does not say. ``version`` is equal only if the content is (an ETag, a
    commit, inode and times), empty if there is no such thing. ``ranged``: ``open`` takes a ``start`` above 0.
    ``connections``: how many streams at once are worth opening. ``sha256``: the digest that the source itself states,
    empty if it states none.
    """

    name: str
    size: int | None
    version: str
    open: Opener
    ranged: bool = False
    connections: int = 1
    sha256: str = ""


def checked_name(name: str, url: str = "") -> str:
    """Return ``name`` if it is a relative path that stays below its directory. Raises ``SourceInvalid``.

    The names become keys that handlers join to directories, so what a hostile listing could do with ``..``, a leading
    slash, a backslash or a control character is refused here, once. ``url`` goes into the message.
    """
    where = f"{url}: " if url else ""
    parts = name.split("/")
    if not name or len(name) > 1024 or "\\" in name or not name.isprintable():
        raise SourceInvalid(f"{where}{name!r} is not a file name that a source may have")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise SourceInvalid(f"{where}{name!r} does not stay below its source's directory")
    return name


def select(files: Iterable[ListedFile], url: str) -> tuple[ListedFile, ...]:
    """Return the files of ``url`` that are worth having, ordered by name.

    Raises ``SourceNotFound`` when nothing is left, ``PickledWeights`` when the only weights are pickled, and
    ``SourceInvalid`` for an unsafe or doubled name or too many files.
    """
    listed = sorted(itertools.islice(files, MAX_FILES + 1), key=lambda file: file.name)  # islice: a bucket of millions
    if len(listed) > MAX_FILES:
        raise SourceInvalid(f"{url}: more than {MAX_FILES} files")
    for before, after in itertools.pairwise(listed):
        if before.name == after.name:
            raise SourceInvalid(f"{url}: {after.name} is listed twice")
    seen = [file for file in listed if not _hidden(checked_name(file.name, url))]
    safe = tuple(file for file in seen if not is_pickled(file.name))
    if len(safe) < len(seen) and not any(file.name.endswith(".safetensors") for file in safe):
        raise pickled(f"{url}: {next(file.name for file in seen if is_pickled(file.name))}")
    if not safe:
        raise SourceNotFound(f"{url}: no files there")
    return safe


def is_pickled(name: str) -> bool:
    """Return whether a file of this name holds pickled weights."""
    return name.lower().endswith(_PICKLED)


def pickled(name: str) -> PickledWeights:
    """Return the error for pickled weights: why not, and how to convert them."""
    return PickledWeights(
        f"{name}: pickled weights are refused, because reading them runs code that the file brings along. Where you "
        f'trust the file, convert it once: python -c "import sys, torch; from safetensors.torch import save_file; '
        f"state = torch.load(sys.argv[1], weights_only=True, map_location='cpu'); "
        f'save_file({{k: v.clone().contiguous() for k, v in state.items()}}, sys.argv[2])" '
        f"{Path(name).name} model.safetensors"
    )


def _hidden(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith(".") or part == "__pycache__" for part in parts) or name.endswith((".pyc", ".lock"))
