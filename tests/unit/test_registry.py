from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.catalog import lambda_time
from glowplug.runtime.contents import Contents
from glowplug.runtime.errors import Conflict, DefinitionError, FunctionNotFound, StateError
from glowplug.runtime.management.site import Site
from glowplug.runtime.management.stacks import FunctionChange, WantedStack, put
from glowplug.runtime.registry import Registry
from glowplug.runtime.schema import MIGRATIONS
from glowplug.runtime.spec import FunctionSpec, ModelSpec, SourceFile
from glowplug.runtime.testing.deployed import wanted

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
ECHO = FunctionSpec(
    name="echo",
    handler="echo.handler",
    runtime="python3.11",
    code_digest="a" * 64,
    environment={"A": "1"},
)
EMBED = FunctionSpec(
    name="embed",
    handler="embed.handler",
    runtime="python3.11",
    code_digest="b" * 64,
    models=(ModelSpec("", "package://m", files=(SourceFile("model.safetensors", 3, "c" * 64),)),),
)


URL = {"echo", "Echo", "x_y", "x-y"}
"""Functions that have a URL here."""


def stack(*specs: FunctionSpec, name: str = "main", digest: str = "t1") -> WantedStack:
    return of({spec.name.title(): spec for spec in specs}, name, digest)


def of(specs: dict[str, FunctionSpec], name: str = "main", digest: str = "t1") -> WantedStack:
    """Return the stack of functions by logical id; it remembers their URLs, as a real one's definitions do."""
    functions = {key: wanted(spec, url=spec.name in URL and spec.timeout_s != 9.0) for key, spec in specs.items()}
    definitions = {key: {"Urls": dict.fromkeys(one.urls)} for key, one in functions.items()}
    return WantedStack(name, digest, functions, Contents(definitions), exports={f"{name}-url": "http://a"})


async def put_stack(registry: Registry, stack: WantedStack) -> list[FunctionChange]:
    now = lambda_time(registry.now())
    return await registry.change(lambda catalog: put(catalog, stack, Site(ARN, "layer:", now, now)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry.db"


async def opened(path: Path) -> Registry:
    ticks = itertools.count(1_764_025_880)
    return await Registry.open(path, now=lambda: float(next(ticks)))  # every look is a second later


def read(path: Path) -> bytes:
    return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def damaged(data: bytes, how: str) -> bytes:
    if how == "text":
        return b"this is not a database, it is a text " * 100
    return data[:4096] + b"\xff" * (len(data) - 4096)


async def test_what_was_deployed_is_there_after_reopening(path: Path) -> None:
    registry = await opened(path)
    changes = await put_stack(registry, stack(ECHO, EMBED))
    before = (registry.functions(), registry.catalog.stacks.get("main"), registry.url("echo"))
    await registry.close()
    again = await opened(path)
    assert before == (again.functions(), again.catalog.stacks.get("main"), again.url("echo"))
    assert changes == [FunctionChange("echo", "created"), FunctionChange("embed", "created")]
    assert [record.spec for record in again.functions()] == [ECHO, EMBED]
    assert again.resolve("embed") == EMBED
    assert again.get("echo").logical_id == "Echo"
    url = again.url("echo")
    assert url is not None
    assert (url.function, url.qualifier) == ("echo", "$LATEST")
    assert again.url("embed") is None
    await again.close()


async def test_a_stack_becomes_exactly_what_is_put(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO, EMBED))
    first = registry.get("echo")
    slower = replace(ECHO, timeout_s=9.0)
    changes = await put_stack(registry, stack(slower, digest="t2"))
    assert changes == [FunctionChange("embed", "deleted"), FunctionChange("echo", "updated")]
    second = registry.get("echo")
    assert second.spec == slower
    assert (first.slot, first.latest.modified < second.latest.modified) == (second.slot, True)
    assert first.latest.revision_id != second.latest.revision_id
    assert registry.url("echo") is None
    found = registry.catalog.stacks.get("main")
    assert found is not None
    assert (found.template_digest, dict(found.names.functions)) == ("t2", {"Echo": "echo"})
    assert registry.catalog.code_digests() == {ECHO.code_digest}
    await registry.close()


async def test_what_did_not_change_keeps_its_revision_id_and_time(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO))
    before = registry.get("echo")
    assert await put_stack(registry, stack(ECHO, digest="t2")) == [FunctionChange("echo", "unchanged")]
    assert registry.get("echo") == before
    await registry.close()


