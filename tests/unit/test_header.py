"""The header parser against generated files, against every kind of damage, and against the reference implementation."""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.torch import save

from glowplug.cache.errors import WeightsError, WeightsMalformed, WeightsTruncated
from glowplug.cache.header import BITS, LENGTH_BYTES, MAX_HEADER_BYTES, Header, header_length, parse


def parse_file(data: bytes) -> Header:
    """Parse as ``weights.py`` does, from a file's bytes."""
    length = header_length(data[:LENGTH_BYTES], len(data))
    return parse(data[LENGTH_BYTES : LENGTH_BYTES + length], len(data))


def file_of(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def read_by_reference(data: bytes) -> list[tuple[str, dict[str, Any]]]:
    return deserialize(data)  # type: ignore[no-untyped-call]


def reference_accepts(data: bytes) -> bool:
    try:
        read_by_reference(data)
    except SafetensorError:
        return False
    return True


@dataclass(frozen=True)
class Described:
    """A tensor of a generated file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        elements = 1
        for extent in self.shape:
            elements *= extent
        return elements * BITS[self.dtype] // 8


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")
SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)


@st.composite
def described(draw: st.DrawFn) -> list[Described]:
    found = []
    for name in draw(st.lists(NAMES, unique=True, max_size=6)):
        dtype, shape = draw(st.sampled_from(sorted(BITS))), draw(SHAPES)
        if BITS[dtype] < 8:  # elements smaller than a byte: only whole bytes may be stored
            shape = (*shape, 4)
        found.append(Described(name, dtype, shape))
    return found


def written(tensors: Sequence[Described], metadata: dict[str, str] | None, spaces: int, ascii_only: bool) -> bytes:
    """Write a file as the format's text says, independently of both implementations."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    place = 0
    for one in tensors:
        header[one.name] = {
            "dtype": one.dtype,
            "shape": list(one.shape),
            "data_offsets": [place, place + one.size],
        }
        place += one.size
    text = json.dumps(header, ensure_ascii=ascii_only).encode() + b" " * spaces
    return file_of(text, bytes(index % 251 for index in range(place)))


METADATA = st.none() | st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])), max_size=3
)


@given(described(), METADATA, st.integers(0, 9), st.booleans())
def test_what_follows_the_format_parses_to_what_was_written(
    tensors: list[Described], metadata: dict[str, str] | None, spaces: int, ascii_only: bool
) -> None:
    data = written(tensors, metadata, spaces, ascii_only)
    header = parse_file(data)
    assert [(one.name, one.dtype, one.shape, one.size) for one in tensors] == [
        (name, view.dtype, view.shape, view.end - view.begin) for name, view in header.tensors.items()
    ]
    assert (metadata or {}, len(data)) == (header.metadata, header.file_bytes)
    assert reference_accepts(data)


SAVED = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "U16": torch.uint16, "F16": torch.float16,
    "BF16": torch.bfloat16, "I32": torch.int32, "U32": torch.uint32, "F32": torch.float32, "F64": torch.float64,
    "I64": torch.int64, "U64": torch.uint64, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
}  # fmt: skip


@given(st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(SAVED)), SHAPES), max_size=5), METADATA)
def test_what_the_reference_writes_parses_to_what_it_reads(
    kinds: dict[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str] | None
) -> None:
    assume(kinds or metadata != {})  # for no tensors and empty metadata safetensors 0.8 writes what it cannot read
    data = save({name: torch.empty(shape).to(SAVED[kind]) for name, (kind, shape) in kinds.items()}, metadata)
    header = parse_file(data)
    expected = {
        name: (read["dtype"], tuple(read["shape"]), bytes(read["data"])) for name, read in read_by_reference(data)
    }
    assert expected == {
        name: (view.dtype, view.shape, data[view.begin : view.end]) for name, view in header.tensors.items()
    }
    assert (metadata or {}) == header.metadata


