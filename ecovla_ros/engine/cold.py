"""A start without a calibration: the first frames run dense and are added up, and the first pattern comes of them."""

from __future__ import annotations

from collections.abc import Callable

from ecovla_ros.engine.outcome import RefreshState
from ecovla_ros.engine.refresh import Refresh
from ecovla_ros.models.base import DENSE, Plan, Seen


class ColdStart:
    """Whether frames still run dense because no pattern was measured yet. Belongs to the inference thread.

    Frames go on adding up over a trigger and over the end of an episode: all of them say something of the channels.
    If the refresh behind the last of them fails, counting begins anew. So it does in every later episode, where the
    pattern is one that follows.
    """

    def __init__(self, frames: int) -> None:
        """`frames`: how many dense frames are added up."""
        self._frames = frames
        self._recorded = 0
        self._before: RefreshState | None = None
        """The state that tells nothing yet of the first pattern, once its refresh was begun."""
        self.over = False
        """A pattern, or the energies to make one, are in place."""

    @property
    def left(self) -> int:
        """Dense frames to come before the first pattern; 0 once it is in place, and 1 at least before."""
        return 0 if self.over else max(1, self._frames - self._recorded)

    def end(self) -> None:
        """Somebody else gave a pattern or energies."""
        self.over, self._before = True, None

    def begin_anew(self, refresh: Refresh) -> None:
        """The first pattern, and what came of it, was of another episode."""
        self._recorded, self._before, self.over = 0, None, False
        refresh.forget()

    def look(self, refresh: Refresh, failed: str) -> None:
        """After the join of a frame: has the first pattern been written? `failed`: why not, if that is known."""
        before = self._before
        if before is None:
            return
        fault = failed or (refresh.state.fault if refresh.state is not before else "")
        if fault:
            self.begin_anew(refresh)
        elif refresh.state is not before:
            self.end()

    def plan(self, refresh: Refresh, seen: Seen, horizon: int, free: bool, begin: Callable[[Plan], None]) -> Plan:
        """How the next frame runs: dense. `begin` is called where the refresh to the first pattern follows it.

        `free`: whether a refresh may be begun.
        """
        if self._before is not None:
            return DENSE
        plan = refresh.recording
        refresh.watch(plan, len(seen.prefix), horizon, seen.padding, more=self._recorded > 0)
        self._recorded += 1
        if self._recorded >= self._frames and free:
            self._before = refresh.state
            begin(plan)
        return plan
