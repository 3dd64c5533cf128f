"""What putting a stack makes of the catalog: versions, aliases, URLs, layers, APIs; and what it leaves alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from glowplug.runtime.catalog import LATEST, Alias, Catalog, Function, Provisioned
from glowplug.runtime.deployments import Stamp, activated, allocation_of, quota_of
from glowplug.runtime.errors import Conflict, DefinitionError
from glowplug.runtime.management.drift import drift
from glowplug.runtime.management.stacks import FunctionChange, Site, WantedStack, destroy, put
from glowplug.runtime.routing.allotment import Quota
from glowplug.runtime.routing.status import FunctionStatus
from glowplug.runtime.spec import SourceFile
from glowplug.runtime.wanted import wanted_of

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
LAYERS = "arn:aws:lambda:us-east-1:000000000000:layer:"
CODE, OTHER = "a" * 64, "b" * 64


class Node:
    """A catalog that stacks are put into, with ids and times that count up."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self._ids = itertools.count(1)

    def put(
        self, name: str = "main", layers: Any = None, apis: Any = None, exports: Any = None, imports: Any = (),
        **functions: Any,
    ) -> list[FunctionChange]:  # fmt: skip
        definitions = {
            key: {"FunctionName": key.lower(), "Handler": "h.f", "Runtime": "python3.11", "CodeSha256": CODE, **more}
            for key, more in functions.items()
        }
        stack = WantedStack(
            name, "t", {key: wanted_of(given) for key, given in definitions.items()}, layers or {}, apis or {},
            {CODE: 10, OTHER: 20}, definitions, exports or {}, tuple(imports),
        )  # fmt: skip
        self.catalog, changes = put(self.catalog, stack, self.site())
        return changes

    def site(self) -> Site:
        number = next(self._ids)
        ids = (f"id-{number}-{count}" for count in itertools.count())
        return Site(ARN, LAYERS, f"t{number}", f"i{number}", 0.0, lambda: next(ids))


PUBLISHED = {"Versions": {"V1": {}}, "Aliases": {"live": {"FunctionVersion": {"Ref": "V1"}}}}


def test_a_version_is_published_for_each_new_logical_id_and_the_alias_follows() -> None:
    node = Node()
    node.put(Fn=PUBLISHED)
    function = node.catalog.functions["fn"]
    assert ({1}, "1", {"V1": "1"}) == (
        set(function.versions), function.aliases["live"].version, function.publications
    )  # fmt: skip
    assert "1" == function.versions[1].spec.version
    assert [FunctionChange("fn", "unchanged")] == node.put(Fn=PUBLISHED)
    later = {"Versions": {"V2": {}}, "Aliases": {"live": {"FunctionVersion": {"Ref": "V2"}}}, "CodeSha256": OTHER}
    assert [FunctionChange("fn", "updated")] == node.put(Fn=later)
    function = node.catalog.functions["fn"]
    assert ({1, 2}, "2", OTHER) == (
        set(function.versions), function.aliases["live"].version, function.versions[2].spec.code_digest
    )  # fmt: skip
    assert CODE == function.versions[1].spec.code_digest


def test_a_new_logical_id_without_a_change_publishes_nothing_new() -> None:
    node = Node()
    node.put(Fn=PUBLISHED)
    node.put(Fn={"Versions": {"V2": {}}, "Aliases": {"live": {"FunctionVersion": {"Ref": "V2"}}}})
    assert {1} == set(node.catalog.functions["fn"].versions)


def test_what_the_api_made_stays_and_what_the_template_had_goes() -> None:
    node = Node()
    node.put(Fn={**PUBLISHED, "Urls": {LATEST: {}, "live": {}}, "EventInvokeConfigs": {"live": {}}})
    function = node.catalog.functions["fn"]
    by_hand = function.with_document("event-invoke/mine", {"MaximumRetryAttempts": 1})
    by_hand = replace(by_hand, aliases={**function.aliases, "mine": Alias("mine", "1", "r")})
    node.catalog = node.catalog.with_function(by_hand)
    node.put(Fn={"Versions": {"V1": {}}, "Urls": {LATEST: {}}})
    function = node.catalog.functions["fn"]
    assert ({"mine"}, {LATEST}, {"event-invoke/mine"}) == (
        set(function.aliases), set(function.urls), set(function.documents)
    )  # fmt: skip
    assert {"fn"} == set(node.catalog.urls)


