"""The environment that a function sees (spec 6.4): what every instance shares, and what each has of its own.

Pure: the same arguments give the same names and values. Nothing of the node's own environment gets in; the operator's
credentials never reach a function. ``AWS_LAMBDA_RUNTIME_API`` is left out rather than made up: no Runtime API is served
to these workers. ``PYTHONPATH`` and ``LD_LIBRARY_PATH`` are for what a handler starts: in the process that they are set
in they have no effect any more.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import locale
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.devices import CPU
from glowplug.runtime.errors import StartError
from glowplug.runtime.process.view import LAYERS, RUNTIME, TASK_ROOT
from glowplug.runtime.spec import FunctionSpec

from .ports import Code

_PATH = "/usr/local/bin:/usr/bin:/bin:/opt/bin"
_SERVED = ("LAMBDA", "SQS", "CODEDEPLOY")
_XRAY_HOST, _XRAY_PORT = "127.0.0.1", "2000"  # the daemon's own default: whoever runs one is found
FUNCTION_KEY_PREFIX = "ASIAGLOWPLUG"
"""What the access key id of every function begins with, and of nobody else."""


def _on_cpu(spec: FunctionSpec) -> str:
    return CPU


def _nothing(spec: FunctionSpec) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Site:
    """What all functions of a node have in common. ``endpoint`` is the URL of the control listener.

    ``secret`` makes the synthetic credentials; it lives as long as the node. ``slot_of`` gives a
    function's number of its own, None where the node may not change users; ``uid_base`` is the uid of slot 0.
    ``device_of`` says where a function's models run, ``device_environment`` what that needs in its environment.
    """

    endpoint: str
    region: str = "us-east-1"
    account_id: str = "000000000000"
    lang: str = "C.UTF-8"
    cores: int = 1
    uid_base: int = 0
    slot_of: Callable[[str], int] | None = None
    device_of: Callable[[FunctionSpec], str] = _on_cpu
    device_environment: Callable[[FunctionSpec], Mapping[str, str]] = _nothing
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @classmethod
    def of(
        cls,
        config: NodeConfig,
        endpoint: str,
        *,
        slot_of: Callable[[str], int] | None,
        device_of: Callable[[FunctionSpec], str] = _on_cpu,
        device_environment: Callable[[FunctionSpec], Mapping[str, str]] = _nothing,
    ) -> Site:
        """Build from the node's configuration; ``slot_of`` is given where functions may have users of their own."""
        return cls(
            endpoint=endpoint,
            region=config.region,
            account_id=config.account_id,
            lang=installed_lang(),
            cores=config.cores,
            uid_base=config.uid_base,
            slot_of=slot_of,
            device_of=device_of,
            device_environment=device_environment,
        )

    def user_of(self, function: str) -> int:
        """Return the uid (and gid) of a function, its own for ever; -1 where all run as the node's user."""
        return -1 if self.slot_of is None else self.uid_base + self.slot_of(function)


@dataclass(frozen=True, slots=True)
class Roots:
    """The directories that a process imports a function from. ``layers`` is empty for a function without."""

    task: str
    layers: str

    @classmethod
    def laid(cls, spec: FunctionSpec) -> Roots:
        """Return Lambda's places, which a process with a view of its own has (``process.view``)."""
        return cls(TASK_ROOT, LAYERS if spec.layers else "")

    @classmethod
    def real(cls, spec: FunctionSpec, code: Code) -> Roots:
        """Return where they really are. Raises ``InvalidParameter`` for code, ``StartError`` for layers not here."""
        if not spec.layers:
            return cls(str(code.path(spec.code_digest)), "")
        layers = code.opt([layer.digest for layer in spec.layers])
        if layers is None:
            raise StartError(f"the layers of {spec.name} have not been unpacked on this node")
        return cls(str(code.path(spec.code_digest)), str(layers))

    def import_paths(self, python: str) -> list[str]:
        """Return what goes in front of ``sys.path``, in Lambda's order; ``python`` such as ``python3.11``."""
        layers = [f"{self.layers}/python/lib/{python}/site-packages", f"{self.layers}/python"] if self.layers else []
        return [self.task, *layers]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Credentials that only this node knows: they name the function and open nothing at AWS."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)


