"""The difference between what a node has and what a template wants; and that a deploy carries out just that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glowplug.deploy.apply import DeployResult, Progress, deploy_all, prepare
from glowplug.deploy.errors import NodeUnreachable, StrictRefusal, TemplateError
from glowplug.deploy.plan import Change, plan
from glowplug.deploy.together import stack_name
from glowplug.runtime.catalog import Catalog
from glowplug.runtime.contents import NAMED, Contents, Definition
from glowplug.runtime.errors import Conflict, DefinitionError
from glowplug.runtime.management.drift import drift
from glowplug.runtime.management.site import Site
from glowplug.runtime.management.stacks import WantedStack, put
from glowplug.runtime.spec import ARCHITECTURE
from glowplug.runtime.wanted import wanted_of

ECHO: dict[str, Any] = {
    "FunctionName": "echo",
    "Handler": "echo.handler",
    "Runtime": "python3.11",
    "CodeSha256": "a" * 64,
}
EMBED = {**ECHO, "FunctionName": "embed", "Glowplug": {"Model": {"Source": "s3://bucket/model"}}}

TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Globals: {Function: {Runtime: python3.11, CodeUri: code}}
Resources:
  Echo: {Type: AWS::Serverless::Function, Properties: {FunctionName: echo, Handler: echo.handler}}
  Embed:
    Type: AWS::Serverless::Function
    Metadata:
      Glowplug:
        Model: {Source: "s3://bucket/model"}
    Properties: {FunctionName: embed, Handler: embed.handler}
"""


def wanted(layers: Mapping[str, Any] | None = None, **functions: Mapping[str, Any]) -> Contents[Definition]:
    return Contents(functions, layers or {})


