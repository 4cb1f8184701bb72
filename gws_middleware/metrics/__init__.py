"""Metrics: one table of them, and the modules that export it."""
