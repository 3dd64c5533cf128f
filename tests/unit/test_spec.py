"""FunctionSpec: what is accepted, what is refused and by which name, and what makes another revision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.definition import spec_of
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.spec import FunctionSpec, SourceFile, url_id_of

MINIMAL = {"FunctionName": "f", "Handler": "f.handler", "Runtime": "python3.11", "CodeSha256": "c0de"}


def spec(**more: Any) -> FunctionSpec:
    return spec_of({**MINIMAL, **more})


def glowplug(**keys: Any) -> FunctionSpec:
    return spec(Glowplug=keys)


def test_defaults_are_lambdas_and_the_designs() -> None:
    made = spec()
    assert (3.0, 128, 512) == (made.timeout_s, made.memory_mb, made.ephemeral_mb)
    assert (60.0, 3600.0, 900.0, 60.0, 100) == (
        made.idle_timeout_s, made.park_timeout_s, made.init_timeout_s, made.hold_timeout_s, made.max_held,
    )  # fmt: skip
    assert (True, (), None, ()) == (made.parking, made.layers, made.max_instances, made.models)


@pytest.mark.parametrize(
    ("definition", "field", "problem"),
    [
        ({"FunctionName": "a b"}, "FunctionName", "does not match"),
        ({"Handler": None}, "Handler", "must be a string, not nothing"),
        ({"Runtime": "nodejs20.x"}, "Runtime", "python3.x is"),
        ({"Timeout": 0}, "Timeout", "not between 1 and 5400"),
        ({"Timeout": "3"}, "Timeout", "must be a number, not str '3'"),
        ({"Timeout": 1.5}, "Timeout", "must be a whole number, not 1.5"),
        ({"MemorySize": 128.5}, "MemorySize", "must be a whole number, not 128.5"),
        ({"EphemeralStorage": {"Size": 511}}, "EphemeralStorage.Size", "511 is not between 512 and 32768"),
        ({"EphemeralStorage": {"Size": 512.5}}, "EphemeralStorage.Size", "must be a whole number"),
        ({"MemorySize": 64}, "MemorySize", "not between 128 and 32768"),
        ({"Tracing": "Active"}, "Tracing", "unknown key"),
        ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, "Environment.Variables.AWS_REGION", "set by Lambda"),
        ({"Environment": {"Variables": {"A": "x" * 5000}}}, "Environment.Variables.A", "name does not match"),
        ({"Environment": {"Variables": {"AB": "x" * 5000}}}, "Environment.Variables", "may take 4096"),
        ({"SnapStart": {"ApplyOn": "Always"}}, "SnapStart.ApplyOn", "not one of None, PublishedVersions"),
        ({"Architectures": ["x86_64", "arm64"]}, "Architectures", "one entry"),
        ({"Glowplug": []}, "Glowplug", "must be a mapping"),
        ({"Glowplug": {"IdleTimoutSeconds": 5}}, "Glowplug.IdleTimoutSeconds", "did you mean IdleTimeoutSeconds?"),
        ({"Glowplug": {"Zzz": 5}}, "Glowplug.Zzz", "known: "),
        ({"Glowplug": {"Parking": "sometimes"}}, "Glowplug.Parking", "not one of auto, off"),
        ({"Glowplug": {"Device": "gpu"}}, "Glowplug.Device", "not one of auto, cpu, cuda"),
        ({"Glowplug": {"Objective": {"ColdWeight": -1}}}, "Glowplug.Objective.ColdWeight", "-1 is not 0 or more"),
        (
            {"Glowplug": {"Objective": {"BatchSizes": [1, 0]}}},
            "Glowplug.Objective.BatchSizes",
            "whole numbers, 1 or more",
        ),
        ({"Glowplug": {"Objective": {"Warm": 1}}}, "Glowplug.Objective.Warm", "did you mean WarmCalls?"),
        ({"Glowplug": {"MaxInstances": 1.5}}, "Glowplug.MaxInstances", "must be a whole number, not 1.5"),
        ({"Glowplug": {"MaxHeldRequests": 0.1}}, "Glowplug.MaxHeldRequests", "must be a whole number, not 0.1"),
        ({"Glowplug": {"Concurrency": 1.5}}, "Glowplug.Concurrency", "must be a whole number, not 1.5"),
        ({"Glowplug": {"Batching": {"MaxBatchSize": 1.5}}}, "Glowplug.Batching.MaxBatchSize", "must be a whole number"),
        ({"Glowplug": {"IdleTimeoutSeconds": float("inf")}}, "Glowplug.IdleTimeoutSeconds", "inf is not 0 or more"),
        ({"Glowplug": {"IdleTimeoutSeconds": float("nan")}}, "Glowplug.IdleTimeoutSeconds", "nan is not 0 or more"),
        ({"Glowplug": {"Warmup": {"Compare": "json"}}}, "Glowplug.Warmup.Compare", "json is not supported yet"),
        ({"Glowplug": {"Warmup": {"Compare": "text"}}}, "Glowplug.Warmup.Compare", "not one of none, json"),
        ({"Glowplug": {"Concurrency": 4}}, "Glowplug.Concurrency", "not supported yet"),
        ({"Glowplug": {"Batching": {"MaxBatchSize": 16}}}, "Glowplug.Batching", "not supported yet"),
        ({"Glowplug": {"Model": {"Source": "models/x"}}}, "Glowplug.Model.Source", "not a URL"),
        ({"Glowplug": {"Model": {"Sorce": "s3://b/k"}}}, "Glowplug.Model.Sorce", "did you mean Source?"),
        (
            {"Glowplug": {"Model": {"Source": "s3://b", "Engine": "steam"}}},
            "Glowplug.Model.Engine",
            "'steam' is not one of",
        ),
        ({"Glowplug": {"Model": {"Source": "s3://b", "Engine": "tvm"}}}, "Glowplug.Model.Engine", "not one of"),
        (
            {"Glowplug": {"Model": {"Source": "s3://b", "Precision": "fp8"}}},
            "Glowplug.Model.Precision",
            "not one of fp32, bf16",
        ),
        ({"Glowplug": {"Model": {"Source": "s3://b", "Precision": "auto"}}}, "Glowplug.Model.MaxError", "is missing"),
        (
            {"Glowplug": {"Model": {"Source": "s3://b", "VerifyRate": 1.1}}},
            "Glowplug.Model.VerifyRate",
            "1.1 is not between 0 and 1",
        ),
        (
            {"Glowplug": {"Model": {"Source": "s3://b", "MaxError": -1}}},
            "Glowplug.Model.MaxError",
            "-1 is not 0 or more",
        ),
        ({"Glowplug": {"Model": {"a": {"Source": "s3://b"}, "b": {}}}}, "Glowplug.Model.b.Source", "must be a string"),
    ],
)
def test_what_is_refused_names_its_field(definition: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        spec(**definition)
    assert field == raised.value.field
    assert problem in raised.value.problem


def test_a_whole_number_may_be_spelled_as_a_fraction() -> None:
    made = spec(Timeout=4.0, MemorySize=256.0, EphemeralStorage={"Size": 512}, Glowplug={"MaxInstances": 2.0})
    assert (4.0, 256, 2) == (made.timeout_s, made.memory_mb, made.max_instances)
    assert int is type(made.memory_mb)


def test_a_bare_off_in_yaml_is_off() -> None:
    assert glowplug(Parking=False).parking is False
    assert glowplug(Parking="off").parking is False


def test_one_model_needs_no_name_and_several_have_theirs() -> None:
    assert ("",) == tuple(model.name for model in glowplug(Model={"Source": "s3://b/k"}).models)
    several = glowplug(Model={"b": {"Source": "s3://b/2"}, "a": {"Source": "s3://b/1", "Engine": "eager"}})
    assert [("a", "eager"), ("b", "auto")] == [(model.name, model.engine) for model in several.models]


def test_every_setting_changes_the_revision_and_nothing_else_does() -> None:
    base = spec()
    assert base.revision == spec().revision
    for change in ({"Timeout": 4}, {"CodeSha256": "other"}, {"Environment": {"Variables": {"AB": "1"}}}):
        assert base.revision != spec(**change).revision
    assert base.revision != replace(base, version="1").revision


def test_the_resolved_source_is_part_of_the_revision() -> None:
    made = glowplug(Model={"Source": "s3://b/k"})
    one = made.resolved({"": (SourceFile("a", 1, "00"), SourceFile("b", 2, "11"))})
    other = made.resolved({"": (SourceFile("a", 1, "00"), SourceFile("b", 2, "22"))})
    turned = made.resolved({"": (SourceFile("b", 2, "11"), SourceFile("a", 1, "00"))})
    assert one.revision != other.revision
    assert one.models[0].source_digest == turned.models[0].source_digest


@pytest.mark.parametrize(
    "name", ["LD_PRELOAD", "OMP_NUM_THREADS", "PYTHONHASHSEED", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"]
)
def test_names_that_only_work_in_a_new_process_mean_exec(name: str) -> None:
    assert name in spec(Environment={"Variables": {name: "1"}}).exec_reason
    assert "" == spec(Environment={"Variables": {"PLAIN": "1"}}).exec_reason


@pytest.mark.parametrize(("name", "alias", "url_id"), [("My_Fn", "", "my-fn"), ("embed", "Live", "embed-live")])
def test_url_ids_are_lower_case_with_hyphens(name: str, alias: str, url_id: str) -> None:
    assert url_id == url_id_of(name, alias)


definitions = st.fixed_dictionaries(
    {},
    optional={
        "Timeout": st.integers(1, 5400),
        "MemorySize": st.integers(128, 32768),
        "Description": st.text(max_size=20),
        "Environment": st.fixed_dictionaries({"Variables": st.dictionaries(st.from_regex(r"[A-Z]{3}_[A-Z]", fullmatch=True), st.text(max_size=9))}),
        "Glowplug": st.fixed_dictionaries({}, optional={"IdleTimeoutSeconds": st.integers(0, 99), "Parking": st.booleans().map(lambda on: "auto" if on else "off"), "Model": st.just({"Source": "s3://b/k"})}),
    },
)  # fmt: skip


@given(definitions)
def test_the_registrys_form_reads_back_as_the_same_spec(definition: dict[str, Any]) -> None:
    made = spec(**definition)
    assert made == FunctionSpec.from_json(made.to_json())
    assert made.revision == FunctionSpec.from_json(made.to_json()).revision


@given(st.dictionaries(st.sampled_from([*MINIMAL, "Timeout", "Glowplug", "Environment", "SnapStart"]), st.none() | st.integers() | st.text() | st.lists(st.integers()) | st.dictionaries(st.text(), st.integers())))  # fmt: skip
def test_any_definition_is_accepted_or_refused_by_field(definition: dict[str, Any]) -> None:
    try:
        spec(**definition)
    except DefinitionError as error:
        field = error.field
    else:
        return
    assert field
