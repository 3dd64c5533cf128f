"""The credentials file, the operator's key, and the keyring that finds them: who is known, and which files are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from glowplug.runtime import operatorkey
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.credentials import CredentialsFile
from glowplug.runtime.errors import StateError
from glowplug.runtime.keyring import Access, NodeKeyring
from glowplug.runtime.routing.environment import Site, credentials
from glowplug.runtime.sigv4 import Key

HERE = "000000000000"
SECRET = "s3cr3t/s3cr3t+s3cr3t"
ONE = f"""
[[credential]]
name = "ann"
access_key_id = "AKIAEXAMPLE00000"
secret_access_key = "{SECRET}"
rights = ["invoke"]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "c.toml"


def written(path: Path, text: str, mode: int = 0o600) -> CredentialsFile:
    path.write_text(text)
    path.chmod(mode)
    return CredentialsFile(path, HERE)


def test_a_credential_says_who_it_is(path: Path) -> None:
    file = written(path, ONE)
    identity = file.read()["AKIAEXAMPLE00000"]
    who = identity.principal
    assert ("ann", HERE, f"arn:aws:iam::{HERE}:user/ann") == (who.name, who.account_id, who.arn)
    assert (True, False, False) == (who.may("invoke"), who.may("queue"), who.may("control"))
    assert Key("AKIAEXAMPLE00000", SECRET) == identity.key
    assert who.user_id.startswith("AIDA")
    assert SECRET not in f"{identity!r} {file!r}"


def test_a_file_that_is_missing_has_no_credentials(path: Path) -> None:
    file = CredentialsFile(path, HERE)
    assert (0, None) == (len(file.read()), file.find("AKIAEXAMPLE00000"))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o602])
def test_a_file_that_others_may_read_or_write_is_refused_by_name(path: Path, mode: int) -> None:
    with pytest.raises(StateError, match=rf"c\.toml: others than its owner .*mode {mode:04o}.*chmod 600"):
        written(path, ONE, mode).read()


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    file = written(path, ONE)
    os.chown(path, 12345, -1)
    with pytest.raises(StateError, match="belongs to user 12345"):
        file.read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[credential]", "not TOML"),
        ("[credential]\nname = 'x'", "must hold"),
        ("other = 1", "must hold"),
        (ONE + "color = 'red'", "color: no such key"),
        (ONE.replace('name = "ann"', ""), "name: missing"),
        (ONE.replace("ann", "a b"), "credential 1: name: does not match"),
        (ONE.replace("AKIAEXAMPLE00000", "AKIA"), "access_key_id: does not match"),
        (ONE.replace(f'"{SECRET}"', "1"), "secret_access_key: does not match"),
        (ONE.replace(SECRET, SECRET + " "), "secret_access_key: does not match"),
        (ONE.replace('["invoke"]', "[]"), "rights: must be a list with some of control, invoke, queue"),
        (ONE.replace('["invoke"]', '["all"]'), "rights: must be"),
        (ONE.replace('["invoke"]', '"invoke"'), "rights: must be"),
        (ONE + ONE, "credential 2 (ann): its name or its access key id is there twice"),
        (
            ONE.replace('["invoke"]', '["control"]\naccount_id = "111122223333"'),
            "control is for the node's own account",
        ),
        (ONE + "arn = 'me'", "arn: does not match"),
    ],
)
def test_what_a_credential_cannot_be_is_named_without_its_secret(path: Path, text: str, message: str) -> None:
    with pytest.raises(StateError) as refused:
        written(path, text).read()
    assert str(path) in str(refused.value)
    assert message in str(refused.value)
    assert SECRET not in str(refused.value)


def test_what_is_added_is_found_and_what_is_removed_is_not(path: Path) -> None:
    node, command = CredentialsFile(path, HERE), CredentialsFile(path, HERE)
    ci = command.add("ci", ("control", "invoke"))
    ann = command.add("ann", ("invoke",))
    assert 0o600 == path.stat().st_mode & 0o777
    assert ci == node.find(ci.key.access_key_id)
    assert len(ci.key.secret_access_key) >= 40
    assert ci.key != ann.key
    with pytest.raises(StateError, match="there is a credential 'ci' already"):
        command.add("ci", ("invoke",))
    with pytest.raises(StateError, match="is not a name"):
        command.add("c i", ("invoke",))
    command.remove("ci")
    assert (None, ann) == (node.find(ci.key.access_key_id), node.find(ann.key.access_key_id))
    with pytest.raises(StateError, match="there is no credential 'ci'"):
        command.remove("ci")


