"""What a real node and its command line refuse: each with words for the right person, and nothing else disturbed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Resources:
  Hello:
    Type: AWS::Serverless::Function
    Properties: {FunctionName: hello, Handler: index.handler, Runtime: python3.9, InlineCode: "def handler(e, c): ..."}
"""


def glowplug(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as an operator would."""
    return subprocess.run(
        [sys.executable, "-m", "glowplug.deploy.cli", *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "GLOWPLUG_PRELOAD_TORCH": "0", **environ},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def names(node: Any) -> list[str]:
    return sorted(row["name"] for row in node.admin("GET", "functions")["functions"])


def still_answers(node: Any) -> bool:
    status, _, answer = node.request("POST", "/_url/answers/", {"n": 1})
    return status == 200 and bool(json.loads(answer["event"]["body"]) == {"n": 1})


# --- requests ---------------------------------------------------------------------------------------------------------

FOREIGN = [
    {"Host": "evil.example"},
    {"Host": "127.0.0.1.evil.example:9000"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://localhost:1"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/_glowplug/health", None),
        ("PUT", "/_glowplug/stacks/misbehaving", b'{"Functions": {}}'),
        ("POST", "/_glowplug/functions/answers/cool", b'{"to": "stored"}'),
        ("POST", "/2015-03-31/functions/answers/invocations", b"{}"),
        ("POST", "/_url/answers/", b"{}"),
        ("GET", "/metrics", None),
    ],
)
def test_control_refuses_foreign_hosts_and_other_sites(
    misbehaving: Any, headers: dict[str, str], method: str, path: str, body: bytes | None
) -> None:
    before = misbehaving.function("answers")
    status, answered, text = misbehaving.request_raw(method, path, body, {"Content-Type": "text/plain", **headers})
    assert 403 == status
    assert "AccessDeniedException" == answered["x-amzn-errortype"]
    assert ("is not served here" if "Host" in headers else "Cross-site request") in json.loads(text)["Message"]
    after = misbehaving.function("answers")
    assert (before["revision"], before["tier"]) == (after["revision"], after["tier"])


@pytest.mark.parametrize(
    ("path", "headers"), [("/_url/nobody/", {}), ("/_url/nobody/a?b=c", {}), ("/", {"Host": "nobody.lambda-url.local"})]
)
def test_an_unknown_function_url_is_forbidden_as_on_aws(misbehaving: Any, path: str, headers: dict[str, str]) -> None:
    status, answered, text = misbehaving.request_raw("GET", path, None, headers)
    assert (403, '{"Message":null}') == (status, text)
    assert "AccessDeniedException" == answered["x-amzn-errortype"]


@pytest.mark.parametrize("size", [6 * 1024 * 1024 + 1, 20 * 1024 * 1024])
def test_a_body_over_six_mebibytes_on_a_function_url_is_413(misbehaving: Any, size: int) -> None:
    status, _, text = misbehaving.request_raw("POST", "/_url/answers/", b"x" * size, {"Content-Type": "text/plain"})
    assert 413 == status
    assert f"{size} byte payload is too large" in text
    assert still_answers(misbehaving)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["warm", "nobody"], "Function not found: "),
        (["cool", "nobody", "--to", "parked"], "Function not found: "),
        (["invoke", "nobody"], "Function not found: "),
        (["logs", "nobody"], "Function not found: "),
        (["bake", "answers"], "answers has no model"),
        (["explain", "00000000-0000-4000-8000-000000000000"], "00000000-0000-4000-8000-000000000000"),
        (["warm", "missing-handler"], "Runtime.HandlerNotFound: Handler 'nothing' missing on module 'misbehaving'"),
        (["warm", "raises-at-import"], "RuntimeError: no licence file"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_commands_say_what_was_wrong(misbehaving: Any, command: list[str], words: str) -> None:
    ran = glowplug(*command, "--endpoint", misbehaving.endpoint)
    assert 1 == ran.returncode
    assert words in ran.stderr
    assert "glowplug/deploy" not in ran.stderr  # no traceback of ours


# --- templates --------------------------------------------------------------------------------------------------------

BAD_TEMPLATES = {
    "not yaml": ("Resources: {", "bad.yaml:1:", "not valid YAML"),
    "no mapping": ("just text", "bad.yaml:1:", "a template is a mapping"),
    "empty": ("", "bad.yaml:1:", "is empty"),
    "unknown property": (TEMPLATE.replace("Handler:", "Handlr:"), "bad.yaml:5:", "did you mean Handler?"),
    "unbuilt property": (TEMPLATE.replace("Handler:", "ImageConfig: {}, Handler:"), "bad.yaml:5:", "ImageConfig: is not supp"),
    "unknown metadata": (
        TEMPLATE + "    Metadata: {Glowplug: {IdleTimoutSeconds: 5}}\n", "bad.yaml:6:", "did you mean IdleTimeoutSeconds?",
    ),
    "unbuilt metadata": (
        TEMPLATE + "    Metadata: {Glowplug: {Warmup: {Compare: json}}}\n", "bad.yaml:6:", "json is not supported yet",
    ),
    "unbuilt value": (
        TEMPLATE.replace("Handler:", "PackageType: Image, Handler:"), "bad.yaml:5:", "is not supported yet",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD_TEMPLATES)
def test_a_bad_template_changes_nothing_on_a_node_that_runs(misbehaving: Any, tmp_path: Path, kind: str) -> None:
    text, place, words = BAD_TEMPLATES[kind]
    (tmp_path / "bad.yaml").write_text(text)
    before = names(misbehaving)
    ran = glowplug("deploy", str(tmp_path / "bad.yaml"), "--endpoint", misbehaving.endpoint)
    assert 1 == ran.returncode
    assert place in ran.stderr
    assert words in ran.stderr
    assert ran.stderr.endswith("\nnothing was changed on the node\n")
    assert before == names(misbehaving)
    assert still_answers(misbehaving)


@pytest.mark.parametrize("kind", ["not yaml", "unknown property", "unknown metadata"])
def test_up_with_a_bad_template_ends_with_the_line_alone(tmp_path: Path, kind: str) -> None:
    text, place, words = BAD_TEMPLATES[kind]
    (tmp_path / "bad.yaml").write_text(text)
    ran = glowplug("up", str(tmp_path / "bad.yaml"), "--port", "0", "--state", str(tmp_path / "state"))
    assert 1 == ran.returncode
    line, *more = ran.stderr.splitlines()
    assert more == (["nothing was changed on the node"] if kind == "unknown metadata" else [])  # the others start none
    assert place in line
    assert words in line
    assert "" == ran.stdout
    assert [] == list((tmp_path / "state").glob("run/processes/*"))


def test_up_says_what_runs_otherwise_and_how_commands_find_it(tmp_path: Path, serving: Any) -> None:
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    with serving(tmp_path / "template.yaml", tmp_path / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        end = time.monotonic() + 10
        while "try:" not in (said := node.log.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        assert f"note: hello: Runtime python3.9 runs on Python {here} here\n" in said
        assert f"export GLOWPLUG_ENDPOINT={node.endpoint}\n" in said
        found = glowplug("ls", GLOWPLUG_ENDPOINT=node.endpoint)
        assert (0, True) == (found.returncode, "hello" in found.stdout)


@pytest.mark.parametrize(
    ("name", "value"), [("GLOWPLUG_CORES", "0"), ("GLOWPLUG_LIMIT_LOG_TAIL_BYTES", "0"), ("GLOWPLUG_PORT", "70000")]
)
def test_up_with_a_setting_that_cannot_be_names_it(tmp_path: Path, name: str, value: str) -> None:
    ran = glowplug("up", "--state", str(tmp_path / "state"), **{name: value})
    assert 1 == ran.returncode
    assert ran.stderr.startswith(f"glowplug: {name}: {value} is not ")
    assert not (tmp_path / "state").exists()
