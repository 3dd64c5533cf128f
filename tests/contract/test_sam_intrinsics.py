"""Intrinsic functions give what SAM CLI's own resolver gives, for expressions that hypothesis makes up.

Its resolver answers from another process, as it is no dependency of these tests (``tests/shared/sam_cli.py``). Where it
cannot be had (no network), they are skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sam_cli import install

from glowplug.deploy.account import Account
from glowplug.deploy.errors import TemplateError
from glowplug.deploy.intrinsics import Intrinsics
from glowplug.deploy.parameters import resolve
from glowplug.deploy.template import Template

ORACLE = """
import json, sys
sys.path.append(sys.argv[1])
from samcli.lib.intrinsic_resolver.intrinsic_property_resolver import IntrinsicResolver
from samcli.lib.intrinsic_resolver.intrinsics_symbol_table import IntrinsicsSymbolTable
for line in sys.stdin:
    asked = json.loads(line)
    table = IntrinsicsSymbolTable(template=asked["template"], logical_id_translator=asked["symbols"])
    try:
        answer = {"value": IntrinsicResolver(asked["template"], table).intrinsic_property_resolver(asked["value"], False)}
    except Exception as error:
        answer = {"refused": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer), flush=True)
"""
PARAMETERS = {
    "Stage": {"Type": "String", "Default": "prod"},
    "Count": {"Type": "Number", "Default": "3"},
    "Path": {"Type": "String", "Default": "a/b,c/d"},
}
MAPPINGS = {"Sizes": {"prod": {"memory": "512", "zones": ["a", "b"]}, "dev": {"memory": "128", "zones": ["c"]}}}
RESOURCES = {"Echo": {"Type": "AWS::Lambda::Function", "Properties": {"FunctionName": "echo"}}}
PSEUDO = Account().pseudo_parameters("main")
ARN = f"arn:aws:lambda:{PSEUDO['AWS::Region']}:{PSEUDO['AWS::AccountId']}:function:echo"

Resolve = Callable[[Any, dict[str, Any]], Any]


class Refused(Exception):
    """The resolver did not give a value."""


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Resolve]:
    site = install(tmp_path_factory.mktemp("sam"))
    oracle = subprocess.Popen(
        [sys.executable, "-c", ORACLE, str(site)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )

    def resolved(value: Any, conditions: dict[str, Any]) -> Any:
        assert oracle.stdin is not None
        assert oracle.stdout is not None
        symbols = {**PSEUDO, "Echo": {"Ref": "echo", "Arn": ARN}}
        oracle.stdin.write(json.dumps({"template": document(conditions), "symbols": symbols, "value": value}) + "\n")
        oracle.stdin.flush()
        answer = json.loads(oracle.stdout.readline())
        if "refused" in answer:
            raise Refused(answer["refused"])
        return answer["value"]

    with oracle:
        yield resolved
        oracle.kill()


def document(conditions: dict[str, Any]) -> dict[str, Any]:
    return {"Parameters": PARAMETERS, "Mappings": MAPPINGS, "Conditions": conditions, "Resources": RESOURCES}


class Echo:
    """The one resource, as References."""

    def ref(self, logical_id: str) -> str:
        return {"Echo": "echo"}[logical_id]

    def attribute(self, logical_id: str, attribute: str) -> str:
        return {("Echo", "Arn"): ARN}[logical_id, attribute]


def ours(value: Any, conditions: dict[str, Any]) -> Any:
    template = Template(Path("/t.yaml"), "t.yaml", "", MappingProxyType(document(conditions)), {})
    return Intrinsics(template, resolve(template, {}) | PSEUDO, Echo()).evaluate(value, ("Value",))


# Without a dot, which SAM CLI takes for an attribute in the variables of a Sub; lower case, so that none is a name.
literals = st.text("abc01 ,/-", min_size=1, max_size=6)
names = st.sampled_from([*PARAMETERS, "Echo", *(name for name in PSEUDO if name not in {"AWS::NotificationARNs", "AWS::URLSuffix"})])  # fmt: skip
CONDITIONS = ("First", "Second", "Third")
leaves = st.one_of(
    literals,
    names.map(lambda name: {"Ref": name}),
    st.just({"Fn::GetAtt": ["Echo", "Arn"]}),
    st.builds(lambda stage: {"Fn::FindInMap": ["Sizes", stage, "memory"]}, st.sampled_from(["prod", "dev", {"Ref": "Stage"}])),
)  # fmt: skip
sub_parts = st.one_of(literals, names.map("${{{}}}".format), st.sampled_from(["${Echo.Arn}", "${own}", "$", "{"]))


def lists_of(texts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(texts, min_size=1, max_size=3),
        st.builds(lambda delimiter, text: {"Fn::Split": [delimiter, text]}, st.sampled_from([",", "/", "-"]), texts),
        st.just({"Fn::FindInMap": ["Sizes", "prod", "zones"]}),
    )


def longer(texts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = lists_of(texts)
    return st.one_of(
        st.builds(lambda delimiter, items: {"Fn::Join": [delimiter, items]}, st.sampled_from(["", ",", "::"]), lists),
        st.builds(lambda items: {"Fn::Select": [0, items]}, lists),
        st.builds(lambda items, at: {"Fn::Select": [at % len(items), items]}, st.lists(texts, min_size=1, max_size=3), st.integers(0, 5)),
        texts.map(lambda text: {"Fn::Base64": text}),
        st.builds(lambda name, yes, no: {"Fn::If": [name, yes, no]}, st.sampled_from(CONDITIONS), texts, texts),
        st.builds(lambda parts, own: {"Fn::Sub": ["".join(parts), {"own": own}]}, st.lists(sub_parts, max_size=4), texts),
    )  # fmt: skip


texts = st.recursive(leaves, longer, max_leaves=8)
values = st.recursive(
    texts | lists_of(texts),
    lambda inner: st.dictionaries(st.sampled_from(["k", "l"]), inner, max_size=2) | st.lists(inner, max_size=2),
    max_leaves=4,
)
# A condition names only later ones, so that none depends on itself.
decisions = st.builds(
    lambda left, right: {"Fn::Equals": [left, right]}, leaves, st.one_of(leaves, st.sampled_from(["prod", "3"]))
)


def deeper(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(st.one_of(inner, st.just({"Condition": "Third"})), min_size=2, max_size=3)
    return st.one_of(
        inner.map(lambda one: {"Fn::Not": [one]}),
        st.just({"Fn::Not": [{"Condition": "Third"}]}),
        several.map(lambda many: {"Fn::And": many}),
        several.map(lambda many: {"Fn::Or": many}),
    )


conditions = st.fixed_dictionaries(
    {"First": st.recursive(decisions, deeper, max_leaves=4), "Second": st.recursive(decisions, deeper, max_leaves=4)}
    | {"Third": decisions}
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(value=values, conditions=conditions)
def test_values_are_those_of_sam_cli(sam: Resolve, value: Any, conditions: dict[str, Any]) -> None:
    assert sam(value, conditions) == ours(value, conditions)


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [
        {"Fn::Select": [3, ["a"]]},
        {"Fn::Select": ["a"]},
        {"Fn::Join": [",", "a"]},
        {"Fn::Join": [["a"], ["b"]]},
        {"Fn::Split": [",", ["a"]]},
        {"Fn::Base64": ["a"]},
        {"Fn::FindInMap": ["Nobody", "prod", "memory"]},
        {"Fn::FindInMap": ["Sizes", "nobody", "memory"]},
        {"Fn::FindInMap": ["Sizes", "prod", "nobody"]},
        {"Fn::FindInMap": ["Sizes", "prod"]},
        {"Fn::If": ["Nobody", 1, 2]},
        {"Fn::If": ["First", 1]},
        {"Fn::Sub": ["a"]},
        {"Fn::Sub": {"a": "b"}},
        {"Fn::GetAtt": ["Echo"]},
        {"Fn::ImportValue": "nobody"},
        {"Ref": ["Stage"]},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_what_sam_cli_refuses_is_refused(sam: Resolve, value: Any) -> None:
    first = {"First": {"Fn::Equals": ["a", "a"]}}
    with pytest.raises(Refused):
        sam(value, first)
    with pytest.raises(TemplateError):
        ours(value, first)


@pytest.mark.slow
def test_a_literal_in_braces_is_where_sam_cli_and_cloudformation_differ(sam: Resolve) -> None:
    # CloudFormation documents ${!Name} for a literal ${Name}; SAM CLI leaves the mark in.
    assert ("${!Name}", "${Name}") == (sam({"Fn::Sub": "${!Name}"}, {}), ours({"Fn::Sub": "${!Name}"}, {}))
