"""Every TensorRT name that the code uses is in the bindings, and is used as they declare it.

``tensorrt_api.json`` has what the published bindings of three versions declare about the names that are used here; its
``source`` says where from. Bindings that are installed are compared with it, the lean ones (which have no builder) or
the whole ones, without their libraries. Which names are used is read from the modules' syntax trees, so none can be
forgotten.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glowplug.snapshot.tensorrt import testing
from glowplug.snapshot.tensorrt.testing import building, kinds, refitting, running

ROOT = Path(__file__).parents[2]
API = json.loads(Path(__file__).with_name("tensorrt_api.json").read_text())
VERSIONS: dict[str, dict[str, list[str]]] = API["versions"]
NEWEST = max(VERSIONS, key=lambda version: [int(part) for part in version.split(".")])
INSTALLED = [name for name in ("tensorrt_bindings", "tensorrt_lean_bindings") if importlib.util.find_spec(name)]

# File -> expression -> the class of the bindings that it is an object of; "" is the module itself.
OBJECTS: dict[str, dict[str, str]] = {
    "snapshot/tensorrt/bindings.py": {},
    "snapshot/tensorrt/builder.py": {
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "config": "IBuilderConfig",
        "timing": "ITimingCache",
        "serialized": "IHostMemory",
        "shapes": "IOptimizationProfile",
        "tensor": "ITensor",
        "error": "ParserError",
    },
    "snapshot/tensorrt/plan.py": {"runtime": "Runtime", "engine": "ICudaEngine"},
    "snapshot/tensorrt/refit.py": {"refitter": "Refitter", "prototype": "Weights", "weights": "Weights"},
    "snapshot/tensorrt/session.py": {
        "engine": "ICudaEngine",
        "self._engine": "ICudaEngine",
        "context": "IExecutionContext",
        "lane.context": "IExecutionContext",
        "kind": "DataType",
    },
    "snapshot/engines/tensorrt.py": {},
}
MODULE = {"trt", "self._trt"}
OURS = {"tensor.numel", "tensor.data_ptr", "tensor.nbytes", "weights.items", "weights.values"}
"""What has the name of an object above and is one of ours: torch's tensors in ``refit.py``."""

FAKES: dict[type, str] = {
    building.Builder: "Builder",
    building.Config: "IBuilderConfig",
    building.Network: "INetworkDefinition",
    building.Parser: "OnnxParser",
    building.Profile: "IOptimizationProfile",
    running.Runtime: "Runtime",
    running.Engine: "ICudaEngine",
    running.Context: "IExecutionContext",
    refitting.Refitter: "Refitter",
    kinds.ILogger: "ILogger",
}
FAKES_OWN = {"model", "evaluate", "flags", "profiles", "shapes", "missing", "about", "logger"}
"""Public attributes of the doubles that stand for the native half."""


class Use:
    """One use of a name: where, what, and how it is called (None: it is not)."""

    def __init__(self, where: str, name: str, call: ast.Call | None) -> None:
        self.where, self.name, self.call = where, name, call

    def __repr__(self) -> str:
        return f"{self.where}: {self.name}"


