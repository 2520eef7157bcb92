"""Prediction over many images with Ray: ``python -m export predict-many``."""
