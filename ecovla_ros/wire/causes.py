"""One cause, one sentence: what is said of a fault that several of our programs can meet, live or in a bag.

`ecovla replay` reads a bag, `ecovla doctor` listens, and the nodes publish diagnostics and status. Whoever looks for
one sentence of theirs finds the same fault under the same words. Sentences end with what would be valid.
"""

from __future__ import annotations


def degrees(joint: str, value: float) -> str:
    """Joint positions that cannot be radians."""
    return f"{joint} is at {value:.4g}, more than two turns; are these degrees? valid: rad"
