"""The messages that a start sends, built from a spec: pure, so that a baker imports a handler just as a worker does."""

from __future__ import annotations

from collections.abc import Mapping

from glowplug.runtime.interpreters import OWN
from glowplug.runtime.process import wire
from glowplug.runtime.spec import FunctionSpec

from . import environment
from .environment import Roots, Site


def load_order(
    site: Site,
    spec: FunctionSpec,
    roots: Roots,
    files: Mapping[str, Mapping[str, str]],
    *,
    python: str = OWN,
    parked: bool = False,
    observe: bool = False,
) -> wire.Load:
    """Return the order to import the handler. ``files``: model name -> file name -> absolute path.

    ``python`` is the version that runs the function. ``parked`` says that the process will be forked from: it then
    runs the before-snapshot hooks. ``observe`` has it tell with its check what it has read, and in which order.
    """
    return wire.Load(
        function_name=spec.name,
        handler=spec.handler,
        task_root=roots.task,
        import_paths=roots.import_paths(python),
        environment=environment.load_environment(site, spec, roots),
        models=[
            {"name": one.name, "source": one.source, "files": dict(files[one.name]), "verify": one.verify_rate}
            for one in spec.models
        ],
        initialization_type=environment.initialization_type(spec),
        parked=parked,
        observe=observe,
        device=site.device_of(spec),
    )


def start_order(site: Site, spec: FunctionSpec, instance_id: str, *, at_s: float, restored: bool) -> wire.Start:
    """Return the order to become an instance. ``at_s`` is Unix time; ``restored``: the import was before a fork."""
    stream = environment.log_stream(spec, instance_id, at_s=at_s)
    return wire.Start(
        instance_id=instance_id,
        environment=environment.start_environment(log_stream=stream),
        restored=restored,
        memory_bytes=spec.memory_mb * 1024 * 1024,
        memory_mb=spec.memory_mb,
        function_version=spec.version,
        log_group=environment.log_group(spec),
        log_stream=stream,
        threads=site.cores,
    )


def warmup_order(site: Site, spec: FunctionSpec, event: bytes, *, at_s: float) -> wire.Invoke:
    """Return the call that the handler check makes."""
    return wire.Invoke(
        invocation_id="warmup",
        events=[event],
        deadline_ms=int((at_s + spec.timeout_s) * 1e3),
        function_arn=f"arn:aws:lambda:{site.region}:{site.account_id}:function:{spec.name}",
        trace_id="",
        client_context=b"",
        identity=b"",
        threads=site.cores,
    )
