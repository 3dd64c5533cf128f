"""From an exported model to a TensorRT plan and back. Only imported where the ``tensorrt`` engine is used."""
