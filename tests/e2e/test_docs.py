"""The documentation is run: what it shows is what happens.

Markdown blocks, in the order of their page:

    ```python    run together as one program per page
    ```yaml      a template, or settings of one function: translated as `glowplug deploy` would
    ```console   lines that begin with `$ ` are run by a shell against a real node; what they print must match

A comment right above a block changes that: ``<!-- file: NAME -->`` writes it to a file first, ``<!-- not run: WHY -->``
leaves it out. A page that writes files runs in a directory of its own, others in the project's.

Output matches when its words do: a number stands for any number, a request id for the one that was printed (and is
replaced in later commands), ``...`` for anything. Which phase of a start took longest varies from run to run, and a line
that begins with ``Engine`` depends on how far the bake is: any phase and any engine will do. Tables between ``<!-- refusals -->`` and ``<!-- end -->`` are tried row by row.
"""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sam_cli
import yaml
from bakes import BakedEmbed

from glowplug.deploy import supported
from glowplug.deploy.cli import COMMANDS
from glowplug.deploy.errors import TemplateError
from glowplug.deploy.template import parse
from glowplug.deploy.translate import translate
from glowplug.runtime import config, definition, spec

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
FOLDERS = ("runtime", "snapshot", "cache", "handlers", "deploy", "tests", "bench", "docs", "events", "src")
SHOWN_PORT = "127.0.0.1:9000"
CONFIGURED = {"AWS_ACCESS_KEY_ID": "any", "AWS_SECRET_ACCESS_KEY": "any", "AWS_DEFAULT_REGION": "us-east-1"}
"""As it is where the aws CLI is used."""

_BLOCK = re.compile(r"(?:<!-- (file|not run): (.+?) -->\n+)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_REQUEST_ID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_TOKEN = re.compile(
    rf"(?P<any>\.\.\.)|(?P<engine>^Engine [^\n]*)|(?P<longest>of which the \w+ took)|(?P<id>{_REQUEST_ID})|(?P<digest>\b[0-9a-f]{{64}}\b)"
    r"|(?P<number>-?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?)|(?P<space>\s+)|(?P<other>.)",
    re.MULTILINE,
)
_LOOSE = {
    "any": r"[\s\S]*?",
    "engine": r"Engine [^\n]*",
    "longest": r"of which the \w+ took",
    "id": f"({_REQUEST_ID})",
    "digest": "[0-9a-f]{64}",
    "number": r"-?\d+(?:[.,]\d+)*(?:e[-+]?\d+)?",
    "space": r"\s+",
}
_FUNCTION = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Hello:
    Type: AWS::Serverless::Function
    Metadata:
      Glowplug:
{glowplug}
    Properties:
{properties}
"""
_REQUIRED = {"FunctionName": "hello", "Handler": "index.handler", "Runtime": "python3.11"}


@dataclass(frozen=True)
class Block:
    """One fenced block. ``marker`` is ``file``, ``not run`` or empty, ``note`` what follows it."""

    language: str
    text: str
    marker: str
    note: str


@dataclass(frozen=True)
class Command:
    """A command of a console block and what it should print."""

    line: str
    output: str


def blocks(page: Path) -> list[Block]:
    return [Block(m[3], m[4], m[1] or "", m[2] or "") for m in _BLOCK.finditer(page.read_text())]


def commands(block: Block) -> Iterator[Command]:
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        lines = part.splitlines(keepends=True)
        count = next(i + 1 for i, line in enumerate(lines) if not line.rstrip().endswith("\\"))
        yield Command("".join(lines[:count]).strip(), "".join(lines[count:]).strip())


def pattern_of(expected: str) -> str:
    return "".join(_LOOSE.get(str(m.lastgroup)) or re.escape(m[0]) for m in _TOKEN.finditer(expected))


def settings(glowplug: dict[str, Any], properties: dict[str, Any]) -> str:
    """Return a template with one function that has these settings; every section in its flow form, on one line."""
    code = {} if {"InlineCode", "CodeUri"} & properties.keys() else {"InlineCode": "def handler(event, context): ..."}
    return _FUNCTION.format(
        glowplug="        " + yaml.safe_dump(glowplug, default_flow_style=True, width=10_000).strip(),
        properties="      " + yaml.safe_dump(_REQUIRED | code | properties, default_flow_style=True, width=10_000),
    )


def translated(text: str, directory: Path) -> None:
    """Translate a template, or one function's settings. Raises ``TemplateError`` as a deploy would."""
    if "\nResources:" not in text:
        own = dict(yaml.safe_load(text))
        text = settings(own, {}) if own.keys() <= definition._GLOWPLUG else settings({}, own)
    translate(parse(text, path=directory / "template.yaml", name="template.yaml"), stack="docs")


