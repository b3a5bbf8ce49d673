"""Hostile bytes: sound messages, broken in the ways that break readers. Draws come from the generator handed in."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

Rng = np.random.Generator
Break = Callable[[Rng, bytes], bytes]
HEAD = 4
"""Bytes that name the encoding of a serialized ROS message."""
LENGTHS = (0, 1, 2, 2**16, 2**20, 2**27, 2**31 - 1, 2**31, 2**32 - 1)
DOUBLES = (float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, -0.0, 1e9)
STAMPS = ((-(2**31), 0), (2**31 - 1, 999_999_999), (0, 0), (-1, 2**32 - 1), (0, 2**32 - 1))


def truncated(rng: Rng, raw: bytes) -> bytes:
    """Its beginning."""
    return raw[: int(rng.integers(0, len(raw) + 1))]


def head_only(rng: Rng, raw: bytes) -> bytes:
    """The encoding, and up to three bytes."""
    return raw[: HEAD + int(rng.integers(0, 4))]


def overpadded(rng: Rng, raw: bytes) -> bytes:
    """Said to end with padding, of which there is less."""
    return raw[: HEAD - 1] + bytes([int(rng.integers(1, 4))]) + raw[HEAD : HEAD + max(int(rng.integers(-4, 3)), 0)]


def noise(rng: Rng, raw: bytes) -> bytes:
    """Nothing of it but its length, about."""
    return raw[:HEAD] + rng.bytes(int(rng.integers(0, 2 * len(raw) + 8)))


def flipped(rng: Rng, raw: bytes) -> bytes:
    """Some bits are others."""
    broken = bytearray(raw)
    for at in rng.integers(0, len(raw), int(rng.integers(1, 20))):
        broken[at] ^= 1 << int(rng.integers(8))
    return bytes(broken)


def lying(rng: Rng, raw: bytes) -> bytes:
    """A length, or what stands where one could, says something else."""
    return _put(rng, raw, 4, struct.pack("<I", int(rng.choice(LENGTHS))))


def not_finite(rng: Rng, raw: bytes) -> bytes:
    """A number is none, or beyond everything."""
    return _put(rng, raw, 8, struct.pack("<d", float(rng.choice(DOUBLES))))


def misdated(rng: Rng, raw: bytes) -> bytes:
    """Stamped at the ends of time."""
    sec, nanosec = STAMPS[int(rng.integers(len(STAMPS)))]
    return raw[:HEAD] + struct.pack("<iI", sec, nanosec) + raw[HEAD + 8 :]


def misencoded(rng: Rng, raw: bytes) -> bytes:
    """The encoding is said to be another."""
    return rng.bytes(2) + raw[2:]


def spliced(rng: Rng, raw: bytes) -> bytes:
    """A piece of it stands in another place."""
    a, b, c = sorted(int(i) for i in rng.integers(0, len(raw) + 1, 3))
    return raw[:a] + raw[b:c] + raw[a:b] + raw[c:]


def repeated(rng: Rng, raw: bytes) -> bytes:
    """A piece of it comes many times over: names, numbers and texts by the thousand."""
    a, b = sorted(int(i) for i in rng.integers(0, len(raw) + 1, 2))
    return (raw[:b] + raw[a:b] * min(int(rng.integers(1, 500)), 60_000 // max(b - a, 1)) + raw[b:])[:200_000]


def untouched(rng: Rng, raw: bytes) -> bytes:
    """As it is: a sound message at the wrong time."""
    del rng
    return raw


BREAKS: tuple[Break, ...] = (
    truncated, head_only, overpadded, noise, flipped, lying, not_finite, misdated, misencoded, spliced, repeated,
    untouched,
)  # fmt: skip


def broken(rng: Rng, sound: bytes) -> tuple[str, bytes]:
    """The name of what was done to a sound message, and what became of it; now and then two things."""
    how = BREAKS[int(rng.integers(len(BREAKS)))]
    raw = how(rng, sound)
    if rng.random() < 0.2 and len(raw) > HEAD:
        raw = BREAKS[int(rng.integers(len(BREAKS)))](rng, raw)
    return how.__name__, raw


def _put(rng: Rng, raw: bytes, step: int, what: bytes) -> bytes:
    if len(raw) < HEAD + len(what):
        return raw + what
    at = HEAD + step * int(rng.integers(0, max((len(raw) - HEAD - len(what)) // step + 1, 1)))
    return raw[:at] + what + raw[at + len(what) :]
