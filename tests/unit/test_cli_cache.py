"""``glowplug cache`` on stores made for it: what it prints, what it changes, how it ends."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from glowplug.cache.disk import DiskProfile, device_of, write_profile
from glowplug.cache.fetch import Fetched
from glowplug.cache.manifests import Manifest, ManifestFile, manifests, write_manifest
from glowplug.cache.pins import owners, pin
from glowplug.cache.progress import Progress
from glowplug.cache.store import Blob, BlobStore
from glowplug.deploy.cli import main
from glowplug.deploy.cli.cache import COMMANDS, transfer
from glowplug.deploy.cli.cache.inventory import is_held, take
from glowplug.deploy.cli.cache.listing import pinners
from glowplug.deploy.cli.cache.options import size_of
from glowplug.deploy.cli.cache.transfer import digest_of, words
from glowplug.deploy.cli.progress import Step, step_of

URL = "s3://models/small/"
ONE, TWO, BIG = b"1" * 1000, b"2" * 2000, b"3" * 30_000
Run = Callable[..., Result]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "cache")


@pytest.fixture
def run(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in [name for name in os.environ if name.startswith("GLOWPLUG_")]:
        monkeypatch.delenv(name)

    def run_(*arguments: str) -> Result:
        given = ["cache", *arguments, "--cache", str(store.root)]
        monkeypatch.setattr(sys, "argv", ["glowplug", *given])
        return CliRunner().invoke(main, given)

    return run_


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def source(store: BlobStore, url: str, *contents: bytes, used_s: float | None = None) -> list[Blob]:
    """Put a source of files a, b, … into the store, all last used at ``used_s``."""
    blobs = [store.add([data]) for data in contents]
    files = tuple(ManifestFile(chr(97 + i), blob.size, blob.sha256) for i, blob in enumerate(blobs))
    write_manifest(store.root, Manifest(url, files))
    if used_s is not None:
        for blob in blobs:
            os.utime(store.path(blob.sha256), (used_s, used_s))
    return blobs


def loaded(result: Result) -> Any:
    assert 0 == result.exit_code, result.output
    return json.loads(result.stdout)


# --- which store, which words ----------------------------------------------------------------------------------------


def test_every_command_is_there_with_help() -> None:
    group = main.get_command(click.Context(main), "cache")
    assert isinstance(group, click.Group)
    for name in COMMANDS:
        command = group.get_command(click.Context(group), name)
        assert command is not None
        assert name == command.name
        assert command.help


def test_an_unknown_command_names_the_nearest_one(run: Run) -> None:
    result = run("verfy")
    assert 2 == result.exit_code
    assert "No such command 'verfy'. Did you mean 'verify'?" in result.stderr


def test_the_store_is_the_option_then_the_setting_then_the_state_directory(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = CliRunner()
    as_json = ["cache", "df", "--json"]
    monkeypatch.setenv("GLOWPLUG_HOME", str(tmp_path / "home"))
    assert str(tmp_path / "home" / "cache") == loaded(runner.invoke(main, as_json))["store"]
    assert str(tmp_path / "s" / "cache") == loaded(runner.invoke(main, [*as_json, "--state", f"{tmp_path}/s"]))["store"]
    monkeypatch.setenv("GLOWPLUG_CACHE", str(tmp_path / "shared"))
    assert str(tmp_path / "shared") == loaded(runner.invoke(main, as_json))["store"]
    assert str(tmp_path / "cache") == loaded(run("df", "--json"))["store"]


@pytest.mark.parametrize("text", ["", "ten", "-1", "1.5G", "5X", "G"])
def test_a_size_that_is_none_is_wrong_usage_that_names_it(run: Run, text: str) -> None:
    result = run("prune", "--to", text)
    assert 2 == result.exit_code
    assert f"{text!r} is not a size such as 500000000, 500M or 20G" in result.stderr


def test_sizes_are_read_as_the_settings_are() -> None:
    assert [500_000_000, 500 * 1024**2, 20 * 1024**3] == [size_of("500000000"), size_of("500M"), size_of("20g")]


@pytest.mark.parametrize("command", ["pin", "verify"])
def test_a_name_that_is_neither_url_nor_digest_is_wrong_usage(run: Run, command: str) -> None:
    for name in ("foo", "DEADBEEF", "1234567", "a" * 65):
        result = run(command, name)
        assert (2, True) == (result.exit_code, f"{name!r} is neither a URL nor a digest" in result.stderr)


@pytest.mark.parametrize("command", ["pin", "verify"])
def test_a_source_or_blob_that_is_not_known_is_named(run: Run, store: BlobStore, command: str) -> None:
    source(store, URL, ONE)
    result = run(command, URL.rstrip("/"))
    assert (1, True) == (result.exit_code, f"never pulled into {store.root}; did you mean {URL}?" in result.stderr)
    assert "`glowplug cache pull hf://other` fetches it" in run(command, "hf://other").stderr
    result = run(command, "deadbeef", "--json")
    assert 1 == result.exit_code
    expected = {"type": "BlobMissing", "message": f"deadbeef: no such blob in {store.root}"}
    assert expected == json.loads(result.stderr)["error"]


def test_the_beginning_of_two_digests_asks_for_more(run: Run, store: BlobStore) -> None:
    for last in "01":
        path = store.path("ab" * 31 + "a" + last)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    result = run("pin", "ab" * 31)
    assert (2, True) == (result.exit_code, "is the beginning of 2 digests; type more of it" in result.stderr)


# --- ls --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["ls"], ["ls", "--blobs"], ["pin"]])
def test_an_empty_store_keeps_stdout_empty_and_is_not_made(run: Run, store: BlobStore, command: list[str]) -> None:
    result = run(*command)
    assert (0, "") == (result.exit_code, result.stdout)
    assert "glowplug cache p" in result.stderr
    assert not store.root.exists()


def test_ls_says_what_is_here_held_and_pinned_within_80_columns(run: Run, store: BlobStore, tmp_path: Path) -> None:
    blobs = source(store, URL, ONE, TWO)
    (gone,) = source(store, "s3://models/gone/", BIG)
    source(store, "s3://models/part/" + "x" * 70, BIG, ONE)
    store.discard(gone.sha256)
    store.add([b"made here"])
    pin(store.root, "operator:" + URL, [blobs[1].sha256])
    (tmp_path / "snapshots" / "key").mkdir(parents=True)
    pin(store.root, str(tmp_path / "snapshots" / "key"), [blobs[1].sha256])
    with store.hold([blobs[1]]):
        result = run("ls")
    assert 0 == result.exit_code
    lines = result.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in lines if line.startswith("s3://")}
    assert "2 3.0 kB all 0 s ago yes operator, 1 snapshot" == rows[URL]
    assert "1 30.0 kB gone - - -" == rows["s3://models/gone/"]
    assert "part" in next(words for url, words in rows.items() if url.startswith("s3://models/part/"))
    assert "1 blob that no source names: 9 B" == lines[-1]


def test_ls_as_json_has_everything_in_full(run: Run, store: BlobStore) -> None:
    (one, two) = source(store, URL, ONE, TWO, used_s=1000.0)
    rest = store.add([b"made here"])
    pin(store.root, "operator:" + one.sha256, [one.sha256])
    said = loaded(run("ls", "--json"))
    assert [
        {
            "url": URL,
            "digest": manifests(store.root)[0].digest,
            "files": 2,
            "size_bytes": 3000,
            "present_bytes": 3000,
            "present": "all",
            "used_s": 1000.0,
            "held": False,
            "pinned_by": ["operator:" + one.sha256],
        }
    ] == said["sources"]
    assert [rest.sha256] == [blob["sha256"] for blob in said["unreferenced"]]
    blobs = {blob["sha256"]: blob for blob in loaded(run("ls", "--blobs", "--json"))["blobs"]}
    assert {one.sha256, two.sha256, rest.sha256} == set(blobs)
    assert ([URL], 2000) == (blobs[two.sha256]["urls"], blobs[two.sha256]["size_bytes"])


def test_a_blob_that_two_sources_share_counts_once_and_names_both(run: Run, store: BlobStore) -> None:
    source(store, "s3://a/", ONE, ONE)
    source(store, "s3://b/", ONE)
    listed = run("ls", "--blobs").stdout.splitlines()
    assert 2 == len(listed)
    assert [digest(ONE)[:12], "s3://a/ and 1 more"] == [listed[1].split()[0], listed[1].strip()[-18:]]
    sources = {one["url"]: one for one in loaded(run("ls", "--json"))["sources"]}
    assert (2, 1000) == (sources["s3://a/"]["files"], sources["s3://a/"]["size_bytes"])


def test_looking_whether_a_blob_is_held_leaves_it_free(store: BlobStore) -> None:
    (blob,) = source(store, URL, ONE)
    path = store.path(blob.sha256)
    assert [False, False] == [is_held(path), is_held(path)]
    with store.hold([blob]):
        assert is_held(path)
    assert not is_held(path)
    assert not is_held(store.path(digest(TWO)))


def test_pinners_in_short_words() -> None:
    assert "-" == pinners(())
    assert "operator, 2 snapshots" == pinners(("/s/snapshots/a", "/s/snapshots/b", "operator:x", "operator:y"))
    assert "backup" == pinners(("backup",))


# --- pull ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "a.json").write_bytes(ONE)
    (directory / "b.json").write_bytes(TWO)
    return directory


def test_pull_prints_digests_as_sha256sum_does_and_what_it_moved(run: Run, store: BlobStore, model: Path) -> None:
    result = run("pull", model.as_uri())
    assert 0 == result.exit_code, result.output
    lines = result.stdout.splitlines()
    assert [f"{digest(ONE)}  a.json", f"{digest(TWO)}  b.json"] == lines[:2]
    assert lines[2].startswith("2 files, 3.0 kB: fetched 3.0 kB in ")
    assert lines[2].endswith("/s, resumed 0 B, here already 0 B")
    assert "pull: 0 B of 3.0 kB\n" in result.stderr
    again = run("pull", model.as_uri()).stdout.splitlines()[2]
    assert "fetched 0 B in" in again
    assert again.endswith("resumed 0 B, here already 3.0 kB")


def test_pull_as_json(run: Run, store: BlobStore, model: Path) -> None:
    said = loaded(run("pull", model.as_uri(), "--json", "--pin"))
    took_s, waited_s = said.pop("took_s"), said.pop("waited_s")
    assert 0 <= waited_s <= took_s
    assert {
        "url": model.as_uri(),
        "digest": manifests(store.root)[0].digest,
        "size_bytes": 3000,
        "fetched_bytes": 3000,
        "resumed_bytes": 0,
        "present_bytes": 0,
        "retries": 0,
        "pinned": True,
        "files": [
            {"name": "a.json", "size_bytes": 1000, "sha256": digest(ONE)},
            {"name": "b.json", "size_bytes": 2000, "sha256": digest(TWO)},
        ],
    } == said


def test_a_pin_moves_along_when_the_source_has_changed(run: Run, store: BlobStore, model: Path) -> None:
    url = model.as_uri()
    assert run("pull", url, "--pin").stdout.endswith(", pinned\n")
    (model / "b.json").write_bytes(BIG)
    assert run("pull", url).stdout.endswith(", pinned\n")
    assert {"operator:" + url: {digest(ONE), digest(BIG)}} == owners(store.root)


def test_pull_takes_a_file_from_anywhere_unless_a_root_is_given(run: Run, model: Path, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    refused = run("pull", model.as_uri(), "--file-root", str(tmp_path / "root"))
    assert (1, "") == (refused.exit_code, refused.stdout)
    assert refused.stderr.splitlines()[-1].startswith(f"glowplug: {model.as_uri()}: not below a file root")
    assert 0 == run("pull", model.as_uri(), "--file-root", str(tmp_path)).exit_code


def test_pull_of_what_cannot_be_read_names_the_url(run: Run) -> None:
    for url, reason in (("file:///no/such", "nothing there"), ("model", "no scheme")):
        result = run("pull", url)
        assert (1, True) == (result.exit_code, f"glowplug: {url}: {reason}" in result.stderr), result.stderr


def test_pull_of_more_than_the_budget_is_refused_before_a_byte(
    run: Run, store: BlobStore, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOWPLUG_CACHE_BYTES", "2500")
    result = run("pull", model.as_uri())
    assert (1, "") == (result.exit_code, result.stdout)
    assert "no room for 3.0 kB more" in result.stderr
    assert () == take(store).blobs


def test_ctrl_c_during_a_pull_says_what_is_kept(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(url: str, store: BlobStore, *, report: Any, **_: Any) -> None:
        report(Progress("a.json", 1000, 3000, 1000))
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "fetch", interrupted)
    result = run("pull", model.as_uri())
    assert 130 == result.exit_code
    last = result.stderr.splitlines()[-1]
    assert "glowplug: interrupted; 1.0 kB of 3.0 kB had arrived; the same command goes on from there" == last


def test_what_a_fetch_did_in_words() -> None:
    manifest = Manifest(URL, (ManifestFile("a", 1000, digest(ONE)), ManifestFile("b", 1000, digest(ONE))))
    fetched = Fetched(manifest, 600, 300, retries=2, waited_s=1.0, took_s=3.0)
    assert (
        "2 files, 2.0 kB: fetched 600 B in 3.0 s, 300 B/s, resumed 300 B, here already 100 B, 2 retries, "
        "waited 1.0 s for another process"
    ) == words(fetched)


# --- verify ----------------------------------------------------------------------------------------------------------


def damage(store: BlobStore, blob: Blob, data: bytes) -> None:
    path = store.path(blob.sha256)
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def test_verify_names_both_digests_and_repair_discards(run: Run, store: BlobStore) -> None:
    one, two = source(store, URL, ONE, TWO)
    assert "2 blobs read, 0 damaged\n" == run("verify").stdout
    damage(store, two, b"x" * 2000)
    result = run("verify")
    assert 1 == result.exit_code
    said = f"damaged: {store.path(two.sha256)}\n  is {digest(b'x' * 2000)}\n2 blobs read, 1 damaged\n"
    assert said == result.stdout
    assert store.has(two.sha256)
    repaired = run("verify", "--repair", "--json")
    assert 1 == repaired.exit_code
    assert [(two.sha256, digest(b"x" * 2000), True)] == [
        (row["sha256"], row["found"], row["discarded"]) for row in json.loads(repaired.stdout)["damaged"]
    ]
    assert [True, False] == [store.has(one.sha256), store.has(two.sha256)]
    assert "2 blobs read" not in run("verify").stdout


def test_verify_reads_only_what_is_named(run: Run, store: BlobStore) -> None:
    one, two = source(store, URL, ONE, TWO)
    other = store.add([BIG])
    damage(store, other, b"")
    assert "2 blobs read, 0 damaged\n" == run("verify", URL, one.sha256[:8]).stdout
    store.discard(two.sha256)
    assert (0, "1 blob read, 1 not in the store, 0 damaged\n") == (
        run("verify", URL).exit_code,
        run("verify", URL).stdout,
    )
    assert 1 == run("verify", other.sha256).exit_code


def test_a_disk_that_fails_is_damage_and_no_traceback(
    run: Run, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = source(store, URL, ONE)

    def fail(descriptor: int, count: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "read", fail)
    assert "unreadable: Input/output error" == digest_of(store.path(one.sha256), lambda done: None)


# --- prune and pin ---------------------------------------------------------------------------------------------------


def test_prune_evicts_what_was_used_longest_ago_and_forgets_empty_sources(run: Run, store: BlobStore) -> None:
    source(store, "s3://old/", BIG, used_s=1000.0)
    source(store, "s3://new/", ONE, TWO, used_s=2000.0)
    planned = run("prune", "--to", "3000", "--dry-run")
    assert 0 == planned.exit_code
    assert 2 == len(manifests(store.root))
    result = run("prune", "--to", "3000")
    assert 0 == result.exit_code
    assert (
        "freed 30.0 kB in 1 blob\nforgot s3://old/: none of its blobs is left\n3.0 kB stayed: 0 B held, 0 B pinned\n"
    ) == result.stdout
    assert (
        planned.stdout.replace("would free", "freed").replace("would forget", "forgot").replace("would stay", "stayed")
        == result.stdout
    )
    assert ["s3://new/"] == [one.url for one in manifests(store.root)]


def test_prune_leaves_what_is_held_or_pinned_and_says_so(run: Run, store: BlobStore) -> None:
    (held,) = source(store, "s3://held/", ONE)
    (kept,) = source(store, "s3://kept/", TWO)
    source(store, "s3://free/", BIG)
    pin(store.root, "operator:s3://kept/", [kept.sha256])
    with store.hold([held]):
        dry = loaded(run("prune", "--to", "500", "--dry-run", "--json"))
        assert 3 == len(take(store).blobs)
        result = run("prune", "--to", "500")
        everything = run("prune", "--all")
    assert 1 == result.exit_code  # what was asked was not done
    assert "3.0 kB stayed: 1.0 kB held, 2.0 kB pinned" in result.stdout
    assert "that is 2.5 kB more than asked for; what is held or pinned is not evicted" in result.stdout
    assert (1, 30_000, 3000, 2500) == tuple(
        dry[name] for name in ("freed_blobs", "freed_bytes", "left_bytes", "short_bytes")
    )
    assert (0, False) == (everything.exit_code, "more than asked" in everything.stdout)
    assert {held.sha256, kept.sha256} == {blob.sha256 for blob in take(store).blobs}


def test_prune_without_a_size_goes_down_to_the_budget(
    run: Run, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    source(store, "s3://old/", BIG, used_s=1000.0)
    source(store, "s3://new/", ONE, used_s=2000.0)
    assert run("prune").stdout.startswith("freed 0 B in 0 blobs\n")
    monkeypatch.setenv("GLOWPLUG_CACHE_BYTES", "10K")
    assert run("prune").stdout.startswith("freed 30.0 kB in 1 blob\n")


def test_prune_sweeps_partial_files_of_the_dead_and_of_nobody_else(run: Run, store: BlobStore) -> None:
    source(store, URL, ONE)
    (store.root / "partial" / "dead.part").write_bytes(b"half")
    with store.writing() as writer:
        writer.write(b"living")
        assert "removed 1 partial file of downloads that died\n" in run("prune").stdout
        assert 1 == len(list((store.root / "partial").glob("*.part")))


def test_all_and_to_exclude_each_other(run: Run) -> None:
    result = run("prune", "--all", "--to", "1G")
    assert (2, True) == (result.exit_code, "--to and --all exclude each other" in result.stderr)


def test_pins_are_listed_added_and_removed(run: Run, store: BlobStore) -> None:
    one, _ = source(store, URL, ONE, TWO)
    assert f"pinned {URL}\npinned {one.sha256[:12]}\n" == run("pin", URL, one.sha256[:12]).stdout
    rows = [line.split() for line in run("pin").stdout.splitlines()]
    assert ["PIN", "BY", "BLOBS", "HERE"] == rows[0]
    assert [URL, "operator", "2", "3.0", "kB"] in rows
    said = {row["owner"]: row["blobs"] for row in loaded(run("pin", "--json"))["pins"]}
    assert {"operator:" + URL, "operator:" + one.sha256} == set(said)
    assert [one.sha256] == said["operator:" + one.sha256]
    assert 0 == run("pin", "--remove", URL, one.sha256[:8]).exit_code
    assert {} == owners(store.root)


def test_a_pin_that_is_not_there_cannot_be_removed(run: Run, store: BlobStore, tmp_path: Path) -> None:
    (one,) = source(store, URL, ONE)
    pin(store.root, str(tmp_path), [one.sha256])
    for name in (URL, one.sha256, str(tmp_path)):
        result = run("pin", "--remove", name)
        assert (1, True) == (result.exit_code, f"{name}: not pinned by the operator" in result.stderr)
    assert 2 == run("pin", "--remove").exit_code
    assert [str(tmp_path)] == list(owners(store.root))


def test_a_pin_of_what_is_partly_gone_stands_and_says_so(run: Run, store: BlobStore) -> None:
    _, two = source(store, URL, ONE, TWO)
    store.discard(two.sha256)
    result = run("pin", URL)
    assert 1 == result.exit_code
    assert f"glowplug: {URL}: pinned, but 1 of its 2 blobs are not in the store" in result.stderr
    assert {"operator:" + URL: {digest(ONE), digest(TWO)}} == owners(store.root)


# --- df --------------------------------------------------------------------------------------------------------------


def test_df_counts_what_is_held_pinned_and_evictable(
    run: Run, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, kept, _ = source(store, URL, ONE, TWO, BIG)
    pin(store.root, "operator:x", [kept.sha256])
    (store.root / "partial" / "dead.part").write_bytes(b"x" * 8192)
    monkeypatch.setenv("GLOWPLUG_CACHE_BYTES", "20K")
    monkeypatch.setenv("GLOWPLUG_CACHE_RESERVE_BYTES", "7M")
    write_profile(store.root, DiskProfile(1, 8 << 20, 1.2e9, True, device_of(store.root), ((1, 1.2e9), (4, 1.05e9))))
    with store.hold([held]):
        said = loaded(run("df", "--json"))
    assert {"blobs": 3, "blob_bytes": 33_000, "held_bytes": 1000, "pinned_bytes": 2000, "evictable_bytes": 30_000,
            "budget_bytes": 20 * 1024, "reserve_bytes": 7 * 1024**2}.items() <= said.items()  # fmt: skip
    assert said["partial_bytes"] >= 8192
    printed = run("df").stdout
    assert "20.5 kB" in printed
    assert "too much" in printed
    assert "1.20 GB/s  with 1 reader (4 readers: 1.05)" in printed
    assert all(len(line) <= 80 for line in printed.splitlines()[1:])


def test_df_shows_an_index_that_is_gone_or_behind(run: Run, store: BlobStore) -> None:
    (one,) = source(store, URL, ONE)
    assert ["made anew", "ok"] == [loaded(run("df", "--json"))["index"] for _ in range(2)]
    store.path(one.sha256).unlink()
    assert "behind" == loaded(run("df", "--json"))["index"]
    run("prune")
    run("prune", "--to", "1G")
    assert "ok" == loaded(run("df", "--json"))["index"]
    store.index.close()
    for path in store.root.glob("index.db*"):
        path.write_bytes(b"not a database" * 100)
    assert "made anew" == loaded(run("df", "--json"))["index"]


def test_df_of_a_store_that_is_not_there_makes_none(run: Run, store: BlobStore) -> None:
    assert "no store here yet" in run("df").stdout
    assert not store.root.exists()


# --- progress --------------------------------------------------------------------------------------------------------


def test_progress_names_the_step_and_who_fetches() -> None:
    event = {"step": "pull", "file": "a", "done_bytes": 5e6, "total_bytes": 1e7, "following": True}
    assert Step("pull", "a 5.0 MB of 10.0 MB, by another process", 0.5) == step_of(event)
    checked = {"step": "verify", "file": "abc", "done_bytes": 0, "total_bytes": 10}
    assert Step("verify", "abc 0 B of 10 B", 0.0) == step_of(checked)
