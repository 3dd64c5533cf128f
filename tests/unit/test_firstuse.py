"""What a start has read, seen from inside: modules, shared objects, tensors; in order, and at no price unless asked."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import py_compile
import subprocess
import sys
import types
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glowplug.cache.prefetch import ReadOrder
from glowplug.cache.weights import read_header, tensors
from glowplug.runtime.worker import firstuse
from glowplug.runtime.worker.firstuse import MappedFile, Recorder, bounded, joined, located, modules_since, parse_maps

MAPS = """\
55d0a0000000-55d0a0001000 r--p 00000000 fe:00 12  /usr/bin/python3.11
55d0a0001000-55d0a0003000 r-xp 00001000 fe:00 12                         /usr/bin/python3.11
55d0a1000000-55d0a1100000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000004000 rw-p 00002000 fe:00 99                         /srv/two words
7f0000100000-7f0000101000 r-xp 00000000 fe:00 13                         /srv/gone.so (deleted)
7f0000200000-7f0000201000 rw-p 00000000 00:00 0
7f0000300000-7f0000301000 rw-s 00000000 00:01 77                         /memfd:spill (deleted)
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
""".splitlines(keepends=True)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({name: torch.rand(64, 64) for name in ("a", "b", "c", "d")}, path)
    return path


def where(path: Path, name: str) -> tuple[str, int, int]:
    view = read_header(path).tensors[name]
    return (str(path), view.begin, view.end - view.begin)


def test_maps_are_read_with_offsets_and_without_what_has_no_file() -> None:
    assert [
        MappedFile(0x55D0A0000000, 0x55D0A0001000, 0, "/usr/bin/python3.11", False),
        MappedFile(0x55D0A0001000, 0x55D0A0003000, 0x1000, "/usr/bin/python3.11", True),
        MappedFile(0x7F0000000000, 0x7F0000004000, 0x2000, "/srv/two words", False),
    ] == parse_maps(MAPS)


def test_addresses_become_places_in_files_across_neighbouring_mappings() -> None:
    mappings = [
        MappedFile(100, 200, 1000, "/a", False),
        MappedFile(200, 300, 1100, "/a", False),
        MappedFile(400, 500, 0, "/b", False),
    ]
    assert [("/a", 1050, 10)] == list(located([(150, 10)], mappings))
    assert [("/a", 1090, 10), ("/a", 1100, 20)] == list(located([(190, 30)], mappings))
    assert [("/b", 90, 10)] == list(located([(490, 1000)], mappings))
    assert [] == list(located([(0, 50), (300, 50), (500, 1)], mappings))
    assert [] == list(located([(1, 1)], []))


def test_rows_that_continue_each_other_are_one() -> None:
    rows = [("/a", 0, 5), ("/a", 5, 5), ("/a", 20, 5), ("/b", 25, 5), ("/a", 25, 5)]
    assert [("/a", 0, 10), ("/a", 20, 5), ("/b", 25, 5), ("/a", 25, 5)] == list(joined(rows))
    assert [] == list(joined([]))


def test_an_order_is_cut_at_its_limit_and_has_only_paths_that_can_be_sent() -> None:
    rows = [("/aaaa", 0, 1), (os.fsdecode(b"/\xff"), 0, 1), ("/bbbb", 0, 1), ("/cccc", 0, 1)]
    assert [rows[0], rows[2]] == list(bounded(rows, limit_bytes=2 * (5 + 24)))


def test_modules_are_listed_in_the_order_of_their_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zimporting.py").write_text("import zimported\n")
    (tmp_path / "zimported.py").write_text("")
    (tmp_path / "zcompiled.py").write_text("")
    compiled = py_compile.compile(str(tmp_path / "zcompiled.py"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    before = len(sys.modules)
    for name in ("zimporting", "zcompiled"):
        importlib.import_module(name)
    monkeypatch.setitem(sys.modules, "znamespace", types.ModuleType("znamespace"))
    monkeypatch.setitem(sys.modules, "zanything", object())  # people do
    try:
        found = modules_since(before)
        assert [str(tmp_path / "zimported.py"), str(tmp_path / "zimporting.py"), compiled] == found
        assert [] == modules_since(len(sys.modules))
    finally:
        for name in ("zimporting", "zimported", "zcompiled"):
            del sys.modules[name]


def test_a_module_that_loads_lazily_is_not_loaded_by_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zlazy.py").write_text("raise RuntimeError('loaded')\n")
    spec = importlib.util.spec_from_file_location("zlazy", tmp_path / "zlazy.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    before = len(sys.modules)
    monkeypatch.setitem(sys.modules, "zlazy", module)
    spec.loader.exec_module(module)
    assert [str(tmp_path / "zlazy.py")] == modules_since(before)


def test_tensors_are_recorded_when_they_are_first_used(weights: Path) -> None:
    mapped, order = tensors(weights), firstuse.TensorOrder()
    with order.recording(), torch.inference_mode():
        turned = mapped["d"].t()  # a view reads nothing
        hidden = torch.ones(1, 64) @ mapped["c"]
        hidden = torch.cat([hidden, mapped["a"]]) @ turned
        hidden = hidden @ mapped["c"]
    assert [where(weights, name) for name in ("c", "a", "d")] == order.rows()


def test_what_is_used_by_keyword_or_in_part_is_recorded_as_far(weights: Path) -> None:
    mapped, order = tensors(weights), firstuse.TensorOrder()
    with order.recording():
        torch.add(torch.ones(64), other=mapped["b"][2])
        torch.zeros(64) + mapped["a"][:, :3].sum()
    path, begin, _ = where(weights, "b")
    _, other, _ = where(weights, "a")
    assert [(path, begin + 2 * 256, 256), (path, other, 63 * 256 + 12)] == order.rows()


def test_recording_again_adds_what_is_new(weights: Path) -> None:
    mapped, order = tensors(weights), firstuse.TensorOrder()
    with order.recording():
        mapped["d"] + 1
    with order.recording():
        mapped["d"] + mapped["a"]
    assert [where(weights, "d"), where(weights, "a")] == order.rows()
    mapped["b"] + 1  # after the block: nobody records
    assert 2 == len(order.rows())


def test_what_an_error_ends_is_recorded_up_to_there(weights: Path) -> None:
    mapped, order = tensors(weights), firstuse.TensorOrder()
    with contextlib.suppress(RuntimeError), order.recording():
        mapped["c"] + 1
        mapped["a"] + torch.ones(7)
        pytest.fail("these shapes do not go together")
    assert where(weights, "c") == order.rows()[0]


def test_recorded_tensors_are_not_kept_alive(weights: Path) -> None:
    mapped, order = tensors(weights), firstuse.TensorOrder()
    with order.recording():
        mapped["c"] + 1
    remains = weakref.ref(mapped.pop("c"))
    gc.collect()
    assert remains() is None


@pytest.mark.slow  # the meta device drags in torch._dynamo
def test_memory_of_no_file_and_other_devices_are_left_out() -> None:
    order = firstuse.TensorOrder()
    with order.recording():
        torch.ones(8) + 1
        torch.ones(8, device="meta") + 1
        torch.empty(0, 5) + 1
        torch.ones(2, 2) + torch.ones(2, 2).to_sparse()
    assert [] == order.rows()


@pytest.mark.slow
def test_an_order_has_python_then_objects_then_tensors_and_is_believed(weights: Path) -> None:
    """In a process of its own, as in a worker: modules and libraries that are new there."""
    program = f"""
