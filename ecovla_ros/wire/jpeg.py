"""Whether a JPEG is whole, by what lies between its coded data: its end, its scans and its restart markers.

Nothing is decoded. A decoder fills what is missing without a word: in a baseline picture with one colour (see
`compressed`), in a progressive one, whose scans add detail one after the other, with blur.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

FRAMES = (0xC0, 0xC1, 0xC2)
"""Markers of a frame header that cameras write: baseline, extended, progressive."""
PROGRESSIVE, DRI, SOS, EOI = 0xC2, 0xDD, 0xDA, 0xD9
_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_RESTARTS = range(0xD0, 0xD8)
COEFFICIENTS = 64


@dataclass(frozen=True)
class JpegColour:
    """One colour: how many of its units lie in a unit of the picture."""

    across: int
    down: int


@dataclass
class JpegFrame:
    """What the header says, and what the scans so far have brought."""

    height: int
    width: int
    components: dict[int, JpegColour]
    progressive: bool
    bits: dict[int, list[int]] = field(default_factory=dict)
    """Component -> for each coefficient how many of its low bits are still to come."""

    def units(self, names: list[int]) -> int:
        """Units (MCU) of a scan of these components."""
        most_across = max(c.across for c in self.components.values())
        most_down = max(c.down for c in self.components.values())
        if len(names) > 1:
            return -(-self.width // (8 * most_across)) * -(-self.height // (8 * most_down))
        one = self.components[names[0]]
        wide, high = -(-self.width * one.across // most_across), -(-self.height * one.down // most_down)
        return -(-wide // 8) * -(-high // 8)


def cut(raw: bytes) -> str:
    """What a JPEG lacks; empty for one that is whole as far as its markers tell. Raises ValueError or struct.error for
    one whose headers cannot be read."""
    frame, interval, ended = None, 0, False
    for marker, body, restarts in _segments(raw):
        if marker in FRAMES:
            frame = _frame(marker, body)
        elif marker == DRI:
            interval = struct.unpack_from(">H", body)[0]
        elif marker == SOS and frame is not None:
            names = _scan(frame, body)
            due = -(-frame.units(names) // interval) - 1 if interval else 0
            if interval and restarts < due:
                return f"{restarts} of {due} restart markers of a scan are in its {len(raw)} bytes"
        elif marker == EOI:
            ended = True
            break
    if frame is None:
        return ""
    if not ended:
        return f"its {len(raw)} bytes do not come to its end"
    lacking = [name for name in frame.components if not _brought(frame, name)]
    if lacking:
        return f"scans of {len(lacking)} of its {len(frame.components)} colours are not in its {len(raw)} bytes"
    return ""


def _segments(raw: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, its parameters, and how many restart markers lie in the coded data behind it."""
    at = 2
    while found := _MARKER.search(raw, at):
        marker, at = found[1][0], found.end()
        if marker in _RESTARTS or marker == 0x01:
            continue
        if marker == EOI:
            yield marker, b"", 0
            return
        length = struct.unpack_from(">H", raw, at)[0]
        body, at = raw[at + 2 : at + length], at + max(length, 2)
        restarts = 0
        if marker == SOS:
            for inner in _MARKER.finditer(raw, at):
                if inner[1][0] not in _RESTARTS:
                    at = inner.start()
                    break
                restarts += 1
            else:
                at = len(raw)
        yield marker, body, restarts


def _frame(marker: int, body: bytes) -> JpegFrame:
    _, height, width, count = struct.unpack_from(">BHHB", body)
    parts = [struct.unpack_from("BB", body, 6 + 3 * i) for i in range(count)]
    components = {name: JpegColour(max(1, sides >> 4), max(1, sides & 15)) for name, sides in parts}
    if not components:
        raise ValueError("a JPEG without colours")
    none = [COEFFICIENTS] * COEFFICIENTS
    return JpegFrame(height, width, components, marker == PROGRESSIVE, {name: list(none) for name in components})


def _scan(frame: JpegFrame, body: bytes) -> list[int]:
    """Note what a scan brings; the components that it has."""
    count = body[0]
    names = [body[1 + 2 * i] for i in range(count)]
    first, last, bits = struct.unpack_from("BBB", body, 1 + 2 * count)
    if not names or any(name not in frame.components for name in names):
        raise ValueError("a JPEG with a scan of no colour of its own")
    for name in names:
        left = frame.bits[name]
        where = range(first, min(last, COEFFICIENTS - 1) + 1) if frame.progressive else range(COEFFICIENTS)
        for k in where:
            left[k] = bits & 15 if frame.progressive else 0
    return names


def _brought(frame: JpegFrame, name: int) -> bool:
    """Whether the scans of a colour came to their end: the steady part down to its last bit, and no coefficient begun
    and not ended. Details may be left out on purpose, but not all of them."""
    steady, *details = frame.bits[name]
    ended = steady == 0 and all(left in (0, COEFFICIENTS) for left in details)
    return ended and (not frame.progressive or 0 in details)