def test_the_dtypes_are_those_of_the_reference() -> None:
    with pytest.raises(SafetensorError) as refused:
        read_by_reference(file_of({"w": {"dtype": "?", "shape": [], "data_offsets": [0, 0]}}, b""))
    assert sorted(BITS) == sorted(re.findall(r"`(\w+)`", str(refused.value)))


GOOD = written(
    [Described("layer.0.weight", "F32", (2, 3)), Described("é", "BF16", (4,)), Described("none", "U8", (0, 7))],
    {"format": "pt"},
    spaces=3,
    ascii_only=False,
)
HEADER_ENDS = GOOD.index(b"   ") + 3
# What turns one valid header into another, or nearly: single characters of JSON, numbers at their limits, fields again.
FRAGMENTS = [
    *(bytes([character]) for character in b'{}[],:" \\\n\t0123456789-+.eE\x00\x7f\xff'),
    *(b"-0", b"-1", b"1e2", b"1.0", b"01", b"18446744073709551615", b"9223372036854775808", b"9" * 5000, b"NaN"),
    *(
        b"true",
        b"null",
        b"\\ud800",
        b"\\udc00\\ud800",
        b"\\u0000",
        b"\\u12_4",
        b"\xed\xa0\x80",
        b"\xc3\x28",
        b"\xef\xbb\xbf",
    ),
    *(b'"dtype":"F32",', b'"shape":[1],', b'"data_offsets":[0,24],', b'"extra":0,', b'"__metadata__":{},'),
    *(
        b'"z":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},',
        b'"dtype":["F32"],',
        b"{" * 2000,
        b"[" * 950 + b"]" * 950,
    ),
]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good file after up to four changes; most of them in the header, whose length is put right again."""
    text, data = bytearray(GOOD[LENGTH_BYTES:HEADER_ENDS]), GOOD[HEADER_ENDS:]
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 4]))):
        begin = draw(st.integers(0, len(text)))
        end = min(len(text), begin + draw(st.sampled_from([0, 0, 1, 1, 2, 40])))
        text[begin:end] = draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=2))
    data = draw(st.sampled_from([data, data, data, data[:-1], data + b"x", b""]))
    length = len(text) + draw(st.sampled_from([0, 0, 0, 0, 1, -1, 2**40, 2**63]))
    return struct.pack("<Q", length % 2**64) + bytes(text) + data


# Instead of a number or a dtype: what the reference takes, what only one of the two parsers might, and what none should.
NUMBERS = [
    "0",
    "1",
    "-0",
    "1.0",
    "1e0",
    "true",
    "null",
    '"1"',
    "[1]",
    "01",
    "9223372036854775807",
    "18446744073709551616",
]
DTYPES = ['"F32"', '"F4"', '"U8"', '"F64"', '"f32"', '"\\u0055\\u0038"', "null", "{}", '"F32\\ud800"']
STRINGS = ['"w"', '"x"', '"\\u0077"', '"\\ud83d\\ude00"', '"\\ude00"', '"__metadata__"', '"\\u0000"', '"\t"']


@st.composite
def nearly_valid(draw: st.DrawFn) -> bytes:
    """A file put together from valid parts, of which none or one is swapped for something that may not be."""
    tensors = draw(st.lists(st.tuples(st.sampled_from(sorted(BITS)), SHAPES), min_size=1, max_size=3))
    odd = draw(st.sampled_from(["", "", "name", "dtype", "shape", "begin", "end", "field", "order"]))
    chosen, entries, place = draw(st.integers(0, len(tensors) - 1)), [], 0
    for number, (dtype, shape) in enumerate(tensors):
        end = place + Described("", dtype, shape).size
        name, kind, extents = f'"t{number}"', f'"{dtype}"', [str(extent) for extent in shape]
        begin_text, end_text, more = str(place), str(end), ""
        if number == chosen:
            name = draw(st.sampled_from(STRINGS)) if odd == "name" else name
            kind = draw(st.sampled_from(DTYPES)) if odd == "dtype" else kind
            if odd == "shape":
                extents.insert(draw(st.integers(0, len(extents))), draw(st.sampled_from(NUMBERS)))
            begin_text = draw(st.sampled_from(NUMBERS)) if odd == "begin" else begin_text
            end_text = draw(st.sampled_from([*NUMBERS, str(end + 1)])) if odd == "end" else end_text
            more = draw(st.sampled_from([',"x":1', ',"shape":[]', " "])) if odd == "field" else more
        entries.append(
            f'{name}:{{"dtype":{kind},"shape":[{",".join(extents)}],"data_offsets":[{begin_text},{end_text}]{more}}}'
        )
        place = end
    if odd == "order":
        entries = draw(st.permutations(entries))
    return file_of(f"{{{','.join(entries)}}}".encode(), bytes(place))


ENTRY = b'"dtype":"F32","shape":[2],"data_offsets":[0,8]'
HALVES = {
    "name": b'{"\\ud800":{%s}}' % ENTRY,
    "metadata": b'{"__metadata__":{"a":"\\udc00"},"w":{%s}}' % ENTRY,
    "metadata name": b'{"__metadata__":{"\\ud800x":""},"w":{%s}}' % ENTRY,
}


@settings(max_examples=1000, deadline=None)
@given(nearly_valid() | damaged())
@example(file_of(b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[-0,8]}}', bytes(8)))
@example(file_of(HALVES["name"], bytes(8)))
@example(file_of(HALVES["metadata"], bytes(8)))
@example(
    file_of(b'{"w":{"dtype":"F32","shape":[4611686018427387904,4611686018427387904,0],"data_offsets":[0,0]}}', b"")
)
@example(file_of(b'{"w":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}', bytes(2)))
def test_damage_gives_views_inside_the_file_or_a_weights_error_and_never_more_than_the_reference_takes(
    data: bytes,
) -> None:
    try:
        header = parse_file(data)
    except WeightsError:
        return
    reached = LENGTH_BYTES + int.from_bytes(data[:LENGTH_BYTES], "little")
    for view in sorted(header.tensors.values(), key=lambda view: (view.begin, view.end)):
        assert reached == view.begin
        reached = view.end
    assert len(data) == reached
    assert reference_accepts(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64), st.integers(0, len(GOOD)), st.integers(0, len(GOOD)))
def test_spliced_and_random_bytes_are_taken_only_where_the_reference_takes_them(
    noise: bytes, begin: int, end: int
) -> None:
    data = GOOD[:begin] + noise + GOOD[end:]
    try:
        parse_file(data)
    except WeightsError:
        return
    assert reference_accepts(data)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(nearly_valid() | damaged())
def test_safe_open_judges_files_as_deserialize_judges_bytes(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    try:
        with safe_open(path, "pt"):
            opened = True
    except SafetensorError:
        opened = False
    assert reference_accepts(data) == opened


# What the reference takes and this parser does not; each for a reason that the module's docstring gives.
STRICTER: dict[str, bytes] = {
    "doubled name": b'{"w":{%s},"w":{%s}}' % (ENTRY, ENTRY),
    "unknown field": b'{"w":{%s,"x":1}}' % ENTRY,
    "entry as a list": b'{"w":["F32",[2],[0,8]]}',
    "dtype as an object": b'{"w":{"dtype":{"F32":null},"shape":[2],"data_offsets":[0,8]}}',
    "metadata null": b'{"__metadata__":null,"w":{%s}}' % ENTRY,
    "leading space": b' {"w":{%s}}' % ENTRY,
}


@pytest.mark.parametrize("case", STRICTER)
def test_the_known_differences_are_all_on_the_strict_side(case: str) -> None:
    data = file_of(STRICTER[case], bytes(8))
    assert reference_accepts(data)
    with pytest.raises(WeightsMalformed):
        parse_file(data)


@pytest.mark.parametrize("case", HALVES)
def test_half_of_a_surrogate_pair_is_refused_and_can_be_printed(case: str) -> None:
    with pytest.raises(WeightsMalformed, match="half of a surrogate pair") as refused:
        parse_file(file_of(HALVES[case], bytes(8)))
    assert str(refused.value).encode()


def many(count: int, entry: bytes) -> bytes:
    return b"{" + b",".join(b'"%d":%s' % (number, entry) for number in range(count)) + b"}"


HUGE: dict[str, bytes] = {
    "empty lists": b'{"w":[' + b"[]," * 300_000 + b"0]}",
    "empty objects": b'{"w":[' + b"{}," * 300_000 + b"0]}",
    "a shape of twos": b'{"w":{"dtype":"F32","shape":[2' + b",2" * 400_000 + b'],"data_offsets":[0,8]}}',
    "a shape of ones": b'{"w":{"dtype":"F32","shape":[2' + b",1" * 400_000 + b'],"data_offsets":[0,9]}}',
    "offsets without end": b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0' + b",1" * 400_000 + b"]}}",
    "a long name": b'{"' + b"n" * 900_000 + b'":1}',
    "a long dtype": b'{"w":{"dtype":"' + b"F" * 900_000 + b'","shape":[2],"data_offsets":[0,8]}}',
    "half a pair at the end": b'{"' + b"n" * 900_000 + b'\\ud800":{%s}}' % ENTRY,
    "a name doubled at the end": many(20_000, b"{%s}" % ENTRY)[:-1] + b',"19999":0}',
    "tensors in one place": many(15_000, b"{%s}" % ENTRY),
    "digits": b'{"w":' + b"9" * 900_000 + b"}",
    "depth": b'{"w":' + b"[" * 900_000,
    "a dtype as deep as the parser goes": b'{"w":{"dtype":'
    + b"[" * 900
    + b"]" * 900
    + b',"shape":[2],"data_offsets":[0,8]}}',
}


@pytest.mark.timeout(60)  # it takes milliseconds; what is quadratic takes minutes
@pytest.mark.parametrize("case", HUGE)
def test_a_header_made_to_hurt_costs_time_and_memory_in_proportion(case: str) -> None:
    text = HUGE[case]
    with pytest.raises(WeightsMalformed) as refused:
        parse(text, LENGTH_BYTES + len(text) + 8)
    assert len(str(refused.value)) < 500
    tracemalloc.start()
    try:
        with pytest.raises(WeightsMalformed):
            parse(text, LENGTH_BYTES + len(text) + 8)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * len(text) + 200_000


def test_the_length_is_checked_before_anything_is_read() -> None:
    assert 16 == header_length(struct.pack("<Q", 16), 24)
    with pytest.raises(WeightsTruncated, match="header of 17 bytes in a file of 24"):
        header_length(struct.pack("<Q", 17), 24)
    with pytest.raises(WeightsMalformed, match="limit 100000000"):
        header_length(struct.pack("<Q", MAX_HEADER_BYTES + 1), 2**40)
    with pytest.raises(WeightsTruncated, match="3 bytes"):
        header_length(b"abc", 3)


def test_an_extent_of_zero_does_not_hide_an_overflow() -> None:
    text = b'{"w":{"dtype":"F32","shape":[0,4611686018427387904,4],"data_offsets":[0,0]}}'
    with pytest.raises(WeightsMalformed, match="more elements than can be counted"):
        parse(text, LENGTH_BYTES + len(text))


def test_minus_zero_is_refused_without_refusing_names_with_a_dash() -> None:
    good = b'{"model-0.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    assert ["model-0.weight"] == list(parse(good, LENGTH_BYTES + len(good) + 8).tensors)
    with pytest.raises(WeightsMalformed, match="-0 where a non-negative integer"):
        parse(good.replace(b"[0,", b"[-0,"), LENGTH_BYTES + len(good) + 9)
