"""From the definitions of a stack to specs that can be deployed: validated, their code here, their models pinned.

Everything that can be refused is refused here, before anything is changed. Errors name the logical id and the field
(``Embed.Glowplug.Model.Source``), so that the client can point at a line of the template.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from glowplug.cache.errors import CacheError, SourceError, WeightsError

from .apis import api_of, check_targets
from .contents import SECTIONS, Contents, Definition
from .errors import DefinitionError, InvalidParameter, InvalidRequestContent, StateError
from .events import triggers
from .interpreters import note
from .reader import Reader, kind
from .spec import ARCHITECTURE, FunctionSpec, ModelSpec, SourceFile
from .wanted import WantedFunction, wanted_of
from .wantedqueues import WantedMapping, mapping_of

_BODY = frozenset({*SECTIONS, "TemplateDigest", "Refresh", "Exports", "Imports"})
_LAYER = frozenset(
    "LayerName CodeSha256 Description CompatibleRuntimes CompatibleArchitectures LicenseInfo RetentionPolicy".split()
)

OnEvent = Callable[[Mapping[str, Any]], None]
"""Hears of progress, as the JSON objects that the admin API sends on."""


class Fetching(Protocol):
    """How far a fetch is."""

    @property
    def file(self) -> str:
        """The file at hand."""

    @property
    def done_bytes(self) -> int:
        """Bytes fetched, of all files."""

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, as far as the source says."""

    @property
    def fetched_bytes(self) -> int:
        """Bytes that came over the network."""

    @property
    def following(self) -> bool:
        """Whether another process fetches, and this is its progress."""


class Sources(Protocol):
    """Resolves model sources. ``runtime.sources.Sources`` is one."""

    async def resolve(
        self, url: str, on_progress: Callable[[Fetching], None] | None = None, /
    ) -> tuple[SourceFile, ...]:
        """Bring what is at ``url`` into the store and return what it is. Raises ``CacheError``."""


class Code(Protocol):
    """Uploaded code. ``CodeStore`` is one."""

    def has(self, digest: str, /) -> bool:
        """Return whether the code is here. Raises ``InvalidParameter`` for what is no digest."""


@dataclass(frozen=True, slots=True)
class StackRequest:
    """What a client wants a stack to be.

    ``refresh`` resolves model sources again that are pinned already. ``exports`` is what other stacks may import, text
    by name, ``imports`` are the names of what this one has imported.
    """

    name: str
    definitions: Contents[Definition]
    template_digest: str = ""
    refresh: bool = False
    exports: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, name: str, body: Any) -> StackRequest:
        """Read the body of ``PUT /_glowplug/stacks/<name>``. Raises ``InvalidRequestContent``."""
        if not isinstance(body, dict) or not isinstance(body.get("Functions"), dict):
            raise InvalidRequestContent('A stack is an object such as {"Functions": {"<LogicalId>": {…}}}')
        unknown = sorted(body.keys() - _BODY)
        if unknown:
            raise InvalidRequestContent(f"{unknown[0]}: unknown key; known: {', '.join(sorted(_BODY))}")
        sections = {section: body.get(section, {}) for section in SECTIONS}
        for section, value in sections.items():
            if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
                raise InvalidRequestContent(f"{section} is an object of objects")
        digest, refresh = body.get("TemplateDigest", ""), body.get("Refresh", False)
        if not isinstance(digest, str) or not isinstance(refresh, bool):
            raise InvalidRequestContent("TemplateDigest is a string and Refresh true or false")
        exports, imports = body.get("Exports", {}), body.get("Imports", [])
        if not isinstance(exports, dict) or not all(isinstance(text, str) for text in exports.values()):
            raise InvalidRequestContent("Exports is an object of strings")
        if not isinstance(imports, list) or not all(isinstance(one, str) for one in imports):
            raise InvalidRequestContent("Imports is a list of strings")
        return cls(
            name,
            Contents.of(sections),
            template_digest=digest,
            refresh=refresh,
            exports=exports,
            imports=tuple(imports),
        )


def validated(
    request: StackRequest, code: Code, device_refusal: Callable[[FunctionSpec], str]
) -> dict[str, WantedFunction]:
    """Return functions by logical id, models not pinned yet. Raises ``DefinitionError`` for the first that is refused.

    ``device_refusal`` says why this node has not the device that a function asks for.
    """
    for logical_id, layer in request.definitions.layers.items():
        _check_layer(logical_id, layer, code)
    found: dict[str, WantedFunction] = {}
    for logical_id, definition in request.definitions.functions.items():
        try:
            wanted = wanted_of(definition)
            spec = wanted.spec
            if not code.has(spec.code_digest):
                raise DefinitionError("CodeSha256", f"code {spec.code_digest} has not been uploaded to this node")
            if refusal := device_refusal(spec):
                raise DefinitionError("Glowplug.Device", refusal)
        except DefinitionError as error:
            raise DefinitionError(f"{logical_id}.{error.field}", error.problem) from error
        except InvalidParameter as error:
            raise DefinitionError(f"{logical_id}.CodeSha256", str(error)) from error
        found[logical_id] = wanted
    for logical_id, definition in request.definitions.apis.items():
        check_targets(api_of("", definition, logical_id), found.values(), logical_id)
    for logical_id, definition in request.definitions.triggers.items():
        trigger = triggers.trigger_of(f"{request.name}/{logical_id}", definition, logical_id)
        triggers.check_targets(trigger, found.values(), logical_id)
    return found