def test_a_url_of_an_alias_has_an_id_of_its_own_and_keeps_its_time_of_creation() -> None:
    node = Node()
    node.put(Fn={**PUBLISHED, "Urls": {"live": {"AuthType": "NONE"}}})
    before = node.catalog.urls["fn-live"]
    node.put(Fn={**PUBLISHED, "Urls": {"live": {"AuthType": "AWS_IAM"}}})
    after = node.catalog.urls["fn-live"]
    assert (before.created, "AWS_IAM", True) == (after.created, after.auth_type, after.modified > before.modified)
    with pytest.raises(DefinitionError, match="is no alias of this function"):
        node.put(Fn={"Urls": {"dev": {}}})


def test_layers_are_published_when_they_change_and_functions_get_their_versions() -> None:
    node = Node()
    deps = {"LayerName": "deps", "CodeSha256": CODE}
    node.put(layers={"Deps": deps}, Fn={"Layers": [{"Ref": "Deps"}]})
    node.put(layers={"Deps": deps}, Fn={"Layers": [{"Ref": "Deps"}]})
    assert [f"{LAYERS}deps:1"] == [layer.arn for layer in node.catalog.functions["fn"].spec.layers]
    node.put(layers={"Deps": {**deps, "CodeSha256": OTHER}}, Fn={"Layers": [{"Ref": "Deps"}]})
    (layer,) = node.catalog.functions["fn"].spec.layers
    assert (f"{LAYERS}deps:2", OTHER, 20) == (layer.arn, layer.digest, layer.size)
    assert node.catalog.code_digests() >= {CODE, OTHER}
    with pytest.raises(Conflict, match="layer deps belongs to main"):
        node.put("second", layers={"Deps": deps}, Gn={})
    with pytest.raises(DefinitionError, match="deps:9 does not exist"):
        node.put("second", Gn={"Layers": [f"{LAYERS}deps:9"]})


def test_apis_are_stored_under_an_id_of_stack_and_logical_id() -> None:
    node = Node()
    node.put(apis={"Web": {"Kind": "HttpApi"}}, Fn={})
    assert {"api/main-web": {"Kind": "HttpApi", "Stack": "main"}} == node.catalog.documents
    node.put(Fn={})
    assert {} == node.catalog.documents


def test_a_stack_is_destroyed_with_all_that_is_its_own() -> None:
    node = Node()
    node.put("other", Gn={})
    node.put(layers={"Deps": {"LayerName": "deps", "CodeSha256": CODE}}, apis={"Web": {}}, Fn=PUBLISHED)
    node.catalog, changes = destroy(node.catalog, "main")
    assert ([FunctionChange("fn", "deleted")], {"gn"}, {"other"}, {}, {}) == (
        changes, set(node.catalog.functions), set(node.catalog.stacks), node.catalog.layers, node.catalog.documents
    )  # fmt: skip


def test_a_function_of_the_api_is_not_taken_over() -> None:
    node = Node()
    node.put(Fn={})
    made = replace(node.catalog.functions["fn"], stack="", name="byhand")
    node.catalog = node.catalog.with_function(made)
    with pytest.raises(Conflict, match="made by the Lambda API"):
        node.put("second", ByHand={})


def test_settings_change_the_revision_id_and_not_the_revision() -> None:
    node = Node()
    node.put(Fn={"Settings": {"TracingConfig": {"Mode": "Active"}}})
    before = node.catalog.functions["fn"].latest
    node.put(Fn={"Settings": {"TracingConfig": {"Mode": "PassThrough"}}})
    after = node.catalog.functions["fn"].latest
    assert before.spec.revision == after.spec.revision
    assert before.revision_id != after.revision_id


