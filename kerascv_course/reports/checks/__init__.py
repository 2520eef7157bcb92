"""Checks of the reports' errata: a function for each that computes it."""
