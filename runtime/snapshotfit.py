"""Whether a snapshot may be used on this machine, for these weights."""

from __future__ import annotations

import hashlib
import json

from glowplug.snapshot import fingerprint
from glowplug.snapshot.engines.table import outdated
from glowplug.snapshot.manifest import Manifest
from glowplug.snapshot.store import VerifiedSnapshot

from .spec import ModelSpec


def unusable_here(snapshot: VerifiedSnapshot, model: ModelSpec, label: str = "") -> str:
    """Return why a verified snapshot does not fit this machine or these weights, or why the engine ``label`` of it
    cannot run in what is installed now; empty when all is well."""
    manifest = Manifest.from_bytes(snapshot.manifest)
    differences = fingerprint.compare(manifest.fingerprint)
    if differences:
        return f"it was baked elsewhere: {'; '.join(differences)}"
    if manifest.source != model.source_digest:
        return f"it was baked from weights {manifest.source[:12]}, this revision pins {model.source_digest[:12]}"
    record = manifest.engines.get(label)
    return "" if record is None else outdated(record)


def machine_digest() -> str:
    """Return this machine's fingerprint in one word: what a verdict for eager is bound to."""
    return hashlib.sha256(json.dumps(fingerprint.current().to_json(), sort_keys=True).encode()).hexdigest()
