"""What every arm can do: run a trajectory, move its gripper, say where it is and what is wrong with it."""

from __future__ import annotations

from typing import Protocol

from ecovla_ros.types import ArmState, Trajectory


class Arm(Protocol):
    """One arm. A trajectory replaces the running one and ends at rest; the arm polices nothing: the guard did."""

    def send(self, trajectory: Trajectory) -> None:
        """Run `trajectory`, its times relative to now."""
        ...

    def gripper(self, closed: float) -> None:
        """Move the gripper to `closed`, 0 open .. 1 closed."""
        ...

    def state(self) -> ArmState | None:
        """The newest state; None when there is none yet, or when others report it."""
        ...

    @property
    def fault(self) -> str:
        """What is wrong with the arm, by name; empty when nothing is."""
        ...

    def close(self) -> None:
        """Stop the arm where it moves by our command, and let go of it. May be called twice."""
        ...