def credentials(site: Site, function: str) -> Credentials:
    """Return the function's credentials, the same for as long as the node runs."""

    def derive(purpose: str) -> bytes:
        return hmac.digest(site.secret, f"{purpose}\0{function}".encode(), hashlib.sha512)

    key = base64.b32encode(derive("id"))[:8].decode()
    secret = base64.b64encode(derive("secret"))[:40].decode()
    return Credentials(f"{FUNCTION_KEY_PREFIX}{key}", secret, base64.b64encode(derive("token")).decode())


def initialization_type(spec: FunctionSpec) -> str:
    """Return Lambda's name for how instances of ``spec`` come up; being forked does not change it, SnapStart does."""
    return "snap-start" if spec.snap_start else "on-demand"


def load_environment(site: Site, spec: FunctionSpec, roots: Roots) -> dict[str, str]:
    """Return the complete environment of a process that imports the handler, shared by all instances forked from it."""
    own = credentials(site, spec.name)
    libraries = (roots.task, f"{roots.task}/lib", f"{roots.layers or LAYERS}/lib")
    return {
        "TZ": ":UTC",
        "LANG": site.lang,
        "PATH": _PATH,
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "PWD": roots.task,
        "SHLVL": "0",
        "_HANDLER": spec.handler,
        "LAMBDA_TASK_ROOT": roots.task,
        "LAMBDA_RUNTIME_DIR": RUNTIME,
        "LD_LIBRARY_PATH": ":".join(libraries),
        "PYTHONPATH": RUNTIME,
        "AWS_REGION": site.region,
        "AWS_DEFAULT_REGION": site.region,
        "AWS_ENDPOINT_URL": site.endpoint,
        **{f"AWS_ENDPOINT_URL_{service}": site.endpoint for service in _SERVED},
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{spec.runtime}",
        "AWS_ACCESS_KEY_ID": own.access_key_id,
        "AWS_SECRET_ACCESS_KEY": own.secret_access_key,
        "AWS_SESSION_TOKEN": own.session_token,
        "AWS_LAMBDA_FUNCTION_NAME": spec.name,
        "AWS_LAMBDA_FUNCTION_VERSION": spec.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory_mb),
        "AWS_LAMBDA_INITIALIZATION_TYPE": initialization_type(spec),
        "AWS_LAMBDA_LOG_GROUP_NAME": log_group(spec),
        **_logging(spec),
        "AWS_XRAY_CONTEXT_MISSING": "LOG_ERROR",
        "AWS_XRAY_DAEMON_ADDRESS": f"{_XRAY_HOST}:{_XRAY_PORT}",
        "_AWS_XRAY_DAEMON_ADDRESS": _XRAY_HOST,
        "_AWS_XRAY_DAEMON_PORT": _XRAY_PORT,
        **site.device_environment(spec),
        **spec.environment,
    }


def _logging(spec: FunctionSpec) -> dict[str, str]:
    if spec.log_format != "JSON":
        return {"AWS_LAMBDA_LOG_FORMAT": "Text"}
    return {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": spec.log_level}


def start_environment(*, log_stream: str) -> dict[str, str]:
    """Return what an instance has of its own; set after the fork, over ``load_environment``."""
    return {"AWS_LAMBDA_LOG_STREAM_NAME": log_stream}


def log_group(spec: FunctionSpec) -> str:
    """Return ``/aws/lambda/<function>``."""
    return f"/aws/lambda/{spec.name}"


def log_stream(spec: FunctionSpec, instance_id: str, *, at_s: float) -> str:
    """Return ``2026/01/01/[$LATEST]<instance id>``; ``at_s`` is Unix time."""
    return f"{time.strftime('%Y/%m/%d', time.gmtime(at_s))}/[{spec.version}]{instance_id}"


def installed_lang() -> str:
    """Return ``en_US.UTF-8``, Lambda's, where this machine has that locale, else ``C.UTF-8``.

    ``LC_COLLATE`` is tried because nothing in the node depends on it, and put back.
    """
    before = locale.setlocale(locale.LC_COLLATE)
    try:
        locale.setlocale(locale.LC_COLLATE, "en_US.UTF-8")
    except locale.Error:
        return "C.UTF-8"
    finally:
        locale.setlocale(locale.LC_COLLATE, before)
    return "en_US.UTF-8"
