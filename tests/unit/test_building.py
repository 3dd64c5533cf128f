"""Layers of requirements, made by the real pip from wheels of this directory: no network."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from glowplug.deploy.archive import Archive
from glowplug.deploy.building import Builder, built, cache_directory
from glowplug.deploy.errors import RequirementsError, TemplateError
from glowplug.deploy.pythons import Pythons, own
from glowplug.deploy.requirements import requirements_of
from glowplug.deploy.template import parse
from glowplug.deploy.translate import Stack, translate
from glowplug.runtime.wanted import wanted_of

pytestmark = pytest.mark.slow  # each runs pip, or the SAM translator

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: python3.11, Handler: app.handler}
Resources:
  One: {Type: "AWS::Serverless::Function", Properties: {FunctionName: one, CodeUri: code/}}
  Two: {Type: "AWS::Serverless::Function", Properties: {FunctionName: two, CodeUri: other/}}
  Plain: {Type: "AWS::Serverless::Function", Properties: {FunctionName: plain, CodeUri: plain/}}
  Inline: {Type: "AWS::Serverless::Function", Properties: {FunctionName: inline, InlineCode: "x = 1"}}
  Skipped:
    Type: AWS::Serverless::Function
    Metadata: {SkipBuild: true}
    Properties: {FunctionName: skipped, CodeUri: code/}
"""


def wheel(directory: Path, name: str, files: Mapping[str, str], requires: str = "") -> None:
    """Write a wheel of ``name`` 1.0."""
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (
        f"Requires-Dist: {requires}\n" if requires else ""
    )
    described = {
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as file:
        for path, text in {**files, **described}.items():
            file.writestr(path, text)
        file.writestr(f"{info}/RECORD", "".join(f"{path},,\n" for path in [*files, *described, f"{info}/RECORD"]))


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheels")
    wheel(
        directory,
        "tiny",
        {"tiny/__init__.py": "import helper\n", "tiny/tests/test_tiny.py": "", "tiny/data.txt": "1"},
        "helper",
    )
    wheel(directory, "helper", {"helper.py": "x = 1\n"})
    return directory


@pytest.fixture
def builder(tmp_path: Path, wheels: Path) -> Builder:
    environ = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels),
        "PIP_USER": "1", "PYTHONPATH": "/nowhere", "PIP_CONFIG_FILE": os.devnull,
    }  # fmt: skip
    return Builder(cache_directory({"XDG_CACHE_HOME": str(tmp_path / "cache")}), environ, Pythons({"PATH": ""}))


class Report:
    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []

    def __call__(self, event: Mapping[str, Any]) -> None:
        self.events.append(event)


def code(root: Path, **files: str) -> Path:
    (root / "code").mkdir(exist_ok=True)
    for name, text in files.items():
        (root / "code" / name.replace("_txt", ".txt").replace("_py", ".py")).write_text(text)
    return root / "code"


def layer(builder: Builder, directory: Path, report: Report | None = None) -> Archive:
    requirements = requirements_of(directory, own())
    assert requirements is not None
    return builder.layer(requirements, report or Report())


def test_packages_and_what_they_need_are_below_python_without_byte_code(builder: Builder, tmp_path: Path) -> None:
    made = layer(builder, code(tmp_path, requirements_txt="tiny==1.0\n"))
    names = {name for name in made.names if "dist-info" not in name}
    files = ("helper.py", "tiny/__init__.py", "tiny/data.txt", "tiny/tests/test_tiny.py")
    assert {f"python/{name}" for name in files} == names
    assert "python/tiny-1.0.dist-info/METADATA" in made.names  # importlib.metadata, entry points


