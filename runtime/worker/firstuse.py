"""What a start reads, in the order of first use: recorded once in the child, replayed as read-ahead by the node.

    recorder = firstuse.Recorder()        # before the handler is imported; notes what the process has already
    ...                                   # Load, Bind: imports happen, engines are mapped
    with recorder.tensors():              # around the engine check (around Bind too, where tensors are copied there)
        check()
    recorder.order()                      # [[path, offset, length], …], plain lists for a frame or a JSON file

A recorder is a plain value in memory: one made in a function zygote is inherited by the canary that runs the check, and
the canary's ``order()`` has all of it. Nothing is paid where no recorder is made. Making one costs a list of
``sys.modules`` and one read of ``/proc/self/maps`` (0.3 ms with torch loaded); ``tensors()`` costs some microseconds
for each torch operation while it lasts, ``order()`` one ``stat`` per new module.

What it can see, and what not:

- Python: files of modules imported since. Import reads the ``.pyc`` where there is one and only stats the source.
- Shared objects, and whatever else has been mapped executable since (a compiled engine): the mapped parts only, so
  the debug sections of a library are not read ahead.
- Tensors: those given to torch operations, found through ``/proc/self/maps``, which needs no cooperation of whoever
  mapped them. What a compiled engine reads through a bare pointer (AOTInductor, ONNX Runtime) does not pass by here:
  append the model's files in file order (``cache.prefetch.file_order``) to what was recorded; nothing is read twice.
- Not: files that were read and closed again (a tokenizer's JSON, templates). The same appending covers a model's.

The rows come from the function's process and are for the node to distrust: ``cache.prefetch.ReadOrder.from_rows``
checks their form, ``within`` where they point.

Import-light: standard library only; torch is looked for in ``sys.modules`` and never imported.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from typing import Any

LIMIT_BYTES = 1024 * 1024
"""The size of an order, paths and 24 bytes of numbers a row: a quarter of a frame. What is used later is left out."""

Row = tuple[str, int, int]
"""Path, offset in bytes, length in bytes."""

_ROW_BYTES = 24
# begin-end permissions offset device inode path; https://man7.org/linux/man-pages/man5/proc_pid_maps.5.html
_LINE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) \S+ ([0-9]+) +(/.*)")
_DELETED = " (deleted)"


@dataclass(frozen=True, slots=True)
class MappedFile:
    """A mapped part of a file: addresses from ``begin`` to ``end``, the first of them at ``offset`` of ``path``."""

    begin: int
    end: int
    offset: int
    path: str
    executable: bool


class Recorder:
    """Records what this process reads from now on."""

    def __init__(self) -> None:
        self._modules = len(sys.modules)  # not their names: taking those would write to a page of each in a zygote
        self._objects = mapped_objects()
        self._tensors = TensorOrder()

    def __repr__(self) -> str:
        return f"Recorder(modules={self._modules}, objects={len(self._objects)}, {self._tensors!r})"

    @contextlib.contextmanager
    def tensors(self) -> Iterator[None]:
        """Record the tensors that torch operations of this thread use while the block runs; may be entered again."""
        with self._tensors.recording():
            yield

    def order(self) -> list[list[str | int]]:
        """Return ``[path, offset, length]`` rows in first-use order: Python files, shared objects, tensors.

        Rows that continue each other are one; at most ``LIMIT_BYTES`` of them. Extension modules come with the Python
        files, the libraries they need after those.
        """
        rows = [*_whole(modules_since(self._modules)), *object_rows(self._objects), *self._tensors.rows()]
        return [list(row) for row in bounded(joined(rows))]


def modules_since(before: int) -> list[str]:
    """Return the files that were read for modules imported since ``sys.modules`` had ``before`` entries: the ``.pyc``
    where there is one, else the source or the extension module. (Older entries that were removed since hide as many.)

    In the order in which their imports ended: what a module imports comes before it (import puts a module at the end of
    ``sys.modules`` once it has run).
    """
    found: dict[str, None] = {}
    for module in list(sys.modules.values())[before:]:
        if path := _file_of(module):
            found.setdefault(path)
    return list(found)


def mapped_objects() -> set[str]:
    """Return the paths of the files of which this process has mapped a part executable.

    Line by line: a zygote keeps every page that it has once written to, and a torch process has a thousand mappings.
    """
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        return {mapping.path for line in lines for mapping in parse_maps((line,)) if mapping.executable}


def object_rows(before: set[str]) -> list[Row]:
    """Return the mapped parts of objects that were not in ``before``, those loaded first in front."""
    mappings = mapped_files()
    wanted = {mapping.path for mapping in mappings if mapping.executable} - before
    parts: dict[str, list[Row]] = {}
    # The kernel places a mapping below those that are there, so the highest address was mapped first.
    for mapping in reversed(mappings):
        if mapping.path in wanted:
            parts.setdefault(mapping.path, []).append((mapping.path, mapping.offset, mapping.end - mapping.begin))
    return [row for rows in parts.values() for row in sorted(rows)]


def mapped_files() -> list[MappedFile]:
    """Return this process's mappings of files that still have a name, by address."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as lines:
        return parse_maps(lines)


