"""Training: `prepare` and `train` a recipe into a `Run` folder."""
