"""All problems of a template at once, with their lines, and none that only follows from another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glowplug.deploy.review import Review, review
from glowplug.deploy.template import parse
from glowplug.deploy.together import Site

FUNCTION = "Type: AWS::Serverless::Function, Properties: {Handler: h.f, Runtime: python3.11, InlineCode: x"


def reviewed(text: str, *, strict: bool = False, **parameters: str) -> Review:
    head = "Transform: [AWS::LanguageExtensions, AWS::Serverless-2016-10-31]\n"
    template = parse(head + text, path=Path("/somewhere/template.yaml"), name="template.yaml")
    return review(template, "main", Site(runtimes=["python3.11"]), parameters=parameters, strict=strict)


def told(text: str, **options: Any) -> list[str]:
    return [str(error) for error in reviewed(text, **options).problems]


def test_a_template_without_problems_is_a_stack_with_notes() -> None:
    found = reviewed(f"Resources:\n  A: {{{FUNCTION}, Tracing: Active, Description: !ImportValue x}}}}\n")
    assert (("Tracing has no effect here (A)",), ()) == (found.notes, found.problems)
    assert found.stack is not None
    assert ["A"] == list(found.stack.definitions.functions)


def test_every_problem_is_told_in_the_order_of_lines() -> None:
    assert [
        "template.yaml:3: Type: must be one of",
        "template.yaml:4: B.Properties.MemorySize: 1 is not between 128 and 32768",
        "template.yaml:5: C.Properties.Timout: unknown key; did you mean Timeout?",
        "template.yaml:8: Outputs.X.Value.Ref: no parameter or resource Nothing",
    ] == [
        line.replace("A.Type", "Type").partition(" AWS::")[0]
        for line in told(
            f"""\
Resources:
  A: {{Properties: {{}}}}
  B: {{{FUNCTION}, MemorySize: 1}}}}
  C: {{{FUNCTION}, Timout: 1}}}}
  D: {{{FUNCTION}}}}}
Outputs:
  X: {{Value: !Ref Nothing}}
  Y: {{Value: !GetAtt D.Arn}}
"""
        )
    ]


def test_what_follows_from_another_problem_is_not_told() -> None:
    [problem] = told(
        f"Resources:\n  Ab: {{{FUNCTION}, Timout: 0, FunctionUrlConfig: {{AuthType: NONE}}}}}}\n"
        f"  B: {{{FUNCTION}, Description: !GetAtt Ab.Version}}}}\nOutputs:\n  X: {{Value: !GetAtt AbUrl.FunctionUrl}}\n"
    )
    assert "Ab.Properties.Timout" in problem


def test_a_resource_whose_name_begins_as_another_ones_has_problems_of_its_own() -> None:
    problems = told(f"Resources:\n  Ab: {{{FUNCTION}, Timeout: 0}}}}\n  AbBatch: {{{FUNCTION}, MemorySize: 1}}}}\n")
    assert ["template.yaml:3: Ab.Properties.Timeout", "template.yaml:4: AbBatch.Properties.MemorySize"] == [
        problem.rpartition(": ")[0] for problem in problems
    ]


def test_problems_of_a_loop_are_one_with_the_line_of_the_loop() -> None:
    problems = told(
        f'Resources:\n  Fn::ForEach::L:\n    - N\n    - [a, b]\n    - "F${{N}}":\n        {{{FUNCTION}, Timeout: 0}}}}\n'
        f"  B: {{{FUNCTION}, MemorySize: 1}}}}\n"
    )
    assert ["template.yaml:7: Fa.Properties.Timeout", "template.yaml:8: B.Properties.MemorySize"] == [
        problem.rpartition(": ")[0] for problem in problems
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"Resources: {{A: {{{FUNCTION}, Timeout: 0}}}}}}", "template.yaml:2: A.Properties.Timeout: 0"),
        (
            "Globals: {Function: {Nope: 1}}\nResources: {A: {Type: T}}",
            "template.yaml:2: Globals.Function.Nope: unknown key",
        ),
        ("Resources: []", "template.yaml:2: Resources: must be a mapping"),
        ("Parameters: {P: {Type: String}}\nResources: {A: {Type: T}}", "template.yaml:2: Parameters.P: has no Default"),
    ],
)
def test_where_nothing_else_can_be_looked_at_one_problem_is_told(text: str, problem: str) -> None:
    [found] = told(text)
    assert found.startswith(problem)


def test_under_strict_what_would_be_noted_is_a_problem() -> None:
    text = f"Resources:\n  A: {{{FUNCTION.replace('3.11', '3.99')}, Tracing: Active}}}}\n"
    assert 2 == len(reviewed(text).notes)
    tracing, runtime = told(text, strict=True)
    assert "template.yaml: Tracing has no effect here (A) (refused: --strict)" == tracing
    assert "Runtime python3.99 runs on" in runtime
