"""From an exported model to an ONNX file, for the engines that read one."""
