"""Snapshots whose engine cannot be served, on a real node: each function answers through eager, and says why.

The snapshots are made up: signed with the node's own key and assigned, as a bake would leave them, with an engine that
crashes where it is loaded (a real shared library), or with something done to them afterwards. There is no compiler for
the node, so that nothing is baked anew behind a test's back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from nodes import kept_specs
from safetensors.torch import save_file

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.snapshotfit import machine_digest
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.state import StateDirectory
from glowplug.runtime.verdicts import asked
from glowplug.snapshot import fingerprint
from glowplug.snapshot.assignments import Assignment, Assignments
from glowplug.snapshot.engines import torch_private
from glowplug.snapshot.manifest import Artefact, EngineRecord, Manifest
from glowplug.snapshot.store import SnapshotStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SIGNATURE = {
    "names": [],
    "inputs": [],
    "ranges": {},
    "in_structure": torch_private.write_structure(torch_private.flatten(((), {}))[1]),
    "out_structure": torch_private.write_structure(torch_private.flatten([])[1]),
}

HANDLER = """
import torch
from torch import nn
from glowplug.handlers import Example, model

class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2))

    def forward(self, x):
        return x * self.weight

@model
def scale(files):
    return Scale()

@scale.example
def example():
    return Example(args=(torch.ones(2),))

def handler(event, context):
    return {"y": scale(torch.tensor(event["x"])).tolist(), "engine": scale.engine}
"""

LIBRARIES = {
    "segfault": "__attribute__((constructor)) static void f(void) { *(volatile int *)0 = 1; }",
    "abort": "#include <stdlib.h>\n__attribute__((constructor)) static void f(void) { abort(); }",
    "exit": "#include <unistd.h>\n__attribute__((constructor)) static void f(void) { _exit(0); }",
    "empty": "int nothing_that_an_engine_has;",
}
"""What a library does where it is loaded, in the process that is to serve."""


def truncated(store: SnapshotStore, key: str, other: str) -> None:
    write(store.root / key / "model.so", (store.root / key / "model.so").read_bytes()[:-1])


def flipped(store: SnapshotStore, key: str, other: str) -> None:
    data = bytearray((store.root / key / "model.so").read_bytes())
    data[len(data) // 2] ^= 1
    write(store.root / key / "model.so", data)


def swapped(store: SnapshotStore, key: str, other: str) -> None:
    shutil.rmtree(store.root / key)
    shutil.copytree(store.root / other, store.root / key)


def removed(store: SnapshotStore, key: str, other: str) -> None:
    shutil.rmtree(store.root / key)


def unsigned(store: SnapshotStore, key: str, other: str) -> None:
    SnapshotStore(store.root, b"another node's key, 32 bytes long").publish(store.root / key)


def write(path: Path, data: bytes | bytearray) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is wrong with a function's snapshot, and the words that say so."""

    reason: str
    engine: str = "segfault"
    changed: dict[str, Any] = dataclasses.field(default_factory=dict)
    after: Callable[[SnapshotStore, str, str], None] | None = None


ELSEWHERE = fingerprint.current().to_json() | {"torch": "1.0"}
ANOTHER_CPU = fingerprint.current().to_json() | {"cpu": ["avx9000"]}
CASES = {
    "segfault": Case("signal: segmentation fault"),
    "abort": Case("signal: aborted", "abort"),
    "exit": Case("exit status 0", "exit"),
    "no-library": Case("model.so: cannot be loaded", "text"),
    "no-engine-in-it": Case("model.so: cannot be loaded", "empty"),
    "no-record": Case("the snapshot has no aot_inductor engine", changed={"engines": {"eager": EngineRecord()}}),
    "another-torch": Case("torch 1.0, here", changed={"fingerprint": ELSEWHERE}),
    "another-cpu": Case("this CPU lacks avx9000", changed={"fingerprint": ANOTHER_CPU}),
    "another-model": Case("it was baked from weights eeee", changed={"source": "e" * 64}),
    "truncated": Case("has not the", after=truncated),
    "flipped": Case("model.so: sha256", after=flipped),
    "swapped": Case("is the manifest of", after=swapped),
    "removed": Case("no snapshot", after=removed),
    "unsigned": Case("the signature is not this node's", after=unsigned),
}


def template(home: Path) -> Path:
    """Write the functions, one per case, each with weights of its own: snapshots of others cannot help."""
    (home / "code").mkdir()
    (home / "code" / "scale.py").write_text(HANDLER)
    lines = ["AWSTemplateFormatVersion: '2010-09-09'", "Transform: AWS::Serverless-2016-10-31", "Resources:"]
    for number, name in enumerate(CASES):
        weights = home / "models" / name
        weights.mkdir(parents=True)
        save_file({"weight": torch.tensor([2.0, number])}, weights / "model.safetensors")
        lines.append(
            f"  F{number}:\n    Type: AWS::Serverless::Function\n"
            f"    Metadata: {{Glowplug: {{Model: {{Source: 'file://{weights}'}}, MaxInstances: 1}}}}\n"
            f"    Properties: {{FunctionName: {name}, Handler: scale.handler, Runtime: python3.11, CodeUri: code/,"
            f" Timeout: 30, MemorySize: 512}}"
        )
    (home / "template.yaml").write_text("\n".join(lines) + "\n")
    return home / "template.yaml"


