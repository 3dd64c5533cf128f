"""The ``model`` decorator: an author's builder becomes something that can be called like the module it builds.

    @model                                  # the function's only model, or the one named like this in the template
    def minilm(files):                      # called on the meta device: builds the architecture, allocates nothing
        return MiniLM(json.loads(files["config.json"].read_text()))

    @minilm.example                         # what to compile for and to warm up with
    def _():
        ids = torch.ones(2, 16, dtype=torch.long)
        return Example(args=(ids, ids), dynamic={"ids": ("batch", "tokens"), "mask": ("batch", "tokens")})

    @minilm.weights                         # checkpoint name -> module name; None leaves it out
    def _(key):
        return key.removeprefix("bert.")

    tokenizer = Tokenizer.from_file(str(minilm.files["tokenizer.json"]))

    def handler(event, context):
        return minilm(*encode(event["text"]))[0].tolist()

A model that is an ONNX file needs no builder, no torch, and takes and returns NumPy arrays:

    vad = onnx_model("silero_vad.onnx")     # the file's name in the source

    @vad.example
    def _():
        return Example(kwargs={"input": numpy.zeros((1, 576), "float32"), …})

    output, state = vad(input=samples, state=state, sr=16000)

Under a node, the template says where the files are. In a plain Python process (a test, a notebook) the same module
works by itself: the source is ``@model(source="package://…")`` or the variable ``GLOWPLUG_MODEL_SOURCE``, and the first
call builds the model and runs it eagerly, or the ONNX file as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, overload

from glowplug.runtime.worker import models
from glowplug.snapshot.definition import Build, Example, ModelDefinition, OnnxDefinition, Rename

_Made = TypeVar("_Made", bound=Callable[..., Any])


class Authored:
    """A model in a handler's module, of either kind."""

    def __init__(self, definition: ModelDefinition | OnnxDefinition, *, name: str, source: str) -> None:
        self._model = models.register(definition, name=name, source=source)
        # The hot path: looked up on the instance, so that a call costs one frame and not two.
        self._call = self._model.__call__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model. Before anybody has bound an engine, the first call binds eager."""
        return self._call(*args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._model)

    @property
    def files(self) -> Mapping[str, Path]:
        """The source's files: name -> local path. May be read at module level."""
        return self._model.files

    @property
    def engine(self) -> str:
        """The engine that serves the model; empty before it is bound."""
        return self._model.engine

    def example(self, make: Callable[[], Example]) -> Callable[[], Example]:
        """Decorate a function that returns an ``Example``: what to compile for and to warm up with."""
        models.redefine(self._model, example=make)
        return make


class AuthoredModel(Authored):
    """A model that a builder makes. Call it with the inputs of the module's ``forward``; it runs in inference mode."""

    def __init__(self, build: Build, *, name: str, source: str) -> None:
        super().__init__(ModelDefinition(build.__name__, build), name=name, source=source)
        self.__name__ = build.__name__
        self.__doc__ = build.__doc__

    def weights(self, rename: Rename) -> Rename:
        """Decorate a function from a tensor's name in the checkpoint to that in the module; None leaves it out."""
        models.redefine(self._model, rename=rename)
        return rename


@overload
def model(build: Build, /) -> AuthoredModel: ...
@overload
def model(name: str = "", /, *, source: str = "") -> Callable[[Build], AuthoredModel]: ...
def model(build: Build | str = "", /, *, source: str = "") -> AuthoredModel | Callable[[Build], AuthoredModel]:
    """Make a model of a builder: ``@model``, ``@model("name")`` or ``@model(source="package://…")``.

    ``name`` is the one in the template; ``source`` is used where no node has declared any. Raises ``ModelUnknown`` when
    the template declares models and this is none of them.
    """
    if callable(build):
        return AuthoredModel(build, name="", source=source)
    name = build
    return lambda build: AuthoredModel(build, name=name, source=source)


def onnx_model(file: str = "", /, *, name: str = "", source: str = "") -> Authored:
    """Return the model in an ONNX file of the source: ``file``, or the only one there is.

    Call it with NumPy arrays (or numbers and lists) by the names of the file's inputs, or in their order; one output
    comes back as an array, several as a tuple. ``name`` is the one in the template, where the function has several
    models; ``source`` is used where no node has declared any. Raises ``ModelUnknown`` as ``model`` does.
    """
    stem = Path(file).stem or name or "model"
    return Authored(OnnxDefinition(stem, file), name=name, source=source)
