"""The paper's three tasks: which object goes where, and the sentence that says so."""

from __future__ import annotations

from dataclasses import dataclass

from ecovla_ros.errors import SimulationError, unknown


@dataclass(frozen=True)
class Task:
    """One task. All objects and both goals stand in every scene: only the instruction tells which are meant."""

    name: str
    object: str
    """Body that has to be moved: apple, bottle or banana."""
    goal: str
    """Body it has to end in: basket or cabinet."""
    instruction: str


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("apple", "apple", "basket", "place the apple in the basket"),
        Task("bottle", "bottle", "cabinet", "put the pill bottle in the cabinet"),
        Task("banana", "banana", "basket", "place the banana in the basket"),
    )
}


def find(name: str) -> Task:
    """The task of that name. Raises SimulationError listing the valid names."""
    if name not in TASKS:
        raise SimulationError(unknown("task", name, TASKS))
    return TASKS[name]
