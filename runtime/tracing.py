"""OpenTelemetry spans around invocations, where the operator's process configures a provider; nothing otherwise.

Only the API package is needed. Without an SDK its provider is a proxy that makes no spans, which is asked once, so that
an untraced node pays nothing per request. Attribute names are those of the FaaS semantic conventions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from .invocation import Invocation, Outcome

Invoke = Callable[[Invocation], Awaitable[Outcome]]


def traced(invoke: Invoke, provider: trace.TracerProvider | None = None) -> Invoke:
    """Return ``invoke`` inside a span per invocation, or ``invoke`` itself when no provider is configured.

    ``provider`` of None means the process's own.
    """
    provider = provider or trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        return invoke
    tracer = provider.get_tracer("glowplug")

    async def spanned(invocation: Invocation) -> Outcome:
        attributes = {
            "faas.invoked_name": invocation.function,
            "faas.invocation_id": invocation.request_id,
            "cloud.resource_id": invocation.function_arn,
        }
        with tracer.start_as_current_span(
            f"invoke {invocation.function}", kind=SpanKind.SERVER, attributes=attributes
        ) as span:
            outcome = await invoke(invocation)
            span.set_attribute("faas.coldstart", outcome.tier != "hot")
            span.set_attribute("glowplug.tier", outcome.tier)
            for name, milliseconds in outcome.phases:
                span.set_attribute(f"glowplug.phase.{name}_ms", milliseconds)
            if outcome.function_error is not None:
                span.set_status(Status(StatusCode.ERROR, outcome.function_error))
            return outcome

    return spanned
