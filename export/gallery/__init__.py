"""Galleries of embeddings: inside an ONNX file, on disk, with an approximate index, and rank lists for the gate."""
