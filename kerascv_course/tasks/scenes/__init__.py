"""Scene recognition without a network: features, encoders and classifiers as Keras graphs."""