async def test_a_revision_that_comes_back_is_the_same_revision(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO))
    await put_stack(registry, stack(replace(ECHO, timeout_s=9.0)))
    await put_stack(registry, stack(ECHO))
    assert registry.resolve("echo").revision == ECHO.revision
    await registry.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT function, version FROM versions").fetchall() == [("echo", "$LATEST")]
    connection.close()


async def test_a_slot_never_passes_to_another_function(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO, EMBED))
    await put_stack(registry, stack(EMBED))
    await put_stack(registry, stack(EMBED, replace(ECHO, name="other")))
    await put_stack(registry, stack(EMBED, ECHO))
    assert {record.spec.name: record.slot for record in registry.functions()} == {"echo": 0, "embed": 1}
    assert [registry.slot(name) for name in ("echo", "embed", "other")] == [0, 1, 2]  # other still drains
    with pytest.raises(FunctionNotFound):
        registry.slot("unheard-of")
    await registry.close()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT slot FROM slots WHERE function = 'other'").fetchall() == [(2,)]
    connection.close()


async def test_what_is_not_there_is_named_by_its_arn(path: Path) -> None:
    registry = await opened(path)
    with pytest.raises(FunctionNotFound, match=r"^Function not found: arn:aws:lambda:.*:function:no:\$LATEST$"):
        registry.resolve("no")
    with pytest.raises(FunctionNotFound, match=r"function:no$"):
        registry.get("no")
    await put_stack(registry, stack(ECHO))
    with pytest.raises(FunctionNotFound, match=r"function:echo:7$"):
        registry.resolve("echo", "7")
    assert (registry.url("no"), registry.catalog.stacks.get("no")) == (None, None)
    await registry.close()


async def test_a_function_of_another_stack_is_refused_and_nothing_changes(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO))
    with pytest.raises(Conflict, match="echo belongs to the stack main"):
        await put_stack(registry, stack(EMBED, ECHO, name="second"))
    assert [record.spec.name for record in registry.functions()] == ["echo"]
    assert registry.catalog.stacks.get("second") is None
    await registry.close()


async def test_a_url_id_that_is_taken_is_refused_with_the_field(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO))
    taker = replace(ECHO, name="Echo")
    with pytest.raises(DefinitionError, match="taken by the function echo") as caught:
        await put_stack(registry, stack(taker, name="second"))
    assert caught.value.field == "Echo.Urls"
    both = of({"A": replace(taker, name="x_y"), "B": replace(taker, name="x-y")}, "third")
    with pytest.raises(DefinitionError, match="taken by the function x_y"):
        await put_stack(registry, both)
    await registry.close()


async def test_two_logical_ids_with_one_name_are_refused(path: Path) -> None:
    registry = await opened(path)
    with pytest.raises(DefinitionError, match=r"B\.FunctionName: 'echo' is A's name already"):
        await put_stack(registry, of({"A": ECHO, "B": ECHO}))
    await registry.close()


async def test_a_url_moves_between_functions_in_one_put(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO))
    other = replace(ECHO, name="Echo")
    await put_stack(registry, of({"Echo": other}))
    url = registry.url("echo")
    assert url is not None
    assert url.function == "Echo"
    await registry.close()


async def test_puts_at_the_same_time_do_not_interleave(path: Path) -> None:
    registry = await opened(path)
    wanted = [replace(ECHO, timeout_s=float(n)) for n in range(1, 9)]
    await asyncio.gather(*(put_stack(registry, stack(spec)) for spec in wanted))
    assert registry.resolve("echo") == wanted[-1]
    await registry.close()


async def test_a_cancelled_put_leaves_memory_and_file_the_same(path: Path) -> None:
    registry = await opened(path)
    put = asyncio.create_task(put_stack(registry, stack(ECHO)))
    await asyncio.sleep(0)
    put.cancel()
    await asyncio.gather(put, return_exceptions=True)
    await registry.close()  # waits for the commit that nobody waits for any more
    held = [record.spec.name for record in registry.functions()]
    again = await opened(path)
    assert held == [record.spec.name for record in again.functions()]
    await again.close()


