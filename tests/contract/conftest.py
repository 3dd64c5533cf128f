"""A node that files of this folder share, and code for its functions."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from nodes import ServedNode, served


def packed(**modules: str) -> bytes:
    """Return a zip of modules: ``packed(index="def handler…")``."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in modules.items():
            archive.writestr(f"{name}.py", text)
    return data.getvalue()


@pytest.fixture(scope="session")
def zipped() -> Callable[..., bytes]:
    """``packed``, for tests that upload code."""
    return packed


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    """A node without torch or a function, for clients that make their own."""
    with served(None, tmp_path_factory.mktemp("empty") / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        yield node


@pytest.fixture
def client(empty: ServedNode) -> Iterator[Any]:
    """Its boto3 client. What the test leaves is deleted behind it."""
    client = empty.lambda_client()
    yield client
    for mapping in client.list_event_source_mappings()["EventSourceMappings"]:
        client.delete_event_source_mapping(UUID=mapping["UUID"])
    for page in client.get_paginator("list_functions").paginate():
        for function in page["Functions"]:
            client.delete_function(FunctionName=function["FunctionName"])
    for layer in client.list_layers()["Layers"]:
        for version in client.list_layer_versions(LayerName=layer["LayerName"])["LayerVersions"]:
            client.delete_layer_version(LayerName=layer["LayerName"], VersionNumber=version["Version"])
