"""What an API may be, and which of its routes a request takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.apis import Api, api_id_of, api_of, check_targets
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.http.gateway_routing import Match, RouteTable
from glowplug.runtime.wanted import wanted_of

FUNCTION = {"FunctionName": "items", "Handler": "a.b", "Runtime": "python3.11", "CodeSha256": "0" * 64}


def api(*keys: str, **fields: Any) -> Api:
    protocol = fields.get("ProtocolType", "HTTP")
    routes = [{"RouteKey": key, "FunctionName": key} for key in keys]
    stage = "Prod" if protocol == "REST" else "$default"
    return api_of("web", {"ProtocolType": protocol, "StageName": stage, "Routes": routes, **fields})


def found(keys: Sequence[str], method: str, path: str, protocol: str = "HTTP") -> str | None:
    match = RouteTable(api(*keys, ProtocolType=protocol)).find(method, path)
    return None if match is None else match.route.key


def match_of(key: str, path: str) -> Match | None:
    return RouteTable(api(f"GET {key}")).find("GET", path)


GUIDE = ("GET /pets/dog/1", "GET /pets/dog/{id}", "GET /pets/{proxy+}", "ANY /{proxy+}", "$default")


@pytest.mark.parametrize(
    ("method", "path", "key"),
    [
        ("GET", "/pets/dog/1", "GET /pets/dog/1"),
        ("GET", "/pets/dog/2", "GET /pets/dog/{id}"),
        ("GET", "/pets/cat/1", "GET /pets/{proxy+}"),
        ("POST", "/test/5", "ANY /{proxy+}"),
        ("POST", "/pets/dog/1", "ANY /{proxy+}"),
        ("GET", "/", "$default"),
    ],
)
def test_the_most_specific_route_of_an_http_api_decides(method: str, path: str, key: str) -> None:
    for keys in (GUIDE, tuple(reversed(GUIDE))):
        assert key == found(keys, method, path)


def test_the_own_method_comes_before_any() -> None:
    assert "GET /a" == found(("ANY /a", "GET /a"), "GET", "/a")
    assert "ANY /a" == found(("ANY /a", "GET /a"), "PUT", "/a")


def test_a_resource_of_a_rest_api_is_found_before_its_method() -> None:
    keys = ("GET /a", "ANY /{rest+}")
    assert "ANY /{rest+}" == found(keys, "PUT", "/a")
    assert None is found(keys, "PUT", "/a", "REST")
    assert "ANY /{rest+}" == found(keys, "PUT", "/b", "REST")


def test_a_final_slash_is_a_path_of_its_own_in_an_http_api_alone() -> None:
    assert ("GET /a", None) == (found(("GET /a",), "GET", "/a/", "REST"), found(("GET /a",), "GET", "/a/"))
    assert "GET /" == found(("GET /",), "GET", "/", "REST")


@pytest.mark.parametrize(
    ("template", "path", "parameters"),
    [
        ("/{id}", "/7", {"id": "7"}),
        ("/{id}", "/", None),
        ("/{id}", "/7/8", None),
        ("/{id}", "/a%2Fb", {"id": "a%2Fb"}),
        ("/{rest+}", "/a/b/", {"rest": "a/b/"}),
        ("/{rest+}", "/", None),
        ("/a/{x}/c/{rest+}", "/a/b/c/d/e", {"x": "b", "rest": "d/e"}),
        ("/a/{x}/c/{rest+}", "/a/b/c", None),
        ("/caf\u00e9", "/caf%C3%A9", {}),
        ("/a", "/A", None),
    ],
)
def test_variables_take_whole_segments_as_they_were_sent(template: str, path: str, parameters: Any) -> None:
    match = match_of(template, path)
    assert parameters == (None if match is None else match.parameters)


SEGMENT = st.text('aZ09-._~%+ \u00e9\u6f22\\"\n:@', min_size=1, max_size=8)
TEMPLATES = st.lists(
    st.lists(st.sampled_from(["a", "b", "{x}"]), min_size=1, max_size=4).map(
        lambda parts: "/" + "/".join(f"{{v{number}}}" if part == "{x}" else part for number, part in enumerate(parts))
    )
    | st.lists(st.sampled_from(["a", "b"]), max_size=3).map(lambda parts: "/".join(["", *parts, "{rest+}"])),
    min_size=1, max_size=8, unique_by=lambda template: re.sub(r"v\d+", "v", template),
)  # fmt: skip
PATHS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=5).map(lambda parts: "/" + "/".join(parts))


@given(TEMPLATES, PATHS)
def test_what_is_found_is_what_a_regular_expression_says(templates: list[str], path: str) -> None:
    def pattern(template: str) -> str:
        return re.sub(r"\\{v\d+\\}", "[^/]+", re.escape(template)).replace(r"\{rest\+\}", ".+")

    matching = [template for template in templates if re.fullmatch(pattern(template), path)]
    chosen = found([f"GET {template}" for template in templates], "GET", path)
    assert (chosen is None) == (not matching)
    if chosen is not None:
        assert chosen.removeprefix("GET ") in matching
        assert "+" not in chosen or all("+" in template for template in matching)
        literal = [template for template in matching if "{" not in template]
        assert not literal or chosen == f"GET {literal[0]}"


@given(TEMPLATES, PATHS, st.randoms())
def test_the_order_in_which_routes_are_written_does_not_matter(templates: list[str], path: str, random: Any) -> None:
    keys = [f"GET {template}" for template in templates]
    shuffled = keys[:]
    random.shuffle(shuffled)
    assert found(keys, "GET", path) == found(shuffled, "GET", path)


@given(SEGMENT, SEGMENT)
def test_a_literal_matches_itself_however_it_is_encoded(one: str, other: str) -> None:
    path = f"/{quote(one, safe='')}/{quote(other, safe='')}"
    assert match_of(f"/{one}/{other}", path) is not None
    match = match_of("/{x}/{y}", path)
    assert match is not None
    assert path == f"/{match.parameters['x']}/{match.parameters['y']}"


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ProtocolType": "WEBSOCKET"}, "Web.ProtocolType: 'WEBSOCKET' is not one of HTTP, REST"),
        ({"StageName": ""}, "Web.StageName: must be a string, not str ''"),
        ({"StageName": "a/b"}, "Web.StageName: 'a/b' is not a stage"),
        ({"ProtocolType": "REST"}, "Web.StageName: '$default' is not a stage"),
        ({"Rout": []}, "Web.Rout: unknown key; did you mean Routes?"),
        ({"Routes": "x"}, "Web.Routes: must be a list"),
        ({"Routes": [1]}, "Web.Routes.0: must be a mapping"),
        ({"CorsConfiguration": {"AllowOrigins": "*"}}, "Web.CorsConfiguration.AllowOrigins: must be a list of strings"),
        ({"CorsConfiguration": {"AllowCredentials": 1}}, "Web.CorsConfiguration.AllowCredentials: must be true or false"),
        (
            {"CorsConfiguration": {"AllowCredentials": True, "AllowOrigins": ["*"]}},
            "Web.CorsConfiguration.AllowCredentials: cannot be true where AllowOrigins is *",
        ),
        (
            {"ProtocolType": "REST", "StageName": "Prod", "CorsConfiguration": {"MaxAge": 1}},
            "Web.CorsConfiguration: is for HTTP APIs",
        ),
    ],
)  # fmt: skip
def test_an_api_that_cannot_be_served_is_refused_by_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DefinitionError, match=re.escape(message)):
        api_of("web", {"ProtocolType": "HTTP", "StageName": "$default", **changes}, "Web")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from(["HTTP", "REST", "$default", "GET /{a}", "GET /{a+}/b", "ANY /", "AWS_IAM", "1.0", "*"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([
            "Name", "ProtocolType", "StageName", "StageVariables", "CorsConfiguration", "BinaryMediaTypes", "Routes",
            "RouteKey", "FunctionName", "Qualifier", "PayloadFormatVersion", "TimeoutInMillis", "AuthorizationType",
            "Response", "StatusCode", "Headers", "Body", "AllowOrigins", "AllowCredentials", "MaxAge", "x",
        ]), inner, max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["Routes", "StageVariables", "CorsConfiguration", "Name", "Stack"]), JSON))
def test_any_json_is_an_api_or_refused_by_a_field(given_fields: dict[str, Any]) -> None:
    for protocol, stage in (("HTTP", "$default"), ("REST", "v1")):
        try:
            made = api_of("web", {"ProtocolType": protocol, "StageName": stage, **given_fields}, "Web")
        except DefinitionError as error:
            refused = error.field
        else:
            refused = ""
            RouteTable(made).find("GET", "/a/b")
        assert refused == "" or refused.startswith("Web")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RouteKey": "FETCH /"}, "RouteKey: 'FETCH /' does not begin with one of ANY, DELETE"),
        ({"RouteKey": "GET items"}, "RouteKey: 'items' is not a path"),
        ({"RouteKey": "GET /a//b"}, "RouteKey: '/a//b' has an empty segment"),
        ({"RouteKey": "GET /a-{id}"}, "RouteKey: '/a-{id}' has 'a-{id}'; a variable is a whole segment"),
        ({"RouteKey": "GET /{a+}/b"}, "RouteKey: {a+} takes all that follows"),
        ({"RouteKey": "GET /{a}/{a+}"}, "RouteKey: {a+} is there twice"),
        ({"FunctionName": ""}, "has either a FunctionName or a Response"),
        ({"Response": {}}, "Response: is for REST APIs"),
        ({"PayloadFormatVersion": "3.0"}, "PayloadFormatVersion: '3.0' is not one of 2.0, 1.0"),
        ({"TimeoutInMillis": 49}, "TimeoutInMillis: 49 is not between 50 and"),
        ({"AuthorizationType": "JWT"}, "AuthorizationType: 'JWT' is not one of NONE, AWS_IAM"),
    ],
)
def test_a_route_that_cannot_be_served_is_refused_by_its_field(changes: dict[str, Any], message: str) -> None:
    route = {"RouteKey": "GET /", "FunctionName": "items", **changes}
    with pytest.raises(DefinitionError, match=re.escape(message)) as refused:
        api("GET /other", Routes=[{"RouteKey": "GET /other", "FunctionName": "items"}, route])
    assert refused.value.field.startswith("Routes.1")


def test_a_route_key_is_there_once() -> None:
    with pytest.raises(DefinitionError, match=r"Routes.1.RouteKey: GET / is there twice"):
        api("GET /", "GET /")


def test_a_response_cannot_forge_headers() -> None:
    route = {"RouteKey": "OPTIONS /", "Response": {"Headers": {"A": "b\r\nC: d"}}}
    with pytest.raises(DefinitionError, match=r"Response.Headers.A: holds a control character"):
        api(ProtocolType="REST", Routes=[route])


def test_a_route_leads_to_a_function_of_its_own_stack_and_an_alias_that_is_going_to_be() -> None:
    functions = [wanted_of({**FUNCTION, "Aliases": {"live": {"FunctionVersion": "$LATEST"}}})]

    def checked(**target: str) -> None:
        check_targets(api(Routes=[{"RouteKey": "GET /", **target}]), functions, "Web")

    checked(FunctionName="items")
    checked(FunctionName="items", Qualifier="live")
    checked(FunctionName="items", Qualifier="3")
    with pytest.raises(DefinitionError, match=r"Web.Routes.0.FunctionName: other is no function of this stack"):
        checked(FunctionName="other")
    with pytest.raises(DefinitionError, match=r"Web.Routes.0.Qualifier: beta is no alias of items"):
        checked(FunctionName="items", Qualifier="beta")


def test_defaults_are_those_of_aws() -> None:
    http, rest = api("GET /"), api("GET /", ProtocolType="REST")
    assert [("2.0", 30.0), ("1.0", 29.0)] == [(one.routes[0].payload, one.routes[0].timeout_s) for one in (http, rest)]
    assert ("", "/Prod") == (http.root, rest.root)
    assert "main-my-web" == api_id_of("main", "My_Web")
