"""Byte code for unpacked code, made once at upload instead of in every start.

Functions cannot write beside their code, so without this each start from stored would parse and compile the handler
again: parsing one file of the shipped ``embed`` took 4 MB of heap, which a zygote keeps for as long as it is parked.

The files are of the kind that is never compared with its source (PEP 552, unchecked): what was unpacked under a digest
never changes.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

TIME_LIMIT_S = 120.0
"""How long compiling one upload may take; 250 MB of source take about a minute."""

log = logging.getLogger(__name__)


def compile_tree(unpacked: Path, target: Path) -> list[Path]:
    """Write byte code for every module below ``unpacked``, as it will be found below ``target``; return its files.

    In a process of its own: the compiler is only as robust as what it is given. What cannot be compiled (a syntax
    error, Python of another version) is left to the import, which reports it to the right person.
    """
    if next(unpacked.rglob("*.py"), None) is None:
        return []
    command = [sys.executable, "-I", "-S", "-m", "compileall", "-qq", "--invalidation-mode", "unchecked-hash"]
    try:
        subprocess.run(
            [*command, "-s", str(unpacked), "-p", str(target), str(unpacked)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # nothing comes but its end, for which run() would poll otherwise, up to 50 ms late
            stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        log.warning("byte code of %s: not finished after %g s; modules without it start slower", target, TIME_LIMIT_S)
    made = sorted(path for path in unpacked.rglob("__pycache__/*.pyc") if path.is_file())
    for directory in {path.parent for path in made}:
        directory.chmod(0o755)
    for path in made:
        path.chmod(0o444)
    return made
