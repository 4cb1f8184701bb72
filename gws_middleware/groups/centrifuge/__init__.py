"""Centrifuge's protocol: the clients ``centrifuge`` (npm) and ``centrifuge-python`` (PyPI) work with groups."""
