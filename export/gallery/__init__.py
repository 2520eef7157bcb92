"""Galleries of embeddings: retrievers, indexes on the disk, rank lists."""
