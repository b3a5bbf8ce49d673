"""One error family. Each error says what is wrong and what would have been valid."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EcovlaError(Exception):
    """Base of every error a user of this package can cause and mend."""


class ConfigError(EcovlaError):
    """A configuration key, type, range or name that is not valid."""


class ObservationError(EcovlaError):
    """A message or frame that cannot become an `Observation`: encoding, size, joint names, NaN, stamps."""


class CheckpointError(EcovlaError):
    """A checkpoint that is missing, truncated, foreign, or does not fit the request."""


class ControlError(EcovlaError):
    """A chunk or trajectory that must not reach the arm."""


class SimulationError(EcovlaError):
    """A scene, event or renderer request that the simulator cannot serve."""


class BagError(EcovlaError):
    """A bag that cannot be read or written as asked."""


class PruningError(EcovlaError):
    """A site, ratio or pattern that does not fit its weights."""


class ReplicaError(EcovlaError):
    """A replica of the policy server that has ended, or a session that it does not hold."""


MOST_TEXT = 200
"""Characters of a foreign text that an error repeats at most."""


def short(text: object, most: int = MOST_TEXT) -> str:
    """A foreign text on one line, cut to `most` characters: what comes in must not fill logs and status."""
    whole = str(text)
    cut = "".join(c if c.isprintable() else " " for c in whole[:most])
    return cut if len(whole) <= most else f"{cut}... ({len(whole)} characters)"


def unknown(what: str, name: object, valid: Iterable[str]) -> str:
    """Message for an unknown `name`: lists the valid ones and, if one is close, points at it."""
    names, said = sorted(valid), short(name)
    near = difflib.get_close_matches(said, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"unknown {what} '{said}'; valid: {', '.join(names)}.{hint}"
