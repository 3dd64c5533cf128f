"""Every error of the snapshot layer, as one tree.

    SnapshotError
    ├── ModelError                  the author or the deployer can mend it; eager would fail as well
    │   ├── ModelUnknown            the template and the code do not name the same models, or there is no source
    │   ├── BuildFailed             the builder raised, or did not return a module
    │   ├── ExampleInvalid          the example raised, or does not fit the model's forward
    │   ├── WeightsMissing          the source has no safetensors file
    │   ├── WeightsMismatch         names, shapes or dtypes differ between checkpoint and module; lists them
    │   ├── TensorUnbound           a tensor left on the meta device, or an engine constant that nothing fills
    │   └── OnnxInvalid             an author's .onnx that is no model, cannot be run, or wants files outside its source
    ├── BakeError                   no engine could be made; eager goes on
    │   ├── ExportFailed            torch.export cannot trace the model, or its graph is of a kind no engine here takes
    │   └── CompileFailed           the compiler raised, or there is none
    ├── EngineError                 this engine cannot serve; the next one can
    │   ├── EngineUnavailable       unknown here, or torch lacks what it is loaded with
    │   ├── FingerprintMismatch     made for another CPU, torch or Python; says what differs
    │   ├── SnapshotCorrupt         the manifest or an artefact is not what a baker writes
    │   ├── SnapshotMissing         no snapshot under that key, or a file of it is gone
    │   ├── EngineFailed            its runtime or its device refused: a plan, memory, a call; has the runtime's words
    │   └── InputUnsupported        a call with inputs the engine was not compiled for; the model runs it eagerly
    ├── SnapshotFileError           a snapshot that came as a file is refused; nothing of it was published
    │   ├── SnapshotFileInvalid     not what ``portable`` writes: cut off, altered, other members, too large
    │   └── SignatureRefused        unsigned, signed by a key that is not trusted here, or not what was signed
    ├── DeviceError                 the GPU cannot be used, now or at all; another engine would not help
    │   ├── DeviceUnavailable       no driver, no nvidia-smi, or it fails
    │   ├── DeviceListingInvalid    nvidia-smi lists something that cannot be read
    │   ├── ContextRefused          no CUDA context: device busy, out of memory, driver missing; says which
    │   └── MpsUnavailable          the MPS control daemon does not answer, or its server waits for clients to exit
    ├── SnapshotStoreFailed         the snapshots' disk is full or not writable; nothing was published
    └── CheckFailed                 outputs that are not finite, of another shape, or not the recorded ones

Messages name the model, file, tensor or dimension they are about. ``runtime.routing.coldstart`` maps the classes to
the runtime's own; the classes of ``cache.errors`` (a truncated or malformed weights file) pass through unchanged.
"""

from __future__ import annotations


class SnapshotError(Exception):
    """Base of all errors that the snapshot layer raises on purpose."""


class ModelError(SnapshotError):
    """The model as written or as deployed cannot be used by any engine."""


class ModelUnknown(ModelError):
    """A model that the template declares and the code does not, or the other way round; or one without a source."""


class BuildFailed(ModelError):
    """The builder raised, or returned something that is not a ``torch.nn.Module``."""


class ExampleInvalid(ModelError):
    """The example raised, is missing where one is needed, or does not fit the model's ``forward``."""


class WeightsMissing(ModelError):
    """There is no safetensors file among the source's files."""


class WeightsMismatch(ModelError):
    """The checkpoint and the module do not hold the same tensors."""


class TensorUnbound(ModelError):
    """A tensor has no values: it is still on the meta device, or the engine expects it and no file holds it."""


class OnnxInvalid(ModelError):
    """An author's ONNX file is not there, is no model, cannot be run, or names files outside its source."""


class BakeError(SnapshotError):
    """An engine could not be made."""


class ExportFailed(BakeError):
    """The model has no exported form that an engine here could run."""


class CompileFailed(BakeError):
    """The engine's compiler failed or is not installed."""


class EngineError(SnapshotError):
    """An engine cannot serve here or now; another one may."""


class EngineUnavailable(EngineError):
    """The engine is unknown, or what it is loaded with is missing from this torch."""


class FingerprintMismatch(EngineError):
    """The engine was made for another machine or other software."""


class SnapshotCorrupt(EngineError):
    """A manifest or an artefact that no baker wrote in this form."""


class SnapshotMissing(EngineError):
    """There is no snapshot of that key, or one of its files is gone."""


class EngineFailed(EngineError):
    """The engine's own runtime, or the device it runs on, refused a plan, memory or a call."""


class InputUnsupported(EngineError):
    """A call's inputs are not of the kind the engine was compiled for."""


class SnapshotFileError(SnapshotError):
    """A snapshot that came as a file cannot be used here."""


class SnapshotFileInvalid(SnapshotFileError):
    """A file that is not byte for byte in the form that an export has."""


class SignatureRefused(SnapshotFileError):
    """A snapshot file that nobody signed whose key is trusted here, or whose signature is of something else."""


class DeviceError(SnapshotError):
    """The GPU, or what manages it, cannot be used."""


class DeviceUnavailable(DeviceError):
    """There is no device, or nobody can tell how it is."""


class DeviceListingInvalid(DeviceError):
    """A listing of devices that is not in the form it was asked for in."""


class ContextRefused(DeviceError):
    """The driver made no context."""


class MpsUnavailable(DeviceError):
    """The Multi-Process Service takes no client now."""


class SnapshotStoreFailed(SnapshotError):
    """The snapshots' disk is full or not writable."""


class CheckFailed(SnapshotError):
    """An engine's outputs are wrong."""
