"""Whether this process may be forked from, and if not, why: in words for the function's author.

A fork copies one thread. Whatever another thread held stays held for ever in the child; a connection or an event queue
would be one object in two processes; a CUDA context does not survive at all. All of it is looked up in ``/proc/self``,
so that it makes no difference which library opened it. Unconnected datagram sockets are harmless (AWS X-Ray's tracer
opens one at import), and so are files, pipes and memfds.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Collection

_TASKS = "/proc/self/task"
_DESCRIPTORS = "/proc/self/fd"
_ANONYMOUS = {
    "anon_inode:[eventpoll]": "an epoll descriptor",
    "anon_inode:[io_uring]": "an io_uring descriptor",
}


def obstacle(ours: Collection[int] = ()) -> str:
    """Return why this process must not be forked from; empty when it may be.

    ``ours`` are descriptors that the caller knows about: its own channels.
    """
    return _thread() or _cuda_context() or _descriptor(ours)


def _thread() -> str:
    tasks = [task for task in os.listdir(_TASKS) if int(task) != os.getpid()]
    if not tasks:
        return ""
    names = []
    for task in sorted(tasks, key=int):
        try:
            with open(f"{_TASKS}/{task}/comm", encoding="utf-8", errors="replace") as file:
                names.append(f"thread {_python_name(int(task)) or file.read().strip()} (tid {task})")
        except FileNotFoundError:
            continue  # it ended while we looked
    return ", ".join(names)


def _python_name(task: int) -> str:
    threading = sys.modules.get("threading")
    if threading is None:
        return ""
    return next((str(thread.name) for thread in threading.enumerate() if thread.native_id == task), "")


def _cuda_context() -> str:
    # Asked of torch only if torch has been asked for CUDA before: the question itself must not make a context.
    cuda = sys.modules.get("torch.cuda")
    return "a CUDA context" if cuda is not None and cuda.is_initialized() else ""


def _descriptor(ours: Collection[int]) -> str:
    for name in sorted(os.listdir(_DESCRIPTORS), key=int):
        descriptor = int(name)
        if descriptor in ours:
            continue
        try:
            target = os.readlink(f"{_DESCRIPTORS}/{name}")
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        if target in _ANONYMOUS:
            return _ANONYMOUS[target]
        if target.startswith("socket:"):
            found = _socket(descriptor)
            if found:
                return found
    return ""


def _socket(descriptor: int) -> str:
    with socket.socket(fileno=os.dup(descriptor)) as view:
        if view.family == socket.AF_NETLINK:
            return ""  # its peer is the kernel
        if view.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return f"a listening socket on {_address(view.getsockname())}"
        try:
            peer = view.getpeername()
        except OSError:
            return ""  # ENOTCONN: nothing on the other side yet
        return f"a connected socket to {_address(peer)}"


def _address(address: object) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    if isinstance(address, bytes):
        address = address.decode("utf-8", "backslashreplace").replace("\0", "@", 1)
    return str(address) or "an unnamed peer"
