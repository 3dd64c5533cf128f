"""Resource policies: whom one allows, with statements as AddPermission makes them."""

from __future__ import annotations

from typing import Any

import pytest

from glowplug.runtime.policies import INVOKE, INVOKE_URL, Context, allows, allows_url, policy_of
from glowplug.runtime.principal import Principal, Right
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.statements import statement_of
from glowplug.runtime.testing.deployed import a_function

HERE, THERE = "000000000000", "111122223333"
ARN = f"arn:aws:lambda:us-east-1:{HERE}:function:echo"
CALL = Context(HERE)
PUBLIC: list[dict[str, Any]] = [
    {"Action": INVOKE_URL, "Principal": "*", "FunctionUrlAuthType": "NONE"},
    {"Action": INVOKE, "Principal": "*", "InvokedViaFunctionUrl": True},
]


def somebody(account: str = HERE, *rights: Right, arn: str = "", organization: str = "") -> Principal:
    arn = arn or f"arn:aws:iam::{account}:user/ann"
    return Principal("AKIA", account, arn, "AIDA", "ann", frozenset(rights), organization)


def policy(*permissions: dict[str, Any], **change: Any) -> dict[str, Any]:
    """Return the policy that AddPermission makes of ``permissions``; ``change`` is put into each statement."""
    given = [{"StatementId": f"s{number}", **one} for number, one in enumerate(permissions)]
    return {"Version": "2012-10-17", "Statement": [statement_of(one, ARN) | change for one in given]}


def test_a_caller_of_the_own_account_needs_the_right_and_no_policy() -> None:
    assert allows(None, somebody(HERE, "invoke"), INVOKE, CALL)
    assert allows(None, somebody(HERE, "control"), INVOKE, CALL)
    assert not allows(None, somebody(HERE, "queue"), INVOKE, CALL)


def test_others_need_a_statement() -> None:
    for principal in (somebody(THERE, "invoke"), None):
        assert not allows(None, principal, INVOKE, CALL)
        assert not allows(policy({"Action": INVOKE, "Principal": HERE}), principal, INVOKE, CALL)


@pytest.mark.parametrize(
    ("named", "arn", "allowed"),
    [
        (THERE, "", True),
        (f"arn:aws:iam::{THERE}:root", "", True),
        (f"arn:aws:iam::{THERE}:user/ann", "", True),
        (f"arn:aws:iam::{THERE}:user/bob", "", False),
        ("*", "", True),
        (f"arn:aws:iam::{THERE}:role/team/batch", f"arn:aws:sts::{THERE}:assumed-role/batch/session", True),
        (f"arn:aws:iam::{THERE}:role/batch", f"arn:aws:sts::{THERE}:assumed-role/batchelor/session", False),
        (f"arn:aws:iam::{THERE}:role/b.tch", f"arn:aws:sts::{THERE}:assumed-role/batch/session", False),
        ("s3.amazonaws.com", "", False),
    ],
)
def test_principals(named: str, arn: str, allowed: bool) -> None:
    given = policy({"Action": INVOKE, "Principal": named})
    assert allowed is allows(given, somebody(THERE, "invoke", arn=arn), INVOKE, CALL)


def test_nobody_is_allowed_by_a_star_alone() -> None:
    assert allows(policy({"Action": INVOKE, "Principal": "*"}), None, INVOKE, CALL)
    assert not allows(policy({"Action": INVOKE, "Principal": THERE}), None, INVOKE, CALL)


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        (INVOKE, True),
        ("lambda:*", True),
        ("*", True),
        ("lambda:invokefunction", True),
        (INVOKE_URL, False),
        ("lambda:Invoke", False),
    ],
)
def test_actions(action: str, allowed: bool) -> None:
    assert allowed is allows(policy({"Action": action, "Principal": "*"}), None, INVOKE, CALL)


@pytest.mark.parametrize(
    ("more", "context", "allowed"),
    [
        ({}, {}, True),
        ({"SourceArn": "arn:aws:s3:::bucket"}, {"source_arn": "arn:aws:s3:::bucket"}, True),
        ({"SourceArn": "arn:aws:s3:::b*"}, {"source_arn": "arn:aws:s3:::bucket"}, True),
        ({"SourceArn": "arn:aws:s3:*:bucket"}, {"source_arn": "arn:aws:s3:::bucket"}, False),
        ({"SourceArn": "arn:aws:s3:::other"}, {"source_arn": "arn:aws:s3:::bucket"}, False),
        ({"SourceArn": "arn:aws:s3:::bucket"}, {}, False),
        ({"SourceAccount": THERE}, {"source_account": THERE}, True),
        ({"SourceAccount": THERE}, {"source_account": HERE}, False),
        ({"EventSourceToken": "t"}, {"event_source_token": "t"}, True),
        ({"EventSourceToken": "t"}, {"event_source_token": "u"}, False),
    ],
)
def test_a_service_and_its_conditions(more: dict[str, str], context: dict[str, Any], allowed: bool) -> None:
    given = policy({"Action": INVOKE, "Principal": "s3.amazonaws.com", **more})
    assert allowed is allows(given, None, INVOKE, Context(HERE, service="s3.amazonaws.com", **context))
    assert not allows(given, None, INVOKE, Context(HERE, service="sns.amazonaws.com", **context))


