"""From a definition to a module whose tensors are the mapped weights.

The builder runs on the meta device, where a tensor is only a shape: no memory, no random numbers, milliseconds. Then
every parameter and persistent buffer is replaced by the checkpoint's mapped tensor, without a copy.

What no file holds is computed: non-persistent buffers (rotary frequencies, masks) and tensors kept as plain
attributes. For those, and only where the module has any, the builder runs a second time on the CPU; a bake stores them
in the snapshot, so that later starts read them from there. Both runs skip the random initialisation of parameters,
which on the CPU would cost seconds per billion and is thrown away.

A tensor that the module shares under several names (tied weights) is assigned once, under all of them. Where module
and file disagree on a floating dtype, the module's wins: the author's builder says what to compute in, and the
converted copy counts as computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .checkpoint import Origin, TensorFiles, named_origins
from .definition import ModelDefinition
from .engines import torch_private
from .errors import BuildFailed, SnapshotError, TensorUnbound, WeightsMismatch

_RANDOM = frozenset(
    "uniform_ normal_ trunc_normal_ random_ exponential_ bernoulli_ cauchy_ log_normal_ geometric_ xavier_uniform_ "
    "xavier_normal_ kaiming_uniform_ kaiming_normal_ orthogonal_ sparse_".split()
)
_LISTED = 5  # names per kind in an error message
_OWN = frozenset(vars(nn.Module()))  # the attributes in which torch itself keeps parameters, buffers, hooks


@dataclass(slots=True)
class Assembled:
    """A module ready to run. ``origins`` says which of its tensors are views of which file; ``computed`` holds the
    others, by name; ``aliases`` maps a further name of a shared tensor to its first; ``mapped_bytes`` is what the views
    cover."""

    module: nn.Module
    origins: dict[str, Origin] = field(default_factory=dict)
    computed: dict[str, Tensor] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    mapped_bytes: int = 0


def assemble(
    definition: ModelDefinition,
    files: Mapping[str, Path],
    tensors: TensorFiles,
    *,
    recorded: Mapping[str, Origin] | None = None,
    compare_ties: bool = False,
) -> Assembled:
    """Build the module and fill it. ``recorded`` names tensors that a bake has computed and stored.

    ``compare_ties`` reads weights that the module shares but the file stores twice, and refuses them when they differ.
    Raises ``BuildFailed``, ``WeightsMismatch``, ``WeightsMissing``, ``TensorUnbound``, ``cache.errors.WeightsError``.
    """
    module = _skeleton(definition, files)
    assembled = Assembled(module)
    origins, stored = named_origins(tensors, files, definition.rename), recorded or {}
    slots, groups = dict(_slots(module)), _shared(module)
    _refuse_mismatch(definition.name, module, groups, origins, tensors)
    left: list[list[str]] = []
    for names in groups:
        first = names[0]
        assembled.aliases.update(dict.fromkeys(names[1:], first))
        origin = next((source[name] for source in (stored, origins) for name in names if name in source), None)
        if origin is None:
            left.append(names)
            continue
        if compare_ties:
            _refuse_untied(names, origins, tensors)
        mapped = tensors.get(origin)
        if mapped.dtype == slots[first].dtype:
            assembled.origins[first] = origin
            assembled.mapped_bytes += mapped.nbytes
        else:
            assembled.computed[first] = mapped = mapped.to(slots[first].dtype)
        _assign(module, names, mapped)
    _compute(definition, files, assembled, left)
    module.eval().requires_grad_(False)
    unbound = [name for name, tensor in _slots(module) if tensor.is_meta] + _unnamed_meta(module)
    if unbound:
        raise TensorUnbound(f"model {definition.name}: {unbound[0]} has no values; no file has it, nor the builder")
    return assembled


def relocate(assembled: Assembled, moved: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]) -> None:
    """Replace every tensor that the module has under a name by what ``moved`` makes of it, tied ones once.

    ``moved`` gets the tensors by their first names and returns as many. Tensors in lists and dicts of the module's
    attributes stay where they are.
    """
    groups = _shared(assembled.module)
    slots = dict(_slots(assembled.module))
    there = moved({names[0]: slots[names[0]].detach() for names in groups})
    for names in groups:
        _assign(assembled.module, names, there[names[0]])


def _skeleton(definition: ModelDefinition, files: Mapping[str, Path]) -> nn.Module:
    """Build on the meta device; where that cannot do, on the CPU: a builder that needs values (``.item()``), or a
    module that keeps tensors in lists and dicts, where they have no name to assign them by."""
    try:
        # Skipping here too: on the meta device a random fill does nothing, but the first one in a process imports 800
        # modules, for a second, to do it.
        with torch.device("meta"), _SkipRandomParameters():
            module = _build(definition, files)
        return _on_cpu(definition, files) if _unnamed_meta(module) else module
    except BuildFailed as on_meta:
        try:
            return _on_cpu(definition, files)
        except BuildFailed as on_cpu:
            raise on_cpu from on_meta


def _on_cpu(definition: ModelDefinition, files: Mapping[str, Path]) -> nn.Module:
    # The generator is put back: a worker reseeds only what its author has not used, and this is not the author.
    state = torch.get_rng_state()
    try:
        with torch.device("cpu"), _SkipRandomParameters():
            return _build(definition, files)
    finally:
        torch.set_rng_state(state)


def _build(definition: ModelDefinition, files: Mapping[str, Path]) -> nn.Module:
    try:
        module = definition.build(files)
    except SnapshotError:
        raise
    except Exception as error:
        raise BuildFailed(f"model {definition.name}: the builder raised {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise BuildFailed(f"model {definition.name}: the builder returned {type(module).__name__}, not an nn.Module")
    return module


class _SkipRandomParameters(TorchFunctionMode):
    """Makes random initialisation of parameters a no-op; buffers keep theirs, since no file may replace them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        target = args[0] if args else named.get("tensor")
        if getattr(func, "__name__", "") in _RANDOM and isinstance(target, nn.Parameter):
            return target
        return func(*args, **named)