def test_what_is_provisioned_for_an_alias_is_kept_by_its_versions() -> None:
    node = Node()
    provisioned = {"ProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 2}}
    alias = {"live": {"FunctionVersion": {"Ref": "V1"}, **provisioned}}
    scaling = {"FunctionScalingConfig": {"MinExecutionEnvironments": 1, "MaxExecutionEnvironments": 4}}
    node.put(Fn={"Versions": {"V1": {}}, "Aliases": alias, "ReservedConcurrentExecutions": 5, **scaling})
    assert Quota(5, {"1": 2}, {LATEST: (1, 4)}) == quota_of(node.catalog.functions["fn"])
    node.put(Fn=PUBLISHED)
    assert Quota() == quota_of(node.catalog.functions["fn"])


def test_a_snap_start_version_is_pending_until_it_is_made_and_a_failure_is_told() -> None:
    node = Node()
    node.put(Fn={**PUBLISHED, "SnapStart": {"ApplyOn": "PublishedVersions"}})
    version = node.catalog.functions["fn"].versions[1]
    assert ("Pending", "Creating", False) == (version.state, version.state_reason_code, version.optimized)
    made = activated(node.catalog, version, "", Stamp("new", "t")).functions["fn"].versions[1]
    assert ("Active", True, "new", version.modified) == (made.state, made.optimized, made.revision_id, made.modified)
    failed = activated(node.catalog, version, "boom", Stamp("new", "t")).functions["fn"].versions[1]
    assert ("Failed", "boom") == (failed.state, failed.state_reason)
    unknown = replace(version, spec=replace(version.spec, name="gone"))
    assert node.catalog is activated(node.catalog, unknown, "", Stamp("new", "t"))


def state(**fields: Any) -> FunctionStatus:
    given: dict[str, Any] = {
        "name": "f", "version": "1", "revision": "r", "tier": "hot", "instances": 0, "busy": 0, "starting": 0,
        "draining": 0, "held": 0, "unparkable_reason": "", "last_start": None, "last_error": "", **fields,
    }  # fmt: skip
    return FunctionStatus(**given)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], (0, 0, "IN_PROGRESS")),
        ([{"instances": 2, "starting": 1}], (1, 1, "IN_PROGRESS")),
        ([{"instances": 3, "busy": 2}], (2, 1, "READY")),
        ([{"instances": 3, "draining": 2}], (1, 1, "IN_PROGRESS")),
        ([{"instances": 2}, {"instances": 1}], (1, 1, "IN_PROGRESS")),
        ([{"last_error": "LoadFailed: x"}], (0, 0, "FAILED")),
    ],
)
def test_provisioned_concurrency_tells_how_far_its_instances_are(
    states: list[dict[str, int]], expected: tuple[int, int, str]
) -> None:
    made = allocation_of(Provisioned(2, "t"), [state(**fields) for fields in states])
    assert expected == (made.allocated, made.available, made.status)
    assert ("FUNCTION_ERROR_INIT_FAILURE" if made.status == "FAILED" else "") == made.reason


def test_what_a_stack_exports_is_its_own_and_stays_while_others_import_it() -> None:
    node = Node()
    node.put("base", exports={"url": "http://a"}, Fn={})
    node.put("user", imports=["url"], Gn={})
    assert ({"url": "http://a"}, {"url": "base"}) == (
        node.catalog.stacks["base"].exports, node.catalog.stacks["user"].imports
    )  # fmt: skip
    before = node.catalog
    for refused, message in (
        (lambda: node.put("third", exports={"url": "http://b"}), "url is exported by the stack base already"),
        (lambda: node.put("third", imports=["nothing"]), "no stack exports nothing"),
        (lambda: node.put("base", Fn={}), "url is imported by the stack user"),
        (lambda: destroy(node.catalog, "base"), "url is imported by the stack user"),
    ):
        with pytest.raises(Conflict, match=message):
            refused()
    assert before is node.catalog
    node.put("base", exports={"url": "http://c"}, Fn={})
    node.put("user", Gn={})
    node.put("base", Fn={})
    assert {} == node.catalog.stacks["base"].exports


def test_a_stack_may_import_of_itself_only_what_another_exports() -> None:
    node = Node()
    with pytest.raises(Conflict, match="no stack exports own"):
        node.put("main", exports={"own": "x"}, imports=["own"], Fn={})


def drifted(node: Node) -> dict[str, tuple[str, ...]]:
    before = node.catalog
    found = drift(node.catalog, node.catalog.stacks["main"], node.site())
    assert before is node.catalog
    return found


