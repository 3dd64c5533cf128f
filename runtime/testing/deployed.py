"""What is deployed, in memory: a registry and deployments in one, for tests of whoever asks them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from glowplug.runtime.catalog import LATEST, Catalog, Function, Url, Version
from glowplug.runtime.deployments import Allocation
from glowplug.runtime.errors import FunctionNotFound
from glowplug.runtime.registry import Decide
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.wanted import WantedFunction, WantedUrl

T = TypeVar("T")
MODIFIED = "2026-01-01T00:00:00.000+0000"


def a_function(spec: FunctionSpec, slot: int = 0, *, url: bool = False) -> Function:
    """Return a function at ``spec``, deployed by the stack ``main``; with a URL whose id is its name."""
    urls = {LATEST: Url(spec.name, spec.name)} if url else {}
    version = Version(spec, "rev", MODIFIED, code_size=100)
    return Function(spec.name, slot, version, "main", spec.name.title(), urls=urls)


def wanted(spec: FunctionSpec, *, url: bool = False) -> WantedFunction:
    """Return a template's wish for ``spec`` and nothing else, or a URL of its latest version."""
    urls = {LATEST: WantedUrl("NONE", "BUFFERED", {})} if url else {}
    return WantedFunction(spec, (), {}, {}, None, None, {}, {}, urls, {}, (), "")


class Deployed:
    """Answers and changes as ``Registry`` and ``Deployments`` do; ``changed`` counts the changes."""

    def __init__(self, *functions: Function, account_id: str = "000000000000", region: str = "us-east-1") -> None:
        self.catalog = Catalog().with_functions(functions)
        self.changed = 0
        self._arn = f"arn:aws:lambda:{region}:{account_id}:function:"

    async def change(self, decide: Decide[T], *, about: str = "") -> T:
        """Decide at once."""
        self.catalog, result = decide(self.catalog)
        self.changed += 1
        return result

    def allocation(self, name: str, qualifier: str) -> Allocation | None:
        """Return what is provisioned as if no instance had come up yet; None where nothing is."""
        function = self.catalog.functions.get(name)
        one = None if function is None else function.provisioned.get(qualifier)
        return None if one is None else Allocation(one.requested, 0, 0, one.status, one.status_reason, one.modified)

    def get(self, name: str) -> Function:
        """Return one function. Raises ``FunctionNotFound``."""
        if name not in self.catalog.functions:
            raise FunctionNotFound(f"Function not found: {self._arn}{name}")
        return self.catalog.functions[name]

    def target(self, name: str, qualifier: str = LATEST) -> Version:
        """Return the version that a request runs on. Raises ``FunctionNotFound``."""
        function = self.catalog.functions.get(name)
        version = None if function is None else function.qualified(qualifier)
        if version is None:
            raise FunctionNotFound(f"Function not found: {self._arn}{name}:{qualifier}")
        return version

    def api(self, api_id: str) -> Mapping[str, Any] | None:
        """Return an API, or None."""
        return self.catalog.documents.get(f"api/{api_id}")

    def url(self, url_id: str) -> Url | None:
        """Return a function URL, or None."""
        return self.catalog.urls.get(url_id)
