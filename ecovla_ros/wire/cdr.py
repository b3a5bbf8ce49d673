"""Whether bytes are a message: every length in them is looked at before the middleware's reader is handed them.

The last two bits of the encoding's options say how much of the end is padding. Fast CDR takes that from the length
without looking whether so much is there, and then takes any length for good: a message of four bytes can end the
process that reads it (a segmentation fault, which nothing can catch). What passes here holds all that its lengths say.
The rules are those of plain CDR (DDS-XTypes 1.3, 7.4.1): numbers are aligned to their size from the end of the four
bytes that name the encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from ecovla_ros.errors import ObservationError

HEAD = 4
MOST_TEXTS = 4096
"""Texts, or points, in one sequence."""
TIME, U1, U4, F8, TEXT, U1S, F8S, TEXTS, POINTS = "time", "u1", "u4", "f8", "text", "u1s", "f8s", "texts", "points"
SIZES = {TIME: (4, 8), U1: (1, 1), U4: (4, 4), F8: (8, 8), U1S: (1, 1), F8S: (8, 8)}
"""Kind, or kind of the items -> alignment and bytes."""
LAYOUTS: Mapping[str, Sequence[str]] = {
    "Bool": (U1,),
    "String": (TEXT,),
    "Clock": (TIME,),
    "JointState": (TIME, TEXT, TEXTS, F8S, F8S, F8S),
    "ActionChunk": (TIME, TEXT, F8, U4, TEXTS, F8S, F8S),
    "PruningState": (TIME, TEXT, TEXT, TEXT, TEXT, F8, F8, U1, F8, F8, F8, F8, F8, F8, TEXT),
    "Image": (TIME, TEXT, U4, U4, TEXT, U1, U4, U1S),
    "CompressedImage": (TIME, TEXT, TEXT, U1S),
    "JointTrajectory": (TIME, TEXT, TEXTS, POINTS),
}
"""Message -> its fields, nested ones in a row."""
POINT = (F8S, F8S, F8S, F8S, TIME)


def check(raw: bytes, kind: str) -> None:
    """Raises ObservationError for bytes that do not hold a whole message of `kind`.

    Of a kind that is not in `LAYOUTS` only the encoding is looked at, and that what it says is padding is there.
    """
    if len(raw) < HEAD or raw[0] or raw[1] > 1 or len(raw) - HEAD < raw[3] & 3:
        raise ObservationError(f"{len(raw)} bytes that are no {kind}; valid: plain CDR")
    walk = _Walk(raw, "<I" if raw[1] else ">I")
    try:
        for field in LAYOUTS.get(kind, ()):
            walk.over(field)
    except (IndexError, struct.error) as error:
        raise ObservationError(f"{len(raw)} bytes that are no {kind}; valid: a whole message") from error


class _Walk:
    """A place in the bytes of a message. Raises IndexError where it would leave them."""

    def __init__(self, raw: bytes, count: str) -> None:
        self._raw, self._count, self._at = raw, count, HEAD
        self._end = len(raw) - (raw[3] & 3)  # the last two bits of the options: how much of the end is padding

    def over(self, field: str) -> None:
        """Go over one field."""
        if field == TEXT:
            self._skip(1, self._number())
        elif field in (TEXTS, POINTS):
            items = self._number()
            if items > MOST_TEXTS:
                raise IndexError
            for _ in range(items):
                for inner in (TEXT,) if field == TEXTS else POINT:
                    self.over(inner)
        elif field in (U1S, F8S):
            alignment, size = SIZES[field]
            items = self._number()
            if items:
                self._skip(alignment, items * size)
        else:
            self._skip(*SIZES[field])

    def _number(self) -> int:
        self._skip(4, 4)
        return int(struct.unpack_from(self._count, self._raw, self._at - 4)[0])

    def _skip(self, alignment: int, size: int) -> None:
        self._at += -(self._at - HEAD) % alignment + size
        if self._at > self._end:
            raise IndexError
