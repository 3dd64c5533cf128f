"""The header of a safetensors file: parsed, and believed only as far as it has been checked.

The format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes. The JSON maps names to
``{"dtype", "shape", "data_offsets": [begin, end]}``, offsets counted from the end of the header, plus an optional
``"__metadata__"`` of strings (https://github.com/huggingface/safetensors#format). What is enforced, and why:

- the header starts with ``{`` and is at most ``MAX_HEADER_BYTES``: nobody parses gigabytes of JSON for a tensor list;
- it is UTF-8 JSON without doubled names: two readers must not see two files in one;
- every tensor has exactly the three fields, counts are plain non-negative integers (not ``true``, ``2.0`` or ``-0``)
  and text can be written as UTF-8 (no half of a surrogate pair);
- tensors lie one after the other from 0 to the end of the file, no holes, no overlaps, each of exactly the size that
  dtype and shape give: nothing hides between them, and no view reaches outside the file.

Nothing here is laxer than the reference implementation (the Rust crate ``safetensors``; the tests compare with it). It
is laxer in a few things that no writer does: doubled names, unknown fields, an entry as a list, ``null`` as metadata,
a header that begins with a space.

Parsing takes time and memory in proportion to the header, whatever is in it: at most about 25 bytes per byte for empty
lists (``[],`` is 3 bytes; the list and its place in another are 64), and no arithmetic on numbers that keep growing.
Pure: bytes in, values out. No file, no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .errors import WeightsMalformed, WeightsTruncated

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit (the reference implementation's ``MAX_HEADER_SIZE``)."""

LENGTH_BYTES = 8
"""Size of the header's length, the first thing in the file."""

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
"""Every dtype of the format, with the bits of one element."""

_MAX_ELEMENTS = 2**63 - 1  # what torch can count
_FIELDS = frozenset({"dtype", "shape", "data_offsets"})
_QUOTED = 80  # characters of somebody else's text in a message: names may be as long as the header


class TensorView(NamedTuple):
    """Where a tensor is in its file: ``begin`` and ``end`` in bytes from the start of the file, ``dtype`` as the format
    spells it (``F32``, ``BF16`` …). A named tuple because a start makes thousands: a frozen dataclass takes three times
    as long to make."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself: tensors by name in the header's order, and free text. ``file_bytes`` is
    the size of the whole file, which the tensors fill to the last byte."""

    tensors: Mapping[str, TensorView]
    metadata: Mapping[str, str]
    file_bytes: int


def header_length(start: bytes, file_bytes: int) -> int:
    """Return the length in bytes of the JSON that follows the file's first ``LENGTH_BYTES``.

    Raises ``WeightsTruncated`` when the file of ``file_bytes`` has no room for it, ``WeightsMalformed`` when it is
    beyond ``MAX_HEADER_BYTES``, so that nothing of that size is ever read.
    """
    if len(start) < LENGTH_BYTES:
        raise WeightsTruncated(f"{file_bytes} bytes; a safetensors file has at least {LENGTH_BYTES}")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise WeightsMalformed(f"not safetensors, or a header of {length} bytes; limit {MAX_HEADER_BYTES}")
    if LENGTH_BYTES + length > file_bytes:
        raise WeightsTruncated(f"header of {length} bytes in a file of {file_bytes}")
    return length


