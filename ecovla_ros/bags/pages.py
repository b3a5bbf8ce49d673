"""Rows of a table of a sqlite file whose tree is torn: the leaf pages one after the other, as they were appended.

File format: https://www.sqlite.org/fileformat2.html, sections 1.5, 1.6 and 2.1. Pages that are not wholly there, and
rows that need them, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

LEAF = 0x0D
"""First byte of a leaf page of a table. An overflow page begins with the number of the next one, so with 0x00."""
Value = int | bytes | None
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class Torn(ValueError):
    """A cell that leads outside of what is there."""


def rows(data: memoryview, columns: int) -> Iterator[tuple[int, list[Value]]]:
    """Row id and values of every row with so many columns; text and numbers that are no integers come as bytes."""
    page = int.from_bytes(data[16:18], "big")
    page = 65_536 if page == 1 else page
    if page < 512:
        return
    usable, count = page - data[20], len(data) // page
    for number in range(1, count + 1):
        begin, head = (number - 1) * page, 100 if number == 1 else 0
        if data[begin + head] != LEAF:
            continue
        cells = int.from_bytes(data[begin + head + 3 : begin + head + 5], "big")
        for i in range(cells):
            at = begin + head + 8 + 2 * i
            try:
                cell = begin + int.from_bytes(data[at : at + 2], "big")
                found = _row(data[: count * page], cell, page, usable, columns)
            except (Torn, IndexError):
                continue
            if found is not None:
                yield found


def _row(data: memoryview, at: int, page: int, usable: int, columns: int) -> tuple[int, list[Value]] | None:
    size, at = _varint(data, at)
    rowid, at = _varint(data, at)
    payload = _payload(data, at, size, page, usable)
    length, at = _varint(payload, 0)
    kinds = []
    while at < length:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if len(kinds) != columns:
        return None
    values: list[Value] = []
    at = length
    for kind in kinds:
        value, at = _value(payload, at, kind)
        values.append(value)
    return rowid, values


def _payload(data: memoryview, at: int, size: int, page: int, usable: int) -> memoryview:
    """What a cell holds: on its page, and on the overflow pages that follow. Raises Torn."""
    most = usable - 35
    if size <= most:
        return data[at : at + size]
    least = (usable - 12) * 32 // 255 - 23
    here = least + (size - least) % (usable - 4)
    here = here if here <= most else least
    if size > len(data):
        raise Torn
    parts = bytearray(data[at : at + here])
    following = int.from_bytes(data[at + here : at + here + 4], "big")
    while len(parts) < size:
        begin = (following - 1) * page
        if not 0 < following <= len(data) // page:
            raise Torn
        parts += data[begin + 4 : begin + 4 + min(usable - 4, size - len(parts))]
        following = int.from_bytes(data[begin : begin + 4], "big")
    return memoryview(parts)


def _value(payload: memoryview, at: int, kind: int) -> tuple[Value, int]:
    if kind in (0, 8, 9):
        return (None, 0, 1)[(0, 8, 9).index(kind)], at
    length = _INTEGERS.get(kind, 8 if kind == 7 else (kind - 12) // 2)
    if at + length > len(payload) or kind in (10, 11):
        raise Torn
    part = bytes(payload[at : at + length])
    return int.from_bytes(part, "big", signed=True) if kind in _INTEGERS else part, at + length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where it ends."""
    value = 0
    for i in range(8):
        byte = data[at + i]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + i + 1
    return value << 8 | data[at + 8], at + 9
