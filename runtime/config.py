"""The node's configuration: one frozen value, built once. The only module that reads the environment."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import StateError


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes and counts that an operator may change (``GLOWPLUG_LIMIT_<NAME>``), each 1 or more but for those whose
    default is 0; defaults are Lambda's.

    ``account_concurrency`` is how many instances all functions may reserve between them, less
    ``unreserved_concurrency``; 0, unlike on AWS, sets no such limit. ``stream_bytes_per_second`` is the pace of one
    streamed response after its first ``stream_burst_bytes``; 0, unlike on AWS, leaves that to the client. Raises
    ``StateError`` naming the variable.
    """

    sync_request_bytes: int = 6 * 1024 * 1024
    async_request_bytes: int = 1024 * 1024
    invoke_async_bytes: int = 256 * 1024
    async_result_bytes: int = 6 * 1024 * 1024 + 100
    async_queue_events: int = 1_000_000
    sync_response_bytes: int = 6 * 1024 * 1024 + 100  # recorded: 6 MiB and 100 bytes
    stream_response_bytes: int = 200 * 1024 * 1024
    stream_bytes_per_second: int = 0
    stream_burst_bytes: int = 6 * 1024 * 1024
    log_tail_bytes: int = 4096
    client_context_bytes: int = 3583
    create_request_bytes: int = 70_167_211  # a zip of 50 MB in base64, and the rest
    code_unzipped_bytes: int = 250 * 1024 * 1024
    code_zipped_bytes: int = 50 * 1024 * 1024
    snapshot_file_bytes: int = 4 * 1024**3
    account_concurrency: int = 0
    unreserved_concurrency: int = 0
    log_file_bytes: int = 16 * 1024 * 1024
    ledger_records: int = 4096

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            least = 0 if name.endswith(("_concurrency", "_per_second")) else 1
            _check_range(f"GLOWPLUG_LIMIT_{name.upper()}", getattr(self, name), least, math.inf)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Everything a node is told from outside. Durations in seconds, sizes in bytes.

    ``cache_bytes`` is the most that the cache may take (None: what the disk has), ``cache_reserve_bytes`` what stays
    free of its disk (None: the cache's own choice, ``cache/room.py``). ``foreign_runtimes`` says what happens when the
    Lambda API creates a function of a runtime other than Python: ``refuse`` it, or ``store`` it, for tools that manage
    more than what runs here; calling it is refused then. ``auth`` says whether control checks signatures: ``on``,
    ``off`` or, where there are credentials, ``auto``; ``enforce_policies`` whether a function URL asks the function's
    resource policy. ``sqs_endpoint`` is where event source mappings find queues that are not this node's: a URL,
    ``aws``, or empty for nowhere. Four are of use with a GPU alone: ``device`` is where functions run with
    ``Device: auto``, ``cpu`` or ``cuda``; ``context_pool`` idle CUDA contexts are kept, in ``context_pool_mib`` of
    device memory; ``mps`` runs the MPS daemon.

    Of asynchronous invocations (docs/async.md): ``async_retry_s`` is the first delay after a function error,
    ``async_requeue_s`` and ``async_requeue_limit_s`` bound the delays after a throttle, ``async_retention_s`` is how
    long results and idempotency keys are kept, ``delivery_age_s`` how long a delivery to another host is tried.
    ``sqs_endpoint`` and ``s3_endpoint`` are for destinations that are not of this node, ``webhooks`` maps ARNs of
    topics and event buses to URLs. ``webhook_hosts`` are those that callers may name for results of their events;
    empty: any, for who may control the node (``http/webhooks.py``). ``s3_poll_s`` is how often buckets with
    notifications are looked at, ``buckets`` those that are directories of this machine (docs/events.md).

    Raises ``StateError`` naming the variable of a value that cannot be.
    """

    state: Path
    cache: Path
    host: str = "127.0.0.1"
    port: int = 9000
    public_host: str = "127.0.0.1"
    public_port: int | None = None
    hosts: tuple[str, ...] = ()
    account_id: str = "000000000000"
    region: str = "us-east-1"
    cores: int = 1
    drain_s: float = 10.0
    stop_grace_s: float = 2.0
    cancel_grace_s: float = 5.0
    uid_base: int = 200_000
    file_roots: tuple[Path, ...] = ()
    trusted_keys: tuple[Path, ...] = ()
    preload_torch: bool = True
    pythons: tuple[Path, ...] = ()
    cache_bytes: int | None = None
    cache_reserve_bytes: int | None = None
    auth: str = "auto"
    credentials: Path | None = None
    enforce_policies: bool = True
    device: str = "cpu"
    context_pool: int = 1
    context_pool_mib: int = 2048
    mps: bool = False
    foreign_runtimes: str = "refuse"
    async_retry_s: float = 60.0
    async_requeue_s: float = 1.0
    async_requeue_limit_s: float = 300.0
    async_retention_s: float = 86_400.0
    delivery_age_s: float = 86_400.0
    sqs_endpoint: str = ""
    s3_endpoint: str = ""
    s3_poll_s: float = 30.0
    buckets: Mapping[str, Path] = field(default_factory=dict)
    webhooks: Mapping[str, str] = field(default_factory=dict)
    webhook_hosts: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        for variable, (least, most) in _RANGES.items():
            value = getattr(self, _NAMES[variable][0])
            if value is not None:
                _check_range(variable, value, least, most)
        for variable, form in _FORMS.items():
            value = getattr(self, _NAMES[variable][0])
            if not form.fullmatch(value):
                raise StateError(f"{variable}: {value!r} does not match {form.pattern}")

    @property
    def arn_prefix(self) -> str:
        """What the ARN of a function has in front of its name."""
        return f"arn:aws:lambda:{self.region}:{self.account_id}:function:"

    @property
    def credentials_file(self) -> Path:
        """Where the credentials are: the file that was named, else that of the state directory."""
        return self.credentials or self.state / "credentials.toml"

    @classmethod
    def from_env(cls, environ: Mapping[str, str], **given: object) -> NodeConfig:
        """Build from ``GLOWPLUG_*`` names; ``given`` (command-line options) wins where it is not None.

        Raises ``StateError`` naming the variable when a value cannot be read, or when the name is unknown.
        """
        known = {*_NAMES, *_ELSEWHERE}
        for name in environ:
            if name.startswith("GLOWPLUG_") and name not in known and not name.startswith("GLOWPLUG_LIMIT_"):
                raise StateError(f"{name}: no such setting (known: {', '.join(sorted(known))})")
        state = Path(given.pop("state", None) or environ.get("GLOWPLUG_HOME") or default_state(environ))  # type: ignore[arg-type]
        state = state.expanduser().absolute()
        cache, credentials = (
            Path(environ[name]).expanduser().absolute() if environ.get(name) else None
            for name in ("GLOWPLUG_CACHE", "GLOWPLUG_CREDENTIALS")
        )
        config = cls(
            state=state,
            cache=cache or state / "cache",
            credentials=credentials,
            cores=len(os.sched_getaffinity(0)),
            sqs_endpoint=environ.get("AWS_ENDPOINT_URL_SQS", ""),
            limits=_limits(environ),
        )
        read = {field: _read(name, kind, environ[name]) for name, (field, kind) in _NAMES.items() if environ.get(name)}
        read |= {name: value for name, value in given.items() if value is not None}
        return replace(config, **read)  # type: ignore[arg-type]


def read_size(text: str) -> int:
    """Read a number of bytes: ``500000000``, ``500M``, ``20G``; suffixes are powers of 1024. Raises ``ValueError``."""
    digits, suffix = (text[:-1], text[-1:]) if text[-1:].upper() in _SIZES else (text, "")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(text)
    return int(digits) * _SIZES[suffix.upper()]


def read_webhooks(text: str) -> dict[str, str]:
    """Read ``ARN=URL`` pairs, separated by commas. Raises ``ValueError``."""
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        arn, separator, url = pair.partition("=")
        if not (separator and arn.startswith("arn:") and url.startswith(("http://", "https://"))):
            raise ValueError(pair)
        found[arn] = url
    return found


def read_hosts(text: str) -> tuple[str, ...]:
    """Read hosts, each maybe with a port or ``*`` for its first labels, separated by commas. Raises ``ValueError``."""
    found = tuple(part.strip().lower() for part in text.split(",") if part.strip())
    if not all(_HOST.fullmatch(one) for one in found):
        raise ValueError(text)
    for one in found:
        _ = urlsplit(f"//{one}").port  # raises for one beyond 65535
    return found


def read_buckets(text: str) -> dict[str, Path]:
    """Read ``NAME=DIRECTORY`` pairs, separated by commas. Raises ``ValueError``."""
    found = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, separator, directory = pair.partition("=")
        if not (name and separator and directory):
            raise ValueError(pair)
        found[name] = Path(directory).expanduser().absolute()
    return found


_KINDS: dict[Callable[[str], Any], str] = {
    read_size: "size such as 500000000, 500M or 20G",
    read_buckets: "list of NAME=DIRECTORY pairs, separated by commas",
    read_webhooks: "list of ARN=URL pairs, separated by commas",
    read_hosts: "list of hosts such as example.com, *.example.com or 10.0.0.7:8080, separated by commas",
}
_HOST = re.compile(r"(\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?")
_SIZES = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}

_NAMES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "GLOWPLUG_HOST": ("host", str),
    "GLOWPLUG_PORT": ("port", int),
    "GLOWPLUG_PUBLIC_HOST": ("public_host", str),
    "GLOWPLUG_PUBLIC_PORT": ("public_port", int),
    "GLOWPLUG_HOSTS": ("hosts", tuple),
    "GLOWPLUG_ACCOUNT_ID": ("account_id", str),
    "GLOWPLUG_REGION": ("region", str),
    "GLOWPLUG_CORES": ("cores", int),
    "GLOWPLUG_DRAIN_SECONDS": ("drain_s", float),
    "GLOWPLUG_STOP_GRACE_SECONDS": ("stop_grace_s", float),
    "GLOWPLUG_CANCEL_GRACE_SECONDS": ("cancel_grace_s", float),
    "GLOWPLUG_UID_BASE": ("uid_base", int),
    "GLOWPLUG_FILE_ROOTS": ("file_roots", Path),
    "GLOWPLUG_TRUSTED_KEYS": ("trusted_keys", Path),
    "GLOWPLUG_PRELOAD_TORCH": ("preload_torch", bool),
    "GLOWPLUG_PYTHONS": ("pythons", Path),
    "GLOWPLUG_CACHE_BYTES": ("cache_bytes", read_size),
    "GLOWPLUG_CACHE_RESERVE_BYTES": ("cache_reserve_bytes", read_size),
    "GLOWPLUG_AUTH": ("auth", str),
    "GLOWPLUG_ENFORCE_POLICIES": ("enforce_policies", bool),
    "GLOWPLUG_DEVICE": ("device", str),
    "GLOWPLUG_CONTEXT_POOL": ("context_pool", int),
    "GLOWPLUG_CONTEXT_POOL_MIB": ("context_pool_mib", int),
    "GLOWPLUG_MPS": ("mps", bool),
    "GLOWPLUG_FOREIGN_RUNTIMES": ("foreign_runtimes", str),
    "GLOWPLUG_ASYNC_RETRY_SECONDS": ("async_retry_s", float),
    "GLOWPLUG_ASYNC_REQUEUE_SECONDS": ("async_requeue_s", float),
    "GLOWPLUG_ASYNC_REQUEUE_LIMIT_SECONDS": ("async_requeue_limit_s", float),
    "GLOWPLUG_ASYNC_RETENTION_SECONDS": ("async_retention_s", float),
    "GLOWPLUG_DELIVERY_AGE_SECONDS": ("delivery_age_s", float),
    "GLOWPLUG_SQS_ENDPOINT": ("sqs_endpoint", str),
    "GLOWPLUG_S3_ENDPOINT": ("s3_endpoint", str),
    "GLOWPLUG_S3_POLL_SECONDS": ("s3_poll_s", float),
    "GLOWPLUG_BUCKETS": ("buckets", read_buckets),
    "GLOWPLUG_WEBHOOKS": ("webhooks", read_webhooks),
    "GLOWPLUG_WEBHOOK_HOSTS": ("webhook_hosts", read_hosts),
}

_ELSEWHERE = (
    "GLOWPLUG_HOME", "GLOWPLUG_CACHE", "GLOWPLUG_CREDENTIALS", "GLOWPLUG_ENDPOINT", "GLOWPLUG_ACCESS_KEY_ID",
    "GLOWPLUG_SECRET_ACCESS_KEY", "GLOWPLUG_MODEL_SOURCE", "GLOWPLUG_SIGNING_KEY",
)  # fmt: skip
"""Names that are not fields: the first three are read apart, the others are for the command line and for handlers."""

_PORTS = (0, 65535)
_RANGES: dict[str, tuple[float, float]] = {
    "GLOWPLUG_PORT": _PORTS,
    "GLOWPLUG_PUBLIC_PORT": _PORTS,
    "GLOWPLUG_CORES": (1, math.inf),
    "GLOWPLUG_DRAIN_SECONDS": (0, math.inf),
    "GLOWPLUG_STOP_GRACE_SECONDS": (0, math.inf),
    "GLOWPLUG_CANCEL_GRACE_SECONDS": (0, math.inf),
    "GLOWPLUG_UID_BASE": (1000, 2**31 - 1),  # below are root and the system's own users
    "GLOWPLUG_CACHE_BYTES": (1, math.inf),
    "GLOWPLUG_CACHE_RESERVE_BYTES": (0, math.inf),
    "GLOWPLUG_CONTEXT_POOL": (0, 64),
    "GLOWPLUG_ASYNC_RETRY_SECONDS": (0, 21_600),  # twice this is the longest that a message may be hidden
    "GLOWPLUG_ASYNC_REQUEUE_SECONDS": (0.01, 43_200),
    "GLOWPLUG_ASYNC_REQUEUE_LIMIT_SECONDS": (0.01, 43_200),
    "GLOWPLUG_ASYNC_RETENTION_SECONDS": (1, math.inf),
    "GLOWPLUG_DELIVERY_AGE_SECONDS": (1, math.inf),
    "GLOWPLUG_S3_POLL_SECONDS": (0.1, 86_400),
    "GLOWPLUG_CONTEXT_POOL_MIB": (0, math.inf),
}
_FORMS = {
    "GLOWPLUG_ACCOUNT_ID": re.compile(r"[0-9]{12}"),
    "GLOWPLUG_REGION": re.compile(r"[a-z0-9-]{1,64}"),
    "GLOWPLUG_AUTH": re.compile(r"auto|on|off"),
    "GLOWPLUG_DEVICE": re.compile(r"cpu|cuda"),
    "GLOWPLUG_FOREIGN_RUNTIMES": re.compile(r"refuse|store"),
    "GLOWPLUG_SQS_ENDPOINT": re.compile(r"(aws|https?://\S+)?"),
}


def default_state(environ: Mapping[str, str]) -> Path:
    """Return the state directory of a node that is not told one (``XDG_STATE_HOME``, else below ``HOME``)."""
    base = environ.get("XDG_STATE_HOME") or environ.get("HOME", "/var/lib") + "/.local/state"
    return Path(base) / "glowplug"


def _check_range(variable: str, value: float, least: float, most: float) -> None:
    if not (least <= value <= most and math.isfinite(value)):
        allowed = f"{least:.0f} or more" if math.isinf(most) else f"between {least:.0f} and {most:.0f}"
        raise StateError(f"{variable}: {value} is not {allowed}")


def _read(name: str, kind: Callable[[str], Any], text: str) -> object:
    try:
        if kind is bool:
            return {"1": True, "true": True, "0": False, "false": False}[text.lower()]
        if kind is tuple:
            return tuple(part.strip().lower() for part in text.split(",") if part.strip())
        if kind is Path:
            return tuple(Path(part).expanduser().absolute() for part in text.split(":") if part)
        return kind(text)
    except (ValueError, KeyError):
        what = _KINDS.get(kind) or kind.__name__
        raise StateError(f"{name}: {text!r} is not a {what}") from None


def _limits(environ: Mapping[str, str]) -> Limits:
    names = {f"GLOWPLUG_LIMIT_{name.upper()}": name for name in Limits.__dataclass_fields__}
    chosen: dict[str, int] = {}
    for name, text in environ.items():
        if name.startswith("GLOWPLUG_LIMIT_"):
            if name not in names:
                raise StateError(f"{name}: no such limit (known: {', '.join(sorted(names))})")
            chosen[names[name]] = _read(name, int, text)  # type: ignore[assignment]
    return Limits(**chosen)
