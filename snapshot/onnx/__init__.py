"""ONNX files: reading what one says of itself, sessions of ONNX Runtime, and models that are nothing but an ONNX file.

Nothing here imports torch: a function whose models are ONNX files is served by processes that never do.
"""
