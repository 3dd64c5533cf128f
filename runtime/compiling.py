"""The program that compiles uploads: a tree of modules after the other, one JSON line each, answered by an empty line.

It is run by path, isolated and without site-packages (``bytecode.py``), and imports the standard library alone. It ends
with its standard input.
"""

from __future__ import annotations

import compileall
import json
import py_compile
import sys


def serve() -> None:
    """Compile what each line names, ``[directory, directory that it will be found in]``, until there is no more.

    Whatever cannot be compiled is left out; what the compiler does not survive ends this process.
    """
    for line in sys.stdin.buffer:
        tree, found_in = json.loads(line)
        compileall.compile_dir(
            tree,
            quiet=2,
            stripdir=tree,
            prependdir=found_in,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
        sys.stdout.buffer.write(b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve()