DEPLOYED = {
    "Environment": {"Variables": {"AA": "1", "BB": "2"}}, "Tags": {"team": "a"}, "ReservedConcurrentExecutions": 5,
    "Layers": [{"Ref": "Deps"}], "Urls": {"live": {"AuthType": "NONE"}}, "EventInvokeConfigs": {"live": {}}, **PUBLISHED,
}  # fmt: skip


def deployed() -> Node:
    node = Node()
    node.put(layers={"Deps": {"LayerName": "deps", "CodeSha256": CODE}}, Fn=DEPLOYED, Gn={})
    return node


def test_a_stack_that_nobody_touched_has_no_drift() -> None:
    assert {} == drifted(deployed())


def changed_spec(function: Function, **fields: Any) -> Function:
    return replace(function, latest=replace(function.latest, spec=replace(function.spec, **fields)))


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda fn: changed_spec(fn, timeout_s=9.0, memory_mb=512), ("Timeout", "MemorySize")),
        (lambda fn: changed_spec(fn, code_digest=OTHER), ("Code",)),
        (lambda fn: changed_spec(fn, environment={"AA": "1", "CC": "3"}), ("Environment.Variables.BB", "Environment.Variables.CC")),
        (lambda fn: changed_spec(fn, layers=()), ("Layers",)),
        (lambda fn: changed_spec(fn, log_format="JSON", log_level="DEBUG"), ("LoggingConfig",)),
        (lambda fn: changed_spec(fn, max_instances=3, max_held=1), ("Glowplug",)),
        (lambda fn: replace(fn, latest=replace(fn.latest, settings={"VpcConfig": {}})), ("VpcConfig",)),
        (lambda fn: replace(fn, tags={"team": "b", "x": "y"}), ("Tags.team", "Tags.x")),
        (lambda fn: replace(fn, reserved=None), ("ReservedConcurrentExecutions",)),
        (lambda fn: replace(fn, aliases={}), ("Aliases.live",)),
        (lambda fn: replace(fn, urls={}), ("FunctionUrlConfig.live",)),
        (lambda fn: replace(fn, documents={"event-invoke/live": {"MaximumRetryAttempts": 0}}), ("EventInvokeConfig.live",)),
        (lambda fn: replace(fn, provisioned={"live": Provisioned(2, "t")}), ("ProvisionedConcurrencyConfig.live",)),
        (lambda fn: replace(fn, versions={}, publications={}), ("Versions", "Aliases.live")),
    ],
)  # fmt: skip
def test_drift_names_what_was_changed_since(change: Any, fields: tuple[str, ...]) -> None:
    node = deployed()
    node.catalog = node.catalog.with_function(change(node.catalog.functions["fn"]))
    assert {"Fn": fields} == drifted(node)


def test_what_no_template_has_named_is_no_drift() -> None:
    node = deployed()
    function = node.catalog.functions["fn"]
    own = replace(function, aliases={**function.aliases, "mine": Alias("mine", "1", "r")})
    node.catalog = node.catalog.with_function(own.with_document("policy/", {"Statement": []}))
    assert {} == drifted(node)


def test_a_function_that_was_deleted_or_made_anew_by_the_api_is_drift() -> None:
    node = deployed()
    gone = node.catalog.without_function("gn")
    made = replace(node.catalog.functions["gn"], stack="")
    for node.catalog in (gone, gone.with_function(made)):
        assert {"Gn": ("deleted",)} == drifted(node)


def test_a_layer_version_that_is_gone_is_drift_of_the_function_that_names_it() -> None:
    node = deployed()
    node.catalog = replace(node.catalog, layers={})
    assert {"Fn": ("Layers",)} == drifted(node)


def test_pinned_files_of_a_model_are_no_drift() -> None:
    node = Node()
    node.put(Fn={"Glowplug": {"Model": {"Source": "s3://bucket/model"}}})
    function = node.catalog.functions["fn"]
    pinned = function.spec.resolved({"": (SourceFile("model.safetensors", 1, "c" * 64),)})
    node.catalog = node.catalog.with_function(replace(function, latest=replace(function.latest, spec=pinned)))
    assert {} == drifted(node)
