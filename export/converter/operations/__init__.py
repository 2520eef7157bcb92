"""Converters of the operations of `keras.ops`."""