# --- running --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each page runs, its files written."""
    chosen = {}
    for name, page in zip(NAMES, PAGES, strict=True):
        files = [block for block in blocks(page) if block.marker == "file"]
        chosen[name] = tmp_path_factory.mktemp(page.stem.lower()) if files else ROOT
        for block in files:
            path = chosen[name] / block.note
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
    for directory in set(chosen.values()) - {ROOT}:
        directory.chmod(0o755)
    return chosen


@pytest.fixture(scope="module")
def documented(
    serving: Any, baked_embed: BakedEmbed, directories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """One node for all pages, with the project's own template; pages may name models in their directories."""
    roots = ":".join(str(directory) for directory in directories.values())
    state = tmp_path_factory.mktemp("docs") / "state"
    baked_embed.give_to(state)
    with serving(ROOT / "template.yaml", state, GLOWPLUG_FILE_ROOTS=roots) as node:
        yield node


def run(
    command: str | list[str], directory: Path, programs: Path = Path(sys.executable).parent, **environ: str
) -> subprocess.CompletedProcess[str]:
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        command if isinstance(command, list) else ["bash", "-c", command],
        cwd=directory, env={**os.environ, **CONFIGURED, "PATH": path, "COLUMNS": "100", **environ},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600 if "bake" in command or isinstance(command, list) else 120,
        check=False,
    )  # fmt: skip


def python_of(page: Path) -> str:
    return "\n".join(block.text for block in blocks(page) if block.language == "python" and not block.marker)


@pytest.mark.slow
@pytest.mark.timeout(900)  # one runs a thousand texts through a model, on a node that is killed meanwhile
@pytest.mark.parametrize("name", [name for name, page in zip(NAMES, PAGES, strict=True) if python_of(page)])
def test_python_runs(name: str, directories: dict[str, Path]) -> None:
    ran = run([sys.executable, "-c", python_of(ROOT / name)], directories[name])
    assert 0 == ran.returncode, ran.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)  # some wait for a bake
@pytest.mark.parametrize(
    "name",
    [name for name, page in zip(NAMES, PAGES, strict=True) if any(b.language == "console" for b in blocks(page))],
)
def test_commands_print_what_the_page_shows(
    name: str, documented: Any, directories: dict[str, Path], tmp_path: Path
) -> None:
    shown = [
        one
        for block in blocks(ROOT / name)
        if block.language == "console" and not block.marker
        for one in commands(block)
    ]
    programs = sam_cli.program(tmp_path) if any("sam " in one.line for one in shown) else Path(sys.executable).parent
    if directories[name] != ROOT and python_of(ROOT / name):  # it may make what a template of the page names
        run([sys.executable, "-c", python_of(ROOT / name)], directories[name])
    ids: dict[str, str] = {}
    before = {stack["Name"] for stack in documented.admin("GET", "stacks")["stacks"]}
    try:
        for command in shown:
            _check(command, documented, directories[name], ids, programs)
    finally:
        for stack in documented.admin("GET", "stacks")["stacks"]:
            if stack["Name"] not in before:
                documented.admin("PUT", f"stacks/{stack['Name']}", {"Functions": {}})


