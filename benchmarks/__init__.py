"""Benchmarks: the cost of this server and of others, measured in one run. gws_middleware does not import them.

``python -m benchmarks.echo`` runs them; README.md in this folder explains the figures.
"""
