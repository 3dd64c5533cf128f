"""Which properties of rules, schedules, buckets and topics mean something here. The tables of ``supported`` for them.

Buckets and topics are not made: a bucket's notifications are found by looking at the bucket, wherever that is, and a
topic is a name under which messages are posted to the node. Whatever else they are given has no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .keys import only
from .template import KeyPath, Template

RULE, SCHEDULE = "AWS::Events::Rule", "AWS::Scheduler::Schedule"
BUCKET, TOPIC, SUBSCRIPTION = "AWS::S3::Bucket", "AWS::SNS::Topic", "AWS::SNS::Subscription"

NOTED_TYPES = frozenset(
    "AWS::Events::EventBus AWS::S3::BucketPolicy AWS::SNS::TopicPolicy AWS::Scheduler::ScheduleGroup".split()
)
"""Resources beside them that have no effect here: who may use them, and what groups them."""

Keys = frozenset[str]

# Type -> what is built, what has no effect here, what is known and not built
PROPERTIES: dict[str, tuple[Keys, Keys, Keys]] = {
    RULE: (
        frozenset("EventBusName EventPattern Name ScheduleExpression State Targets".split()),
        frozenset("Description RoleArn Tags".split()),
        frozenset(),
    ),
    SCHEDULE: (
        frozenset(
            "ActionAfterCompletion EndDate FlexibleTimeWindow GroupName Name ScheduleExpression "
            "ScheduleExpressionTimezone StartDate State Target".split()
        ),
        frozenset("Description KmsKeyArn".split()),
        frozenset(),
    ),
    BUCKET: (
        frozenset("BucketName NotificationConfiguration".split()),
        frozenset(
            "AbacStatus AccelerateConfiguration AccessControl AnalyticsConfigurations BucketEncryption "
            "CorsConfiguration IntelligentTieringConfigurations InventoryConfigurations LifecycleConfiguration "
            "LoggingConfiguration MetadataConfiguration MetadataTableConfiguration MetricsConfigurations "
            "ObjectLockConfiguration ObjectLockEnabled OwnershipControls PublicAccessBlockConfiguration "
            "ReplicationConfiguration Tags VersioningConfiguration WebsiteConfiguration".split()
        ),
        frozenset(),
    ),
    TOPIC: (
        frozenset({"TopicName"}),
        frozenset(
            "DataProtectionPolicy DeliveryStatusLogging DisplayName KmsMasterKeyId SignatureVersion Tags "
            "TracingConfig".split()
        ),
        frozenset("ArchivePolicy ContentBasedDeduplication FifoThroughputScope FifoTopic Subscription".split()),
    ),
    SUBSCRIPTION: (
        frozenset("Endpoint FilterPolicy FilterPolicyScope Protocol TopicArn".split()),
        frozenset("Region SubscriptionRoleArn".split()),
        frozenset("DeliveryPolicy RawMessageDelivery RedrivePolicy ReplayPolicy".split()),
    ),
}
REQUIRED: Mapping[str, tuple[str, ...]] = {
    SCHEDULE: ("ScheduleExpression", "Target", "FlexibleTimeWindow"),
    SUBSCRIPTION: ("TopicArn", "Protocol", "Endpoint"),
}
EVENTS: dict[str, tuple[Keys, Keys, Keys]] = {
    "Schedule": (
        frozenset("DeadLetterConfig Enabled Input Name RetryPolicy Schedule State".split()),
        frozenset({"Description", "RoleArn"}),
        frozenset(),
    ),
    "ScheduleV2": (
        frozenset(
            "DeadLetterConfig EndDate FlexibleTimeWindow GroupName Input Name OmitName RetryPolicy ScheduleExpression "
            "ScheduleExpressionTimezone StartDate State".split()
        ),
        frozenset("Description KmsKeyArn PermissionsBoundary RoleArn".split()),
        frozenset(),
    ),
    "EventBridgeRule": (
        frozenset(
            "DeadLetterConfig EventBusName Input InputPath InputTransformer Pattern RetryPolicy RuleName State "
            "Target".split()
        ),
        frozenset(),
        frozenset(),
    ),
    "CloudWatchEvent": (
        frozenset(
            "DeadLetterConfig Enabled EventBusName Input InputPath Pattern RetryPolicy State Target".split()
        ),
        frozenset(),
        frozenset(),
    ),
    "S3": (frozenset("Bucket Events Filter".split()), frozenset(), frozenset()),
    "SNS": (
        frozenset("FilterPolicy FilterPolicyScope Topic".split()),
        frozenset({"Region"}),
        frozenset("RedrivePolicy SqsSubscription".split()),
    ),
}  # fmt: skip


def check_trigger(template: Template, path: KeyPath, kind: str, properties: Mapping[str, Any]) -> None:
    """Check what is below the properties of an event. Raises ``TemplateError``."""
    dead_letter = properties.get("DeadLetterConfig")
    if isinstance(dead_letter, Mapping):
        only(template, (*path, "DeadLetterConfig"), dead_letter, {"Arn"}, {"Type", "QueueLogicalId"})
    if kind == "S3":
        bucket = properties.get("Bucket")
        name = bucket.get("Ref") if isinstance(bucket, Mapping) else bucket
        if not isinstance(name, str) or template.get(("Resources", name, "Type")) != BUCKET:
            raise template.error((*path, "Bucket"), f"must be a !Ref to an {BUCKET} of this template")
