"""What a caller may do with Lambda's API, once it is known who calls.

The operations that run a function need the right to invoke or, for callers of another account, a statement in the
function's resource policy. All others control the node.
"""

from __future__ import annotations

from glowplug.runtime.errors import Forbidden
from glowplug.runtime.policies import INVOKE, Context, allows, policy_of
from glowplug.runtime.principal import Principal

from .call import Call, Services

_INVOKING = frozenset({"Invoke", "InvokeAsync", "InvokeWithResponseStream"})


def authorize(principal: Principal, operation: str, call: Call, services: Services) -> None:
    """Raise ``Forbidden``, in AWS's words, unless ``principal`` may do this; what ``Services.parse`` raises."""
    if operation not in _INVOKING:
        if not principal.may("control"):
            raise refusal(principal, f"lambda:{operation}", _resource(call, services))
        return
    ref = services.parse(call)
    function = services.deployments.catalog.functions.get(ref.name)
    policy = None if function is None else policy_of(function, ref.given)
    if not allows(policy, principal, INVOKE, Context(services.account_id)):
        kind = "identity" if principal.account_id == services.account_id else "resource"
        raise refusal(principal, INVOKE, _resource(call, services), kind)


def refusal(principal: Principal, action: str, resource: str, kind: str = "identity") -> Forbidden:
    """Return the error for somebody whose ``kind`` of policy does not allow ``action``."""
    return Forbidden(
        f"User: {principal.arn} is not authorized to perform: {action} on resource: {resource} "
        f"because no {kind}-based policy allows the {action} action"
    )


def _resource(call: Call, services: Services) -> str:
    """Return the ARN that an operation names, ``*`` for one that names none."""
    name = call.path.get("FunctionName")
    if name is None:
        return call.path.get("ARN", "*")
    return name if name.startswith("arn:") else f"{services.arn_prefix}{name}"