async def test_a_statement_that_fails_rolls_everything_back(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO))
    broken = replace(EMBED, environment={"A": "\ud800"})  # passes json, not SQLite's UTF-8
    object.__setattr__(broken, "description", float("nan"))  # json_valid refuses NaN
    with pytest.raises(StateError):
        await put_stack(registry, stack(broken))
    assert [record.spec.name for record in registry.functions()] == ["echo"]
    assert await put_stack(registry, stack(ECHO)) == [FunctionChange("echo", "unchanged")]
    await registry.close()


async def test_a_closed_registry_refuses_to_write_and_closes_twice(path: Path) -> None:
    registry = await opened(path)
    await registry.close()
    await registry.close()
    with pytest.raises(StateError, match="closed"):
        await put_stack(registry, stack(ECHO))
    assert repr(registry) == f"<Registry {path} closed, 0 functions, 0 stacks>"


async def test_close_leaves_one_file(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO))
    await registry.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["registry.db"]


@pytest.mark.parametrize("damage", ["text", "middle"])
async def test_a_damaged_file_is_an_error_and_stays_as_it_is(path: Path, damage: str) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO, EMBED))
    await registry.close()
    data = damaged(read(path), damage)
    write(path, data)
    with pytest.raises(StateError, match=r"registry\.db: it is damaged; restore it from a copy, or move it away"):
        await opened(path)
    assert read(path) == data


