"""The doctor: why an ONNX file differs from its Keras model, or is less accurate than it should be."""
