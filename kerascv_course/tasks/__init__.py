"""Tasks: targets, losses, metrics, figures and served answers of each."""
