"""Colorization: a color class for every pixel."""