def answered(asked: Contents[Definition], drift: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """The node's answer about a stack that was put so."""
    names = {
        section: {key: given[NAMED[section]] if section in NAMED else f"id of {key}" for key, given in parts.items()}
        for section, parts in asked
    }
    return {**names, "Definitions": asked.to_json(), "Drift": drift or {}}


def held(*, drift: Mapping[str, Sequence[str]] | None = None, **functions: Mapping[str, Any]) -> dict[str, Any]:
    return answered(Contents(functions), drift)


def words(changes: Sequence[Change]) -> list[str]:
    return [str(change) for change in changes]


def test_a_first_deploy_creates_everything_in_the_templates_order() -> None:
    assert ["+ echo", "+ embed"] == words(plan(None, wanted(Echo=ECHO, Embed=EMBED)))


def test_the_same_again_changes_nothing() -> None:
    unchanged = Change("unchanged", "Functions", "Embed", "embed", "function embed")
    assert [unchanged] == plan(held(Embed=EMBED), wanted(Embed=EMBED))


def test_a_default_that_is_written_out_is_no_difference() -> None:
    assert ["= echo"] == words(plan(held(Echo=ECHO), wanted(Echo={**ECHO, "Timeout": 3, "MemorySize": 128})))


def test_an_update_names_the_fields_that_differ_as_a_template_does_and_their_values() -> None:
    before = {**ECHO, "Environment": {"Variables": {"TOKEN": "secret", "SAME": "1"}}, "Urls": {"$LATEST": {"AuthType": "NONE"}},
              "Settings": {"VpcConfig": {}}, "Versions": {"EchoVersion1": {}},
              "Aliases": {"live": {"FunctionVersion": {"Ref": "EchoVersion1"}}}}  # fmt: skip
    after = {**ECHO, "Timeout": 30, "CodeSha256": "c" * 64, "Environment": {"Variables": {"TOKEN": "other", "SAME": "1"}},
             "Urls": {"$LATEST": {"AuthType": "AWS_IAM"}}, "Settings": {"VpcConfig": {"SubnetIds": ["a"]}},
             "Versions": {"EchoVersion2": {}}, "Aliases": {"live": {"FunctionVersion": {"Ref": "EchoVersion2"}}},
             "Glowplug": {"Warmup": {"Event": "x" * 100}, "MaxInstances": 2},
             "Description": "d" * 61}  # fmt: skip
    [change] = plan(held(Echo=before), wanted(Echo=after))
    told = [str(one) for one in change.differences]
    assert [
        "Aliases.live.FunctionVersion", "Code", "Description", "Environment.Variables.TOKEN", "FunctionUrlConfig.$LATEST.AuthType: NONE -> AWS_IAM",
        "Glowplug.MaxInstances: none -> 2", "Glowplug.Warmup.Event", "Timeout: none -> 30", "Versions", "VpcConfig.SubnetIds",
    ] == sorted(told)  # fmt: skip
    assert "secret" not in str(change) + str([one.to_json() for one in change.differences])
    assert {"field": "Timeout", "before": None, "after": 30} in [one.to_json() for one in change.differences]


def test_a_renamed_function_is_deleted_before_the_new_one_is_made() -> None:
    changes = plan(held(Echo=ECHO, Embed=EMBED), wanted(Echo={**ECHO, "FunctionName": "other"}, Embed=EMBED))
    assert ["- echo", "+ other", "= embed"] == words(changes)


def test_a_new_logical_id_for_the_same_function_changes_nothing() -> None:
    [change] = plan(held(Echo=ECHO), wanted(Renamed=ECHO))
    assert ("unchanged", "Renamed", "echo") == (change.action, change.logical_id, change.name)


def test_what_was_changed_on_the_node_is_changed_back_and_said() -> None:
    known = held(Echo=ECHO, Embed=EMBED, drift={"Echo": ["Timeout", "Aliases.live"], "Embed": ["deleted"]})
    echo, embed = plan(known, wanted(Echo={**ECHO, "Timeout": 9}, Embed=EMBED))
    assert ("~ echo (Timeout, Aliases.live)", "+ embed") == (str(echo), str(embed))
    assert "was changed through the API: Timeout, Aliases.live" == echo.drifted
    assert "was deleted through the API" == embed.drifted
    [echo, embed] = plan(known, wanted(Echo=ECHO, Embed=EMBED))
    assert ("update", ()) == (echo.action, echo.differences)
    assert ["- echo"] == words(plan(known, wanted()))  # embed is gone already


def test_apis_are_created_changed_and_deleted_by_their_logical_ids() -> None:
    web = {"Kind": "HttpApi", "Routes": [{"Path": "/a"}], "Timeout": 3}
    known = answered(Contents(apis={"Web": web, "Old": {"Kind": "HttpApi"}}))
    assert ["+ API Web"] == words(plan(None, Contents(apis={"Web": web})))
    assert ["- API Old", "= API Web"] == words(plan(known, Contents(apis={"Web": web})))
    changed = {**web, "Routes": [{"Path": "/b"}], "Timeout": 9}
    [_, change, new] = plan(known, Contents(apis={"Web": changed, "New": web}))
    assert (["Routes.0.Path: /a -> /b", "Timeout: 3 -> 9"], "+ API New") == (
        [str(one) for one in change.differences], str(new)
    )  # fmt: skip
    [_, change] = plan(known, Contents(apis={"Web": {**web, "Routes": []}}))
    assert ["Routes"] == [str(one) for one in change.differences]


QUEUE = "arn:aws:sqs:us-east-1:000000000000:shop-jobs"
JOBS: dict[str, Any] = {
    "QueueName": "shop-jobs",
    "VisibilityTimeout": 60,
    "RedrivePolicy": {"deadLetterTargetArn": f"{QUEUE}-dead", "maxReceiveCount": 5},
}
DEAD: dict[str, Any] = {"QueueName": "shop-jobs-dead", "DeletionPolicy": "Retain"}
FEED: dict[str, Any] = {"FunctionName": "work", "EventSourceArn": QUEUE, "BatchSize": 5}
RULE: dict[str, Any] = {"Type": "AWS::Events::Rule", "Name": "nightly", "ScheduleExpression": "rate(1 day)",
        "Targets": [{"Id": "a", "FunctionName": "work", "Input": "{}"}]}  # fmt: skip
SHOP: Contents[Definition] = Contents(
    queues={"Jobs": JOBS, "Dead": DEAD}, mappings={"Feed": FEED},
    triggers={
        "Nightly": RULE,
        "Once": {"Type": "AWS::Scheduler::Schedule", "Name": "once", "ScheduleExpression": "at(2030-01-01T00:00:00)"},
        "Inbox": {"Type": "AWS::S3::Bucket", "Name": "inbox"},
        "News": {"Type": "AWS::SNS::Subscription", "Name": "news"},
    },
)  # fmt: skip


def test_queues_mappings_and_triggers_are_told_as_functions_are() -> None:
    parts = [
        "queue shop-jobs", "queue shop-jobs-dead", "event source mapping Feed", "rule nightly", "schedule once",
        "notifications of bucket inbox", "subscription News to topic news",
    ]  # fmt: skip
    known = answered(SHOP)
    assert [f"+ {one}" for one in parts] == words(plan(None, SHOP))
    assert [f"= {one}" for one in parts] == words(plan(known, SHOP))
    gone = [f"- {one}" for one in parts]
    gone[1] = "- queue shop-jobs-dead, which stays with its messages (Retain)"
    changes = plan(known, Contents())
    assert (gone, "retain") == (words(changes), changes[1].action)


def test_changed_settings_of_queues_mappings_and_triggers_are_told_with_their_values() -> None:
    other: Contents[Definition] = Contents(
        queues={"Jobs": {**JOBS, "VisibilityTimeout": 90, "RedrivePolicy": {**JOBS["RedrivePolicy"], "maxReceiveCount": 3}},
                "Dead": {**DEAD, "DelaySeconds": 0}},
        mappings={"Feed": {**FEED, "Enabled": False, "ScalingConfig": {"MaximumConcurrency": 4}, "FunctionResponseTypes": []}},
        triggers={**SHOP.triggers, "Nightly": {**RULE, "State": "DISABLED", "Targets": [{**RULE["Targets"][0], "Input": "[]"}]}},
    )  # fmt: skip
    told = {
        change.logical_id: [str(one) for one in change.differences]
        for change in plan(answered(SHOP), other)
        if change.action == "update"
    }
    assert {
        "Jobs": ["VisibilityTimeout: 60 -> 90", "RedrivePolicy.maxReceiveCount: 5 -> 3"],  # Dead: what is so anyway
        "Feed": ["Enabled: none -> False", "ScalingConfig.MaximumConcurrency: none -> 4", "FunctionResponseTypes"],
        "Nightly": ["Targets.0.Input: {} -> []", "State: none -> DISABLED"],
    } == told


def test_a_queue_of_another_name_is_another_queue_and_the_old_one_stays_if_its_policy_says_so() -> None:
    renamed: Contents[Definition] = Contents(
        queues={"Jobs": {**JOBS, "QueueName": "other"}, "Dead": {**DEAD, "QueueName": "other-dead"}}
    )
    changes = plan(answered(Contents(queues=SHOP.queues)), renamed)
    assert [("delete", "shop-jobs"), ("retain", "shop-jobs-dead"), ("create", "other"), ("create", "other-dead")] == [
        (change.action, change.name) for change in changes
    ]


def test_drift_of_queues_and_mappings_is_told_and_undone() -> None:
    drift: dict[str, Sequence[str]] = {"Jobs": ["DelaySeconds"], "Dead": ["deleted"], "Feed": ["deleted"]}
    known = answered(Contents(queues=SHOP.queues, mappings=SHOP.mappings), drift)
    again = plan(known, Contents(queues=SHOP.queues, mappings=SHOP.mappings))
    assert ["~ queue shop-jobs (DelaySeconds)", "+ queue shop-jobs-dead", "+ event source mapping Feed"] == words(again)
    assert ["was changed through the API: DelaySeconds", *["was deleted through the API"] * 2] == [
        one.drifted for one in again
    ]
    assert ["- queue shop-jobs"] == words(plan(known, Contents()))  # the others are gone already


def test_what_an_earlier_release_kept_no_definition_of_is_not_called_unchanged() -> None:
    known = answered(Contents(queues=SHOP.queues)) | {"Definitions": {}}
    changes = plan(known, Contents(queues=SHOP.queues))
    assert [("update", ["what it was is not known: an earlier release put it"])] * 2 == [
        (change.action, [str(one) for one in change.differences]) for change in changes
    ]
    assert "- queue shop-jobs, unless its DeletionPolicy is Retain" == words(plan(known, Contents()))[0]


changes_of_a_template = st.fixed_dictionaries(
    {},
    optional={
        "Timeout": st.integers(1, 9),
        "MemorySize": st.sampled_from([128, 256]),
        "Description": st.sampled_from(["", "a", "b"]),
        "Tags": st.dictionaries(st.sampled_from(["k", "l"]), st.sampled_from(["1", "2"])),
        "Environment": st.builds(
            lambda given: {"Variables": given},
            st.dictionaries(st.sampled_from(["AA", "BB"]), st.sampled_from(["1", "2"])),
        ),
        "ReservedConcurrentExecutions": st.integers(0, 2),
        "Urls": st.sampled_from([{}, {"$LATEST": {"AuthType": "NONE"}}, {"$LATEST": {"AuthType": "AWS_IAM"}}]),
    },
)
templates = st.dictionaries(st.sampled_from(["Aa", "Bb", "Cc"]), changes_of_a_template)


def definitions_of(template: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {key: {**ECHO, "FunctionName": key.lower(), **more} for key, more in template.items()}


@given(templates, templates)
@example({"Aa": {}}, {"Aa": {"Environment": {"Variables": {}}}})
def test_a_plan_says_unchanged_exactly_where_putting_the_stack_changes_nothing(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> None:
    before, after = definitions_of(first), definitions_of(second)
    site = Site("arn:aws:lambda:us-east-1:000000000000:function:", "arn:layer:", "now", "now")

    def put_into(catalog: Catalog, definitions: Mapping[str, Any]) -> tuple[Catalog, dict[str, str]]:
        functions = {key: wanted_of(given) for key, given in definitions.items()}
        catalog, changes = put(catalog, WantedStack("main", "", functions, Contents(definitions)), site)
        return catalog, {change.function: change.change for change in changes}

    catalog, _ = put_into(Catalog(), before)
    assert {} == drift(catalog, catalog.stacks["main"], site)
    _, done = put_into(catalog, after)
    tense = {"create": "created", "update": "updated", "delete": "deleted", "unchanged": "unchanged"}
    assert done == {change.name: tense[change.action] for change in plan(held(**before), wanted(**after))}


class NodeInMemory:
    """A control plane that keeps what it is given, and refuses what ``refusal`` says."""

    endpoint = "http://127.0.0.1:9000"

    def __init__(self) -> None:
        self.codes: dict[str, bytes] = {}
        self.bodies: list[Mapping[str, Any]] = []
        self.refusal: Exception | None = None
        self.notes: list[str] = []
        self.others: list[dict[str, Any]] = []
        self.runtimes = ["python3.11"]

    def has_code(self, digest: str) -> bool:
        return digest in self.codes

    def put_code(self, digest: str, data: bytes) -> None:
        self.codes[digest] = data

    def health(self) -> Mapping[str, Any]:
        return {"runtimes": self.runtimes, "architecture": ARCHITECTURE}

    def stacks(self) -> list[dict[str, Any]]:
        return self.others

    def stack(self, name: str) -> Mapping[str, Any] | None:
        if not self.bodies:
            return None
        definitions: Contents[Definition] = Contents.of(self.bodies[-1])
        return answered(definitions)

    def put_stack(self, name: str, body: Mapping[str, Any], on_progress: Progress | None = None) -> Mapping[str, Any]:
        if self.refusal:
            raise self.refusal
        self.bodies.append(body)
        return {"changes": [], "notes": self.notes}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "echo.py").write_text("def handler(event, context): return event\n")
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    return path


def deploy(template: Path, node: NodeInMemory, **more: Any) -> DeployResult:
    [result] = deploy_all([template], node, **more)
    return result


def actions(result: DeployResult) -> list[str]:
    return [str(change) for change in result.changes]


def test_a_deploy_uploads_code_once_and_a_second_one_changes_nothing(template: Path) -> None:
    node = NodeInMemory()
    steps: list[Mapping[str, Any]] = []
    first = deploy(template, node, stack="main", on_progress=steps.append)
    assert ["+ echo", "+ embed"] == actions(first)
    assert ["translate", "plan", "upload"] == [step["step"] for step in steps]
    assert first.uploaded_bytes == sum(map(len, node.codes.values())) > 0
    sections = {"Functions", "Layers", "Apis", "Queues", "Mappings", "Triggers"}
    assert sections | {"TemplateDigest", "Refresh", "Exports", "Imports"} == set(node.bodies[0])

    second = deploy(template, node, stack="main", refresh=True)
    assert (["= echo", "= embed"], 0) == (actions(second), second.uploaded_bytes)
    assert [False, True] == [body["Refresh"] for body in node.bodies]
    assert 1 == len({body["TemplateDigest"] for body in node.bodies})

    (template.parent / "code" / "echo.py").write_text("def handler(event, context): return 1\n")
    assert ["~ echo (Code)", "~ embed (Code)"] == actions(deploy(template, node, stack="main"))
    assert 2 == len(node.codes)


def test_layers_are_a_difference_where_one_of_them_or_their_order_is_another() -> None:
    def stack(layers: Sequence[object], digest: str = "1" * 64, name: str = "Deps") -> Contents[Definition]:
        deps = {name: {"LayerName": "deps", "CodeSha256": digest}}
        return wanted(deps, Echo={**ECHO, "Layers": layers})

    known = stack([{"Ref": "Deps"}, "arn:2"])

    def previewed(after: Contents[Definition], **drift: Sequence[str]) -> list[str]:
        return words(plan(answered(known, drift), after))

    assert ["= echo", "= layer deps"] == previewed(known)
    assert ["= echo", "= layer deps"] == previewed(stack([{"Ref": "Other"}, "arn:2"], name="Other"))
    assert ["~ echo (Layers)", "~ layer deps (Code)"] == previewed(stack([{"Ref": "Deps"}, "arn:2"], "3" * 64))
    assert ["~ echo (Layers)", "~ layer deps (Description)"] == previewed(known, Deps=["Description"])
    assert ["~ echo (Layers)", "+ layer deps"] == previewed(known, Deps=["deleted"])
    for layers in (["arn:2", {"Ref": "Deps"}], [{"Ref": "Deps"}], [{"Ref": "Deps"}, "arn:2", "arn:3"]):
        assert ["~ echo (Layers)", "= layer deps"] == previewed(stack(layers))


def test_what_the_node_notes_follows_what_the_template_does(template: Path) -> None:
    node = NodeInMemory()
    node.notes = ["echo: Runtime python3.9 runs on Python 3.11 here"]
    template.write_text(TEMPLATE.replace("Handler:", "Tracing: Active, Handler:", 1))
    assert ("Tracing has no effect here (Echo)", *node.notes) == deploy(template, node).notes


def test_a_template_that_is_refused_sends_nothing(template: Path) -> None:
    node = NodeInMemory()
    template.write_text(TEMPLATE.replace("Source:", "Sorce:"))
    with pytest.raises(TemplateError, match=r"template\.yaml:9: Embed\.Metadata\.Glowplug\.Model\.Sorce: unknown key"):
        deploy(template, node)
    assert ({}, []) == (node.codes, node.bodies)


def test_what_the_node_refuses_is_named_with_file_and_line(template: Path) -> None:
    node = NodeInMemory()
    node.refusal = DefinitionError("Embed.Glowplug.Model.Source", "s3://bucket/model: no such bucket")
    with pytest.raises(TemplateError) as caught:
        deploy(template, node)
    assert f"{template}:9: Embed.Metadata.Glowplug.Model.Source: s3://bucket/model: no such bucket" == str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/me/my_project/template.yaml", "my-project"),
        ("/home/me/project/other.yaml", "other"),
        ("/template.yaml", "glowplug"),
        ("/home/me/\u00fc/template.yml", "glowplug"),
    ],
)
def test_a_stack_is_named_after_its_directory_or_its_file(path: str, name: str) -> None:
    assert name == stack_name(Path(path))