def test_comments_stay_where_a_credential_is_added(path: Path) -> None:
    written(path, "# ours\n" + ONE).add("ci", ("invoke",))
    assert path.read_text().startswith("# ours\n")


def test_a_file_that_breaks_while_the_node_runs_leaves_what_was_read(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(path, ONE)
    file.read()
    path.write_text(ONE + "[[")
    assert file.find("AKIAEXAMPLE00000") is not None
    assert file.find("AKIAEXAMPLE00000") is not None
    assert 1 == len(caplog.messages)
    assert "the credentials that were read before stay" in caplog.text
    assert SECRET not in caplog.text
    path.unlink()
    assert file.find("AKIAEXAMPLE00000") is None


# --- whether signatures are asked for ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "configured", "required", "guarded"),
    [
        ("auto", False, False, False),
        ("auto", True, True, True),
        ("on", False, True, False),
        ("on", True, True, True),
        ("off", True, False, False),
    ],
)
def test_signatures_are_asked_for_where_credentials_are(
    path: Path, tmp_path: Path, auth: str, configured: bool, required: bool, guarded: bool
) -> None:
    if configured:
        written(path, ONE)
    config = NodeConfig(tmp_path, tmp_path, auth=auth, credentials=path if configured else None)
    access = Access.of(config)
    assert (required, guarded) == (access.required, access.guarded)


def test_the_file_of_the_state_directory_counts(tmp_path: Path) -> None:
    written(tmp_path / "credentials.toml", ONE)
    assert Access.of(NodeConfig(tmp_path, tmp_path)).required


def test_a_file_that_was_named_and_is_not_there_is_an_error(path: Path, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"c\.toml: no such file"):
        Access.of(NodeConfig(tmp_path, tmp_path, credentials=path))


# --- all keys ---------------------------------------------------------------------------------------------------------


def keyring(path: Path, tmp_path: Path, functions: dict[str, object], site: Site, auth: str = "on") -> NodeKeyring:
    written(path, ONE)
    access = Access.of(NodeConfig(tmp_path, tmp_path, auth=auth, credentials=path))
    return access.keyring(tmp_path, site, lambda: functions)


def test_the_operators_key_controls_and_is_for_its_owners_eyes(path: Path, tmp_path: Path) -> None:
    keys = keyring(path, tmp_path, {}, Site("http://node"))
    key = operatorkey.read(tmp_path)
    assert key is not None
    found = keys.find(key.access_key_id)
    assert found is not None
    assert (key, True) == (found.key, found.principal.may("control"))
    assert 0o600 == (tmp_path / "operator.json").stat().st_mode & 0o777
    assert key != operatorkey.make(tmp_path)  # another with each start


def test_without_signatures_there_is_no_operators_key(path: Path, tmp_path: Path) -> None:
    keyring(path, tmp_path, {}, Site("http://node"))
    keys = keyring(path, tmp_path, {}, Site("http://node"), auth="off")
    assert operatorkey.read(tmp_path) is None
    assert keys.find("AKIAEXAMPLE00000") is not None  # function URLs with AWS_IAM ask all the same


def test_an_operators_key_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "operator.json").write_text("{}")
    with pytest.raises(StateError, match=r"operator\.json: is no operator's key"):
        operatorkey.read(tmp_path)


def test_a_function_is_its_roles_session_and_controls_nothing(path: Path, tmp_path: Path) -> None:
    site, functions = Site("http://node"), dict.fromkeys(["echo", "embed"])
    keys = keyring(path, tmp_path, functions, site)
    own = credentials(site, "embed")
    found = keys.find(own.access_key_id)
    assert found is not None
    assert Key(own.access_key_id, own.secret_access_key, own.session_token) == found.key
    who = found.principal
    assert f"arn:aws:sts::{HERE}:assumed-role/embed/embed" == who.arn
    assert (True, True, False) == (who.may("invoke"), who.may("queue"), who.may("control"))
    functions["late"] = None
    assert keys.find(credentials(site, "late").access_key_id) is not None
    del functions["embed"]
    assert keys.find(own.access_key_id) is None
    assert keys.find(credentials(Site("http://node"), "echo").access_key_id) is None  # of another node
