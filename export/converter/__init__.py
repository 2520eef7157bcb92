"""Keras models to ONNX graphs."""
