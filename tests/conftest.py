"""What every test can rely on: the operator's own settings and credentials are not there."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Take glowplug's and AWS's names out of the environment, for this process and all that it starts."""
    for name in list(os.environ):
        if name.startswith(("GLOWPLUG_", "AWS_")):
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"  # boto3 would ask the network for credentials, for seconds
