"""The state directory: its layout, its one owner, and the errors it can give.

    S/                      0700
    ├── node.lock           flock held while a node runs; JSON {pid, endpoint, started}
    ├── registry.db         functions, versions, aliases, URLs, stacks (registry.py)
    ├── queue.db            messages and records (queue/store.py)
    ├── ledger.jsonl        starts (routing/ledger.py)
    ├── credentials.toml    0600, who may call, unless GLOWPLUG_CREDENTIALS is elsewhere (credentials.py)
    ├── operator.json       0600, the key of the commands of this machine (operatorkey.py)
    ├── code/               0755, <sha256>/ and <sha256>.zip (codestore.py)
    ├── cache/blobs/        0755, unless NodeConfig.cache is elsewhere (cache/store.py)
    ├── snapshots/<key>/    0755 (snapshot/store.py)
    ├── snapshots/keys/     0700, hmac: the key that signs manifests
    ├── readahead/          0700, <revision>.json: what its starts read, in order (readahead.py)
    ├── logs/               0700, <function>.log
    ├── run/processes/      0700, one file per living child, for the sweep after kill -9
    └── bake/               0700, staging of bakes

A state directory has one owner: the node that holds the ``flock`` on ``node.lock``. The kernel frees that lock when the
process dies, however it dies; the file is never unlinked, because unlinking a locked file lets two processes each lock
"the" file. Its content is for people and for the command line, which finds its node there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from .config import NodeConfig
from .errors import StateError

HMAC_KEY_BYTES = 32
"""As long as the digest of the HMAC-SHA256 that it keys: RFC 2104 section 3 asks for at least that."""

_LOCK_ATTEMPTS = 20
_LOCK_PAUSE_S = 0.01  # a command in ``running_node`` holds the lock for microseconds; another node for much longer
_ADVICE = {
    errno.EACCES: "run as its owner or choose another directory with --state",
    errno.EPERM: "run as its owner or choose another directory with --state",
    errno.EROFS: "choose a directory on a writable file system with --state",
    errno.ENOSPC: "free some space there or choose another directory with --state",
    errno.EDQUOT: "raise the disk quota or choose another directory with --state",
    errno.ENOTDIR: "a file is in the way; choose another directory with --state",
    errno.EEXIST: "a file is in the way; choose another directory with --state",
    errno.ENOLCK: "its file system has no locks; choose a local directory with --state",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def unusable(path: Path | str, error: OSError) -> StateError:
    """Return the ``StateError`` for ``error`` at ``path``: what is wrong, where, and what to do about it."""
    advice = _ADVICE.get(error.errno or 0, "choose another directory with --state")
    return StateError(f"{path}: {error.strerror or error}; {advice}")


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """What a node says of itself in its lock file. ``started`` is Unix time; ``endpoint`` is empty until it listens."""

    pid: int
    endpoint: str
    started: float


class StateDirectory:
    """The paths of one node's state, and the lock that makes it the only owner.

    ``create`` and ``lock`` first, in this order; everything else may be built on the paths then. A context manager that
    calls ``close``.
    """

    def __init__(self, config: NodeConfig) -> None:
        self.root = config.state
        self.cache = config.cache
        self.blobs = config.cache / "blobs"
        self.lock_file = self.root / "node.lock"
        self.registry = self.root / "registry.db"
        self.queue = self.root / "queue.db"
        self.ledger = self.root / "ledger.jsonl"
        self.code = self.root / "code"
        self.snapshots = self.root / "snapshots"
        self.hmac_key_file = self.snapshots / "keys" / "hmac"
        self.readahead = self.root / "readahead"
        self.logs = self.root / "logs"
        self.processes = self.root / "run" / "processes"
        self.bake = self.root / "bake"
        self._descriptor = -1
        self._address = NodeAddress(0, "", 0.0)

    def __repr__(self) -> str:
        return f"<StateDirectory {self.root} {'locked' if self._descriptor >= 0 else 'not locked'}>"

    def create(self) -> None:
        """Make the directories that are missing and set their modes.

        Raises ``StateError`` naming the path when one cannot be made, such as on a read-only or full disk.
        """
        private = (self.root, self.root / "run", self.processes, self.logs, self.bake, self.readahead)
        # By the users that functions run under; there before the base zygotes, which show them to those users.
        readable = (self.code, self.cache, self.blobs, self.snapshots)
        modes = {**dict.fromkeys(private, 0o700), **dict.fromkeys(readable, 0o755), self.hmac_key_file.parent: 0o700}
        for directory, mode in modes.items():
            ours = directory.is_relative_to(self.root)  # a shared cache keeps the mode its users gave it
            try:
                directory.mkdir(mode=mode, parents=True, exist_ok=True)
                if ours and directory.stat().st_mode & 0o777 != mode:  # mkdir obeys the umask
                    directory.chmod(mode)
            except OSError as error:
                raise unusable(directory, error) from None

    def lock(self) -> None:
        """Become the owner, until ``close`` or the end of this process.

        Raises ``StateError`` naming the other node when there is one, or the reason when the file cannot be written.
        """
        try:
            # os.open gives close-on-exec descriptors (PEP 446): an exec'ed zygote never holds the lock of a dead node.
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise unusable(self.lock_file, error) from None
        try:
            if not _try_lock(descriptor):
                raise StateError(self._occupied(_read_address(descriptor)))
            self._descriptor = descriptor
            self._address = NodeAddress(os.getpid(), "", time.time())
            self._write(json.dumps(asdict(self._address)).encode())
        except BaseException as error:
            self._descriptor = -1
            os.close(descriptor)
            if isinstance(error, OSError):
                raise unusable(self.lock_file, error) from None
            raise

    def announce(self, endpoint: str) -> None:
        """Record where the control listener answers, such as ``http://127.0.0.1:9000``. Raises ``StateError``."""
        self._address = NodeAddress(self._address.pid, endpoint, self._address.started)
        try:
            self._write(json.dumps(asdict(self._address)).encode())
        except OSError as error:
            raise unusable(self.lock_file, error) from None

    def sweep_staging(self) -> None:
        """Delete what bakes of a node that was killed left behind. Call once, with the lock held and no baker alive.

        Raises ``StateError`` when something there cannot be deleted.
        """
        try:
            for entry in self.bake.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        except OSError as error:
            raise unusable(self.bake, error) from None

    def hmac_key(self) -> bytes:
        """Return the key that signs snapshot manifests, making it the first time. Raises ``StateError``.

        The file appears complete or not at all (temporary file, fsync, rename): a node killed in between makes another
        key next time instead of trusting half of one. A file of the wrong size is an error, because a new key would
        distrust every snapshot there is without anybody having said so.
        """
        path = self.hmac_key_file
        try:
            if not path.exists():
                publish(path, secrets.token_bytes(HMAC_KEY_BYTES))
            key = path.read_bytes()
        except OSError as error:
            raise unusable(path, error) from None
        if len(key) != HMAC_KEY_BYTES:
            raise StateError(
                f"{path}: {len(key)} bytes, a key has {HMAC_KEY_BYTES}; restore it, or delete it and bake anew"
            )
        return key

    def close(self) -> None:
        """Clear the lock file and give up ownership. May be called twice."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        try:
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def __enter__(self) -> StateDirectory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, data: bytes) -> None:
        # In place, since the lock belongs to this inode; written before it is cut, so that no reader sees it empty.
        os.pwrite(self._descriptor, data, 0)
        os.ftruncate(self._descriptor, len(data))
        os.fsync(self._descriptor)

    def _occupied(self, holder: NodeAddress | None) -> str:
        if holder is None:
            return f"{self.root} is in use by another node that is just starting; choose another --state"
        where = f" at {holder.endpoint}" if holder.endpoint else ""
        return f"{self.root} is in use by the node with pid {holder.pid}{where}; stop it or choose another --state"


def running_node(state: Path) -> NodeAddress | None:
    """Return the address of the node that owns the state directory ``state``, or None when none runs.

    The lock decides, not the file's content: a node that was killed leaves its address behind. Raises ``StateError``
    when the file cannot be read, or when the node that holds it does not listen yet.
    """
    path = state / "node.lock"
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise unusable(path, error) from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        address = _read_address(descriptor)
        if address is None or not address.endpoint:
            raise StateError(f"the node of {state} is starting and does not listen yet; try again soon") from None
        return address
    except OSError as error:
        raise unusable(path, error) from None
    finally:
        os.close(descriptor)  # which also ends the shared lock, if that was granted
    return None


def _try_lock(descriptor: int) -> bool:
    for attempt in range(_LOCK_ATTEMPTS):
        if attempt:
            time.sleep(_LOCK_PAUSE_S)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


def _read_address(descriptor: int) -> NodeAddress | None:
    text = os.pread(descriptor, 4096, 0)
    try:
        value = json.loads(text)
        return NodeAddress(int(value["pid"]), str(value["endpoint"]), float(value["started"]))
    except (ValueError, KeyError, TypeError):
        return None


def publish(path: Path, data: bytes) -> None:
    """Write a file that its owner alone may read: there with all of ``data`` or not at all. Raises ``OSError``."""
    temporary = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
