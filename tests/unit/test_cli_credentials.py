"""``glowplug credentials``, and with which key a command signs what it asks."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from glowplug.deploy.cli import main
from glowplug.deploy.cli.options import connect
from glowplug.deploy.client import NodeClient
from glowplug.runtime import operatorkey, sigv4
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.credentials import CredentialsFile
from glowplug.runtime.errors import InvalidSignature, MissingAuthenticationToken, StateError
from glowplug.runtime.sigv4 import Key
from glowplug.runtime.state import StateDirectory

KEY = Key("AKIAEXAMPLE00000", "s3cr3t/s3cr3t+s3cr3t")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GLOWPLUG_HOME", str(tmp_path))

    def run_(*arguments: str) -> Result:
        given = ["credentials", *arguments]
        monkeypatch.setattr(sys, "argv", ["glowplug", *given])
        return CliRunner().invoke(main, given)

    return run_


def test_a_secret_is_printed_once(run: Any, tmp_path: Path) -> None:
    added = run("add", "ci")
    key_id, secret = (line.partition("=")[2] for line in added.stdout.splitlines())
    found = CredentialsFile(tmp_path / "credentials.toml", "000000000000").find(key_id)
    assert found is not None
    assert (secret, {"control", "invoke"}) == (found.key.secret_access_key, set(found.principal.rights))
    listed = run("list")
    assert [key_id in listed.stdout, secret in listed.stdout] == [True, False]
    assert secret not in run("list", "--json").stdout


def test_add_list_and_remove_as_json(run: Any) -> None:
    added = json.loads(run("add", "app", "--invoke-only", "--json").stdout)
    secret = added.pop("secret_access_key")
    assert (["invoke"], "arn:aws:iam::000000000000:user/app") == (added["rights"], added["arn"])
    assert {"credentials": [added]} == json.loads(run("list", "--json").stdout)
    assert len(secret) == 40
    assert {"removed": "app"} == json.loads(run("remove", "app", "--json").stdout)
    assert "no credentials" in run("list").stderr


def test_another_file_may_be_named(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOWPLUG_CREDENTIALS", str(tmp_path / "elsewhere" / "keys.toml"))
    assert run("add", "ci").exit_code == 0
    assert (tmp_path / "elsewhere" / "keys.toml").exists()
    assert not (tmp_path / "credentials.toml").exists()


def test_what_is_refused_ends_in_words(run: Any) -> None:
    refused = run("remove", "nobody")
    assert (1, True) == (refused.exit_code, "there is no credential 'nobody'" in refused.stderr)


# --- signing ----------------------------------------------------------------------------------------------------------


def test_what_a_client_with_a_key_asks_is_signed(scripted: Any) -> None:
    client = NodeClient(scripted.client.endpoint, KEY)
    client.logs("embed", request_id="x&y")
    client.invoke("a:b", b'{"a": 1}', qualifier="live")
    for method, target, headers, body in scripted.asked:
        path, _, query = target.partition("?")
        lower = {name.lower(): value for name, value in headers.items()}
        claim = sigv4.claim_of(query, lower)
        sigv4.check_time(claim, time.time())
        request = sigv4.Signable(method, path, query, lower)
        sigv4.check_signature(claim, KEY.secret_access_key, request, claim.content_sha256)
        assert hashlib.sha256(body).hexdigest() == claim.content_sha256
        assert KEY.secret_access_key not in str(headers)


def test_a_file_that_is_sent_is_not_read_twice_to_sign_it(scripted: Any) -> None:
    NodeClient(scripted.client.endpoint, KEY).import_snapshot(io.BytesIO(b"file"), 4, wait=False)
    _, _, headers, body = scripted.asked[0]
    assert (sigv4.UNSIGNED_PAYLOAD, b"file") == (headers["x-amz-content-sha256"], body)


def test_a_node_that_asks_who_calls_says_how_to_tell_it(scripted: Any) -> None:
    scripted.say(
        {"message": "Missing Authentication Token"}, 403, x_amzn_ErrorType="MissingAuthenticationTokenException"
    )
    with pytest.raises(MissingAuthenticationToken, match=r"set GLOWPLUG_ACCESS_KEY_ID .* or name its state directory"):
        scripted.client.functions()
    scripted.say({"message": "no"}, 403, x_amzn_ErrorType="InvalidSignatureException")
    with pytest.raises(InvalidSignature, match="no"):
        scripted.client.functions()


def signs_with(client: NodeClient) -> Key | None:
    return client._exchange.key


def test_the_environments_key_comes_before_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOWPLUG_HOME", str(tmp_path))
    with StateDirectory(NodeConfig(state=tmp_path, cache=tmp_path / "cache")) as state:
        state.create()
        state.lock()
        state.announce("http://127.0.0.1:3")
        assert signs_with(connect(None, None)) is None  # a node that asks nobody
        own = operatorkey.make(tmp_path)
        for endpoint, directory in ((None, None), (None, tmp_path), ("127.0.0.1:3", None), ("http://box:4", tmp_path)):
            assert own == signs_with(connect(endpoint, directory))
        assert signs_with(connect("http://127.0.0.1:4", None)) is None  # another node, which has another key
        monkeypatch.setenv("GLOWPLUG_ACCESS_KEY_ID", KEY.access_key_id)
        with pytest.raises(StateError, match="go together"):
            connect(None, None)
        monkeypatch.setenv("GLOWPLUG_SECRET_ACCESS_KEY", KEY.secret_access_key)
        for endpoint in (None, "http://127.0.0.1:3", "http://127.0.0.1:4"):
            assert KEY == signs_with(connect(endpoint, None))