def _slots(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its dotted name, shared ones under each: parameters, buffers, plain attributes."""
    yield from module.named_parameters(remove_duplicate=False)
    yield from module.named_buffers(remove_duplicate=False)
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, Tensor):
                yield (f"{path}.{name}" if path else name), value


def _unnamed_meta(module: nn.Module) -> list[str]:
    """Name the tensors on the meta device that sit in lists, tuples and dicts of the module's attributes."""
    known = {id(tensor) for _, tensor in _slots(module)}
    return [
        f"{path}.{name}".lstrip(".") + leaf
        for path, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, list | tuple | dict) and name not in _OWN
        for leaf, tensor in zip(torch_private.leaf_names(value), torch_private.flatten(value)[0], strict=True)
        if isinstance(tensor, Tensor) and tensor.is_meta and id(tensor) not in known
    ]


def _shared(module: nn.Module) -> list[list[str]]:
    """Group the names of the module's tensors by the tensor they share, in the module's order."""
    groups: dict[int, list[str]] = {}
    for name, tensor in _slots(module):
        groups.setdefault(id(tensor), []).append(name)
    return list(groups.values())


def _persistent(module: nn.Module) -> set[str]:
    return {name for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}


def _assign(module: nn.Module, names: list[str], tensor: Tensor) -> None:
    """Put one tensor under all its names; a parameter stays a parameter."""
    value: Tensor | None = None
    for name in names:
        path, _, attribute = name.rpartition(".")
        part = module.get_submodule(path)
        if value is None:
            is_parameter = isinstance(getattr(part, attribute), nn.Parameter)
            value = nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
        setattr(part, attribute, value)


def _compute(
    definition: ModelDefinition, files: Mapping[str, Path], assembled: Assembled, left: list[list[str]]
) -> None:
    """Take what no file holds from a module built on the CPU; the first one, if that already was."""
    if not left:
        return
    slots = dict(_slots(assembled.module))
    if any(slots[names[0]].is_meta for names in left):
        slots = dict(_slots(_on_cpu(definition, files)))
    for names in left:
        if names[0] not in slots:
            raise TensorUnbound(f"model {definition.name}: the builder makes {names[0]} on the meta device only")
        value = slots[names[0]].detach()
        assembled.computed[names[0]] = value
        _assign(assembled.module, names, value)


def _refuse_mismatch(
    model: str, module: nn.Module, groups: list[list[str]], origins: Mapping[str, Origin], tensors: TensorFiles
) -> None:
    """Raise one ``WeightsMismatch`` that lists everything the checkpoint and the module disagree on."""
    slots, persistent = dict(_slots(module)), _persistent(module)
    missing = [names[0] for names in groups if persistent & set(names) and not any(name in origins for name in names)]
    unexpected = [f"{name} ({origin})" for name, origin in origins.items() if name not in slots]
    wrong: list[str] = []
    for name, origin in origins.items():
        if name not in slots:
            continue
        theirs, ours = tensors.get(origin), slots[name]
        if theirs.shape != ours.shape:
            wrong.append(f"{name}: {tuple(theirs.shape)} in the file, {tuple(ours.shape)} in the module")
        elif theirs.dtype != ours.dtype and not (theirs.is_floating_point() and ours.is_floating_point()):
            wrong.append(f"{name}: {theirs.dtype} in the file, {ours.dtype} in the module")
    parts = [
        f"{title}: {', '.join(names[:_LISTED])}{f' and {len(names) - _LISTED} more' if len(names) > _LISTED else ''}"
        for title, names in (
            ("not in the checkpoint", missing),
            ("not in the module", unexpected),
            ("different", wrong),
        )
        if names
    ]
    if parts:
        hint = f"; map names with @{model}.weights (None leaves a tensor out)" if missing or unexpected else ""
        raise WeightsMismatch(f"model {model}: {'; '.join(parts)}{hint}")


def _refuse_untied(names: list[str], origins: Mapping[str, Origin], tensors: TensorFiles) -> None:
    held = [name for name in names if name in origins]
    for name in held[1:]:
        if not torch.equal(tensors.get(origins[held[0]]), tensors.get(origins[name])):
            raise WeightsMismatch(f"{held[0]} and {name} are one tensor in the module and two in the checkpoint")
