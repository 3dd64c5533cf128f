"""All that answers HTTP, made of the parts of a node: who may call, function URLs, APIs, Lambda's API, control."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from .carrier import webhook_key
from .clock import Clock
from .codestore import CodeStore
from .config import NodeConfig
from .deployments import Deployments
from .eventing import Eventing
from .http.admin import AdminApi
from .http.admission import Admission
from .http.authentication import Authenticator
from .http.awsevents import AwsEvents
from .http.deferred import Deferred
from .http.dispatch import ControlSurface, Door, Front, PublicSurface
from .http.downloads import Downloads
from .http.function_url import FunctionUrls
from .http.gateway import Gateway
from .http.hosts import ControlGuard
from .http.invoking import Invoke
from .http.lambda_api.api import LambdaApi
from .http.lambda_api.call import Services
from .http.lambda_api.retries import Retries
from .http.results import ResultsApi
from .http.streaming import Streams
from .http.triggers import TriggersApi
from .keyring import NodeKeyring
from .metrics import Metrics
from .nodecontrol import NodeControl
from .packages import Packages
from .queueing import Queueing
from .registry import Registry
from .routing.tasks import OwnedTasks
from .stackcontrol import StackControl


@dataclass(frozen=True, slots=True)
class Edge:
    """What the listeners need of the node. ``guarded``: control answers callers with a signature only; ``link_key``
    signs links to code; ``streaming`` are the invocations whose answers are streamed; ``endpoint`` returns the control
    listener's URL."""

    config: NodeConfig
    registry: Registry
    deployments: Deployments
    code: CodeStore
    queues: Queueing
    eventing: Eventing
    control: NodeControl
    stacks: StackControl
    invoke: Invoke
    streaming: OwnedTasks
    metrics: Metrics
    keys: NodeKeyring
    guarded: bool
    link_key: bytes
    clock: Clock
    endpoint: Callable[[], str]

    def surfaces(self, stack: AsyncExitStack) -> tuple[ControlSurface, PublicSurface]:
        """Return what answers on the control and on the public listener; ``stack`` ends what has to be ended."""
        authenticator = Authenticator(self.keys, self.clock, body_bytes=self.config.limits.create_request_bytes)
        streams = Streams(self.invoke, self.streaming, clock=self.clock, limits=self.config.limits)
        fronts = self._fronts(authenticator, streams, public=False)
        public = self._fronts(authenticator, streams, public=True)
        retries, downloads = Retries(self.clock), Downloads(self.code, self.link_key, self.clock)
        stack.push_async_callback(retries.close)
        control = ControlSurface(
            fronts,
            self._lambda_api(streams, retries, downloads),
            AdminApi(
                self.control,
                self.stacks,
                self.metrics,
                limits=self.config.limits,
                queues=self.queues.admin,
                events=ResultsApi(
                    self.eventing.asynchronous.results,
                    lambda: self.registry.catalog.functions,
                    webhook_key(self.link_key),
                ),
                triggers=self._triggers_api(),
            ),
            ControlGuard((*self.config.hosts, self.endpoint().removeprefix("http://"))),
            downloads,
            authenticator if self.guarded else None,
            self.queues.sqs,
            AwsEvents(self.eventing.triggering.bus, self.eventing.triggering.topics),
        )
        return control, PublicSurface(public)

    def _fronts(self, authenticator: Authenticator, streams: Streams, *, public: bool) -> dict[Door, Front]:
        config, request_bytes = self.config, self.config.limits.sync_request_bytes
        events = self.eventing.asynchronous
        admission = Admission(
            self.registry, authenticator, account_id=config.account_id, enforce_policies=config.enforce_policies
        )
        urls = FunctionUrls(
            self.registry, self.invoke, streams, admission, arn_prefix=config.arn_prefix, clock=self.clock,
            request_bytes=request_bytes, observer=self.metrics,
            deferred=Deferred(events.intake, events.results, self.link_key, public=public),
        )  # fmt: skip
        gateway = Gateway(
            self.registry, self.invoke, admission, arn_prefix=config.arn_prefix, account_id=config.account_id,
            clock=self.clock, request_bytes=request_bytes, observer=self.metrics,
        )  # fmt: skip
        return {"url": urls, "api": gateway}

    def _triggers_api(self) -> TriggersApi:
        parts = self.eventing.triggering
        return TriggersApi(
            parts.scheduler, parts.bus, parts.topics, parts.jobs, self.eventing.asynchronous.results, self.config.limits
        )

    def _lambda_api(self, streams: Streams, retries: Retries, downloads: Downloads) -> LambdaApi:
        config = self.config
        return LambdaApi(
            Services(
                directory=self.registry,
                deployments=self.deployments,
                invoke=self.invoke,
                streams=streams,
                events=self.eventing.asynchronous.intake,
                retries=retries,
                clock=self.clock,
                limits=config.limits,
                region=config.region,
                account_id=config.account_id,
                endpoint=self.endpoint,
                packages=Packages(self.code, config.limits),
                downloads=downloads,
                sources=self.eventing.polling.sources,
                pollers=self.eventing.polling.pollers,
                foreign=config.foreign_runtimes == "store",
                webhook_hosts=config.webhook_hosts,
            )
        )
