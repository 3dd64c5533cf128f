"""What function authors import, and the functions that come with glowplug.

    from glowplug.handlers import Example, model, onnx_model

Light on purpose: a handler without a model must not pay for torch.
"""

from glowplug.snapshot.definition import Example

from .author import model, onnx_model

__all__ = ["Example", "model", "onnx_model"]
