"""What putting a stack makes of the catalog: versions, aliases, URLs, layers, APIs; and what it leaves alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from glowplug.runtime.catalog import LATEST, Alias, Catalog, Function, Provisioned
from glowplug.runtime.contents import Contents
from glowplug.runtime.deployments import Stamp, activated, allocation_of, quota_of
from glowplug.runtime.errors import Conflict, DefinitionError, PolicyTooLong
from glowplug.runtime.management import mappings, policies
from glowplug.runtime.management.drift import drift
from glowplug.runtime.management.site import Site
from glowplug.runtime.management.stacks import FunctionChange, WantedStack, destroy, put
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
        triggers: Any = None, mappings: Any = None, **functions: Any,
    ) -> list[FunctionChange]:  # fmt: skip
        definitions = {
            key: {"FunctionName": key.lower(), "Handler": "h.f", "Runtime": "python3.11", "CodeSha256": CODE, **more}
            for key, more in functions.items()
        }
        stack = WantedStack(
            name, "t", {key: wanted_of(given) for key, given in definitions.items()},
            Contents(definitions, layers or {}, apis or {}, mappings=mappings or {}, triggers=triggers or {}),
            {CODE: 10, OTHER: 20}, exports or {}, tuple(imports),
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


def test_whether_loops_end_is_the_templates_to_say_and_else_the_apis() -> None:
    node = Node()
    key, allow = "recursion/", {"RecursiveLoop": "Allow"}
    node.put(Fn=allow)
    assert {key: allow} == node.catalog.functions["fn"].documents
    node.put(Fn={})
    assert {} == node.catalog.functions["fn"].documents
    node.catalog = node.catalog.with_function(node.catalog.functions["fn"].with_document(key, allow))
    node.put(Fn={})
    assert {key: allow} == node.catalog.functions["fn"].documents


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
    assert Quota(5, {"1": 2}, {"1": (1, 4)}) == quota_of(node.catalog.functions["fn"])
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


EVERYBODY = {"Action": "lambda:InvokeFunctionUrl", "Principal": "*", "StatementId": "main-Public"}
SERVICE = {"Action": "lambda:InvokeFunction", "Principal": "s3.amazonaws.com", "StatementId": "main-S3"}


def sids(node: Node, qualifier: str = "") -> list[str]:
    policy = node.catalog.functions["fn"].documents.get(f"policy/{qualifier}", {"Statement": []})
    return [one["Sid"] for one in policy["Statement"]]


def test_permissions_of_a_template_are_statements_beside_those_of_the_api() -> None:
    node = Node()
    node.put(Fn={**PUBLISHED, "Permissions": [EVERYBODY, {**EVERYBODY, "Qualifier": "live"}]})
    assert (["main-Public"], ["main-Public"]) == (sids(node), sids(node, "live"))
    [statement] = node.catalog.functions["fn"].documents["policy/live"]["Statement"]
    assert (f"{ARN}fn:live", "*") == (statement["Resource"], statement["Principal"])
    by_hand = {**SERVICE, "StatementId": "mine"}
    node.catalog, _ = policies.add(node.catalog, "fn", "", by_hand, node.site(), revision_id=None)
    before = node.catalog.functions["fn"]
    node.put(Fn={**PUBLISHED, "Permissions": [EVERYBODY, {**EVERYBODY, "Qualifier": "live"}]})
    assert before == node.catalog.functions["fn"]
    node.put(Fn={**PUBLISHED, "Permissions": [SERVICE]})
    assert (["mine", "main-S3"], []) == (sids(node), sids(node, "live"))
    assert "policy/live" not in node.catalog.functions["fn"].documents
    assert before.latest.revision_id != node.catalog.functions["fn"].latest.revision_id
    node.put(Fn=PUBLISHED)
    assert ["mine"] == sids(node)


def test_a_permission_that_cannot_be_put_is_refused_with_its_field() -> None:
    node = Node()
    node.put(Fn={})
    node.catalog, _ = policies.add(node.catalog, "fn", "", SERVICE, node.site(), revision_id=None)
    for permissions, problem in (
        ([EVERYBODY, SERVICE], "Fn.Permissions.1: the API has added a statement main-S3 already"),
        ([{**EVERYBODY, "Qualifier": "live"}], "Fn.Permissions.0: live is no alias or version of this function"),
        ([{**EVERYBODY, "Qualifier": LATEST}], r"Fn.Permissions.0: \$LATEST has no policy of its own"),
    ):
        with pytest.raises(DefinitionError, match=problem):
            node.put(Fn={"Permissions": permissions})
    long = [{**SERVICE, "StatementId": f"s{number}", "SourceArn": "x" * 200} for number in range(100)]
    with pytest.raises(PolicyTooLong):
        node.put(Fn={"Permissions": long})


def test_code_that_comes_back_is_published_again_and_never_as_it_once_was() -> None:
    node = Node()
    later = {"Versions": {"V2": {}}, "Aliases": {"live": {"FunctionVersion": {"Ref": "V2"}}}, "CodeSha256": OTHER}
    node.put(Fn=PUBLISHED)
    node.put(Fn=later)
    node.put(Fn={**PUBLISHED, "Timeout": 9})
    function = node.catalog.functions["fn"]
    assert ("3", 9, CODE) == (
        function.aliases["live"].version, function.versions[3].spec.timeout_s, function.versions[3].spec.code_digest
    )  # fmt: skip


def test_an_alias_that_the_template_no_longer_has_goes_with_all_that_is_its_own() -> None:
    node = Node()
    provisioned = {"ProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 1}}
    alias = {"live": {"FunctionVersion": {"Ref": "V1"}, **provisioned}}
    permission = {**EVERYBODY, "Qualifier": "live"}
    more = {"Urls": {"live": {}}, "EventInvokeConfigs": {"live": {}}, "Permissions": [permission]}
    node.put(Fn={"Versions": {"V1": {}}, "Aliases": alias, **more})
    node.put(Fn={})
    function = node.catalog.functions["fn"]
    assert ({}, {}, {}, {}, {1}) == (
        function.aliases, function.urls, function.documents, function.provisioned, set(function.versions)
    )  # fmt: skip
    assert {} == node.catalog.urls


def test_what_the_template_never_said_stays_as_the_api_set_it() -> None:
    node = Node()
    node.put(Fn={**PUBLISHED, "Tags": {"a": "1"}})
    function = node.catalog.functions["fn"]
    provisioned = {"live": Provisioned(2, "t")}
    by_hand = replace(function, tags={**function.tags, "mine": "x"}, reserved=7, provisioned=provisioned)
    node.catalog = node.catalog.with_function(by_hand)
    node.put(Fn=PUBLISHED)
    function = node.catalog.functions["fn"]
    assert ({"mine": "x"}, 7, provisioned) == (function.tags, function.reserved, function.provisioned)
    node.put(Fn={**PUBLISHED, "ReservedConcurrentExecutions": 3})
    node.put(Fn=PUBLISHED)
    assert node.catalog.functions["fn"].reserved is None


def test_a_function_whose_logical_id_changes_keeps_what_the_template_gave_it_as_the_templates() -> None:
    node = Node()
    node.put(Fn={**PUBLISHED, "Permissions": [EVERYBODY]})
    node.put(Renamed={"FunctionName": "fn", "Permissions": [SERVICE]})
    assert ({}, ["main-S3"]) == (node.catalog.functions["fn"].aliases, sids(node))


def test_a_weight_may_go_to_a_version_of_the_template() -> None:
    node = Node()
    node.put(Fn=PUBLISHED)
    routed = {"FunctionVersion": "1", "RoutingConfig": {"AdditionalVersionWeights": {"V2": 0.1}}}
    node.put(Fn={"Versions": {"V2": {}}, "Aliases": {"live": routed}, "CodeSha256": OTHER})
    alias = node.catalog.functions["fn"].aliases["live"]
    assert ("1", {"2": 0.1}) == (alias.version, alias.weights)
    routed = {"FunctionVersion": "2", "RoutingConfig": {"AdditionalVersionWeights": {"2": 0.1}}}
    with pytest.raises(DefinitionError, match=r"Fn.Aliases.live: Invalid function version 2"):
        node.put(Fn={"Versions": {"V2": {}}, "Aliases": {"live": routed}, "CodeSha256": OTHER})


def test_an_event_invoke_config_is_stamped_when_it_changes_and_needs_its_qualifier() -> None:
    node = Node()
    node.put(Fn={"EventInvokeConfigs": {LATEST: {"MaximumRetryAttempts": 1}}})
    first = node.catalog.functions["fn"].documents[f"event-invoke/{LATEST}"]
    assert {"MaximumRetryAttempts": 1, "LastModified": 0.0} == first
    node.put(Fn={"EventInvokeConfigs": {LATEST: {"MaximumRetryAttempts": 1}}})
    assert first is node.catalog.functions["fn"].documents[f"event-invoke/{LATEST}"]
    with pytest.raises(DefinitionError, match=r"Fn.EventInvokeConfigs.live: live is no alias or version"):
        node.put(Fn={"EventInvokeConfigs": {"live": {}}})


def test_more_is_not_provisioned_than_reserved_nor_twice_for_one_version() -> None:
    node = Node()
    kept = {"ProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 2}}
    alias = {"live": {"FunctionVersion": {"Ref": "V1"}, **kept}}
    for reserved, version, problem in ((1, {}, "should not be greater than"), (9, kept, "already Provisioned version")):
        with pytest.raises(DefinitionError, match=problem):
            node.put(Fn={"Versions": {"V1": version}, "Aliases": alias, "ReservedConcurrentExecutions": reserved})


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
    "Layers": [{"Ref": "Deps"}], "Urls": {"live": {"AuthType": "NONE"}}, "EventInvokeConfigs": {"live": {}},
    "Versions": {"V1": {}}, "Permissions": [EVERYBODY], "RecursiveLoop": "Allow",
    "Aliases": {
        "live": {"FunctionVersion": {"Ref": "V1"}, "ProvisionedConcurrencyConfig": {"ProvisionedConcurrentExecutions": 1}}
    },
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
        (lambda fn: replace(fn, tags={"team": "b", "x": "y"}), ("Tags.team",)),  # the other is nobody's but the API's
        (lambda fn: replace(fn, reserved=None), ("ReservedConcurrentExecutions",)),
        (lambda fn: replace(fn, aliases={}), ("Aliases.live",)),
        (lambda fn: replace(fn, urls={}), ("FunctionUrlConfig.live",)),
        (lambda fn: fn.with_document("event-invoke/live", {"MaximumRetryAttempts": 0}), ("EventInvokeConfig.live",)),
        (lambda fn: replace(fn, provisioned={"live": Provisioned(2, "t")}), ("ProvisionedConcurrencyConfig.live",)),
        (lambda fn: fn.with_document("policy/", None), ("Permissions",)),
        (lambda fn: fn.with_document("recursion/", {"RecursiveLoop": "Terminate"}), ("RecursiveLoop",)),
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
    aliases, tags = {**function.aliases, "mine": Alias("mine", "1", "r")}, {**function.tags, "mine": "x"}
    node.catalog = node.catalog.with_function(replace(function, aliases=aliases, tags=tags))
    node.catalog, _ = policies.add(
        node.catalog, "fn", "", {**SERVICE, "StatementId": "mine"}, node.site(), revision_id=None
    )
    assert {} == drifted(node)


def test_a_function_that_was_deleted_or_made_anew_by_the_api_is_drift() -> None:
    node = deployed()
    gone = node.catalog.without_function("gn")
    made = replace(node.catalog.functions["gn"], stack="")
    for node.catalog in (gone, gone.with_function(made)):
        assert {"Gn": ("deleted",)} == drifted(node)


def test_a_layer_that_was_deleted_or_got_another_version_is_drift() -> None:
    node = deployed()
    layer = node.catalog.layers["deps"]
    for layers, drifting in (
        ({}, {"Deps": ("deleted",)}),  # made anew, it has the number that its function names
        ({"deps": replace(layer, versions={})}, {"Deps": ("deleted",), "Fn": ("Layers",)}),
        ({"deps": replace(layer, stack="")}, {"Deps": ("deleted",)}),
        ({"deps": replace(layer, next_version=3, versions={2: replace(layer.versions[1], version=2, digest=OTHER)})},
         {"Deps": ("Code",), "Fn": ("Layers",)}),
    ):  # fmt: skip
        node.catalog = replace(node.catalog, layers=layers)
        assert drifting == drifted(node)


QUEUE = "arn:aws:sqs:us-east-1:000000000000:jobs"
MAPPING = {"FunctionName": "fn", "EventSourceArn": QUEUE, "BatchSize": 5}


def test_a_mapping_that_was_changed_or_deleted_by_the_api_is_drift() -> None:
    node = Node()
    node.put(mappings={"Map": MAPPING, "Other": {**MAPPING, "FunctionName": "gn"}}, Fn={}, Gn={})
    assert {} == drifted(node)
    uuid = node.catalog.stacks["main"].names.mappings["Map"]
    given = {"BatchSize": 9, "Enabled": False, "KMSKeyArn": "k"}
    changed, _ = mappings.update(node.catalog, uuid, given, f"{ARN}gn:live", node.site())
    node.catalog, _ = mappings.delete(changed, node.catalog.stacks["main"].names.mappings["Other"])
    assert {"Map": ("BatchSize", "FunctionName", "KMSKeyArn", "Enabled"), "Other": ("deleted",)} == drifted(node)


def test_a_function_that_was_deleted_hides_no_other_drift_behind_its_mapping() -> None:
    node = Node()
    node.put(mappings={"Map": MAPPING}, Fn={}, Gn={})
    node.catalog = node.catalog.without_function("fn")
    node.catalog = node.catalog.with_function(changed_spec(node.catalog.functions["gn"], timeout_s=9.0))
    assert {"Fn": ("deleted",), "Gn": ("Timeout",)} == drifted(node)


def test_pinned_files_of_a_model_are_no_drift() -> None:
    node = Node()
    node.put(Fn={"Glowplug": {"Model": {"Source": "s3://bucket/model"}}})
    function = node.catalog.functions["fn"]
    pinned = function.spec.resolved({"": (SourceFile("model.safetensors", 1, "c" * 64),)})
    node.catalog = node.catalog.with_function(replace(function, latest=replace(function.latest, spec=pinned)))
    assert {} == drifted(node)


def test_a_trigger_is_a_document_that_knows_since_when_it_runs_at_its_times() -> None:
    node = Node()
    rule = {"Type": "AWS::Events::Rule", "Name": "tick", "ScheduleExpression": "rate(1 hour)",
            "Targets": [{"FunctionName": "fn"}]}  # fmt: skip
    node.put(triggers={"Tick": rule}, Fn={})
    key = "trigger/main/Tick"
    assert {**rule, "Stack": "main", "CreationDate": "i1"} == node.catalog.documents[key]
    assert {"Tick": "tick"} == node.catalog.stacks["main"].names.triggers
    node.put(triggers={"Tick": {**rule, "Targets": [{"FunctionName": "fn", "Input": "1"}]}}, Fn={})
    assert "i1" == node.catalog.documents[key]["CreationDate"]
    node.put(triggers={"Tick": {**rule, "State": "DISABLED"}}, Fn={})
    assert "i3" == node.catalog.documents[key]["CreationDate"]
    assert {} == drift(node.catalog, node.catalog.stacks["main"], node.site())
    node.put(triggers={"Other": rule}, Fn={})
    assert ["trigger/main/Other"] == list(node.catalog.documents)
    node.catalog, _ = destroy(node.catalog, "main")
    assert {} == node.catalog.documents
