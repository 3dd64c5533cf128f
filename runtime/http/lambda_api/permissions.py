"""Operations on resource policies."""

from __future__ import annotations

import json
from http import HTTPStatus

from glowplug.runtime.errors import ResourceNotFound
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import policies
from glowplug.runtime.statements import ACTION, STATEMENT_ID

from .call import Call, Services
from .constraints import ARN, matches, missing, one_of, refuse

_GIVEN = tuple(
    "StatementId Action Principal SourceArn SourceAccount EventSourceToken FunctionUrlAuthType InvokedViaFunctionUrl "
    "PrincipalOrgID".split()
)


async def add_permission(services: Services, call: Call) -> Reply:
    """Answer AddPermission: 201 with the statement, as JSON in a string."""
    body, site = await services.body(call), services.site()
    sid, action = body.text("StatementId"), body.text("Action")
    refuse(
        missing(sid, "statementId"),
        missing(action, "action"),
        missing(body.text("Principal"), "principal"),
        matches(sid, "statementId", STATEMENT_ID),
        matches(action, "action", ACTION),
        matches(body.text("SourceArn"), "sourceArn", ARN),
        matches(body.text("SourceAccount"), "sourceAccount", r"\d{12}"),
        matches(body.text("EventSourceToken"), "eventSourceToken", r"[a-zA-Z0-9._\-]+"),
        matches(body.text("PrincipalOrgID"), "principalOrgID", r"o-[a-z0-9]{10,32}"),
        one_of(body.text("FunctionUrlAuthType"), "functionUrlAuthType", ("NONE", "AWS_IAM")),
    )
    ref = services.parse(call)
    statement = await services.deployments.change(
        lambda catalog: policies.add(
            catalog, ref.name, ref.given, body.chosen(_GIVEN), site, revision_id=body.text("RevisionId")
        ),
        about="permit",
    )
    return json_reply({"Statement": _json(statement)}, HTTPStatus.CREATED)


async def get_policy(services: Services, call: Call) -> Reply:
    """Answer GetPolicy."""
    ref = services.parse(call)
    function = services.deployments.catalog.functions.get(ref.name)
    policy = None if function is None else function.documents.get(f"policy/{ref.given}")
    if function is None or policy is None:
        raise ResourceNotFound("The resource you requested does not exist.")
    return json_reply({"Policy": _json(policy), "RevisionId": policies.revision_of(function, ref.given)})


async def remove_permission(services: Services, call: Call) -> Reply:
    """Answer RemovePermission."""
    ref, sid, site = services.parse(call), call.path["StatementId"], services.site()
    await services.deployments.change(
        lambda catalog: policies.remove(catalog, ref.name, ref.given, sid, site, revision_id=call.query("RevisionId")),
        about="forbid",
    )
    return Reply(HTTPStatus.NO_CONTENT)


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