class Reader:
    """Finds the uses in one file."""

    def __init__(self, file: str) -> None:
        self.file, self.objects = file, OBJECTS[file]
        self.tree = ast.parse((ROOT / file).read_text())

    def kind(self, node: ast.expr) -> str | None:
        """Return the class that an expression is an object of, None when it is none of TensorRT's."""
        text = ast.unparse(node)
        if text in MODULE:
            return ""
        if text in self.objects:
            return self.objects[text]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return returned(self.name(node.func))
        if isinstance(node, ast.Attribute):
            name = self.name(node)
            return name if name in VERSIONS[NEWEST] and VERSIONS[NEWEST][name] == ["class"] else None
        return None

    def name(self, node: ast.Attribute) -> str:
        owner = self.kind(node.value)
        if owner is None or ast.unparse(node) in OURS:
            return ""
        return f"{owner}.{node.attr}" if owner else node.attr

    def uses(self) -> Iterator[Use]:
        calls = {id(node.func): node for node in ast.walk(self.tree) if isinstance(node, ast.Call)}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Attribute) and self.name(node):
                yield Use(f"{self.file}:{node.lineno}", self.name(node), calls.get(id(node)))

    def derived(self) -> Iterator[tuple[str, ast.FunctionDef]]:
        """Yield the methods of classes that derive from one of TensorRT's, with that one's name."""
        for node in ast.walk(self.tree):
            for base in node.bases if isinstance(node, ast.ClassDef) else ():
                if isinstance(base, ast.Attribute) and self.kind(base.value) == "":
                    assert isinstance(node, ast.ClassDef)
                    yield from ((base.attr, item) for item in node.body if isinstance(item, ast.FunctionDef))

    def unknown(self) -> Iterator[str]:
        """Yield assignments whose value is an object of TensorRT and whose target is not in the table."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                made = self.kind(node.value)
                target = ast.unparse(node.targets[0])
                if made and f"{made}." in " ".join(VERSIONS[NEWEST]) and self.objects.get(target) != made:
                    yield f"{self.file}:{node.lineno}: {target} is {made}"


def returned(name: str) -> str | None:
    """Return the class of what a method returns, or of what calling a class makes."""
    signatures = VERSIONS[NEWEST].get(name, [])
    if signatures == ["class"]:
        return name
    result = signatures[0].rpartition(" -> ")[2] if signatures else ""
    return result if VERSIONS[NEWEST].get(result) == ["class"] else None


READERS = [Reader(file) for file in OBJECTS]
USES = [use for reader in READERS for use in reader.uses()]


def parameters(signature: str) -> list[tuple[str, bool]]:
    """Return the parameters of a declared signature behind self, and whether each has a default."""
    while "<" in signature:  # a default such as <TensorLocation.DEVICE: 0> is not Python
        before, _, rest = signature.partition("<")
        signature = f"{before}...{rest.partition('>')[2]}"
    function = ast.parse(f"def {signature}: ...").body[0]
    assert isinstance(function, ast.FunctionDef)
    names = [argument.arg for argument in function.args.args]
    first = len(names) - len(function.args.defaults)
    return [(name, number >= first) for number, name in enumerate(names)][1:]


def fits(signature: str, call: ast.Call) -> bool:
    known = parameters(signature)
    keywords = {keyword.arg for keyword in call.keywords}
    if len(call.args) > len(known) or not keywords <= {name for name, _ in known[len(call.args) :]}:
        return False
    return all(optional or name in keywords for name, optional in known[len(call.args) :])


def test_the_files_are_all_that_use_tensorrt() -> None:
    using = {
        str(path.relative_to(ROOT))
        for folder in ("snapshot", "runtime", "cache", "deploy", "handlers")
        for path in (ROOT / folder).rglob("*.py")
        if "trt." in path.read_text() and "testing" not in path.parts
    }
    assert using <= set(OBJECTS)
    assert len(USES) > 70


def test_no_object_of_tensorrt_is_missing_from_the_table() -> None:
    assert [] == [found for reader in READERS for found in reader.unknown()]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_is_declared(version: str) -> None:
    assert [] == [use for use in USES if use.name not in VERSIONS[version]]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_call_fits_a_declared_signature(version: str) -> None:
    wrong = []
    for use in USES:
        signatures = VERSIONS[version][use.name]
        if use.call is None or use.name.endswith(".__init__"):  # called of a base, with self
            continue
        if signatures == ["class"]:
            signatures = VERSIONS[version][f"{use.name}.__init__"]
        if not any(fits(signature, use.call) for signature in signatures):
            wrong.append((use, signatures))
    assert [] == wrong


@pytest.mark.parametrize("version", VERSIONS)
def test_what_is_assigned_can_be_set(version: str) -> None:
    assigned = [
        (reader, target)
        for reader in READERS
        for node in ast.walk(reader.tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute) and reader.name(target)
    ]
    assert len(assigned) >= 4
    assert [] == [
        ast.unparse(target) for reader, target in assigned if VERSIONS[version][reader.name(target)] != ["get set"]
    ]


def test_derived_classes_have_only_methods_that_are_called() -> None:
    native = {"get_num_errors"}  # looked for by the bindings' own half, declared as num_errors
    methods = [(base, item) for reader in READERS for base, item in reader.derived()]
    assert {"ILogger", "IErrorRecorder", "IStreamReaderV2"} == {base for base, _ in methods}
    for base, item in methods:
        assert item.name in native or f"{base}.{item.name}" in VERSIONS[NEWEST], f"{base}.{item.name}"
    recorder = {item.name for base, item in methods if base == "IErrorRecorder"}
    declared = {name.partition(".")[2] for name in VERSIONS[NEWEST] if name.startswith("IErrorRecorder.")}
    assert declared <= recorder  # one that is not there is a C++ exception where none may pass


@pytest.mark.parametrize("double", FAKES)
def test_the_doubles_have_the_names_and_parameters_of_the_bindings(double: type) -> None:
    real = FAKES[double]
    for name, item in vars(double).items():
        if name.startswith("_") or name in FAKES_OWN:
            continue
        declared = VERSIONS[NEWEST].get(f"{real}.{name}")
        assert declared is not None, f"{real}.{name}"
        if inspect.isfunction(item):
            given = list(inspect.signature(item).parameters)[1:]
            known = [[parameter for parameter, _ in parameters(signature)] for signature in declared]
            assert any(given == names[: len(given)] for names in known), (name, given, declared)


def test_the_module_double_has_only_names_of_the_bindings() -> None:
    own = {"fault", "calls", "refuses"}
    for name in vars(testing.FakeTensorRt):
        assert name.startswith("_") or name in own or name in VERSIONS[NEWEST], name
    for enumeration in ("DataType", "BuilderFlag", "TensorIOMode", "TensorLocation", "SeekPosition"):
        for member in getattr(testing.FakeTensorRt, enumeration).__members__:
            assert f"{enumeration}.{member}" in VERSIONS[NEWEST] or f"{enumeration}.{member}" not in {
                use.name for use in USES
            }


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler for the empty libraries")
@pytest.mark.parametrize("name", INSTALLED)
def test_installed_bindings_declare_what_is_recorded(name: str) -> None:
    ran = subprocess.run(
        [sys.executable, Path(__file__).with_name("declared.py"), name], capture_output=True, text=True, check=False
    )
    assert 0 == ran.returncode, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    version = found["__version__"][0]
    recorded = VERSIONS.get(version, VERSIONS[NEWEST])
    if "lean" in name:  # it runs plans and builds none
        recorded = {key: value for key, value in recorded.items() if key in found or not _building(key)}
    differing = {key: (value, found.get(key)) for key, value in recorded.items() if found.get(key) != value}
    if version in VERSIONS:
        assert {} == differing
    else:  # a version that is not recorded must only have all the names
        assert [] == [key for key, (_, here) in differing.items() if here is None]


def _building(name: str) -> bool:
    owner = name.partition(".")[0]
    return owner in {
        "Builder", "IBuilderConfig", "INetworkDefinition", "ITensor", "OnnxParser", "ParserError",
        "NetworkDefinitionCreationFlag",
    }  # fmt: skip