def parse_maps(lines: Iterable[str]) -> list[MappedFile]:
    """Return the mappings of named files among the lines of a ``/proc/<pid>/maps``."""
    found = []
    for line in lines:
        match = _LINE.match(line.removesuffix("\n"))
        if match is None:
            continue  # anonymous, or [heap] and its like
        begin, end, permissions, offset, inode, path = match.groups()
        if inode != "0" and not path.endswith(_DELETED):
            found.append(MappedFile(int(begin, 16), int(end, 16), int(offset, 16), path, "x" in permissions))
    return found


class TensorOrder:
    """In which order tensors that lie in mapped files were first given to torch operations.

    Holds addresses, never tensors. An address is looked up when a block of ``recording`` ends: what has been unmapped
    by then is not found, and memory that belongs to no file is dropped.
    """

    def __init__(self) -> None:
        self._rows: dict[Row, None] = {}

    def __repr__(self) -> str:
        return f"TensorOrder({len(self._rows)})"

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record while the block runs; does nothing in a process without torch."""
        if "torch" not in sys.modules:
            yield
            return
        seen: dict[tuple[int, int], None] = {}
        try:
            with _mode(seen):
                yield
        finally:
            self._rows.update(dict.fromkeys(located(seen, mapped_files())))

    def rows(self) -> list[Row]:
        """Return what was recorded, in file coordinates."""
        return list(self._rows)


def located(spans: Iterable[tuple[int, int]], mappings: list[MappedFile]) -> Iterator[Row]:
    """Yield where in a file each span (address, length in bytes) lies; spans outside ``mappings`` (by address) are left
    out. A file that is mapped in one piece may appear as several neighbours, of which some pages are ours alone."""
    begins = [mapping.begin for mapping in mappings]
    for address, length in spans:
        index = bisect.bisect_right(begins, address) - 1
        while length > 0 and 0 <= index < len(mappings) and mappings[index].begin <= address < mappings[index].end:
            mapping = mappings[index]
            part = min(length, mapping.end - address)
            yield (mapping.path, mapping.offset + address - mapping.begin, part)
            address, length, index = address + part, length - part, index + 1


def joined(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield ``rows`` with those that begin where the one before ended made one with it."""
    last: Row | None = None
    for row in rows:
        if last is not None and row[0] == last[0] and row[1] == last[1] + last[2]:
            last = (last[0], last[1], last[2] + row[2])
            continue
        if last is not None:
            yield last
        last = row
    if last is not None:
        yield last


def bounded(rows: Iterable[Row], limit_bytes: int = LIMIT_BYTES) -> Iterator[Row]:
    """Yield ``rows`` until they take ``limit_bytes``; those whose path is not UTF-8 cannot be sent and are left out."""
    left_bytes = limit_bytes
    for row in rows:
        try:
            left_bytes -= len(row[0].encode()) + _ROW_BYTES
        except UnicodeEncodeError:
            continue
        if left_bytes < 0:
            return
        yield row


def _whole(paths: Iterable[str]) -> Iterator[Row]:
    for path in paths:
        with contextlib.suppress(OSError):  # from a zip archive, or gone since: nothing to read ahead
            yield (path, 0, os.stat(path).st_size)


def _file_of(module: object) -> str:
    """Return the file that was read to import ``module``, or nothing."""
    try:
        # Past __getattribute__: asking a lazily loaded module for anything would import it.
        spec = object.__getattribute__(module, "__dict__").get("__spec__")
    except AttributeError:
        return ""  # whatever somebody has put into sys.modules
    if not isinstance(spec, ModuleSpec) or not spec.has_location or not isinstance(spec.origin, str):
        return ""
    cached = spec.cached
    path = cached if isinstance(cached, str) and os.path.isfile(cached) else spec.origin
    return os.path.abspath(path)


def _mode(seen: dict[tuple[int, int], None]) -> contextlib.AbstractContextManager[Any]:
    """Return a torch mode that adds (address, length in bytes) of every operation's tensors to ``seen``."""
    import torch  # late: the caller has found it in sys.modules
    from torch.utils._python_dispatch import TorchDispatchMode

    plain = (torch.Tensor, torch.nn.Parameter)

    def note(value: Any) -> None:
        if isinstance(value, (list, tuple)):
            for item in value:
                note(item)
        # A subclass may have no memory of its own.
        elif type(value) in plain and value.device.type == "cpu" and value.layout is torch.strided and value.numel():
            last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
            seen.setdefault((value.data_ptr(), (last + 1) * value.element_size()))

    class FirstUse(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch does not annotate it
        @classmethod
        def _should_skip_dynamo(cls) -> bool:
            """Not to be wrapped by torch, which would import torch._dynamo for it (1.7 s); where torch does not ask, it
            does not wrap either."""
            return False

        def __torch_dispatch__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            if not func.is_view:  # a view reads nothing
                note(args)
                note(tuple((kwargs or {}).values()))
            return func(*args, **(kwargs or {}))

    return FirstUse()  # type: ignore[no-untyped-call]  # nor this
