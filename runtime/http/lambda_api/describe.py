"""``FunctionConfiguration``, the JSON form in which Lambda's API describes a function (spec 1.4)."""

from __future__ import annotations

import base64

from glowplug.runtime.catalog import Version
from glowplug.runtime.spec import ARCHITECTURE


def configuration_of(version: Version, arn: str, *, region: str, account_id: str) -> dict[str, object]:
    """Return the fields that recorded answers of 2025 always hold, and ``Environment`` where it is set.

    ``CodeSize`` is left out: the node knows code by digest, and clients only print the size. The architecture is this
    machine's, whatever the template says.
    """
    spec = version.spec
    configuration: dict[str, object] = {
        "FunctionName": spec.name,
        "FunctionArn": arn,
        "Runtime": spec.runtime,
        "Role": spec.role or f"arn:aws:iam::{account_id}:role/glowplug",
        "Handler": spec.handler,
        "Description": spec.description,
        "Timeout": int(spec.timeout_s),
        "MemorySize": spec.memory_mb,
        "LastModified": version.modified,
        "CodeSha256": _base64_of_hex(spec.code_digest),
        "Version": spec.version,
        "TracingConfig": {"Mode": "PassThrough"},
        "RevisionId": version.revision_id,
        "PackageType": "Zip",
        "Architectures": [ARCHITECTURE],
        "EphemeralStorage": {"Size": spec.ephemeral_mb},
        "SnapStart": {
            "ApplyOn": "PublishedVersions" if spec.snap_start else "None",
            "OptimizationStatus": "Off",
        },
        "RuntimeVersionConfig": {"RuntimeVersionArn": f"arn:aws:lambda:{region}::runtime:{spec.runtime}"},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{spec.name}"},
        "State": "Active",
        "LastUpdateStatus": "Successful",
    }
    if spec.environment:
        configuration["Environment"] = {"Variables": dict(spec.environment)}
    return configuration


def _base64_of_hex(digest: str) -> str:
    try:
        return base64.b64encode(bytes.fromhex(digest)).decode()
    except ValueError:
        return digest