def parse(text: bytes, file_bytes: int) -> Header:
    """Return the checked header of a file of ``file_bytes`` whose JSON is ``text``.

    Raises ``WeightsMalformed`` for text that breaks one of the format's rules, ``WeightsTruncated`` when the tensors
    would end beyond the file.
    """
    header = _json(text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsMalformed("__metadata__ is not a mapping of strings")
    if b"\\u" in text:
        _refuse_half_pairs([*header, *metadata, *metadata.values()])
    start = LENGTH_BYTES + len(text)
    views = {name: _view(name, entry, start) for name, entry in header.items()}
    _refuse_gaps(views, start, file_bytes)
    return Header(views, metadata, file_bytes)


def _json(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise WeightsMalformed("not safetensors: the header does not start with '{'")
    # json reads -0 as the integer 0. Looking at every integer would take as long as all the rest, so it is done only
    # where there can be such a one.
    integer = _unsigned if b"-0" in text else None
    try:
        found: dict[str, Any] = json.loads(
            text.decode(), object_pairs_hook=unique_names, parse_constant=_refuse_constant, parse_int=integer
        )
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, an integer of 5,000 digits
        raise WeightsMalformed(f"the header is not JSON: {str(error)[:200]}") from None
    return found


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its pairs, for ``json.loads``. Raises ``WeightsMalformed`` when a name appears twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise WeightsMalformed(f"{quoted(name)} appears twice")
            seen.add(name)
    return found


def _unsigned(digits: str) -> int:
    if digits.startswith("-"):
        raise WeightsMalformed(f"{digits[:_QUOTED]} where a non-negative integer must be")
    return int(digits)


def _refuse_constant(text: str) -> None:
    raise WeightsMalformed(f"{text} is not JSON")


def _refuse_half_pairs(texts: list[str]) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise WeightsMalformed(f"{quoted(text)} has half of a surrogate pair") from None


def _view(name: str, entry: Any, start: int) -> TensorView:
    if type(entry) is not dict or len(entry) != 3 or not entry.keys() >= _FIELDS:
        raise WeightsMalformed(f"{quoted(name)} has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = BITS.get(dtype) if type(dtype) is str else None
    if bits is None:
        kind = quoted(dtype) if type(dtype) is str else f"a {type(dtype).__name__}"
        raise WeightsMalformed(f"{quoted(name)} has the unknown dtype {kind}")
    if type(offsets) is not list or len(offsets) != 2 or type(shape) is not list:
        raise WeightsMalformed(f"{quoted(name)}: shape and data_offsets must be lists, of any length and of 2")
    begin, end = offsets
    if type(begin) is not int or type(end) is not int or not 0 <= begin <= end <= _MAX_ELEMENTS:
        raise WeightsMalformed(f"{quoted(name)}: data_offsets must be a range of bytes")
    size = end - begin
    if _elements(name, shape) * bits != size * 8:
        raise WeightsMalformed(f"{quoted(name)} of {dtype} {shape[:16]!s:.{_QUOTED}} does not take {size} bytes")
    return TensorView(dtype, tuple(shape), start + begin, start + end)


def _elements(name: str, shape: list[Any]) -> int:
    """Count the elements; an extent of 0 does not hide others that could never be multiplied."""
    count, empty = 1, False
    for extent in shape:
        if type(extent) is not int or extent < 0:  # type() rather than isinstance(): True is an int
            raise WeightsMalformed(f"{quoted(name)}: extents must be non-negative integers")
        if extent == 0:
            empty = True
        else:
            count *= extent
            if count > _MAX_ELEMENTS:  # at once: the product of a million extents would take minutes
                raise WeightsMalformed(f"{quoted(name)} has more elements than can be counted")
    return 0 if empty else count


def _refuse_gaps(views: Mapping[str, TensorView], start: int, file_bytes: int) -> None:
    reached, last = start, None
    for begin, end, name in sorted([(view.begin, view.end, name) for name, view in views.items()]):
        if begin != reached:
            kind = "overlap" if begin < reached else "have a hole between them"
            raise WeightsMalformed(f"{_place(last)} and {quoted(name)} {kind}")
        reached, last = end, name
    if reached > file_bytes:
        raise WeightsTruncated(f"{file_bytes} bytes, but {_place(last)} ends at {reached}")
    if reached < file_bytes:
        raise WeightsMalformed(f"{file_bytes - reached} bytes after the last tensor belong to nothing")


def _place(name: str | None) -> str:
    return "the header" if name is None else quoted(name)


def quoted(text: str) -> str:
    """Return ``text`` as it may stand in a message: its start, with quotes and escapes."""
    return repr(text[:_QUOTED])
