"""The events that sources send to functions, as AWS shapes them: key by key, in its order.

Sources: recorded events and the developer guides of Lambda ("Using Lambda with …"), EventBridge ("Events",
`PutEventsRequestEntry`), EventBridge Scheduler and S3 ("Event message structure"). Queues' batches are in `sqsbatch`.
Ids and times are arguments: nothing here looks at a clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NoReturn
from urllib.parse import quote_plus

from glowplug.runtime.errors import InvalidEntry


@dataclass(frozen=True, slots=True)
class Home:
    """Whose events they are: an account and a region."""

    account: str
    region: str


def seconds(moment: datetime) -> str:
    """Return a time as EventBridge writes it: UTC, whole seconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def milliseconds(moment: datetime) -> str:
    """Return a time as S3, SNS and Lambda's records write it: UTC, three decimals, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rule_event(rule_arn: str, event_id: str, occurrence: datetime, home: Home) -> dict[str, Any]:
    """Return what a scheduled rule sends where it has no Input; with one, that JSON is the event."""
    return _envelope(event_id, "Scheduled Event", "aws.events", home, seconds(occurrence), [rule_arn], {})


def scheduler_event(schedule_arn: str, event_id: str, occurrence: datetime, home: Home) -> dict[str, Any]:
    """Return what EventBridge Scheduler sends where the target has no Input. Its detail is a string, as seen at AWS."""
    return _envelope(event_id, "Scheduled Event", "aws.scheduler", home, seconds(occurrence), [schedule_arn], "{}")


def scheduler_input(text: str, schedule_arn: str, execution_id: str, occurrence: datetime, attempt: int) -> str:
    """Return a target's Input with the context attributes put in ("Adding context attributes"); attempts are from 1."""
    for name, value in (
        ("schedule-arn", schedule_arn),
        ("scheduled-time", seconds(occurrence)),
        ("execution-id", execution_id),
        ("attempt-number", str(attempt)),
    ):
        text = text.replace(f"<aws.scheduler.{name}>", value)
    return text


_DETAIL_TYPE_LENGTH: Final = 128
_TIME_BYTES: Final = 14


def bus_event(entry: Mapping[str, Any], event_id: str, now: datetime, home: Home) -> dict[str, Any]:
    """Return the event that an entry of PutEvents becomes. Without Time it has ``now``.

    Raises ``InvalidEntry`` with the entry's ErrorCode: the sentences on missing fields are AWS's.
    """
    source = _required(entry, "Source")
    detail_type = _required(entry, "DetailType")
    detail = _required(entry, "Detail")
    if len(detail_type) > _DETAIL_TYPE_LENGTH:
        raise _argument("DetailType", f"It is longer than {_DETAIL_TYPE_LENGTH} characters.")
    if source.startswith("aws."):
        raise InvalidEntry("NotAuthorizedForSourceException", "Not authorized for the source.")
    resources = entry.get("Resources")
    if resources is None:
        resources = []
    if not isinstance(resources, list) or not all(isinstance(one, str) for one in resources):
        raise _argument("Resources", "It has to be a list of strings.")
    time = seconds(_time(entry["Time"]) if entry.get("Time") is not None else now)
    return _envelope(event_id, detail_type, source, home, time, list(resources), _detail(detail))


def entry_bytes(entry: Mapping[str, Any]) -> int:
    """Return the size of an entry of PutEvents as EventBridge counts it ("Calculating PutEvents event entry sizes")."""
    resources = entry.get("Resources")
    texts = [entry.get(name) for name in ("Source", "DetailType", "Detail")]
    texts += resources if isinstance(resources, list) else []
    size = sum(len(text.encode(errors="surrogatepass")) for text in texts if isinstance(text, str))
    return size + (_TIME_BYTES if entry.get("Time") is not None else 0)


