"""Pack the local code of a template, and name it by digest where the template named a path."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from .archive import Archive, pack, pack_text
from .errors import ArchiveError
from .intrinsics import Intrinsics, NoResources
from .supported import LAMBDA_FUNCTION, SERVERLESS_FUNCTION, for_translator
from .template import KeyPath, Template

_BUCKET = "glowplug"  # the translator knows S3 only; the key is the digest


class Packer:
    """Packs the code of every function and rewrites the document to name it by digest."""

    def __init__(self, template: Template, names: Mapping[str, Any]) -> None:
        self._template = template
        self._intrinsics = Intrinsics(template, names, NoResources())
        self._packed: dict[str, Archive] = {}

    def pack(self) -> tuple[dict[str, Any], dict[str, Archive]]:
        """Return the document for the translator, and the archives by digest."""
        document = copy.deepcopy(dict(self._template.document))
        shared = (document.get("Globals") or {}).get("Function")
        if shared:
            shared = document["Globals"]["Function"] = for_translator(SERVERLESS_FUNCTION, shared)
            if "CodeUri" in shared:
                shared["CodeUri"] = self._local(shared["CodeUri"], ("Globals", "Function", "CodeUri"))
        for logical_id, resource in document["Resources"].items():
            path: KeyPath = ("Resources", logical_id, "Properties")
            if resource.get("Type") == SERVERLESS_FUNCTION:
                resource["Properties"] = for_translator(SERVERLESS_FUNCTION, resource.get("Properties") or {})
                self._serverless(resource["Properties"], path, inherits="CodeUri" in (shared or {}))
            elif resource.get("Type") == LAMBDA_FUNCTION:
                resource["Properties"] = for_translator(LAMBDA_FUNCTION, resource.get("Properties") or {})
                code = self._lambda(resource["Properties"].get("Code"), (*path, "Code"))
                resource["Properties"]["Code"] = {"S3Bucket": _BUCKET, "S3Key": code.digest}
        return document, {archive.digest: archive for archive in self._packed.values()}

    def _serverless(self, properties: dict[str, Any], path: KeyPath, *, inherits: bool) -> None:
        if "InlineCode" in properties:
            text = self._intrinsics.evaluate(properties.pop("InlineCode"), (*path, "InlineCode"))
            properties["CodeUri"] = _uri(self._inline(text, (*path, "InlineCode")))
        elif "CodeUri" in properties:
            properties["CodeUri"] = self._local(properties["CodeUri"], (*path, "CodeUri"))
        elif not inherits:
            raise self._template.error(path, "CodeUri is missing: a directory, a file or a .zip")

    def _lambda(self, code: Any, path: KeyPath) -> Archive:
        if isinstance(code, Mapping) and "ZipFile" in code:
            return self._inline(self._intrinsics.evaluate(code["ZipFile"], (*path, "ZipFile")), (*path, "ZipFile"))
        return self._archive(code, path)

    def _local(self, value: Any, path: KeyPath) -> str:
        return _uri(self._archive(value, path))

    def _archive(self, value: Any, path: KeyPath) -> Archive:
        place = self._intrinsics.evaluate(value, path)
        if not isinstance(place, str) or not place or "://" in place:
            raise self._template.error(path, f"{place!r} is not supported yet; give a local directory, file or .zip")
        try:
            if place not in self._packed:
                self._packed[place] = pack(self._template.path.parent / place)
            return self._packed[place]
        except ArchiveError as error:
            raise self._template.error(path, str(error)) from error

    def _inline(self, text: Any, path: KeyPath) -> Archive:
        if not isinstance(text, str):
            raise self._template.error(path, "must be the text of index.py")
        label = ".".join(map(str, path[1:]))
        return self._packed.setdefault(f"inline:{label}", pack_text("index.py", text, origin=label))


def _uri(archive: Archive) -> str:
    return f"s3://{_BUCKET}/{archive.digest}"