def several(directory: Path, **texts: str) -> list[Path]:
    (directory / "code").mkdir(exist_ok=True)
    (directory / "code" / "echo.py").write_text("def handler(event, context): return event\n")
    paths = []
    for name, text in texts.items():
        path = directory / f"{name}.yaml"
        path.write_text(text)
        paths.append(path)
    return paths


def one_function(name: str, more: str = "") -> str:
    return (
        "Transform: AWS::Serverless-2016-10-31\nResources:\n  Echo:\n    Type: AWS::Serverless::Function\n"
        f"    Properties: {{FunctionName: {name}, Handler: echo.handler, Runtime: python3.11, CodeUri: code}}\n{more}"
    )


def test_several_templates_are_stacks_of_their_own_and_later_ones_import_of_earlier_ones(tmp_path: Path) -> None:
    exporting = "Outputs: {Arn: {Value: !GetAtt Echo.Arn, Export: {Name: echo-arn}}}\n"
    importing = "Outputs: {Base: {Value: !ImportValue echo-arn}}\n"
    paths = several(tmp_path, base=one_function("a", exporting), user=one_function("b", importing))
    node = NodeInMemory()
    first, second = deploy_all(paths, node)
    assert ("base", "user", first.outputs["Arn"]) == (first.stack, second.stack, second.outputs["Base"])
    assert [({"echo-arn": first.outputs["Arn"]}, []), ({}, ["echo-arn"])] == [
        (body["Exports"], body["Imports"]) for body in node.bodies
    ]
    with pytest.raises(TemplateError, match=r"user\.yaml:6: Outputs\.Base\.Value.*'echo-arn' is exported by no stack"):
        deploy_all(paths[::-1], NodeInMemory())


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"one": one_function("a"), "two": one_function("a")},
            r"two\.yaml:5: .*FunctionName: a belongs to the stack one",
        ),
        ({"one": one_function("taken")}, r"one\.yaml:5: .*FunctionName: taken belongs to the stack other"),
        (
            {"one": one_function("a", "Outputs: {A: {Value: a, Export: {Name: shared}}}\n")},
            r"one\.yaml:6: Outputs: shared is exported by the stack other",
        ),
    ],
)
def test_what_two_stacks_claim_is_refused_before_anything_is_sent(
    tmp_path: Path, texts: dict[str, str], message: str
) -> None:
    node = NodeInMemory()
    node.others = [{"Name": "other", "Functions": {"T": "taken"}, "Exports": {"shared": "x"}}]
    with pytest.raises(TemplateError, match=message) as caught:
        deploy_all(several(tmp_path, **texts), node)
    assert ({}, ["nothing was changed on the node"]) == (node.codes, caught.value.__notes__)


