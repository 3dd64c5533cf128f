"""Leaving no holes in the heap that is about to be inherited.

Python's allocator keeps blocks of one size together in pools and hands out a freed block before it opens a new pool.
After the imports of a base zygote some 14,000 freed blocks lie scattered over its pools. A child fills them first, and
each one that it fills costs it a copy of a whole page: 3.4 MB for the shipped ``embed``, of 23 that it kept while
parked. So the base zygote fills them itself, with objects that nobody looks at again, and children build on fresh
pages.
"""

from __future__ import annotations

import os
import sys

_kept: list[object] = []
_BYTES_OVERHEAD = sys.getsizeof(b"")


def fill_holes() -> int:
    """Occupy every free block of Python's small-object allocator; return how many there were.

    Does nothing where the interpreter uses another allocator (PYTHONMALLOC) or reports differently.
    """
    holes = free_blocks(_allocator_report())
    for size, count in holes.items():
        if size > _BYTES_OVERHEAD:
            _kept.append([bytes(size - _BYTES_OVERHEAD) for _ in range(count)])
        elif size > object.__basicsize__:
            _kept.append([float(number) for number in range(count)])  # 24 bytes, the block of 32
        else:
            _kept.append([object() for _ in range(count)])
    return sum(holes.values())


def free_blocks(report: str) -> dict[int, int]:
    """Read block size in bytes -> free blocks from the table in ``sys._debugmallocstats``.

    Its columns are class, size, pools, blocks in use, available blocks (Objects/obmalloc.c).
    """
    found: dict[int, int] = {}
    for line in report.splitlines():
        columns = line.split()
        if len(columns) == 5 and all(column.isdecimal() for column in columns):
            found[int(columns[1])] = int(columns[4])
    return found


def _allocator_report() -> str:
    """Return what ``sys._debugmallocstats`` prints: it knows no other place than descriptor 2."""
    descriptor = os.memfd_create("allocator-report")
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        os.dup2(descriptor, 2)
        sys._debugmallocstats()
        os.dup2(saved, 2)
        return os.pread(descriptor, 1 << 20, 0).decode(errors="replace")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(descriptor)
