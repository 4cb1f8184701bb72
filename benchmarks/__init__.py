"""Benchmarks: what this server costs beside others, measured in one run. The package imports nothing of this.

``python -m benchmarks.echo`` is the door; README.md beside this file says what the figures mean.
"""
