import os

from snapshot_restore_py import register_after_restore, register_before_snapshot

log = []


@register_before_snapshot
def before():
    log.append("before-1")


@register_before_snapshot
def before_again():
    log.append("before-2")


@register_after_restore
def after():
    log.append("after")


def handler(event, context):
    return {"log": log, "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}
