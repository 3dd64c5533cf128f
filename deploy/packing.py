"""Pack the code of a template, local or in S3, and name it by digest where the template named a place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from glowplug.runtime.codeobjects import CodeObject

from .archive import Archive, pack, pack_text
from .errors import ArchiveError
from .intrinsics import Intrinsics, NoResources
from .packaged import LAMBDAS, SAMS, Fetch, Names, archive_of, object_of
from .supported import LAMBDA_FUNCTION, SERVERLESS_FUNCTION, for_translator
from .template import KeyPath, Template

_BUCKET = "glowplug"  # the translator knows S3 only; the key is the digest


class Packer:
    """Packs the code of every function and rewrites the document to name it by digest. ``fetch`` reads S3."""

    def __init__(self, template: Template, names: Mapping[str, Any], fetch: Fetch) -> None:
        self._template = template
        self._intrinsics = Intrinsics(template, names, NoResources())
        self._fetch = fetch
        self._packed: dict[str | CodeObject, Archive] = {}

    def pack(self) -> tuple[dict[str, Any], dict[str, Archive]]:
        """Return the document for the translator, and the archives by digest."""
        document = copy.deepcopy(dict(self._template.document))
        shared = (document.get("Globals") or {}).get("Function")
        if shared:
            shared = document["Globals"]["Function"] = for_translator(SERVERLESS_FUNCTION, shared)
            if "CodeUri" in shared:
                shared["CodeUri"] = _uri(self._archive(shared["CodeUri"], ("Globals", "Function", "CodeUri"), SAMS))
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
            properties["CodeUri"] = _uri(self._archive(properties["CodeUri"], (*path, "CodeUri"), SAMS))
        elif not inherits:
            raise self._template.error(path, "CodeUri is missing: a directory, a file, a .zip or s3://bucket/key")

    def _lambda(self, code: Any, path: KeyPath) -> Archive:
        if isinstance(code, Mapping) and "ZipFile" in code:
            return self._inline(self._intrinsics.evaluate(code["ZipFile"], (*path, "ZipFile")), (*path, "ZipFile"))
        return self._archive(code, path, LAMBDAS)

    def _archive(self, value: Any, path: KeyPath, names: Names) -> Archive:
        given = self._intrinsics.evaluate(value, path)
        wanted = object_of(self._template, path, given, names)
        if wanted is None and (not isinstance(given, str) or not given or "://" in given):
            problem = f"{given!r} is not supported yet; give a local directory, file or .zip, or s3://bucket/key"
            raise self._template.error(path, problem)
        place = wanted or str(given)
        try:
            if place not in self._packed:
                local = self._template.path.parent / str(given)
                self._packed[place] = pack(local) if wanted is None else archive_of(wanted, self._fetch)
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