import json, sys, torch
from glowplug.cache.weights import tensors
from glowplug.runtime.worker import firstuse
mapped = tensors({str(weights)!r})
recorder = firstuse.Recorder()
import sqlite3, wave
with recorder.tensors():
    torch.ones(64) @ mapped["b"] @ mapped["a"] @ mapped["c"]
assert "torch._dynamo" not in sys.modules, "1.7 s for a recording"
print(json.dumps(recorder.order()))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rows = json.loads(ran.stdout)
    assert len(rows) == len(ReadOrder.from_rows(rows).extents)
    names = [os.path.basename(path) for path, _, _ in rows]
    assert 0 == rows[0][1]
    sqlite = next(name for name in names if name.startswith("_sqlite3."))
    library = next((name for name in names if name.startswith("libsqlite3.so")), sqlite)  # may be linked in
    assert names.index(sqlite) <= names.index(library) < names.index("model.safetensors")
    assert next(name for name in names if name.startswith("wave.")) in names[: names.index("model.safetensors")]
    b, a, c = (list(where(weights, name)) for name in ("b", "a", "c"))
    assert [b, a, c] == rows[-3:] or [b, [*a[:2], 0], c] == rows[-3:]


def test_without_torch_nothing_is_imported_and_little_is_paid() -> None:
    program = """
import sys
from glowplug.runtime.worker import firstuse
recorder = firstuse.Recorder()
with recorder.tensors():
    pass
assert [] == recorder.order(), recorder.order()
print(*sorted({"torch", "json", "glowplug.cache"} & set(sys.modules)))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (0, "", "") == (ran.returncode, ran.stderr, ran.stdout.strip())


def test_a_recorder_says_what_it_holds() -> None:
    assert repr(Recorder()).startswith("Recorder(modules=")
