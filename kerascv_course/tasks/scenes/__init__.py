"""Vision without a network, as Keras graphs: tiny images, dense SIFT, bags of words, pyramids, neighbours, support vectors."""
