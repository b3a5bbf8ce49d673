"""A job for several processes: each must be able to import it."""

from __future__ import annotations


def tell_rank(rank, report):
    """Report which of the processes this is."""
    report({"rank": rank})
