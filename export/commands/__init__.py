"""The commands of ``python -m export``: a module has one or a few, each parses, makes one call, and prints.

Only the module of the command that is called is imported, so that ``predict`` and ``inspect`` need NumPy, onnxruntime and Pillow alone
and ``--help`` answers at once.
"""

from __future__ import annotations

__all__ = ["COMMANDS"]

#: Commands: the module whose function ``add_COMMAND`` adds the options to a parser, and a line of help.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("run", "export a run or a .keras file (the word may be omitted: python -m export RUN|MODEL.keras)"),
    "check": ("run", "validate a run's model.onnx against its Keras model on the whole test split"),
    "predict": ("predict", "predict images: classes, colors, nearest gallery entries or embeddings"),
    "predict-many": ("predict", "predict a folder or table of images into Parquet files, on many cores or machines"),
    "inspect": ("inspect", "print the contract and contents of an exported file"),
    "schema": ("inspect", "print the JSON Schema of the contract"),
    "embed": ("search", "write the embeddings of images to a .npy file"),
    "index": ("search", "build an approximate index (faiss) of a gallery of embeddings"),
    "search": ("search", "find the nearest entries of a gallery on disk for each embedding"),
    "doctor": ("doctor", "find out why a file differs from its Keras model, or is less accurate than it should be"),
    "page": ("page", "write a web page that runs a file in the browser"),
    "quantize": ("quantize", "write an int8 or float16 file, kept only if it is as accurate and faster here"),
    "benchmark": ("benchmark", "latency, throughput, memory, size and load time beside other engines"),
}