def _required(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    if value is None or value == "":
        raise _argument(name, f"{name} is a required argument.")
    if not isinstance(value, str):
        raise _argument(name, "It has to be a string.")
    return value


def _argument(name: str, reason: str) -> InvalidEntry:
    return InvalidEntry("InvalidArgument", f"Parameter {name} is not valid. Reason: {reason}")


def _detail(text: str) -> dict[str, Any]:
    try:
        detail = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidEntry("MalformedDetail", "Detail is malformed.") from error
    if not isinstance(detail, dict):
        raise InvalidEntry("MalformedDetail", "Detail is malformed.")
    return detail


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _time(given: object) -> datetime:
    """Return a Time: seconds since 1970, as SDKs send it, or RFC 3339."""
    try:
        if isinstance(given, int | float) and not isinstance(given, bool) and math.isfinite(given):
            return datetime.fromtimestamp(given, UTC)
        if isinstance(given, str):
            moment = datetime.fromisoformat(given)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise _argument("Time", f"{given!r} is no time.") from error
    raise _argument("Time", f"{given!r} is no time.")


def _envelope(
    event_id: str, detail_type: str, source: str, home: Home, time: str, resources: list[str], detail: object
) -> dict[str, Any]:
    return {
        "version": "0",
        "id": event_id,
        "detail-type": detail_type,
        "source": source,
        "account": home.account,
        "time": time,
        "region": home.region,
        "resources": resources,
        "detail": detail,
    }


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """What happened to an object of a bucket. ``size`` is in bytes and, with ``etag``, None for a deletion."""

    name: str
    """As in a notification's configuration without `s3:`, so `ObjectCreated:Put` or `ObjectRemoved:Delete`."""
    bucket: str
    key: str
    time: datetime
    sequencer: str
    """Hexadecimal, of one length and growing for each change of a key."""
    request_id: str
    size: int | None = None
    etag: str | None = None
    version_id: str | None = None


def s3_event(change: ObjectChange, configuration_id: str, home: Home) -> dict[str, Any]:
    """Return S3's notification of one change. Who did it is not known here: principals are the account."""
    principal = {"principalId": home.account}
    described: dict[str, Any] = {"key": quote_plus(change.key, safe="/*")}
    if change.size is not None:
        described["size"] = change.size
    if change.etag is not None:
        described["eTag"] = change.etag.strip('"')
    if change.version_id is not None:
        described["versionId"] = change.version_id
    described["sequencer"] = change.sequencer
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": home.region,
        "eventTime": milliseconds(change.time),
        "eventName": change.name,
        "userIdentity": dict(principal),
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": change.request_id, "x-amz-id-2": change.request_id},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": configuration_id,
            "bucket": {
                "name": change.bucket,
                "ownerIdentity": dict(principal),
                "arn": f"arn:aws:s3:::{change.bucket}",
            },
            "object": described,
        },
    }
    return {"Records": [record]}


@dataclass(frozen=True, slots=True)
class Notification:
    """A message of a topic. ``signed`` holds SignatureVersion, Signature and SigningCertUrl where SNS sent them."""

    message_id: str
    topic_arn: str
    message: str
    time: datetime
    subscription_arn: str
    unsubscribe_url: str
    subject: str | None = None
    attributes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Type and value by name."""
    signed: Mapping[str, str] = field(default_factory=dict)


def sns_event(notification: Notification) -> dict[str, Any]:
    """Return the event of one message. What is not signed has none of the fields of a signature."""
    signed = {
        name: notification.signed[name]
        for name in ("SignatureVersion", "Signature", "SigningCertUrl")
        if name in notification.signed
    }
    sns = {
        "Type": "Notification",
        "MessageId": notification.message_id,
        "TopicArn": notification.topic_arn,
        "Subject": notification.subject,
        "Message": notification.message,
        "Timestamp": milliseconds(notification.time),
        **signed,
        "UnsubscribeUrl": notification.unsubscribe_url,
        "MessageAttributes": {
            name: {"Type": kind, "Value": value} for name, (kind, value) in notification.attributes.items()
        },
    }
    record = {
        "EventSource": "aws:sns",
        "EventVersion": "1.0",
        "EventSubscriptionArn": notification.subscription_arn,
        "Sns": sns,
    }
    return {"Records": [record]}
