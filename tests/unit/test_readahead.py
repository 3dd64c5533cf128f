"""The node's read-ahead: real files, a directory of orders, and what of a process's word is believed."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from pathlib import Path

import pytest

from glowplug.cache.prefetch import Extent
from glowplug.runtime.readahead import Pages, believable, interpreter_roots
from glowplug.runtime.routing.ports import Weights
from glowplug.runtime.routing.records import ReadAhead
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.testing import a_spec

SPEC = a_spec()
SIZE = 3 * 1024 * 1024


class Bench:
    """Pages over a directory with a function's code, a blob and a secret."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("readahead", "code", "cache/blobs"):
            (root / name).mkdir(parents=True)
        self.blob = root / "cache" / "blobs" / "b"
        self.blob.write_bytes(os.urandom(SIZE))
        (root / "code" / "f.py").write_text("x = 1")
        (root / "secret").write_text("s")
        self.weights = Weights({"": {"model.safetensors": str(self.blob)}}, lambda: None)
        self.pages = self.again()

    def again(self, available_bytes: int = 1 << 30) -> Pages:
        return Pages(
            self.root / "readahead", self.root / "cache", roots=self.roots, available_bytes=lambda: available_bytes
        )

    def roots(self, spec: FunctionSpec) -> list[Path]:
        return [self.root / "code", self.root / "cache" / "blobs"]

    def kept(self) -> list[list[object]] | None:
        path = self.root / "readahead" / f"{SPEC.revision}.json"
        return json.loads(path.read_text())["extents"] if path.exists() else None

    async def read(self, pages: Pages | None = None, **options: bool) -> ReadAhead | None:
        return await (pages or self.pages).begin(SPEC, self.weights, **options).ended


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_without_an_order_the_models_files_are_looked_at(bench: Bench) -> None:
    """They have just been written, so they are in the page cache: nothing is read."""
    told = await bench.read()
    assert told is not None
    assert (0, SIZE, 0) == (told.read_bytes, told.resident_bytes, told.skipped_bytes)
    bench.pages.close()


async def test_an_order_is_kept_for_the_node_alone_and_used_from_then_on(bench: Bench) -> None:
    assert bench.pages.unknown(SPEC)
    bench.pages.learn(SPEC, [[str(bench.root / "code" / "f.py"), 0, 5], [str(bench.blob), 4096, 4096]])
    assert not bench.pages.unknown(SPEC)
    bench.pages.close()
    path = bench.root / "readahead" / f"{SPEC.revision}.json"
    assert (0o600, [path]) == (stat.S_IMODE(path.stat().st_mode), list(path.parent.iterdir()))
    later = bench.again()
    assert not later.unknown(SPEC)
    told, imported = await bench.read(later), await bench.read(later, imported=True)
    assert told is not None
    assert imported is not None
    assert (5, SIZE) == (told.resident_bytes - imported.resident_bytes, imported.resident_bytes)
    later.close()


async def test_a_function_cannot_make_the_node_read_files_that_are_not_its_own(bench: Bench) -> None:
    """Neither by name, nor by a way round, nor by a link in its own code; nor can it hang the node on a pipe."""
    code = bench.root / "code"
    (code / "link").symlink_to(bench.root / "secret")
    (code / "folder").symlink_to(bench.root)
    os.mkfifo(code / "pipe")
    rows: list[list[object]] = [
        [str(path), 0, 1]
        for path in (
            *(bench.root / "secret", "/etc/hostname", "/proc/self/mem", "/dev/zero", code / ".." / "secret"),
            *(code / "link", code / "folder" / "secret", code / "pipe", code, f"{code}x", code / "missing.py"),
        )
    ]
    bench.pages.learn(SPEC, [*rows, [str(code / "f.py"), 0, 5]])
    bench.pages.close()
    assert [[str(code / "f.py"), 0, 5]] == bench.kept()


@pytest.mark.parametrize("row", [["relative", 0, 1], ["/x", -1, 1], ["/x", 0, True], ["/x", 0], [7, 0, 1], "text"])
async def test_a_row_that_is_out_of_form_costs_the_whole_order(bench: Bench, row: list[object]) -> None:
    bench.pages.learn(SPEC, [[str(bench.root / "code" / "f.py"), 0, 5], row])
    bench.pages.close()
    assert bench.kept() is None


def test_the_interpreter_and_its_packages_are_believed(tmp_path: Path) -> None:
    [torch] = {root for root in interpreter_roots() if root.name == "torch"}
    library = next((torch / "lib").glob("*.so"))
    order = believable([[str(library), 0, 4096], [sys.executable, 0, 4096]], interpreter_roots())
    assert Extent(os.path.realpath(library), 0, 4096) in order.extents


async def test_orders_of_other_revisions_are_forgotten(bench: Bench) -> None:
    bench.pages.learn(SPEC, [[str(bench.root / "code" / "f.py"), 0, 5]])
    bench.pages.close()
    later = bench.again()
    later.only({SPEC.revision})
    assert bench.kept() is not None
    later.only(set())
    assert (None, True) == (bench.kept(), later.unknown(SPEC))
    later.close()


async def test_an_order_that_was_scrambled_is_none(bench: Bench) -> None:
    (bench.root / "readahead" / f"{SPEC.revision}.json").write_bytes(b"\xff" * 100)
    pages = bench.again()
    told = await bench.read(pages)
    assert told is not None
    assert SIZE == told.resident_bytes
    pages.close()


async def test_a_disk_that_takes_no_order_costs_no_start(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    (bench.root / "readahead").rmdir()
    bench.pages.learn(SPEC, [[str(bench.root / "code" / "f.py"), 0, 5]])
    bench.pages.close()
    assert "f: what its start read was not kept" in caplog.text


async def test_files_that_are_gone_and_a_reading_that_breaks_tell_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.blob.unlink()
    assert await bench.read() is None
    broken = Pages(bench.root / "readahead", bench.root / "cache", roots=bench.roots, available_bytes=lambda: 1 // 0)
    assert await bench.read(broken) is None
    assert "the start goes on without: ZeroDivisionError" in caplog.text
    broken.close()
    bench.pages.close()


async def test_closing_ends_what_is_under_way(bench: Bench) -> None:
    reading = bench.pages.begin(SPEC, bench.weights)
    await asyncio.to_thread(bench.pages.close)
    await asyncio.wait_for(reading.ended, 5)
    assert "Pages(orders=0, under_way=0)" == repr(bench.pages)
