"""Byte code for unpacked code, made once at upload instead of in every start.

Functions cannot write beside their code, so without this each start from stored would parse and compile the handler
again: parsing one file of the shipped ``embed`` took 4 MB of heap, which a zygote keeps for as long as it is parked.

The files are of the kind that is never compared with its source (PEP 552, unchecked): what was unpacked under a digest
never changes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import weakref
from pathlib import Path

TIME_LIMIT_S = 120.0
"""How long compiling one upload may take; 250 MB of source take about a minute."""
IDLE_S = 5.0
"""How long the compiler waits for another upload: a deploy of many functions starts it once."""

_PROGRAM = Path(__file__).with_name("compiling.py")

log = logging.getLogger(__name__)


class ByteCompiler:
    """Compiles uploads, in processes of their own: the compiler is only as robust as what it is given.

    A process serves one upload after the other, and several threads may ask at once. One is kept, for a while.
    """

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._until: threading.Timer | None = None  # ends the one that is kept
        weakref.finalize(self, _end, self._idle)

    def compile_tree(self, unpacked: Path, target: Path) -> list[Path]:
        """Write byte code for every module below ``unpacked``, as it will be found below ``target``; return its files.

        What cannot be compiled (a syntax error, Python of another version) is left to the import, which reports it to
        the right person.
        """
        if next(unpacked.rglob("*.py"), None) is None:
            return []
        request = json.dumps([str(unpacked), str(target)]).encode() + b"\n"
        try:
            if not self._ask(request):
                log.warning("byte code of %s: the compiler ended; modules without it start slower", target)
        except TimeoutError:
            message = "byte code of %s: not finished after %g s; modules without it start slower"
            log.warning(message, target, TIME_LIMIT_S)
        made = sorted(path for path in unpacked.rglob("__pycache__/*.pyc") if path.is_file())
        for directory in {path.parent for path in made}:
            directory.chmod(0o755)
        for path in made:
            path.chmod(0o444)
        return made

    def _ask(self, request: bytes) -> bool:
        """Have a process compile; return whether it has. Raises ``TimeoutError``."""
        with self._lock:
            if self._until is not None:
                self._until.cancel()
            process = self._idle.pop() if self._idle else _start()
        answered = False
        try:
            answered = _exchange(process, request)
        finally:
            with self._lock:
                keep = answered and not self._idle
                if keep:
                    self._idle.append(process)
                    self._until = threading.Timer(
                        IDLE_S, _retire, (self._lock, self._idle)
                    )  # which do not keep the compiler
                    self._until.daemon = True
                    self._until.start()
            if not keep:
                _end([process])
        return answered


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(_PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.defpath, "LANG": "C.UTF-8"},
        bufsize=0,
    )


def _exchange(process: subprocess.Popen[bytes], request: bytes) -> bool:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  (both are pipes)
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(request)
        if not select.select([process.stdout], [], [], TIME_LIMIT_S)[0]:
            raise TimeoutError
        return process.stdout.read(1) == b"\n"
    return False


def _retire(lock: threading.Lock, idle: list[subprocess.Popen[bytes]]) -> None:
    with lock:
        _end(idle)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kill and reap; the list is empty then."""
    while processes:
        process = processes.pop()
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.wait()
