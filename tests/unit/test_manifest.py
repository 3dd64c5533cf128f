"""The manifest: one text per value, a key that changes with what matters, and refusal of everything else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.spec import ModelSpec, SourceFile
from glowplug.snapshot.checkpoint import Origin
from glowplug.snapshot.errors import SnapshotCorrupt
from glowplug.snapshot.manifest import (
    Artefact,
    EngineRecord,
    Manifest,
    canonical,
    describe_artefacts,
    key_of,
    source_digest,
)

MANIFEST = Manifest(
    key="k" * 64,
    source="s" * 64,
    graph="g" * 64,
    fingerprint={"torch": "2.13.0"},
    signature={"names": ["ids"]},
    computed={"rope.frequencies": Origin("snapshot", "extra.safetensors", "rope.frequencies")},
    aliases={"head.weight": "embed.weight"},
    engines={
        "eager": EngineRecord(cold_ms=31.0, warm_ms=9.5),
        "aot_inductor": EngineRecord(
            engine="aot_inductor",
            artefact="model.so",
            constants={"embed_weight": Origin("source", "model.safetensors", "model.embed.weight")},
            cold_ms=16.0,
            warm_ms=8.25,
        ),
    },
    verdict="aot_inductor",
    reason="least cost",
    check={"file": "check.safetensors"},
    artefacts={"model.so": Artefact("a" * 64, 1790008)},
)


def changed(**fields: Any) -> bytes:
    return json.dumps(json.loads(MANIFEST.to_bytes()) | fields).encode()


def test_it_reads_what_it_writes() -> None:
    assert MANIFEST == Manifest.from_bytes(MANIFEST.to_bytes())


def test_the_text_is_canonical() -> None:
    text = MANIFEST.to_bytes()
    assert text == canonical(json.loads(text))
    assert b" " not in text.replace(b"least cost", b"")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "not of format 2"),
        (changed(format=1), "not of format 2"),
        (changed(more={}), "fields more"),
        (changed(key=7), "key is int, not str"),
        (changed(engines=[]), "engines is list, not dict"),
        (changed(engines={"eager": {"artefact": ""}}), "KeyError: 'constants'"),
        (changed(engines={"eager": {"constants": {}, "artefact": "../model.so", "refused": ""}}), "not a file name"),
        (changed(computed={"a": ["elsewhere", "f", "t"]}), "neither source nor snapshot"),
        (changed(computed={"a": ["source", "f"]}), r"not \[place, file, tensor\]"),
        (changed(artefacts={"../model.so": {"sha256": "", "size": 1}}), "not a file name"),
        (changed(artefacts={"model.so": {"sha256": "", "size": "1"}}), "not a file name with digest and size"),
    ],
)
def test_what_no_baker_writes_is_corrupt(data: bytes, message: str) -> None:
    with pytest.raises(SnapshotCorrupt, match=message):
        Manifest.from_bytes(data)


def test_the_key_changes_with_each_part_and_nothing_else() -> None:
    parts: dict[str, Any] = {
        "source": "s", "graph": "g", "signature": {"ranges": {"d0": [1, None]}}, "options": {"precision": "fp32"},
        "fingerprint": {"torch": "2.13"},
    }  # fmt: skip
    changes: list[dict[str, Any]] = [
        {"source": "t"}, {"graph": "h"}, {"signature": {"ranges": {"d0": [1, 512]}}},
        {"options": {"precision": "bf16"}}, {"fingerprint": {"torch": "2.14"}},
    ]  # fmt: skip
    assert key_of(**parts) == key_of(**json.loads(json.dumps(parts)))
    assert len(changes) + 1 == len({key_of(**parts), *(key_of(**{**parts, **change}) for change in changes)})


def test_the_source_digest_is_that_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"weights")
    (tmp_path / "a").write_bytes(b"{}")
    files = {"model.safetensors": tmp_path / "b", "1_Pooling/config.json": tmp_path / "a"}
    pinned = tuple(
        SourceFile(name, path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for name, path in files.items()
    )
    assert ModelSpec("", "package://x", files=pinned).source_digest == source_digest(files)


def test_artefacts_are_all_files_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(b"\x7fELF")
    (tmp_path / "manifest.json").write_bytes(b"{}")
    expected = {"model.so": Artefact(hashlib.sha256(b"\x7fELF").hexdigest(), 4)}
    assert expected == describe_artefacts(tmp_path)