def test_tests_of_packages_stay_out_where_the_layer_is_too_large_with_them(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glowplug.deploy.building.MAX_UNPACKED_BYTES", 10)
    report = Report()
    made = layer(builder, code(tmp_path, requirements_txt="tiny==1.0\n"), report)
    assert not [name for name in made.names if "/tests/" in name]
    assert "python/tiny/data.txt" in made.names
    assert "over Lambda's limit: packages' own tests are left out" == report.events[-1]["message"]


def test_the_same_requirements_are_installed_once_and_packed_the_same(builder: Builder, tmp_path: Path) -> None:
    told, silent = Report(), Report()
    first = layer(builder, code(tmp_path, requirements_txt="tiny\n"), told)
    again = layer(builder, tmp_path / "code", silent)
    assert (first.digest, []) == (again.digest, silent.events)
    assert {"step": "install", "file": "code/requirements.txt", "message": f"for {own().runtime}"} == told.events[0]
    assert any("helper" in event["message"] for event in told.events)
    elsewhere = Builder(tmp_path / "elsewhere", builder.environ, builder.pythons)
    assert first.digest == layer(elsewhere, tmp_path / "code").digest


def test_what_was_torn_is_made_again_and_what_was_not_used_for_long_goes(builder: Builder, tmp_path: Path) -> None:
    first = layer(builder, code(tmp_path, requirements_txt="helper\n"))
    [kept] = (tmp_path / "cache" / "glowplug" / "requirements").iterdir()
    kept.write_bytes(first.data[: len(first.data) // 2])
    old = kept.with_name("old.zip")
    old.write_bytes(first.data)
    os.utime(old, (1, 1))
    assert first.digest == layer(builder, tmp_path / "code").digest
    assert [kept] == list(kept.parent.iterdir())


def test_what_pip_says_last_is_in_the_refusal(builder: Builder, tmp_path: Path) -> None:
    with pytest.raises(RequirementsError) as refused:
        layer(builder, code(tmp_path, requirements_txt="no-such-package==9\n"))
    assert str(refused.value).startswith(f"{tmp_path}/code/requirements.txt: pip could not install it:\n  ")
    assert "No matching distribution found for no-such-package==9" in str(refused.value)
    assert [] == list((tmp_path / "cache" / "glowplug" / "requirements").iterdir())


def test_requirements_for_other_machines_are_no_layer(builder: Builder, tmp_path: Path) -> None:
    assert () == layer(builder, code(tmp_path, requirements_txt="helper; sys_platform == 'win32'\n")).names
    assert () == layer(builder, tmp_path / "code").names


def test_pip_ends_with_whoever_waits_for_it(builder: Builder, tmp_path: Path) -> None:
    class Interrupted(Report):
        def __call__(self, event: Mapping[str, Any]) -> None:
            super().__call__(event)
            if len(self.events) > 1:  # pip has begun to talk
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        layer(builder, code(tmp_path, requirements_txt="tiny\n"), Interrupted())
    assert [] == list((tmp_path / "cache" / "glowplug" / "requirements").iterdir())


def test_a_directory_built_as_a_layer_has_its_files_beside_its_packages(builder: Builder, tmp_path: Path) -> None:
    directory = code(tmp_path, requirements_txt="helper\n", mine_py="x = 2\n", helper_py="x = 3\n")
    made = builder.content(directory, own().runtime, Report())
    with zipfile.ZipFile(io.BytesIO(made.data)) as file:
        assert b"x = 3\n" == file.read("python/helper.py")  # the author's own over the package
    assert {"python/mine.py", "python/requirements.txt", "python/helper-1.0.dist-info/METADATA"} <= set(made.names)
    (directory / "requirements.txt").unlink()
    assert ("python/helper.py", "python/mine.py") == builder.content(directory, own().runtime, Report()).names


# --- a whole stack ----------------------------------------------------------------------------------------------------


def stack(root: Path, requirements: str = "helper\n") -> Stack:
    for name, given in (("code", requirements), ("other", requirements + "# the same but for this\n"), ("plain", "")):
        (root / name).mkdir()
        (root / name / "app.py").write_text(f"name = {name!r}\n")
        if given:
            (root / name / "requirements.txt").write_text(given)
    return translate(parse(TEMPLATE, path=root / "template.yaml", name="template.yaml"), stack="s")


def test_functions_with_local_code_get_a_layer_of_their_own_first(builder: Builder, tmp_path: Path) -> None:
    wanted = stack(tmp_path)
    done = built(wanted, builder, Report())
    assert {"OneRequirements", "TwoRequirements"} == done.definitions.layers.keys()
    one = done.definitions.layers["OneRequirements"]
    assert ("one-requirements", done.archives[one["CodeSha256"]].digest) == (one["LayerName"], one["CodeSha256"])
    assert [{"Ref": "OneRequirements"}] == done.definitions.functions["One"]["Layers"]
    assert (("OneRequirements", True),) == wanted_of(done.definitions.functions["One"]).layers
    for name in ("Plain", "Inline", "Skipped"):
        assert wanted.definitions.functions[name] == done.definitions.functions[name]
    assert {} == wanted.definitions.layers


def test_the_template_is_named_where_pip_fails(builder: Builder, tmp_path: Path) -> None:
    with pytest.raises(
        TemplateError, match=r"template\.yaml:6: One\.Properties\.CodeUri: .*requirements\.txt: pip could"
    ):
        built(stack(tmp_path, "no-such-package\n"), builder, Report())


def test_the_layer_is_beside_a_functions_own_five(builder: Builder, tmp_path: Path) -> None:
    own_five = [{"Ref": f"Layer{number}"} for number in range(5)]
    wanted = stack(tmp_path)
    for definition in wanted.definitions.functions.values():
        definition["Layers"] = own_five  # type: ignore[index]
    layers = built(wanted, builder, Report()).definitions.functions["One"]["Layers"]
    assert [{"Ref": "OneRequirements"}, *own_five] == layers
    assert 6 == len(wanted_of({**wanted.definitions.functions["One"], "Layers": layers}).layers)


LAYERED = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Common: {Type: "AWS::Serverless::LayerVersion", Metadata: {BuildMethod: METHOD}, Properties: {ContentUri: code/}}
  App:
    Type: AWS::Serverless::Function
    Properties: {Runtime: python3.11, Handler: app.handler, InlineCode: "x = 1", Layers: [!Ref Common]}
"""


def layered(root: Path, requirements: str) -> Stack:
    code(root, requirements_txt=requirements, mine_py="x = 2\n")
    text = LAYERED.replace("METHOD", own().runtime)
    return translate(parse(text, path=root / "template.yaml", name="template.yaml"), stack="s")


def test_a_layer_with_a_build_method_is_built_in_the_place_of_its_bare_files(builder: Builder, tmp_path: Path) -> None:
    wanted, report = layered(tmp_path, "helper\n"), Report()
    done = built(wanted, builder, report)
    made = done.archives[done.definitions.layers["Common"]["CodeSha256"]]
    assert {"python/helper.py", "python/mine.py", "python/requirements.txt"} <= set(made.names)
    assert (
        wanted.definitions.layers["Common"]["CodeSha256"] not in done.archives
    )  # nobody names it any more: it is not uploaded
    assert 2 == len(done.archives)
    assert "code/requirements.txt" in {event["file"] for event in report.events}
    again = Report()
    assert done.definitions.layers == built(wanted, builder, again).definitions.layers
    assert [] == again.events


def test_the_template_is_named_where_pip_fails_for_a_layer(builder: Builder, tmp_path: Path) -> None:
    with pytest.raises(
        TemplateError, match=r"template\.yaml:4: Common\.Properties\.ContentUri: .*requirements\.txt: pip could"
    ):
        built(layered(tmp_path, "no-such-package\n"), builder, Report())


def test_the_cache_is_where_xdg_says() -> None:
    assert Path("/c/glowplug") == cache_directory({"XDG_CACHE_HOME": "/c", "HOME": "/h"})
    assert Path("/h/.cache/glowplug") == cache_directory({"HOME": "/h"})
