"""What a command shows while it runs and when it ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


BAR = 20
"""Width of a progress bar, characters."""


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3:07 or 2:05:00."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


class ProgressLine:
    """One line on standard error that tells how far a command is and how long it will take."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what, self._done, self._start = total, what, 0, time.monotonic()

    def step(self, note: str = "") -> None:
        """One more is done."""
        self.to(self._done + 1, note)

    def to(self, done: int, note: str = "") -> None:
        """So many are done."""
        self._done = done
        left = (time.monotonic() - self._start) / done * (self._total - done)
        end = "\n" if done == self._total else ""
        bar = "#" * round(BAR * done / self._total)
        line = f"[{bar:.<{BAR}}] {done}/{self._total} {self._what}, {duration(left)} left"
        print(f"\r{line}  {note:<50.50}", end=end, file=sys.stderr, flush=True)


def print_table(rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Rows as aligned text; figures to four digits, missing ones as '-'."""
    cells = [[_cell(row.get(c)) for c in columns] for row in rows]
    widths = [max(len(c), *(len(r[i]) for r in cells)) if cells else len(c) for i, c in enumerate(columns)]
    for line in (list(columns), *cells):
        print("  ".join(text.rjust(width) for text, width in zip(line, widths)))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
