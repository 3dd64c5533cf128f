"""Whom a function's resource policy allows to call it (spec 1.4, 2.5). Pure: a policy, a caller and a context go in.

Policies are the documents that AddPermission makes (``runtime/management/policies.py``), in AWS's own shape. A caller
of the function's own account needs none: its credentials' rights are its identity policy. Everybody else (another
account, a service, nobody at all) needs a statement whose principal, action and conditions all match. What is not known
here (an operator, a key) never matches in an Allow and always does in a Deny: a policy that cannot be understood opens
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal

from .catalog import LATEST, Function
from .principal import Principal

INVOKE = "lambda:InvokeFunction"
INVOKE_URL = "lambda:InvokeFunctionUrl"

Policy = Mapping[str, Any]

_SESSION = re.compile(r"arn:(?P<partition>[\w-]+):sts::(?P<account>\d{12}):assumed-role/(?P<role>[^/]+)/.+")


@dataclass(frozen=True, slots=True)
class Context:
    """The circumstances of a call. ``account_id`` is the function's own account.

    ``service`` is the AWS name of a service that calls by itself (``s3.amazonaws.com``), for ``source_arn`` of
    ``source_account``. ``url_auth_type`` is the AuthType of the function URL that was called, empty for other calls.
    """

    account_id: str
    service: str = ""
    source_arn: str = ""
    source_account: str = ""
    url_auth_type: Literal["", "NONE", "AWS_IAM"] = ""
    event_source_token: str = ""


def policy_of(function: Function, qualifier: str) -> Policy | None:
    """Return the policy of a function, or of its version or alias; ``$LATEST`` has none but the function's."""
    return function.documents.get(f"policy/{'' if qualifier == LATEST else qualifier}")


def allows(policy: Policy | None, principal: Principal | None, action: str, context: Context) -> bool:
    """Return whether a call is allowed. ``principal`` is None for a caller without a name, or a service.

    1. A Deny that matches wins.
    2. A caller of the function's own account with the right to invoke is allowed: by its identity.
    3. Anyone else is allowed by an Allow that matches, and by nothing else.
    """
    statements = () if policy is None else tuple(_listed(policy.get("Statement")))
    if any(one.get("Effect") == "Deny" and _matches(one, principal, action, context) for one in statements):
        return False
    if principal is not None and principal.account_id == context.account_id:
        return principal.may("invoke")
    return any(one.get("Effect") == "Allow" and _matches(one, principal, action, context) for one in statements)


def allows_url(policy: Policy | None, principal: Principal | None, auth_type: str, account_id: str) -> bool:
    """Return whether a function URL may be called: both actions must be allowed (spec 0).

    ``policy`` is that of the URL's qualifier. A public URL (``NONE``) knows nobody, whoever signed the request.
    """
    public = auth_type == "NONE"
    context = Context(account_id, url_auth_type="NONE" if public else "AWS_IAM")
    caller = None if public else principal
    return all(allows(policy, caller, action, context) for action in (INVOKE_URL, INVOKE))


def _matches(statement: Policy, principal: Principal | None, action: str, context: Context) -> bool:
    """Return whether a statement speaks of this call."""
    denies = statement.get("Effect") == "Deny"
    if not any(_like(str(one), action) for one in _listed(statement.get("Action"))):
        return False
    if not any(_is_principal(*one, principal, context) for one in _principals(statement.get("Principal"))):
        return False
    known = _known(principal, context)
    return all(
        _holds(operator, key, _listed(wanted), known, denies)
        for operator, keys in (statement.get("Condition") or {}).items()
        for key, wanted in keys.items()
    )


def _principals(value: object) -> Iterable[tuple[str, str]]:
    """Return (kind, name) of each principal of a statement; ``*`` is ("AWS", "*")."""
    if isinstance(value, Mapping):
        return [(str(kind), str(name)) for kind, names in value.items() for name in _listed(names)]
    return [("AWS", "*")] if value == "*" else []


def _is_principal(kind: str, name: str, principal: Principal | None, context: Context) -> bool:
    if kind == "Service":
        return bool(context.service) and name == context.service
    if kind != "AWS":
        return False
    if name == "*":
        return True
    if principal is None:
        return False
    if name in (principal.account_id, f"arn:aws:iam::{principal.account_id}:root", principal.arn):
        return True
    session = _SESSION.fullmatch(principal.arn)  # a role's sessions are the role
    return (
        session is not None
        and re.fullmatch(
            rf"arn:{session['partition']}:iam::{session['account']}:role/(?:.+/)?{re.escape(session['role'])}", name
        )
        is not None
    )


def _known(principal: Principal | None, context: Context) -> dict[str, str]:
    """Return the condition keys that a call has, by their lower-case names. A key that it lacks matches nothing."""
    of_url = context.url_auth_type
    known = {
        "lambda:functionurlauthtype": of_url,
        "lambda:invokedviafunctionurl": "true" if of_url else "false",
        "lambda:eventsourcetoken": context.event_source_token,
        "aws:sourcearn": context.source_arn,
        "aws:sourceaccount": context.source_account,
    }
    if principal is not None:
        known |= {
            "aws:principalorgid": principal.organization_id,
            "aws:principalaccount": principal.account_id,
            "aws:principalarn": principal.arn,
            "aws:userid": principal.user_id,
        }
    return {key: value for key, value in known.items() if value}


def _holds(operator: str, key: str, wanted: Iterable[object], known: Mapping[str, str], denies: bool) -> bool:
    """Return whether one condition holds; one that is not understood does in a Deny alone."""
    compare = _OPERATORS.get(operator)
    if compare is None or key.lower() not in _KEYS:
        return denies
    value = known.get(key.lower())
    return value is not None and any(compare(_text(one), value) for one in wanted)


def _like(pattern: str, text: str) -> bool:
    """Compare an action with a pattern; AWS reads both without regard to case."""
    return fnmatchcase(text.lower(), _plain_brackets(pattern.lower()))


def _arn_like(pattern: str, arn: str) -> bool:
    """Compare ARNs part by part: a ``*`` does not reach past the colon of one of the first five."""
    patterns, parts = pattern.split(":", 5), arn.split(":", 5)
    return len(patterns) == len(parts) == 6 and all(
        fnmatchcase(part, _plain_brackets(one)) for one, part in zip(patterns, parts, strict=True)
    )


@lru_cache(maxsize=1024)
def _plain_brackets(pattern: str) -> str:
    """Return a pattern for ``fnmatch`` in which ``*`` and ``?`` alone are special."""
    return pattern.replace("[", "[[]")


_OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda wanted, value: wanted == value,
    "StringEqualsIgnoreCase": lambda wanted, value: wanted.lower() == value.lower(),
    "StringLike": lambda wanted, value: fnmatchcase(value, _plain_brackets(wanted)),
    "ArnEquals": _arn_like,  # AWS documents both to be the same
    "ArnLike": _arn_like,
    "Bool": lambda wanted, value: wanted.lower() == value.lower(),
}
_KEYS = frozenset(
    "lambda:functionurlauthtype lambda:invokedviafunctionurl lambda:eventsourcetoken aws:sourcearn aws:sourceaccount "
    "aws:principalorgid aws:principalaccount aws:principalarn aws:userid".split()
)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _listed(value: Any) -> Iterable[Any]:
    """Return a policy's value as a list: AWS writes one of something without its list."""
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)
