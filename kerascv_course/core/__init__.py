"""Foundations of all packages: errors, types, files, images, tables, ranking, environment; no Keras or TensorFlow at import."""
