"""The doctor: what is wrong with an ONNX file."""