async def test_a_file_of_a_newer_release_is_refused(path: Path) -> None:
    await (await opened(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    connection.close()
    with pytest.raises(StateError, match="a newer glowplug has written it"):
        await opened(path)


async def test_a_spec_of_another_release_is_named(path: Path) -> None:
    registry = await opened(path)
    await put_stack(registry, stack(ECHO))
    await registry.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE versions SET value = json_set(value, '$.spec.unheard_of', 1)")
    connection.close()
    with pytest.raises(StateError, match="was written by another release"):
        await opened(path)


async def test_a_directory_that_is_missing_says_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be opened"):
        await opened(tmp_path / "no" / "registry.db")


def test_lambda_time_is_in_lambdas_form() -> None:
    assert lambda_time(1_764_025_880.1239) == "2025-11-24T23:11:20.123+0000"


KILLED = """
import asyncio, itertools, os, pathlib, shutil, signal, sys
from dataclasses import replace
from glowplug.runtime.management.site import Site
from glowplug.runtime.management.stacks import WantedStack, put
from glowplug.runtime.registry import Registry
from glowplug.runtime.testing.deployed import wanted

async def main(path, fatal):
    registry = await Registry.open(pathlib.Path(path))
    seen = 0
    def count(statement):
        nonlocal seen
        seen += 1
        if seen == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    await registry._run(lambda: registry._connection.set_trace_callback(count))
    old = registry.resolve("echo")
    new = replace(old, timeout_s=9.0)
    stack = WantedStack("main", "t2", {"Echo": wanted(new), "More": wanted(replace(old, name="more"))})
    await registry.change(lambda catalog: put(catalog, stack, Site("arn:", "layer:", "now", "now")))
    await registry.close()

for fatal in itertools.count(1):
    path = shutil.copy(sys.argv[1], f"{sys.argv[1]}.{fatal}")
    child = os.fork()
    if child == 0:
        asyncio.run(main(path, fatal))
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != -signal.SIGKILL:
        print(fatal)
        sys.exit(status)
"""
"""Puts a stack into copies of a registry, ``PATH.1`` and so on, and is killed before the first statement, the second
and so on; the last copy is the one of which it was not killed any more, whose number it prints."""


def put_and_die(path: Path) -> list[Path]:
    ran = subprocess.run([sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, check=False)
    assert 0 == ran.returncode, ran.stderr
    return [path.with_name(f"{path.name}.{number}") for number in range(1, int(ran.stdout) + 1)]


@pytest.mark.slow
async def test_a_node_killed_between_any_two_statements_leaves_the_old_state_or_the_new_one(path: Path) -> None:
    old, new = {"echo": 3.0}, {"echo": 9.0, "more": 3.0}
    registry = await opened(path)
    await put_stack(registry, stack(ECHO))
    await registry.close()
    seen: list[dict[str, float]] = []
    for copy in put_and_die(path):
        registry = await opened(copy)
        seen.append({record.spec.name: record.spec.timeout_s for record in registry.functions()})
        await registry.close()
    assert seen[0] == old
    assert seen[-1] == new
    assert all(state in (old, new) for state in seen), json.dumps(seen)
    assert len(seen) > 10


async def test_a_file_of_the_first_release_is_read_as_it_was(path: Path) -> None:
    """Its URL and its reservation, which were part of the spec, too."""
    spec = ECHO.to_json() | {"url": ["echo", "NONE", "BUFFERED"], "reserved": 3}
    del spec["layers"]
    with sqlite3.connect(path) as connection:
        for statement in MIGRATIONS[0]:
            assert isinstance(statement, str)
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 1")
        connection.execute("INSERT INTO stacks VALUES ('main', 't1', 'then')")
        connection.execute("INSERT INTO slots VALUES ('gone', 0), ('echo', 1)")
        connection.execute("INSERT INTO revisions VALUES ('r', 'echo', ?, 'then')", (json.dumps(spec),))
        connection.execute("INSERT INTO functions VALUES ('echo', 'main', 'Echo', 'r', 'id', 'then')")
    connection.close()
    for _ in range(2):
        registry = await opened(path)
        function = registry.get("echo")
        assert (ECHO, 1, 3, "id", "then") == (
            function.spec, function.slot, function.reserved, function.latest.revision_id, function.latest.modified
        )  # fmt: skip
        assert "echo" == registry.catalog.urls["echo"].function
        assert {"Echo": "echo"} == registry.catalog.stacks["main"].names.functions
        assert 0 == registry.slot("gone")
        await registry.close()


async def test_a_stack_of_the_release_before_sections_keeps_what_it_has(path: Path) -> None:
    """Also what was asked for of it, as far as that was kept. A layer's unzipped size was of no use to anybody."""
    rule = {"Type": "AWS::Events::Rule", "Name": "tick", "ScheduleExpression": "rate(1 hour)"}
    layer = {"LayerName": "deps", "CodeSha256": "d" * 64, "CompatibleRuntimes": ["python3.11"]}
    mapping = {"FunctionName": "echo", "EventSourceArn": "arn:aws:sqs:us-east-1:000000000000:jobs"}
    asked: Contents[Any] = Contents(
        {"Echo": {"FunctionName": "echo"}}, {"Deps": layer, "Gone": {**layer, "LayerName": "gone"}}, {"Web": {"Routes": []}}, {"Jobs": {"QueueName": "jobs"}},
        {"Map": mapping}, {"Tick": rule},
    )  # fmt: skip
    registry = await opened(path)
    await put_stack(registry, WantedStack("main", "t1", {"Echo": wanted(ECHO)}, asked, {"d" * 64: 10}))
    emptied = replace(registry.catalog.layers["gone"], versions={})
    await registry.change(lambda catalog: (catalog.with_layer(emptied), None))
    put = registry.catalog
    await registry.close()
    with sqlite3.connect(path) as connection:
        [(text,)] = connection.execute("SELECT value FROM stacks")
        value = json.loads(text)
        value |= {section.lower(): names for section, names in value.pop("names").items()}
        value["definitions"] = value["definitions"]["Functions"]
        connection.execute("UPDATE stacks SET value = ?", (json.dumps(value),))
        connection.execute("UPDATE layers SET value = json_set(value, '$.versions.1.unzipped', 9) WHERE name = 'deps'")
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    for _ in range(2):
        registry = await opened(path)
        found, before = registry.catalog.stacks["main"], put.stacks["main"]
        assert replace(before, definitions=replace(asked, layers={"Deps": layer}, queues={}, mappings={})) == found
        assert (put.layers, put.documents) == (registry.catalog.layers, registry.catalog.documents)
        await registry.close()
