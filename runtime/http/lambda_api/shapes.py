"""The shapes of requests: what botocore's model of Lambda says an operation is called, and what its body looks like.

A body of another shape is refused before an operation sees it, and members that the model does not have are left out,
as AWS does: no operation has to expect a number where a text belongs, and nothing unknown is stored and told again.
Bounds, patterns and enums are the operations' own: AWS's sentences about them come in an order that was recorded.

botocore is imported, and its model read, with the first body of a management operation and in a thread: 80 ms and 8 MB
that a node which only invokes does not pay.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from glowplug.runtime.errors import InvalidRequestContent

if TYPE_CHECKING:
    from botocore.model import ServiceModel, Shape

_WHOLE = {"integer": 2**31, "long": 2**63}
_REAL = ("float", "double")
_CAPTURED = re.compile(r"\\\{\w+\\\}")
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    "string": str, "character": str, "blob": str, "boolean": bool, "timestamp": (str, int, float),
    "structure": dict, "map": dict, "list": list,
}  # fmt: skip


async def shaped(operation: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of a body that the operation has. Raises ``InvalidRequestContent`` for one of another kind."""
    model = await asyncio.to_thread(_model)
    shape = model.operation_model(operation).input_shape
    return {} if shape is None else _structure(shape, values, "")


async def operation_at(method: str, path: str) -> str | None:
    """Return the name of Lambda's operation with that method and path, whether it is answered here or not."""
    model = await asyncio.to_thread(_model)
    for name in model.operation_names:
        http = model.operation_model(name).http
        form = _CAPTURED.sub("[^/]+", re.escape(http["requestUri"].partition("?")[0]))
        if http["method"] == method and re.fullmatch(form, path.removesuffix("/")):
            return str(name)
    return None


@cache
def _model() -> ServiceModel:
    from botocore.loaders import Loader  # late: see the module's docstring
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model("lambda", "service-2"), "lambda")


def _structure(shape: Shape, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    return {
        name: _value(member, values[name], f"{where}.{name}" if where else name)
        for name, member in shape.members.items()
        if values.get(name) is not None
    }


def _value(shape: Shape, value: Any, where: str) -> Any:
    kind = shape.type_name
    if not _fits(kind, value):
        raise InvalidRequestContent(
            f"Could not parse request body into json: {where}: {str(value)[:60]!r} is no {kind}"
        )
    if kind == "structure":
        return _structure(shape, value, where)
    if kind == "list":
        return [_value(shape.member, item, f"{where}[{place}]") for place, item in enumerate(value)]
    if kind == "map":
        return {key: _value(shape.value, item, f"{where}.{key}") for key, item in value.items()}
    return int(value) if kind in _WHOLE else value


def _fits(kind: str, value: Any) -> bool:
    if kind in _WHOLE or kind in _REAL:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return kind in _REAL or (value == value // 1 and abs(value) < _WHOLE[kind])
    return isinstance(value, _KINDS[kind])