def test_two_templates_whose_stacks_have_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    paths = [*several(tmp_path, app=one_function("a")), *several(tmp_path / "sub", app=one_function("b"))]
    with pytest.raises(TemplateError, match=r"sub/app\.yaml: its stack would be app, as that of .*/app\.yaml"):
        prepare(paths, NodeInMemory())


def test_a_parameter_goes_to_the_templates_that_have_it(tmp_path: Path) -> None:
    parameter = "Parameters: {Name: {Type: String}}\n"
    paths = several(tmp_path, one=one_function("!Ref Name", parameter), two=one_function("b"))
    prepared = prepare(paths, NodeInMemory(), parameters={"Name": "given"})
    assert ["+ given", "+ b"] == [str(change) for one in prepared for change in one.changes]
    with pytest.raises(TemplateError, match="none of them has a parameter Nam"):
        prepare(paths, NodeInMemory(), parameters={"Name": "given", "Nam": "x"})


def test_a_preparation_changes_nothing_on_the_node(template: Path) -> None:
    node = NodeInMemory()
    [prepared] = prepare([template], node, stack="main")
    assert ({}, [], ["+ echo", "+ embed"]) == (node.codes, node.bodies, words(prepared.changes))


def test_a_strict_deploy_refuses_what_is_noted_and_sends_nothing(template: Path) -> None:
    node = NodeInMemory()
    template.write_text(
        TEMPLATE.replace("Handler:", "Tracing: Active, Handler:", 1).replace("python3.11", "python3.99")
    )
    with pytest.raises(StrictRefusal) as caught:
        deploy(template, node, strict=True)
    told = str(caught.value).splitlines()[1:]
    assert "  Tracing has no effect here (Echo)" == told[0]
    assert told[1].startswith("  echo: Runtime python3.99 runs on Python 3.")
    assert ({}, []) == (node.codes, node.bodies)
    node.runtimes.append("python3.99")
    template.write_text(
        TEMPLATE.replace("python3.11", "python3.99").replace("Model:", "Other:").partition("  Embed:")[0]
    )
    assert () == deploy(template, node, strict=True).notes


