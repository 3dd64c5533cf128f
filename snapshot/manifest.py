"""The manifest of a snapshot: ``manifest.json``, canonical JSON (sorted keys, no spaces), written last.

    {"format": 2,
     "key": "<sha256>",                        see ``key_of``; the snapshot directory's name
     "source": "<sha256>",                     digest of the model's files (names, sizes, digests)
     "graph": "<sha256>",                      digest of the exported program (``program``)
     "fingerprint": {…},                       what must match here (``fingerprint``)
     "signature": {…},                         inputs and outputs (``signature``)
     "options": {"candidates": […], …},        what else is in the key: what the bake was asked for, and on what it ran
     "computed": {"rope.inv_freq": ["snapshot", "extra.safetensors", "rope.inv_freq"]},
                                               module tensors that no file of the source holds as the module wants them
     "aliases": {"head.weight": "embed.weight"},     a module tensor's further names (tied weights)
     "engines": {"eager": {"engine": "eager", "precision": "fp32", "variant": "", …},
                 "aot_inductor": {"engine": "aot_inductor", "artefact": "model.so",
                                  "constants": {"embed_weight": ["source", "model.safetensors", "embed.weight"]}, …}},
                                               by label (``candidates``); fields: ``EngineRecord``
     "verdict": "aot_inductor", "reason": "…", the engine for ``auto`` under the objective of whoever baked, and why
     "check": {"file": "check.safetensors"},   tensors input.N and output.N, flat, as the signature orders them; the
                                               tolerance is each engine's
     "artefacts": {"model.so": {"sha256": "…", "size": 1790008}, …}}     every file of the directory but this one

The source's own bytes are never in a snapshot. Function names and handler code are in neither manifest nor key, so
functions that share a checkpoint and an architecture share the snapshot.

Reading trusts nothing: the node has checked the HMAC, but what is read is still compared with this form, and a field
that is missing or of another type is ``SnapshotCorrupt``, not an ``AttributeError`` somewhere later. Torch-free.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checkpoint import Origin
from .errors import SnapshotCorrupt

FORMAT = 2
FILE = "manifest.json"
EXTRA_FILE = "extra.safetensors"
CHECK_FILE = "check.safetensors"


@dataclass(frozen=True, slots=True)
class Artefact:
    """One file of a snapshot. ``sha256`` is hex, ``size`` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class EngineRecord:
    """What a bake made and found out about one engine. Times in milliseconds, None before they are measured.

    ``constants`` is the weight map: engine constant -> where its bytes are. ``options`` belong to the engine's module.
    ``absolute`` and ``relative`` are the tolerance of its outputs against eager in fp32, and ``worst_error`` the
    largest absolute difference that was seen. ``restore_ms`` is load, bind and open; ``first_ms`` the first call;
    ``cold_ms`` both; ``parked_ms`` the part of that which a start from a parked zygote pays. ``warm_ms`` is a call of
    the example's sizes; ``shapes`` has others by sizes (``2x16``), ``batches`` by batch size. ``private_bytes`` is what
    a process adds for itself, ``shared_bytes`` what it maps together with others. ``refused`` says why it must not
    serve, empty when it may.
    """

    engine: str = "eager"
    precision: str = "fp32"
    variant: str = ""
    artefact: str = ""
    constants: Mapping[str, Origin] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    absolute: float = 0.0
    relative: float = 0.0
    restore_ms: float | None = None
    first_ms: float | None = None
    cold_ms: float | None = None
    parked_ms: float | None = None
    warm_ms: float | None = None
    shapes: Mapping[str, float] = field(default_factory=dict)
    batches: Mapping[str, float] = field(default_factory=dict)
    private_bytes: int = 0
    shared_bytes: int = 0
    worst_error: float = 0.0
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A snapshot's manifest; the module docstring says what each field means."""

    key: str
    source: str
    graph: str
    fingerprint: Mapping[str, Any]
    signature: Mapping[str, Any]
    computed: Mapping[str, Origin]
    aliases: Mapping[str, str]
    engines: Mapping[str, EngineRecord]
    verdict: str
    reason: str
    check: Mapping[str, Any]
    artefacts: Mapping[str, Artefact]
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON text."""
        value: dict[str, Any] = {"format": FORMAT} | {name: getattr(self, name) for name in self.__dataclass_fields__}
        value["computed"] = {name: origin.to_json() for name, origin in self.computed.items()}
        value["artefacts"] = {name: {"sha256": a.sha256, "size": a.size} for name, a in self.artefacts.items()}
        value["engines"] = {label: record_to_json(record) for label, record in self.engines.items()}
        return canonical(value)

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read a manifest. Raises ``SnapshotCorrupt`` for anything that no baker of this release writes."""
        try:
            value = json.loads(data)
        except ValueError as error:
            raise SnapshotCorrupt(f"manifest: not JSON: {error}") from error
        if not isinstance(value, dict) or value.pop("format", None) != FORMAT:
            raise SnapshotCorrupt(f"manifest: not of format {FORMAT}")
        if set(value) != set(cls.__dataclass_fields__):
            raise SnapshotCorrupt(f"manifest: fields {', '.join(sorted(set(value) ^ set(cls.__dataclass_fields__)))}")
        for name, kind in cls.__dataclass_fields__.items():
            wanted = str if kind.type == "str" else dict
            if not isinstance(value[name], wanted):
                raise SnapshotCorrupt(f"manifest: {name} is {type(value[name]).__name__}, not {wanted.__name__}")
        try:
            value["computed"] = _origins(value["computed"])
            value["artefacts"] = {name: _artefact(name, item) for name, item in value["artefacts"].items()}
            value["engines"] = {label: record_from_json(item) for label, item in value["engines"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise SnapshotCorrupt(f"manifest: {type(error).__name__}: {error}") from error
        return cls(**value)


def canonical(value: Any) -> bytes:
    """Return ``value`` as the one JSON text that equal values have."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def key_of(
    source: str, graph: str, signature: Mapping[str, Any], options: Mapping[str, Any], fingerprint: Mapping[str, Any]
) -> str:
    """Return the key of a snapshot: everything that its bytes depend on and nothing else.

    ``signature`` holds the dynamic shapes; ``options`` who takes part in the bake-off, and the batch sizes. The
    compiler's own options are constants of this release: ``fingerprint`` has an ``engine_format`` that is raised when
    they change.
    """
    parts = {"source": source, "graph": graph, "signature": signature, "options": options, "here": fingerprint}
    return hashlib.sha256(canonical({"format": FORMAT, **parts})).hexdigest()


def source_digest(files: Mapping[str, Path]) -> str:
    """Return the digest of a model's files, reading them; equal to ``ModelSpec.source_digest`` of the same files."""
    lines = []
    for name in sorted(files):
        with Path(files[name]).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            lines.append(f"{sha256} {file.tell()} {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def describe_artefacts(directory: Path) -> dict[str, Artefact]:
    """Return every file of ``directory`` but the manifest, with digest and size."""
    found = {}
    for path in sorted(directory.iterdir()):
        if path.name != FILE and path.is_file():
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            found[path.name] = Artefact(sha256, path.stat().st_size)
    return found


def _origins(value: Mapping[str, Any]) -> dict[str, Origin]:
    return {name: Origin.from_json(item) for name, item in value.items()}


def _artefact(name: str, item: Mapping[str, Any]) -> Artefact:
    if Path(name).name != name or not isinstance(item["sha256"], str) or not isinstance(item["size"], int):
        raise SnapshotCorrupt(f"manifest: artefact {name!r} is not a file name with digest and size")
    return Artefact(item["sha256"], item["size"])


def record_to_json(record: EngineRecord) -> dict[str, Any]:
    """Return an engine's record as JSON-able values."""
    value = {name: getattr(record, name) for name in record.__dataclass_fields__}
    return value | {"constants": {constant: origin.to_json() for constant, origin in record.constants.items()}}


def record_from_json(item: Mapping[str, Any]) -> EngineRecord:
    """Read what ``record_to_json`` wrote. Raises ``SnapshotCorrupt``, ``KeyError`` or ``TypeError``."""
    record = EngineRecord(**{**item, "constants": _origins(item["constants"])})
    if not isinstance(record.artefact, str) or Path(record.artefact).name != record.artefact:
        raise SnapshotCorrupt("manifest: an engine's artefact is not a file name")
    if not all(isinstance(text, str) for text in (record.engine, record.precision, record.variant, record.refused)):
        raise SnapshotCorrupt("manifest: an engine's name, precision, variant or refusal is not text")
    if not all(isinstance(part, Mapping) for part in (record.options, record.shapes, record.batches)):
        raise SnapshotCorrupt("manifest: an engine's options, shapes or batches are not by name")
    return record
