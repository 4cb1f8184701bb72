"""Backends: how a message gets from one process to all.

Rule: a backend knows no socket of a client and no WebSocket. It moves entries, whose payload it does not read.
"""
