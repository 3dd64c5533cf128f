"""Deliveries over the network: webhooks, SQS and S3 of others. ``runtime.events.outbox`` says when, and tries again.

A webhook gets a POST whose ``X-Glowplug-Signature`` is ``t=<Unix seconds>,v1=<hex>``: HMAC-SHA256, under the node's
webhook key, of the time, a dot and the body. ``X-Glowplug-Delivery`` is the same whenever one delivery is repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import aiohttp

from glowplug import __version__

from .clock import Clock
from .config import NodeConfig
from .events.outbox import NotDelivered, Parcel

_TIMEOUT_S = 30.0
_THREADS = 16  # as many as the outbox delivers at once
_FINAL = frozenset({400, 410, 413, 415})  # repeating these changes nothing
_FINAL_CODES = frozenset(
    "AccessDenied InvalidMessageContents InvalidParameterValue NoSuchBucket AWS.SimpleQueueService.NonExistentQueue "
    "QueueDoesNotExist AWS.SimpleQueueService.UnsupportedOperation".split()
)


def webhook_key(node_key: bytes) -> bytes:
    """Return the key that webhooks are signed with, as text: what receivers are given."""
    return hmac.new(node_key, b"glowplug webhooks", hashlib.sha256).hexdigest().encode()


def signature(key: bytes, body: bytes, unix_s: int) -> str:
    """Return the value of ``X-Glowplug-Signature``."""
    digest = hmac.new(key, f"{unix_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={unix_s},v1={digest}"


class NetworkCarrier:
    """Makes deliveries. boto3 works in threads of its own; clients are made when they are first needed."""

    def __init__(self, config: NodeConfig, clock: Clock, key: bytes) -> None:
        self._config = config
        self._clock = clock
        self._key = webhook_key(key)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="deliver")
        self._session: aiohttp.ClientSession | None = None
        self._clients: dict[str, Any] = {}

    async def carry(self, parcel: Parcel) -> None:
        """Return when a parcel was taken. Raises ``NotDelivered``."""
        way = parcel.delivery.way
        if way == "webhook":
            await self._post(parcel)
        elif way in ("sqs", "s3"):
            work: Callable[[Parcel], None] = self._send if way == "sqs" else self._put
            await asyncio.get_running_loop().run_in_executor(self._threads, work, parcel)
        else:
            raise NotDelivered(f"nothing delivers to {parcel.delivery.arn}", final=True)

    async def _post(self, parcel: Parcel) -> None:
        delivery = parcel.delivery
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"glowplug/{__version__}",
            "X-Glowplug-Delivery": hashlib.sha256(f"{parcel.request_id} {delivery.arn}".encode()).hexdigest()[:32],
            "X-Glowplug-Request-Id": parcel.request_id,
            "X-Glowplug-Signature": signature(self._key, delivery.body, int(self._clock.time())),
        }
        try:
            async with self._session.post(
                delivery.target, data=delivery.body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            raise NotDelivered(f"{type(error).__name__}: {error}") from error
        if not 200 <= status < 300:
            raise NotDelivered(f"it answered {status}", final=status in _FINAL)

    def _send(self, parcel: Parcel) -> None:
        delivery = parcel.delivery
        region, account, name = delivery.target.split(":")[3:6]
        with _reported():
            client = self._client("sqs", self._config.sqs_endpoint, region)
            url = client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)["QueueUrl"]
            client.send_message(
                QueueUrl=url,
                MessageBody=delivery.body.decode(errors="replace"),
                MessageAttributes={name: dict(one) for name, one in delivery.attributes.items()},
            )

    def _put(self, parcel: Parcel) -> None:
        """The key is as AWS documents it, with the request id where AWS has a random one: a repeat overwrites."""
        delivery = parcel.delivery
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        key = f"aws/lambda/async/{parcel.function}/{now:%Y/%m/%d}/{parcel.request_id}"
        with _reported():
            client = self._client("s3", self._config.s3_endpoint, self._config.region)
            client.put_object(Bucket=delivery.target, Key=key, Body=delivery.body, ContentType="application/json")

    def _client(self, service: str, endpoint: str, region: str) -> Any:
        made = self._clients.get(f"{service} {region}")
        if made is None:
            import boto3
            from botocore.config import Config

            made = boto3.session.Session().client(
                service,
                region_name=region,
                endpoint_url=None if endpoint == "aws" else endpoint,
                config=Config(
                    connect_timeout=5,
                    read_timeout=_TIMEOUT_S,
                    retries={"total_max_attempts": 1},
                    s3={"addressing_style": "path"},
                ),
            )
            self._clients[f"{service} {region}"] = made
        return made

    async def close(self) -> None:
        """End what is under way."""
        if self._session is not None:
            await self._session.close()
        self._threads.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _reported() -> Any:
    """Turn what boto3 raises into ``NotDelivered``."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        raise NotDelivered(str(error), final=code in _FINAL_CODES) from error
    except (BotoCoreError, OSError, ValueError) as error:
        raise NotDelivered(f"{type(error).__name__}: {error}") from error
