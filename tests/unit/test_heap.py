from __future__ import annotations

import subprocess
import sys

from glowplug.runtime.process.heap import free_blocks

REPORT = """\
Small block threshold = 512, in 32 size classes.

class   size   num pools   blocks in use  avail blocks
-----   ----   ---------   -------------  ------------
    0     16           7            6321           793
    1     32          98           49938            42
   31    512          21             630             0

# arenas allocated total           =                   87
"""


def test_the_allocators_table_is_read() -> None:
    assert {16: 793, 32: 42, 512: 0} == free_blocks(REPORT)
    assert {} == free_blocks("another allocator prints something else\n1 2 3\n")


def test_filling_the_holes_of_a_real_interpreter_leaves_few() -> None:
    program = (
        "from glowplug.runtime.process import heap\n"
        "scattered = [bytes(n % 400) for n in range(60000)][::3]\n"
        "before = heap.fill_holes()\n"
        "after = sum(heap.free_blocks(heap._allocator_report()).values())\n"
        "print(before, after)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    before, after = map(int, ran.stdout.split())
    assert before > 10_000
    assert after < before / 4
