"""Prediction of very many images by Ray Data."""
