from __future__ import annotations

from glowplug.runtime.process.hugepages import HUGE_BYTES, whole_pages

MAPS = """\
200000-800000 rw-p 00000000 00:00 0                          [heap]
7f0000100000-7f0000700000 rw-p 00000000 00:00 0
7f0000800000-7f0000a00000 r--p 00000000 00:00 0
7f0000c00000-7f0001000000 rw-p 00000000 fe:00 4711           /usr/lib/libtorch_cpu.so
7f0001000000-7f0001400000 rw-s 00000000 00:01 9              /memfd:x
7f0002000000-7f0002800000 rw-p 00000000 00:00 0              [stack]
7f0003000000-7f0003100000 rw-p 00000000 00:00 0
"""


def test_only_whole_aligned_pages_of_private_anonymous_memory_are_taken() -> None:
    heap = [0x200000, 0x400000, 0x600000]
    anonymous = [0x7F0000200000, 0x7F0000400000]
    assert heap + anonymous == whole_pages(MAPS.splitlines())
    assert HUGE_BYTES == 0x200000