def mappings_of(request: StackRequest) -> dict[str, WantedMapping]:
    """Return the event source mappings of a stack by logical id. Raises ``DefinitionError``."""
    given = request.definitions.mappings
    return {logical_id: mapping_of(definition, logical_id) for logical_id, definition in given.items()}


def _check_layer(logical_id: str, layer: Mapping[str, Any], code: Code) -> None:
    read = Reader(layer, logical_id)
    read.only(_LAYER)
    read.text("LayerName", required=True)
    for name in ("Description", "LicenseInfo", "RetentionPolicy"):
        read.text(name)
    for name in ("CompatibleRuntimes", "CompatibleArchitectures"):
        values = read.values.get(name) or []
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise DefinitionError(read.at(name), f"must be a list of strings, not {kind(values)}")
    digest = read.text("CodeSha256", required=True)
    try:
        known = code.has(digest)
    except InvalidParameter as error:
        raise DefinitionError(read.at("CodeSha256"), str(error)) from error
    if not known:
        raise DefinitionError(read.at("CodeSha256"), f"code {digest} has not been uploaded to this node")


def notes(request: StackRequest, pythons: Container[str] = (), *, architecture: str = ARCHITECTURE) -> tuple[str, ...]:
    """Return what valid definitions ask for and this node gives otherwise: another Python, and its own processor.

    ``pythons`` are the runtimes that are installed besides the node's own.
    """
    found = []
    for definition in request.definitions.functions.values():
        name, runtime = definition["FunctionName"], definition["Runtime"]
        models = bool((definition.get("Glowplug") or {}).get("Model"))
        if told := note(name, runtime, pythons, models=models):
            found.append(told)
        [wanted] = definition.get("Architectures") or [architecture]
        if wanted != architecture:
            found.append(f"{name}: Architectures {wanted} runs on {architecture} here")
    return tuple(found)


async def pinned(
    wanted: Mapping[str, WantedFunction],
    deployed: Mapping[str, FunctionSpec],
    sources: Sources,
    *,
    refresh: bool,
    on_event: OnEvent,
) -> dict[str, WantedFunction]:
    """Return the functions with every model's files pinned.

    ``deployed`` is function name -> spec as it stands: a model that had the same source keeps its pinned files, so that
    deploying again never moves a function to other weights; ``refresh`` asks the source again. Raises
    ``DefinitionError`` for a source that cannot be used, ``StateError`` when the store cannot take it.
    """
    resolved: dict[str, tuple[SourceFile, ...]] = {}
    done: dict[str, WantedFunction] = {}
    for logical_id, one in wanted.items():
        spec = one.spec
        files: dict[str, tuple[SourceFile, ...]] = {}
        for model in spec.models:
            known = () if refresh else _known(deployed.get(spec.name), model)
            if not known:
                if model.source not in resolved:
                    resolved[model.source] = await _resolve(logical_id, spec, model, sources, on_event)
                known = resolved[model.source]
            files[model.name] = known
        done[logical_id] = replace(one, spec=spec.resolved(files))
    return done


def _known(spec: FunctionSpec | None, model: ModelSpec) -> tuple[SourceFile, ...]:
    if spec is None:
        return ()
    return next((old.files for old in spec.models if (old.name, old.source) == (model.name, model.source)), ())


async def _resolve(
    logical_id: str, spec: FunctionSpec, model: ModelSpec, sources: Sources, on_event: OnEvent
) -> tuple[SourceFile, ...]:
    about = {"event": "progress", "step": "fetch", "function": spec.name, "model": model.name}
    on_event({**about, "message": model.source})

    def tell(progress: Fetching) -> None:
        on_event(
            {
                **about,
                "file": progress.file,
                "done_bytes": progress.done_bytes,
                "total_bytes": progress.total_bytes,
                "fetched_bytes": progress.fetched_bytes,
                "following": progress.following,
            }
        )

    try:
        return await sources.resolve(model.source, tell)
    except (SourceError, WeightsError) as error:
        at = f"Model.{model.name}" if model.name else "Model"
        raise DefinitionError(f"{logical_id}.Glowplug.{at}.Source", str(error)) from error
    except CacheError as error:
        raise StateError(f"{spec.name}: {model.source}: {error}") from error