def test_a_deploy_that_fails_says_what_became_of_the_stack(template: Path) -> None:
    node = NodeInMemory()
    for refusal, note in (
        (
            DefinitionError("Embed.Glowplug.Model.Source", "no such bucket"),
            "the stack main is what it was: a stack is put",
        ),
        (Conflict("Echo: function echo belongs to nobody"), "the stack main is what it was: a stack is put"),
        (NodeUnreachable("ended"), "whether the stack main was put is not known"),
    ):
        node.refusal = refusal
        with pytest.raises(Exception, match=r".") as caught:
            deploy(template, node, stack="main")
        [told] = caught.value.__notes__
        assert told.startswith(note)


def test_a_deploy_of_several_that_fails_half_way_names_those_that_are_there(tmp_path: Path) -> None:
    class Half(NodeInMemory):
        def put_stack(self, name: str, body: Any, on_progress: Any = None) -> Mapping[str, Any]:
            if name == "two":
                raise Conflict("no")
            return super().put_stack(name, body, on_progress)

    with pytest.raises(Conflict) as caught:
        deploy_all(several(tmp_path, one=one_function("a"), two=one_function("b")), Half())
    assert ["the stack two is what it was", "deployed before that: one"] == [
        note.partition(":")[0] if note.startswith("the") else note for note in caught.value.__notes__
    ]
