"""The command line: what it prints, where, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from glowplug.deploy.cli import COMMANDS, main
from glowplug.deploy.cli.functions import last_start, waiting, with_last_start
from glowplug.deploy.cli.logs import added
from glowplug.deploy.cli.options import connect
from glowplug.deploy.cli.output import ago, milliseconds, size
from glowplug.deploy.cli.progress import Lines, Step, step_of
from glowplug.deploy.errors import NodeUnreachable
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.state import StateDirectory

START = {"function": "embed", "tier": "parked", "total_ms": 12.34, "outcome": "ready", "started_at_s": 0.0}
EMBED = {
    "name": "embed",
    "tier": "hot",
    "instances": 2,
    "busy": 1,
    "held": 0,
    "events": 0,
    "oldest_event_s": 0.0,
    "event_retries": 0,
    "dead_letters": 0,
    "engine": "aot_inductor",
    "engines": [{"model": "", "engine": "aot_inductor", "state": "ready", "reason": ""}],
    "urls": ["http://127.0.0.1:9000/_url/embed/"],
    "routes": [],
}
LONG = EMBED | {"name": "a" * 64, "tier": "stored", "engine": "", "engines": [], "urls": []}


@pytest.fixture
def run(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GLOWPLUG_ENDPOINT", scripted.client.endpoint)

    def run_(*arguments: str, stdin: str | None = None) -> Result:
        monkeypatch.setattr(sys, "argv", ["glowplug", *arguments])
        return CliRunner().invoke(main, arguments, input=stdin)

    return run_


def test_every_command_is_there_with_the_help_that_is_shown_for_it() -> None:
    context = click.Context(main)
    for name, (_, text) in COMMANDS.items():
        command = main.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help
        assert text


@pytest.mark.slow
def test_help_is_quick_and_imports_none_of_the_heavy_things() -> None:
    program = (
        "import sys\n"
        "from glowplug.deploy.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'aiohttp', 'uvloop', 'torch', 'numpy', 'boto3', 'samtranslator', 'yaml', 'rich', 'sqlite3', 'ssl'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    started_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert time.monotonic() - started_s < 2  # 0.06 s on an idle machine; the promise is 0.5 s
    assert all(text in done.stdout for _, text in COMMANDS.values())


def test_an_unknown_command_names_the_nearest_one(run: Any) -> None:
    result = run("invok")
    assert result.exit_code == 2
    assert "No such command 'invok'. Did you mean 'invoke'?" in result.stderr


def test_ls_is_a_table_of_at_most_80_columns_that_cuts_nothing(run: Any, scripted: Any) -> None:
    scripted.say({"functions": [EMBED, LONG]}, path="/_glowplug/functions")
    scripted.say({"starts": [START | {"started_at_s": time.time() - 180}, START]}, path="/_glowplug/starts")
    result = run("ls")
    assert result.exit_code == 0, result.output
    table, urls = result.stdout.split("\n\n")
    lines = table.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].split() == ["FUNCTION", "TIER", "BUSY", "HELD", "ENGINE", "LAST", "START"]
    assert "".join(line[:22].strip() for line in lines[2:]).count("a") >= 60  # folded over lines, not cut
    assert "".join(lines).count("a" * 5) >= 12
    assert urls == "http://127.0.0.1:9000/_url/embed/\n"


def test_ls_of_ordinary_names_takes_one_line_each(run: Any, scripted: Any) -> None:
    scripted.say({"functions": [EMBED]}, path="/_glowplug/functions")
    scripted.say({"starts": [START | {"started_at_s": time.time() - 180}, START]}, path="/_glowplug/starts")
    assert run("ls").stdout.splitlines()[1].split("  ")[-1].strip() == "12.3 ms from parked, 3 min ago"


@pytest.mark.parametrize(
    ("figures", "told"),
    [
        ({}, ""),
        ({"events": 12, "oldest_event_s": 3.4}, "12, oldest 3 s"),
        ({"events": 1, "event_retries": 2, "dead_letters": 1}, "1, oldest 0 s; 2 retries, 1 dead letter"),
        ({"event_retries": 1, "dead_letters": 2}, "1 retry, 2 dead letters"),
    ],
)
def test_ls_tells_of_events_what_waits_and_what_went_wrong(figures: dict[str, Any], told: str) -> None:
    assert told == waiting(EMBED | figures)


def test_ls_has_a_column_of_events_where_a_function_has_any(run: Any, scripted: Any) -> None:
    scripted.say({"functions": [EMBED, EMBED | {"name": "other", "dead_letters": 3}]}, path="/_glowplug/functions")
    scripted.say({"starts": []}, path="/_glowplug/starts")
    heading, *rows = run("ls").stdout.split("\n\n")[0].splitlines()
    assert heading.split()[-1] == "EVENTS"
    assert [row.split()[-1] for row in rows] == ["-", "letters"]


def test_ls_as_json_has_what_the_node_said_and_the_last_start(run: Any, scripted: Any) -> None:
    scripted.say({"functions": [EMBED]}, path="/_glowplug/functions")
    scripted.say({"starts": [START]}, path="/_glowplug/starts")
    assert json.loads(run("ls", "--json").stdout) == {"functions": [EMBED | {"last_start": START}]}


def test_ls_of_nothing_keeps_stdout_empty(run: Any, scripted: Any) -> None:
    scripted.say({"functions": [], "starts": []})
    result = run("ls")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "glowplug deploy" in result.stderr


def test_invoke_prints_the_payload_alone_and_the_log_on_stderr(run: Any, scripted: Any) -> None:
    scripted.say(b'{"embedding":[1]}', X_Amz_Log_Result="U1RBUlQK")
    result = run("invoke", "embed", "--payload", '{"text": "x"}', "--tail")
    assert (result.exit_code, result.stdout, result.stderr) == (0, '{"embedding":[1]}\n', "START\n")
    assert scripted.asked[0][3] == b'{"text": "x"}'


def test_invoke_of_a_function_that_fails_exits_1(run: Any, scripted: Any) -> None:
    scripted.say(b'{"errorType":"KeyError"}', X_Amz_Function_Error="Unhandled")
    result = run("invoke", "embed")
    assert (result.exit_code, result.stdout) == (1, '{"errorType":"KeyError"}\n')
    assert "embed failed (Unhandled)" in result.stderr
    as_json = run("invoke", "embed", "--json")
    assert as_json.exit_code == 1
    said = json.loads(as_json.stdout)
    assert (said["payload"], said["function_error"]) == ({"errorType": "KeyError"}, "Unhandled")


def test_a_payload_comes_from_stdin_or_a_file(run: Any, scripted: Any, tmp_path: Path) -> None:
    event = tmp_path / "event.json"
    event.write_text('{"b": 2}')
    run("invoke", "embed", "--payload", "-", stdin='{"a": 1}')
    run("invoke", "embed", "--payload", f"@{event}")
    assert [body for _, _, _, body in scripted.asked] == [b'{"a": 1}', b'{"b": 2}']


@pytest.mark.parametrize(("payload", "words"), [("{", "not JSON"), ("@no-such-file", "No such file")])
def test_a_payload_that_cannot_be_read_is_a_usage_error(run: Any, scripted: Any, payload: str, words: str) -> None:
    result = run("invoke", "embed", "--payload", payload)
    assert result.exit_code == 2
    assert words in result.stderr
    assert scripted.asked == []


def test_warm_and_cool_say_the_tier_reached(run: Any, scripted: Any) -> None:
    scripted.say({"tier": "parked"})
    assert run("cool", "embed", "--to", "parked").stdout == "embed is parked\n"
    assert json.loads(run("warm", "embed", "--json").stdout) == {"tier": "parked"}
    assert [path for _, path, _, _ in scripted.asked] == [
        "/_glowplug/functions/embed/cool",
        "/_glowplug/functions/embed/warm",
    ]


def test_a_refusal_is_one_line_on_stderr_and_exit_1(run: Any, scripted: Any) -> None:
    scripted.say(
        {"message": "echo cannot be parked: Parking is off"}, 409, x_amzn_ErrorType="ResourceConflictException"
    )
    result = run("cool", "echo", "--to", "parked")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "glowplug: echo cannot be parked: Parking is off\n"
    assert json.loads(run("cool", "echo", "--to", "parked", "--json").stderr) == {
        "error": {"type": "Conflict", "message": "echo cannot be parked: Parking is off"}
    }


@pytest.mark.parametrize(("state", "code"), [("ready", 0), ("failed", 1), ("unavailable", 1)])
def test_bake_wait_succeeds_only_when_the_engine_is_ready(run: Any, scripted: Any, state: str, code: int) -> None:
    engine = {"model": "minilm", "engine": "eager", "state": state, "reason": "no compiler"}
    events = [{"event": "progress", "function": "embed", "phase": "compile", "fraction": 0.5},
              {"event": "result", "engines": [engine]}]  # fmt: skip
    scripted.say(b"".join(json.dumps(event).encode() + b"\n" for event in events), Content_Type="application/x-ndjson")
    result = run("bake", "embed", "--wait")
    assert result.exit_code == code
    assert result.stdout.startswith("embed minilm: eager")
    assert "bake embed: compile" in result.stderr
    assert json.loads(scripted.asked[0][3]) == {"wait": True, "engine": ""}


# --- snapshot files ---------------------------------------------------------------------------------------------------

RECEIVED = {"key": "ab" * 32, "signer": "cd" * 32, "reused": False, "models": []}


def row(**changed: Any) -> dict[str, Any]:
    return {"function": "f", "model": "", "used": False, "engine": "eager", "state": "ready", "reason": "", **changed}


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ([], "no function has its weights; one that is deployed later uses it without compiling"),
        ([row(used=True, engine="aot_inductor", reason="asked for")], "f uses it: aot_inductor (asked for)"),
        ([row(model="m", state="queued")], "f m has its weights; whether it is the snapshot of this model is seen now"),
        ([row(reason="eager: it is faster")], "f has its weights and does not use it: eager: it is faster"),
        ([row(state="none")], "f has its weights and does not use it: eager was asked for"),
    ],
)
def test_an_import_says_who_uses_it(
    run: Any, scripted: Any, tmp_path: Path, models: list[dict[str, Any]], words: str
) -> None:
    (tmp_path / "a.glowplug").write_bytes(b"file" * 5000)
    scripted.say(RECEIVED | {"models": models})
    result = run("bake", "--import", str(tmp_path / "a.glowplug"))
    assert (0, f"snapshot abababababab is published\n{words}\n") == (result.exit_code, result.stdout)
    assert ("POST", "/_glowplug/snapshots?wait=false", b"file" * 5000) == (
        scripted.asked[0][0], scripted.asked[0][1], scripted.asked[0][3],
    )  # fmt: skip
    said = json.loads(run("bake", "--import", str(tmp_path / "a.glowplug"), "--wait", "--json").stdout)
    assert (RECEIVED | {"models": models}, "/_glowplug/snapshots?wait=true") == (said, scripted.asked[1][1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument 'NAME'"),
        (("--export", "x"), "Missing argument 'NAME'"),
        (("f", "--import", __file__), "--import stands alone"),
        (("--import", __file__, "--export", "x"), "--import stands alone"),
        (("f", "--model", "m"), "--model goes with --export"),
        (("--import", "/no/such"), "does not exist"),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(
    run: Any, scripted: Any, arguments: tuple[str, ...], words: str
) -> None:
    result = run("bake", *arguments)
    assert (2, "") == (result.exit_code, result.stdout)
    assert words in result.stderr
    assert [] == scripted.asked


def test_an_export_needs_a_key_and_a_node_that_sends_all_of_it(run: Any, scripted: Any, tmp_path: Path) -> None:
    target = tmp_path / "a.glowplug"
    result = run("bake", "f", "--export", str(target))
    assert (1, []) == (result.exit_code, scripted.asked)
    assert "--key or GLOWPLUG_SIGNING_KEY; `openssl genpkey -algorithm ed25519" in result.stderr
    key = tmp_path / "signing.pem"
    key.write_text("no key")
    result = run("bake", "f", "--export", str(target), "--key", str(key))
    assert (1, f"glowplug: {key}: cannot be read as such; it must be a PEM file with an Ed25519 private key\n") == (
        result.exit_code, result.stderr,
    )  # fmt: skip
    key.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    scripted.say(b"half of it")
    result = run("bake", "f", "--export", str(target), "--model", "m", "--key", str(key))
    assert (1, "glowplug: cut off: the file ends before the snapshot does\n") == (result.exit_code, result.stderr)
    run("bake", "f", "--export", str(target), "--wait", "--key", str(key))
    assert ["/_glowplug/functions/f/snapshot?model=m", "/_glowplug/functions/f/bake"] == [
        path for _, path, _, _ in scripted.asked
    ]
    assert not target.exists()


def test_explain_prints_the_nodes_words(run: Any, scripted: Any) -> None:
    scripted.say(b"embed was parked; the request waited 20 ms for a start.\n")
    assert run("explain", "r-1").stdout == "embed was parked; the request waited 20 ms for a start.\n"
    scripted.say(START)
    assert json.loads(run("explain", "r-1", "--json").stdout) == START


def test_logs_prints_lines_and_refuses_what_cannot_be_followed(run: Any, scripted: Any) -> None:
    scripted.say(b"START\nhello\nEND\n")
    assert run("logs", "echo", "--last", "2").stdout == "hello\nEND\n"
    assert json.loads(run("logs", "echo", "--json").stdout) == {"function": "echo", "lines": ["START", "hello", "END"]}
    assert run("logs", "echo", "--follow", "--json").exit_code == 2


def test_deploy_of_a_template_that_is_not_there_is_a_usage_error(run: Any) -> None:
    result = run("deploy", "no-such.yaml")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


# --- which node -------------------------------------------------------------------------------------------------------


def test_what_was_typed_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOWPLUG_ENDPOINT", "http://env:1")
    monkeypatch.setenv("GLOWPLUG_HOME", str(tmp_path / "home"))
    assert connect("http://typed:2", tmp_path).endpoint == "http://typed:2"
    assert connect(None, None).endpoint == "http://env:1"
    with StateDirectory(NodeConfig(state=tmp_path / "s", cache=tmp_path / "s" / "cache")) as state:
        state.create()
        state.lock()
        state.announce("http://127.0.0.1:3")
        assert connect(None, tmp_path / "s").endpoint == "http://127.0.0.1:3"
    with pytest.raises(NodeUnreachable, match=r"no node runs on .*/s; start one with `glowplug up`"):
        connect(None, tmp_path / "s")


def test_a_misspelt_setting_ends_in_words_not_in_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOWPLUG_ENDPOINT", raising=False)
    monkeypatch.setenv("GLOWPLUG_HOEM", "/tmp/x")
    result = CliRunner().invoke(main, ["ls"])
    assert result.exit_code == 1
    assert result.stderr.startswith("glowplug: GLOWPLUG_HOEM: no such setting")
    assert "Traceback" not in result.output


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "glowplug.deploy.cli", "ls", "--endpoint", "http://127.0.0.1:1"],
        capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "80"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "glowplug: no node answers at http://127.0.0.1:1; start one with `glowplug up`\n"


# --- pure parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "now", "new"),
    [
        ([], ["a"], ["a"]),
        (["a", "b"], ["a", "b"], []),
        (["a", "b"], ["a", "b", "c"], ["c"]),
        (["a", "b", "c"], ["b", "c", "d"], ["d"]),
        (["a", "a"], ["a", "a", "a"], ["a"]),
        (["a", "b"], ["x", "y"], ["x", "y"]),
        (["a", "b"], [], []),
    ],
)
def test_added_finds_what_came_after(seen: list[str], now: list[str], new: list[str]) -> None:
    assert added(seen, now) == new


def test_sizes_durations_and_ages_are_short() -> None:
    assert [size(n) for n in (0, 999, 90_900_000, 2.5e12)] == ["0 B", "999 B", "90.9 MB", "2.5 TB"]
    assert [milliseconds(n) for n in (0.04, 7.26, 840.2, 12_100)] == ["0.0 ms", "7.3 ms", "840 ms", "12.1 s"]
    assert [ago(n) for n in (-1, 4, 180, 18_000, 180_000)] == ["0 s ago", "4 s ago", "3 min ago", "5 h ago", "2 d ago"]


def test_last_start_of_a_failed_start_says_so() -> None:
    assert last_start(None) == "-"
    assert last_start(START | {"outcome": "failed", "started_at_s": time.time()}) == "failed, 0 s ago"
    assert with_last_start([{"name": "x"}], [START]) == [{"name": "x", "last_start": None}]


@pytest.mark.parametrize(
    ("event", "step"),
    [
        ({"step": "plan", "stack": "s", "changes": []}, None),
        ({"step": "upload", "code": "/home/me/handlers", "bytes": 1500}, Step("upload handlers", "1.5 kB", 1.0)),
        (
            {"step": "fetch", "function": "embed", "model": "", "message": "package://x"},
            Step("fetch embed", "package://x"),
        ),
        (
            {"step": "fetch", "function": "embed", "file": "m", "done_bytes": 5e6, "total_bytes": 1e7},
            Step("fetch embed", "m 5.0 MB of 10.0 MB", 0.5),
        ),
        ({"function": "f", "file": "m", "done_bytes": 5, "total_bytes": 0}, Step("fetch f", "m 5 B", None)),
        (
            {"step": "bake", "function": "f", "model": "m", "phase": "compile", "fraction": 0.25},
            Step("bake f:m", "compile", 0.25),
        ),
    ],
)
def test_step_of_says_what_goes_on(event: dict[str, Any], step: Step | None) -> None:
    assert step_of(event) == step


def test_lines_prints_each_phase_once(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines() as show:
        for fraction in (0.0, 0.1, 0.2):
            show({"function": "f", "phase": "export", "fraction": fraction})
        show({"function": "f", "phase": "compile", "fraction": 0.3})
        for done in (1, 2, 3):
            show({"function": "f", "file": "m", "done_bytes": done, "total_bytes": 3})
    assert capsys.readouterr().err == "bake f: export\nbake f: compile\nfetch f: m 1 B of 3 B\n"
