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


def unknown(what: str, name: object, valid: Iterable[str]) -> str:
    """Message for an unknown `name`: lists the valid ones and, if one is close, points at it."""
    names = sorted(valid)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"unknown {what} '{name}'; valid: {', '.join(names)}.{hint}"
