"""Metrics: one table of them, and those who export it."""