def _check(command: Command, node: Any, directory: Path, ids: dict[str, str], programs: Path) -> None:
    line = command.line.replace(SHOWN_PORT, f"127.0.0.1:{node.port}")
    for shown, real in ids.items():
        line = line.replace(shown, real)
    ran = node.unhurried(lambda: run(line, directory, programs, GLOWPLUG_HOME=str(node.state)))
    match = re.fullmatch(pattern_of(command.output), ran.stdout.strip())
    assert match, f"$ {line}\n--- printed\n{ran.stdout}\n--- the page shows\n{command.output}"
    ids.update(zip(re.findall(_REQUEST_ID, command.output), match.groups(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_templates_are_accepted(name: str, directories: dict[str, Path]) -> None:
    for block in blocks(ROOT / name):
        if block.language == "yaml" and block.marker != "not run":
            own = block.note if block.marker == "file" else "template.yaml"
            translated(block.text, (directories[name] / own).parent)


def refusals() -> list[tuple[str, str]]:
    """Return (settings, message) of every row of a refusals table."""
    rows = []
    for page in PAGES:
        for table in re.findall(r"<!-- refusals -->(.*?)<!-- end -->", page.read_text(), re.DOTALL):
            rows += re.findall(r"^\| `(.+?)` \| `(.+?)` \|$", table, re.MULTILINE)
    return rows


@pytest.mark.parametrize(("given", "message"), refusals())
def test_refusals_are_worded_as_shown(given: str, message: str, tmp_path: Path) -> None:
    own = yaml.safe_load(given)
    text = settings(own, {}) if message.startswith("Metadata.") else settings({}, own)
    with pytest.raises(TemplateError) as refused:
        translated(text, tmp_path)
    assert message == str(refused.value).partition(": Hello.")[2]


# --- complete and true to the code ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#\s]*)(#[^)]*)?\)", text):
        page = (ROOT / name).parent / target if target else ROOT / name
        assert page.exists(), f"{name} links to {target}"
        if anchor:
            assert anchor[1:] in _anchors(page), f"{name} links to {target}{anchor}"


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_files_that_are_named_exist(name: str) -> None:
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./*-]*)`", (ROOT / name).read_text())
    assert set() == {path for path in named if path != "bench/results/latest.json" and not list(ROOT.glob(path))}


@pytest.mark.parametrize("name", NAMES)
def test_tests_that_are_named_exist(name: str) -> None:
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / name).read_text()):
        assert f"def {test}(" in (ROOT / path).read_text(), f"{name}: {path}::{test}"


def test_where_to_look_names_every_file_of_both_paths() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("## Where to look")[2].partition("\n## ")[0]
    assert len(re.findall(r"`[\w/]+\.py`", section)) > 30
    for folder in ("runtime/http", "runtime/routing", "runtime/process", "runtime/worker"):
        modules = {f"{folder}/{path.name}" for path in (ROOT / folder).glob("*.py") if path.name != "__init__.py"}
        assert set() == {module for module in modules if f"`{module}`" not in section}


def documented_words(page: str) -> set[str]:
    return set(re.findall(r"`([^`\s]+)`", (ROOT / "docs" / page).read_text()))


def test_every_key_of_a_template_is_documented() -> None:
    keys = {*definition._GLOWPLUG, *definition._KNOWN} - {"CodeSha256", "Glowplug"}
    keys |= {f"Model.{key}" for key in definition._MODEL} | {f"Warmup.{key}" for key in definition._WARMUP}
    for built, noted, not_yet in supported._PROPERTIES.values():
        keys |= built | noted | not_yet
    assert set() == keys - documented_words("template.md")


@pytest.mark.parametrize(
    ("key", "field"),
    [
        ("IdleTimeoutSeconds", "idle_timeout_s"), ("ParkTimeoutSeconds", "park_timeout_s"),
        ("InitTimeoutSeconds", "init_timeout_s"), ("HoldTimeoutSeconds", "hold_timeout_s"),
        ("MaxHeldRequests", "max_held"), ("MaxParkedAgeSeconds", "max_parked_age_s"),
        ("Timeout", "timeout_s"), ("MemorySize", "memory_mb"),
    ],
)  # fmt: skip
def test_defaults_are_those_of_the_code(key: str, field: str) -> None:
    default = next(one.default for one in dataclasses.fields(spec.FunctionSpec) if one.name == field)
    row = re.search(rf"^\| `{key}` \|[^|]*\| ([\d.]+) ", (ROOT / "docs" / "template.md").read_text(), re.MULTILINE)
    assert row is not None
    assert default == float(row[1])


def test_every_setting_and_command_is_documented() -> None:
    limits = {f"GLOWPLUG_LIMIT_{name.upper()}" for name in config.Limits.__dataclass_fields__}
    said = (ROOT / "docs" / "operations.md").read_text()
    assert set() == {name for name in {*config._NAMES, *limits, *config._ELSEWHERE} if f"`{name}`" not in said}
    assert set() == {name for name in COMMANDS if f"`glowplug {name}" not in said}


def test_every_target_of_make_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in NAMES:
        for target in re.findall(r"(?:`|^)make (\w+)", (ROOT / name).read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name}: make {target}"


def test_the_comparison_can_fail() -> None:
    assert re.fullmatch(pattern_of("embed is parked, 12.7 ms"), "embed is parked, 9 ms")
    assert re.fullmatch(pattern_of("a ... z"), "a b\nc z")
    assert re.fullmatch(pattern_of("Engine eager."), "Engine aot_inductor.")
    for printed in ("embed is stored, 12.7 ms", "embed is parked, some ms", "embed is parked, 12.7 ms more"):
        assert not re.fullmatch(pattern_of("embed is parked, 12.7 ms"), printed)
