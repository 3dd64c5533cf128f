"""Print what TensorRT's Python bindings declare, as JSON: ``python declared.py tensorrt_bindings``.

The bindings are a native module with the libraries of TensorRT behind it, gigabytes that a test machine has no use for.
pybind11 declares everything when the module is imported, though, and calls none of it. So the libraries are replaced by
empty ones with the functions that the module looks for.
"""

from __future__ import annotations

import ctypes
import enum
import importlib
import importlib.metadata
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

_PREFIX = re.compile(r"\b\w+_bindings\.\w+\.")
_PLAIN = [
    ("typing.SupportsInt", "int"),
    ("typing.SupportsFloat", "float"),
    ("typing_extensions.Buffer", "buffer"),
    ("typing_extensions.CapsuleType", "capsule"),
    ("nvonnxparser::IParserError", "ParserError"),
    ("List[", "list["),
    ("Tuple[", "tuple["),
]


def lines(*command: str | Path) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def load(name: str, scratch: Path) -> Any:
    """Import the bindings ``name`` with empty libraries behind them."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    native = next(Path(spec.origin).parent.glob("tensorrt*.so"))
    wanted = [line.split("[")[1].split("]")[0] for line in lines("readelf", "-d", native) if "(NEEDED)" in line]
    undefined = [line.split()[-1] for line in lines("nm", "-D", "--undefined-only", native) if " U " in line]
    functions = [symbol for symbol in undefined if "@" not in symbol and not symbol.startswith(("Py", "_Py", "dl"))]
    source = scratch / "empty.c"
    source.write_text("\n".join(f"void *{function}(void) {{ return 0; }}" for function in functions))
    for library in wanted:
        if library.startswith(("libnvinfer", "libnvonnxparser")):
            lines("gcc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", scratch / library, source)
            ctypes.CDLL(str(scratch / library), mode=ctypes.RTLD_GLOBAL)
    return importlib.import_module(name)


def plain(text: str) -> str:
    text = _PREFIX.sub("", text)
    for native, ours in _PLAIN:
        text = text.replace(native, ours)
    return text


def declared(module: Any) -> dict[str, list[str]]:
    """Return name -> signatures; of a property ``get`` or ``get set``, of an enumeration's member ``member``."""
    found: dict[str, list[str]] = {"__version__": [module.__version__]}
    for name, item in vars(module).items():
        if not isinstance(item, type) or name.startswith("_") or isinstance(item, enum.EnumMeta):
            continue
        found[name] = ["class"]
        for attribute, value in vars(item).items():
            key = f"{name}.{attribute}"
            if attribute.startswith("__") and attribute != "__init__":
                continue
            if isinstance(value, property):
                found[key] = ["get set" if value.fset else "get"]
            elif isinstance(value, item) or attribute.isupper():
                found[key] = ["member"]
            else:
                text = plain(value.__doc__ or "")
                found[key] = re.findall(rf"^(?:\d+\. )?({attribute}\(self: .*)$", text, re.M)
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(declared(load(sys.argv[1], Path(directory))), indent=0, sort_keys=True))