def test_an_organization() -> None:
    given = policy({"Action": INVOKE, "Principal": "*", "PrincipalOrgID": "o-1234567890"})
    assert allows(given, somebody(THERE, organization="o-1234567890"), INVOKE, CALL)
    assert not allows(given, somebody(THERE, organization="o-other12345"), INVOKE, CALL)
    assert not allows(given, somebody(THERE), INVOKE, CALL)
    assert not allows(given, None, INVOKE, CALL)


# --- function URLs ----------------------------------------------------------------------------------------------------


def test_a_public_url_needs_both_statements() -> None:
    assert allows_url(policy(*PUBLIC), None, "NONE", HERE)
    assert allows_url(policy(*PUBLIC), somebody(THERE), "NONE", HERE)
    for one in PUBLIC:
        assert not allows_url(policy(one), None, "NONE", HERE)
    assert not allows_url(None, somebody(HERE, "control"), "NONE", HERE)  # a public URL knows nobody


def test_statements_for_a_public_url_do_not_open_another_kind_of_call() -> None:
    assert not allows_url(policy(*PUBLIC), None, "AWS_IAM", HERE)
    assert not allows(policy(*PUBLIC), None, INVOKE, CALL)


def test_a_url_with_iam_lets_in_the_own_account_and_whom_its_policy_names() -> None:
    given = policy(
        {"Action": INVOKE_URL, "Principal": THERE, "FunctionUrlAuthType": "AWS_IAM"},
        {"Action": INVOKE, "Principal": THERE, "InvokedViaFunctionUrl": True},
    )
    assert allows_url(None, somebody(HERE, "invoke"), "AWS_IAM", HERE)
    assert allows_url(given, somebody(THERE), "AWS_IAM", HERE)
    assert not allows_url(given, somebody("444455556666"), "AWS_IAM", HERE)
    assert not allows_url(given, None, "AWS_IAM", HERE)
    assert not allows(given, somebody(THERE), INVOKE, CALL)  # by the URL alone


# --- what is not understood -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "condition",
    [
        {"StringNotEquals": {"AWS:SourceAccount": THERE}},
        {"StringEquals": {"aws:SourceVpc": "vpc-1"}},
        {"ForAllValues:StringEquals": {"AWS:SourceAccount": HERE}},
    ],
)
def test_a_condition_that_is_not_understood_opens_nothing_and_closes(condition: dict[str, Any]) -> None:
    anyone = {"Action": INVOKE, "Principal": "*"}
    assert not allows(policy(anyone, Condition=condition), None, INVOKE, CALL)
    denied = policy(anyone, Effect="Deny", Condition=condition)
    assert not allows(denied, somebody(HERE, "control"), INVOKE, CALL)


def test_a_deny_wins() -> None:
    allowed, denied = (
        policy({"Action": INVOKE, "Principal": "*"}),
        policy({"Action": "*", "Principal": THERE}, Effect="Deny"),
    )
    both = {"Statement": [*allowed["Statement"], *denied["Statement"]]}
    assert allows(both, None, INVOKE, CALL)
    assert not allows(both, somebody(THERE), INVOKE, CALL)


def test_shapes_that_aws_writes_with_and_without_lists() -> None:
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": [HERE, THERE]},
        "Action": ["lambda:GetFunction", INVOKE],
        "Condition": {"Bool": {"lambda:InvokedViaFunctionUrl": [False]}},
    }
    assert allows({"Statement": statement}, somebody(THERE), INVOKE, CALL)
    for broken in ({"Effect": "Allow"}, {**statement, "Principal": None}, {**statement, "Principal": THERE}):
        assert not allows({"Statement": broken}, somebody(THERE), INVOKE, CALL)
    assert not allows({}, somebody(THERE), INVOKE, CALL)


def test_brackets_are_no_patterns() -> None:
    given = policy({"Action": INVOKE, "Principal": "s3.amazonaws.com", "SourceArn": "arn:aws:s3:::[ab]"})
    assert allows(given, None, INVOKE, Context(HERE, service="s3.amazonaws.com", source_arn="arn:aws:s3:::[ab]"))
    assert not allows(given, None, INVOKE, Context(HERE, service="s3.amazonaws.com", source_arn="arn:aws:s3:::a"))


def test_latest_has_the_functions_own_policy() -> None:
    function = a_function(FunctionSpec(name="echo", handler="h.h", runtime="python3.11", code_digest="ab" * 32))
    function = function.with_document("policy/", {"Id": "own"}).with_document("policy/live", {"Id": "live"})
    found = [policy_of(function, qualifier) for qualifier in ("", "$LATEST", "live", "7")]
    assert [{"Id": "own"}, {"Id": "own"}, {"Id": "live"}, None] == found
