"""Faults of the application under test, which prove that the programs detect them."""

from __future__ import annotations

import os

__all__ = ["FAULTS", "enabled"]

FAULTS = {
    "leak": "each WebSocket leaks four KiB",
    "greenlet": "each WebSocket of /echo leaks a greenlet",
    "wrong": "every twentieth answer of /echo and /detached differs from the message",
    "forget": "every tenth message of /stored is acknowledged and not stored",
    "cut": "each WebSocket of /stored is aborted after a second or two, without a close frame",
    "block": "each message blocks the event loop for 20 ms",
    "skip": "each member of a group that has a handler misses every twentieth message",
    "swap": "each of them gets every twentieth message after the next",
    "silent": "every twentieth message of a publisher is acknowledged, and no member of its group gets it",
    "unreported": "a gap is not reported to members of a group, and recovered is true for each that resumes",
}

enabled = frozenset(filter(None, os.environ.get("STRESS_FAULTS", "").split(",")))
"""Those that ``STRESS_FAULTS`` names."""
assert enabled <= set(FAULTS), enabled
