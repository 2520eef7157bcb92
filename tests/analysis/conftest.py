"""Hypothesis without a time limit for each example: imports and a busy machine are no failures."""

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
