"""``--watch``: what is looked at, when a change counts, and that nothing but its end ends it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.deploy.cli.watch import watch
from glowplug.deploy.errors import TemplateError
from glowplug.deploy.watching import QUIET_S, Look, Watch, changed, decide, look, places_of

A: Look = {"a": (1, 1, 1)}
B: Look = {"a": (2, 1, 1)}
C: Look = {"a": (2, 1, 1), "b": (1, 1, 1)}


def decisions(watch: Watch, *looks: tuple[Look, float]) -> list[bool]:
    made = []
    for found, now_s in looks:
        watch, now = decide(watch, found, now_s)
        made.append(now)
    return made


def test_nothing_is_deployed_while_nothing_changes() -> None:
    assert [False] * 3 == decisions(Watch(A, A), (A, 1.0), (A, 2.0), (A, 100.0))


def test_a_change_is_deployed_once_when_it_has_settled() -> None:
    settled = 1.0 + QUIET_S
    assert [False, False, True, False] == decisions(Watch(A, A), (B, 1.0), (B, settled - 0.01), (B, settled), (B, 9.0))


def test_many_writes_are_one_change() -> None:
    assert [False, False, False, True] == decisions(Watch(A, A), (B, 1.0), (C, 1.2), (C, 1.4), (C, 1.2 + QUIET_S))


def test_what_is_taken_back_before_it_settles_is_no_change() -> None:
    assert [False, False, False] == decisions(Watch(A, A), (B, 1.0), (A, 1.1), (A, 9.0))


def test_a_change_during_a_deploy_is_deployed_after_it() -> None:
    watch, now = decide(Watch(A, B, 1.0), B, 2.0)  # the deploy of B begins, and takes until 10
    assert now
    assert [False, True] == decisions(watch, (C, 10.0), (C, 10.0 + QUIET_S))


@given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.floats(0.01, 1.0)), max_size=30))
def test_whatever_happens_the_last_state_is_what_is_deployed(steps: list[tuple[Look, float]]) -> None:
    watch, now_s, deployed = Watch(A, A), 0.0, A
    for found, passed_s in [*steps, (steps[-1][0] if steps else A, QUIET_S), (steps[-1][0] if steps else A, QUIET_S)]:
        now_s += passed_s
        watch, now = decide(watch, found, now_s)
        if now:
            assert found != deployed  # never for nothing
            deployed = found
    assert deployed == (steps[-1][0] if steps else A)


def test_what_changed_is_named() -> None:
    assert [] == changed(A, dict(A))
    assert ["a", "b"] == changed(A, C)
    assert ["b"] == changed(C, B)


TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Parameters: {Where: {Type: String, Default: given}}
Globals: {Function: {CodeUri: shared/}}
Resources:
  A:
    Type: AWS::Serverless::Function
    Metadata: {Glowplug: {Warmup: {Event: event.json}}}
    Properties: {CodeUri: !Ref Where, Environment: {Variables: {CODE: none}}}
  B: {Type: "AWS::Lambda::Function", Properties: {Code: b.zip}}
  C: {Type: "AWS::Lambda::Function", Properties: {Code: {ZipFile: text}}}
  D: {Type: "AWS::Serverless::LayerVersion", Properties: {ContentUri: layer/}}
  E: {Type: "AWS::Serverless::Function", Properties: {CodeUri: s3://bucket/key}}
  F: {Type: "AWS::Serverless::Function", Properties: {CodeUri: !Ref Nowhere}}
"""


def test_the_places_are_those_that_the_template_names(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE)
    names = {"template.yaml", "shared", "given", "event.json", "b.zip", "layer"}
    assert {tmp_path / name for name in names} == places_of(template, {})
    assert tmp_path / "other" in places_of(template, {"Where": "other"})


def test_files_that_requirements_include_are_looked_at_too(tmp_path: Path) -> None:
    template, code = tmp_path / "template.yaml", tmp_path / "shared"
    template.write_text(TEMPLATE)
    code.mkdir()
    (code / "requirements.txt").write_text("-r ../base.txt\n../own\nnumpy\n")
    (tmp_path / "base.txt").write_text("-c limits.txt\n")
    (tmp_path / "limits.txt").write_text("")
    (tmp_path / "own").mkdir()
    found = {path.resolve() for path in places_of(template, {})}
    assert {tmp_path / "base.txt", tmp_path / "limits.txt", tmp_path / "own"} <= found


def test_a_template_that_cannot_be_read_keeps_its_places(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE)
    known = places_of(template, {})
    template.write_text("Resources: [")
    assert known == places_of(template, {}, known)
    template.unlink()
    assert frozenset({template}) == places_of(template, {})


def test_a_look_sees_what_is_packed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("a.py", "sub/b.py", "__pycache__/a.pyc", ".git/HEAD", "a.pyc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    first = look([tmp_path, tmp_path / "missing", tmp_path / "a.py"])
    assert {str(tmp_path / "a.py"), str(tmp_path / "sub" / "b.py")} == set(first)
    assert first == look([tmp_path])
    os.utime(tmp_path / "a.py", (1, 1))
    (tmp_path / "sub" / "b.py").chmod(0o755)
    (tmp_path / "new").touch()
    assert 3 == len(changed(first, look([tmp_path])))


class Scenario:
    """Ends the watch when its steps, one per pause, are done."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.steps = list(steps)

    def __call__(self, seconds: float) -> bool:
        if not self.steps:
            return True
        self.steps.pop(0)()
        return False


@pytest.fixture
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glowplug.deploy.watching.QUIET_S", 0.0)


@pytest.mark.usefixtures("instant")
def test_a_refused_deploy_is_printed_and_watched_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    template, tries = tmp_path / "template.yaml", []
    template.write_text(TEMPLATE)

    def deploy() -> None:
        tries.append(template.read_text())
        if "broken" in tries[-1]:
            raise TemplateError("template.yaml", 1, "is broken")

    quiet: Callable[[], object] = lambda: None  # noqa: E731
    watch(
        [template], {}, deploy,
        ended=Scenario(quiet, lambda: template.write_text("broken"), quiet, lambda: template.write_text("good"), quiet, quiet),
    )  # fmt: skip
    assert [TEMPLATE, "broken", "good"] == tries
    said = capsys.readouterr().err
    assert 1 == said.count("glowplug: template.yaml:1: is broken\n")
    assert 2 == said.count("changed: ")
    assert "template.yaml" in said


@pytest.mark.usefixtures("instant")
def test_ctrl_c_ends_it_and_a_fault_of_ours_is_not_hidden(tmp_path: Path) -> None:
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE)

    def interrupted(seconds: float) -> bool:
        raise KeyboardInterrupt

    def stopped() -> None:
        raise KeyboardInterrupt

    def fault() -> None:
        raise AssertionError("a fault")

    watch([template], {}, lambda: None, ended=interrupted)
    watch([template], {}, stopped, ended=interrupted)  # also in the middle of a deploy
    with pytest.raises(AssertionError, match="a fault"):
        watch([template], {}, fault, ended=interrupted)
    watch([template], {}, fault, ended=lambda _: True, deployed=True)
