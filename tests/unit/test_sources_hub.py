"""The Hugging Face Hub, as a small server that answers what huggingface_hub 2.4 asks when it resolves and lists.

``HF_ENDPOINT`` and ``HF_TOKEN`` are read when huggingface_hub is imported, so what the tests look at comes from one
program that has them in its environment, as a user would.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from glowplug.cache.errors import SourceInvalid
from glowplug.cache.sources.table import open_source

COMMIT, MOVED = "c" * 40, "d" * 40
WEIGHTS = bytes(range(256)) * 4
SHA256 = "ab" * 32
INDEX = json.dumps({"weight_map": {"t": "model.safetensors"}}).encode()

PROGRAM = """
import json, sys
from glowplug.cache.errors import CacheError
from glowplug.cache.sources.table import open_source
for url in sys.argv[1:]:
    try:
        rows = [
            [file.name, file.size, file.version, file.sha256, file.ranged, file.connections, file.open().read().hex(),
             file.open(3, 7).read().hex() if file.ranged else ""]
            for file in open_source(url)
        ]
    except CacheError as error:
        rows = [type(error).__name__, str(error)]
    print(json.dumps(rows), flush=True)
"""

URLS = {
    "all": "hf://org/name",
    "branch": "hf://org/name@main/config.json",
    "folder": "hf://org/name@v1.0/sub",
    "index": "hf://org/name/model.safetensors.index.json",
    "data": "hf://datasets/org/name/sub",
    "no repository": "hf://org/absent",
    "no revision": "hf://org/name@absent",
    "no path": "hf://org/name/absent",
    "gated": "hf://org/gated",
    "busy": "hf://org/busy",
    "no name": "hf://name",
    "outside": "hf://org/hostile",
}


class Hub(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str]] = []


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    files: ClassVar = {
        "config.json": b"{}",
        "model.safetensors": WEIGHTS,
        "model.safetensors.index.json": INDEX,
        "sub/x.json": b"x",
    }

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append((path, self.headers.get("Authorization", "")))
        for kind in ("/api/models/", "/api/datasets/"):
            if path.startswith(kind):
                organisation, name, *rest = path.removeprefix(kind).split("/")
                return self._api(f"{organisation}/{name}", rest)
        if path.startswith("/cdn/"):
            return self._bytes(path.removeprefix("/cdn/"))
        repository, _, located = path.removeprefix("/datasets").removeprefix("/").partition("/resolve/")
        commit, _, name = located.partition("/")
        if repository != "org/name" or commit != COMMIT:
            return self._say(404, b"no such commit")
        if name.endswith(".safetensors"):  # large files are elsewhere: another origin, which must not see the token
            return self._say(302, b"", Location=f"http://localhost:{self.server.server_port}/cdn/{name}")
        return self._bytes(name)

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _api(self, repository: str, rest: list[str]) -> None:
        if repository == "org/gated":
            return self._say(403, b"{}", **{"X-Error-Code": "GatedRepo"})
        if repository == "org/busy":
            return self._say(400, b"{}")
        if repository not in ("org/name", "org/hostile"):
            return self._say(404, b"{}", **{"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["tree"]:
            return self._tree(repository, "/".join(rest[2:]), rest[1])
        revision = rest[1] if rest[:1] == ["revision"] else "main"
        if revision == "absent":
            return self._say(404, b"{}", **{"X-Error-Code": "RevisionNotFound"})
        return self._json({"id": repository, "sha": COMMIT})

    def _tree(self, repository: str, below: str, commit: str) -> None:
        assert COMMIT == commit, "a listing that is not of the commit"
        if repository == "org/hostile":
            return self._json([{"type": "file", "oid": "b", "size": 1, "path": "../../etc/passwd"}])
        found = [name for name in self.files if not below or name.startswith(f"{below}/")]
        if not found:
            return self._say(404, b"{}", **{"X-Error-Code": "EntryNotFound"})
        return self._json([self._entry(name) for name in found])

    def _entry(self, name: str) -> dict[str, Any]:
        entry = {"type": "file", "oid": f"blob-{name}", "size": len(self.files[name]), "path": name}
        if name.endswith(".safetensors"):
            entry["lfs"] = {"oid": SHA256, "size": len(WEIGHTS), "pointerSize": 134}
        return entry

    def _bytes(self, name: str) -> None:
        body, wanted = self.files[name], self.headers.get("Range")
        if not wanted:
            return self._say(200, body)
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        return self._say(206, body[first : last + 1], **{"Content-Range": f"bytes {first}-{last}/{len(body)}"})

    def _json(self, value: object) -> None:
        self._say(200, json.dumps(value).encode(), **{"Content-Type": "application/json"})

    def _say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def read(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What the program says of each of ``URLS``."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_TOKEN": "hf_secret",
        "HF_HOME": str(tmp_path_factory.mktemp("hf")),
    }
    command = [sys.executable, "-c", PROGRAM, *URLS.values()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    return dict(zip(URLS, map(json.loads, done.stdout.splitlines()), strict=True))


def test_a_repository_is_listed_and_read_at_one_commit(read: dict[str, list[Any]]) -> None:
    config, weights, index, sub = read["all"]
    assert ["config.json", 2, f"{COMMIT} blob-config.json", "", False, 1, b"{}".hex(), ""] == config
    assert [
        "model.safetensors",
        1024,
        f"{COMMIT} blob-model.safetensors",
        SHA256,
        True,
        4,
        WEIGHTS.hex(),
        WEIGHTS[3:7].hex(),
    ] == weights
    assert ["model.safetensors.index.json", "sub/x.json"] == [index[0], sub[0]]


def test_a_file_a_folder_and_an_index(read: dict[str, list[Any]]) -> None:
    assert [["config.json"], ["x.json"], ["x.json"]] == [
        [row[0] for row in read[what]] for what in ("branch", "folder", "data")
    ]
    assert ["model.safetensors", "model.safetensors.index.json"] == [row[0] for row in read["index"]]


def test_the_token_goes_to_the_hub_and_not_to_where_it_redirects(hub: Hub, read: dict[str, list[Any]]) -> None:
    seen = {path.split("/")[1] if path.startswith(("/cdn", "/api")) else "resolve": token for path, token in hub.asked}
    assert {"api": "Bearer hf_secret", "resolve": "Bearer hf_secret", "cdn": ""} == seen


@pytest.mark.parametrize(
    ("what", "kind"),
    [
        ("no repository", "SourceNotFound"),
        ("no revision", "SourceNotFound"),
        ("no path", "SourceNotFound"),
        ("gated", "SourceForbidden"),
        ("busy", "SourceInvalid"),
        ("no name", "SourceInvalid"),
        ("outside", "SourceInvalid"),
    ],
)
def test_what_the_hub_refuses(read: dict[str, list[Any]], what: str, kind: str) -> None:
    error, message = read[what]
    assert (kind, True) == (error, message.startswith(URLS[what]))


def test_without_huggingface_hub_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(SourceInvalid, match=r'pip install "glowplug\[hf\]"'):
        open_source("hf://org/name")


def test_the_extra_is_there_to_be_installed() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "hf" in project["optional-dependencies"]
