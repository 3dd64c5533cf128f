"""Function names, ARNs and qualifiers as callers write them (spec 1.3)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from glowplug.runtime.errors import Forbidden, FunctionNotFound, InvalidParameter, ValidationFailed

LATEST = "$LATEST"
_NAME_PATTERN = (  # as AWS prints it in its ValidationException
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?"
    r"(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?"
)
_QUALIFIER_PATTERN = r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+"
_NAME = re.compile(_NAME_PATTERN, re.ASCII)
_QUALIFIER = re.compile(_QUALIFIER_PATTERN, re.ASCII)
_REGION, _ACCOUNT, _FUNCTION, _DERIVED = 3, 9, 11, 13  # groups of _NAME_PATTERN
_NAME_LIMIT, _QUALIFIER_LIMIT = 256, 128
_NEW_PATTERN = (  # of a function that is to be created, and of those that management operations name
    r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?"
    r"(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?"
)
_NEW_NAME = re.compile(_NEW_PATTERN, re.ASCII)
_NEW_LIMIT, _SHORT_LIMIT = 140, 64


@dataclass(frozen=True, slots=True)
class FunctionRef:
    """A function as a caller named it. ``arn`` keeps the qualifier exactly as given, none when none was."""

    name: str
    qualifier: str
    arn: str

    @property
    def given(self) -> str:
        """The qualifier as it was given, empty when none was."""
        return self.qualifier if self.arn.endswith(f":{self.qualifier}") else ""


def parse(given: str, query_qualifier: str | None, *, region: str, account_id: str) -> FunctionRef:
    """Read a name, partial or full ARN, with or without qualifier, and the ``Qualifier`` of the query.

    Raises ``ValidationFailed`` with AWS's sentences, ``InvalidParameter`` when two qualifiers differ, and
    ``FunctionNotFound`` for a function of another region or account.
    """
    problems = []
    if query_qualifier is not None and len(query_qualifier) > _QUALIFIER_LIMIT:
        problems.append(_problem(query_qualifier, "qualifier", f"have length less than or equal to {_QUALIFIER_LIMIT}"))
    elif query_qualifier is not None and not _QUALIFIER.fullmatch(query_qualifier):
        problems.append(
            _problem(query_qualifier, "qualifier", f"satisfy regular expression pattern: {_QUALIFIER_PATTERN}")
        )
    match = _NAME.fullmatch(given)
    if match is None:
        problems.append(_problem(given, "functionName", f"satisfy regular expression pattern: {_NAME_PATTERN}"))
    elif len(given) > _NAME_LIMIT:
        problems.append(_problem(given, "functionName", f"have length less than or equal to {_NAME_LIMIT}"))
    if problems or match is None:
        raise ValidationFailed(*problems)
    derived = match[_DERIVED]
    if derived is not None and query_qualifier is not None and derived != query_qualifier:
        raise InvalidParameter("The derived qualifier from the function name does not match the specified qualifier.")
    their_region = (match[_REGION] or f"{region}:")[:-1]
    if their_region != region:
        raise FunctionNotFound(f"Functions from '{their_region}' are not reachable in this region ('{region}')")
    qualifier = derived if derived is not None else query_qualifier
    their_account = (match[_ACCOUNT] or f"{account_id}:")[:-1]
    arn = f"arn:aws:lambda:{region}:{their_account}:function:{match[_FUNCTION]}"
    if their_account != account_id:
        raise FunctionNotFound(f"Function not found: {arn}:{qualifier or LATEST}")
    return FunctionRef(match[_FUNCTION], qualifier or LATEST, f"{arn}:{qualifier}" if qualifier else arn)


def _problem(value: str, field: str, constraint: str) -> str:
    return f"Value '{value}' at '{field}' failed to satisfy constraint: Member must {constraint}"


def parse_new(given: str, *, region: str, account_id: str) -> FunctionRef:
    """Read the name of a function that is to be created: a name or an ARN without a qualifier.

    Raises ``ValidationFailed``, ``InvalidParameter``, ``FunctionNotFound`` or ``Forbidden`` in AWS's words.
    """
    match = _NEW_NAME.fullmatch(given)
    problems = []
    if len(given) > _NEW_LIMIT:
        problems.append(_problem(given, "functionName", f"have length less than or equal to {_NEW_LIMIT}"))
    if match is None:
        problems.append(_problem(given, "functionName", f"satisfy regular expression pattern: {_NEW_PATTERN}"))
    if problems or match is None:
        raise ValidationFailed(*problems)
    name, their_region = match[_FUNCTION], (match[_REGION] or f"{region}:")[:-1]
    if len(name) > _SHORT_LIMIT:
        problem = _problem(given, "functionName", f"have length less than or equal to {_SHORT_LIMIT}")
        raise InvalidParameter(f"1 validation error detected: {problem}")
    if their_region != region:
        raise FunctionNotFound(f"Functions from '{their_region}' are not reachable in this region ('{region}')")
    if (match[_ACCOUNT] or f"{account_id}:")[:-1] != account_id:
        raise Forbidden("")
    return FunctionRef(name, LATEST, f"arn:aws:lambda:{region}:{account_id}:function:{name}")
