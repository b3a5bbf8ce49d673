"""Permission to move that runs out: whoever enabled must keep asking, else the arm comes to rest."""

from __future__ import annotations


class EnableLease:
    """Times are seconds of a steady clock, handed in: a lease is a matter of people, not of simulated time."""

    def __init__(self, lease_s: float) -> None:
        """`lease_s`: how long one asking lasts, s; 0: an enable lasts until it is taken back."""
        self.lease_s = lease_s
        self._until_s: float | None = None

    def begin(self, now_s: float) -> None:
        """The guard was enabled, or enabled again."""
        self._until_s = now_s + self.lease_s if self.lease_s else None

    def renew(self, now_s: float) -> None:
        """Somebody still watches. What has run out, or never began, stays so: only `begin` moves an arm."""
        if self._until_s is not None:
            self._until_s = now_s + self.lease_s

    def end(self) -> None:
        """The guard was disabled."""
        self._until_s = None

    def lapsed(self, now_s: float) -> bool:
        """Whether the lease has run out since it was asked for; told once."""
        if self._until_s is None or now_s <= self._until_s:
            return False
        self._until_s = None
        return True