def libraries(home: Path) -> dict[str, bytes]:
    made = {"text": b"this is no library"}
    for name, source in LIBRARIES.items():
        (home / f"{name}.c").write_text(source + "\n")
        command = ["gcc", "-shared", "-fPIC", "-O0", "-o", str(home / f"{name}.so"), str(home / f"{name}.c")]
        subprocess.run(command, check=True)
        made[name] = (home / f"{name}.so").read_bytes()
    return made


def fabricate(store: SnapshotStore, spec: FunctionSpec, case: Case, library: bytes, staging: Path) -> str:
    """Leave in the store what a bake of this function would have left, with this library as its engine."""
    (model,) = spec.models
    key = hashlib.sha256(spec.name.encode()).hexdigest()
    engine = EngineRecord("aot_inductor", artefact="model.so", cold_ms=1.0, parked_ms=1.0, warm_ms=1.0)
    fields: dict[str, Any] = {
        "key": key, "source": model.source_digest, "graph": "g", "fingerprint": fingerprint.current().to_json(),
        "signature": SIGNATURE, "computed": {}, "aliases": {}, "check": {},
        "engines": {"eager": EngineRecord(), "aot_inductor": engine}, "verdict": "aot_inductor", "reason": "",
        "artefacts": {"model.so": Artefact(hashlib.sha256(library).hexdigest(), len(library))},
    }  # fmt: skip
    staging.mkdir()
    (staging / "model.so").write_bytes(library)
    (staging / "manifest.json").write_bytes(Manifest(**(fields | case.changed)).to_bytes())
    store.publish(staging)
    verdict = Assignment("aot_inductor", key, "asked for", asked(spec, model, "cpu"), machine_digest())
    Assignments(store.root).set(spec.revision, model.name, verdict)
    return key


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, serving: Any) -> Iterator[Any]:
    if shutil.which("gcc") is None:
        pytest.skip("a library that crashes where it is loaded takes gcc to make")
    home = tmp_path_factory.mktemp("bad-engines")
    path = template(home)
    environ = {"GLOWPLUG_FILE_ROOTS": str(home / "models"), "PATH": "/nothing-here"}
    with serving(path, home / "state", GLOWPLUG_PRELOAD_TORCH="0", **environ):
        pass  # it is deployed
    state = StateDirectory(NodeConfig(state=home / "state", cache=home / "state" / "cache"))
    specs = kept_specs(home / "state")
    store = SnapshotStore(state.snapshots, state.hmac_key())
    engines = libraries(home)
    keys = {
        name: fabricate(store, specs[name], case, engines[case.engine], home / f"staging-{name}")
        for name, case in CASES.items()
    }
    for name, case in CASES.items():
        if case.after is not None:
            case.after(store, keys[name], keys["segfault"])
    with serving(None, home / "state", **environ) as running:
        yield running


@pytest.mark.parametrize("name", CASES)
def test_the_function_answers_through_eager_and_explain_says_why(node: Any, name: str) -> None:
    path = f"/2015-03-31/functions/{name}/invocations"
    status, headers, answer = node.request("POST", path, {"x": [1.0, 1.0]})
    assert (200, None) == (status, headers.get("x-amz-function-error")), answer
    assert {"y": [2.0, float(list(CASES).index(name))], "engine": "eager"} == answer
    told = node.request("GET", f"/_glowplug/explain/{headers['x-amzn-requestid']}")[2]
    assert "Engine eager; not a better one: " in told
    assert CASES[name].reason in told


@pytest.mark.parametrize("name", ["segfault", "no-library", "no-record"])
def test_an_engine_that_was_given_up_stays_off_and_the_listing_says_why(node: Any, name: str) -> None:
    path = f"/2015-03-31/functions/{name}/invocations"
    node.request("POST", path, {"x": [1.0, 1.0]})
    (engine,) = node.function(name)["engines"]
    assert ("eager", True) == (engine["engine"], CASES[name].reason in engine["reason"]), engine
    node.admin("POST", f"functions/{name}/cool", {"to": "stored"})
    status, headers, answer = node.request("POST", path, {"x": [3.0, 1.0]})
    assert (200, "stored", 6.0) == (status, headers["x-glowplug-tier"], answer["y"][0])
    start = node.admin("GET", f"starts/{headers['x-amzn-requestid']}")
    assert ("eager", "ready") == (start["engine"], start["outcome"])
    assert not any("was retired" in note for note in start["notes"]), "it is not tried again"


def test_no_process_of_a_crashed_start_is_left(node: Any) -> None:
    names = ("segfault", "abort", "exit")
    for name in names:
        node.request("POST", f"/2015-03-31/functions/{name}/invocations", {"x": [1.0, 1.0]})
    living = len(descendants(node.pid))
    for name in names:
        node.admin("POST", f"functions/{name}/cool", {"to": "stored"})
    wanted = living - 2 * len(names)  # a zygote and a worker each
    deadline_s = time.monotonic() + 20
    while len(descendants(node.pid)) != wanted and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert wanted == len(descendants(node.pid))


def descendants(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            children = [int(word) for word in path.read_text().split()]
            found += [each for child in children for each in (child, *descendants(child))]
    return found
