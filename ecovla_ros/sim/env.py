"""The simulated Gen3 in lock step, without ROS: observe, command, advance one period."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ecovla_ros.config import SimConfig
from ecovla_ros.sim import events, render
from ecovla_ros.sim.events import Event
from ecovla_ros.sim.world import PERIOD_TICKS, TICK_NS, World
from ecovla_ros.types import CAMERAS, Observation, Trajectory


class KinovaEnv:
    """One world with a renderer. The same physics and control as the sim node: commands are trajectories."""

    def __init__(self, config: SimConfig | None = None) -> None:
        """Compile the scene and open the renderer of `config`. Raises SimulationError when it cannot draw."""
        self.config = SimConfig() if config is None else config
        self.world = World(self.config.width, self.config.height)
        self.renderer = render.choose(self.config.renderer)(self.world.model, self.config.width, self.config.height)
        self._events: tuple[Event, ...] = ()

    def reset(self, task: str, seed: int, looks: bool = False, schedule: Sequence[Event] = ()) -> Observation:
        """`begin` an episode, and the first observation."""
        self.begin(task, seed, looks, schedule)
        return self.observe()

    def begin(self, task: str, seed: int, looks: bool = False, schedule: Sequence[Event] = ()) -> None:
        """Start an episode: placements from `seed`, plain or (`looks`) random appearance. Draws nothing.

        `schedule` holds events that happen by themselves at their `tick`. Raises SimulationError for an unknown task
        or event.
        """
        for event in schedule:
            events.check(event)
        self.world.reset(task, seed)
        if looks:
            events.randomise_looks(self.world, np.random.default_rng([seed, 1]))
        self._events = tuple(sorted(schedule, key=lambda event: event.tick))
        self._ticks = 0

    @property
    def now_ns(self) -> int:
        """Simulated clock, ns."""
        return self.world.now_ns

    def step(self, joints: np.ndarray, gripper: float) -> bool:
        """Command joint targets (7,), rad, due in one period, and a gripper target; advance that period.

        Returns whether the task is solved. Raises ControlError when the controller refuses the targets.
        """
        target = np.asarray(joints, float).reshape(1, -1)
        times = np.array([PERIOD_TICKS * TICK_NS * 1e-9])
        return self.follow(Trajectory(times, target), gripper, PERIOD_TICKS)

    def follow(
        self, trajectory: Trajectory | None, gripper: float | None, ticks: int, begin_ns: int = 0
    ) -> bool:  # fmt: skip
        """Hand over a trajectory and a gripper target now (None: keep the present one), then advance `ticks` of 10 ms.

        The trajectory begins at `begin_ns`; 0: now. Returns whether the task is solved. Raises ControlError when the
        controller refuses it.
        """
        if trajectory is not None:
            self.world.accept(trajectory, stamp_ns=begin_ns)
        if gripper is not None:
            self.world.gripper(gripper)
        for _ in range(ticks):
            while self._events and self._events[0].tick <= self._ticks:
                events.apply(self.world, self._events[0])
                self._events = self._events[1:]
            self.world.tick()
            self._ticks += 1
        return self.world.success()

    def apply(self, event: Event) -> None:
        """Make an event happen now. Raises SimulationError for an unknown kind or value."""
        events.apply(self.world, event)

    def observe(self) -> Observation:
        """Both images, joints and gripper as of now."""
        self.renderer.snapshot(self.world.data)
        images = {name: self.renderer.render(name) for name in CAMERAS}
        state = self.world.arm_state()
        return Observation(state.stamp_ns, images, state.joints, state.gripper, self.world.task.instruction)

    def segment(self) -> dict[str, np.ndarray]:
        """Class ids of both images as of now, int32 (H, W); see `scene.CLASSES`."""
        self.renderer.snapshot(self.world.data)
        return {name: self.renderer.segmentation(name) for name in CAMERAS}

    def close(self) -> None:
        """Free what the renderer holds."""
        self.renderer.close()
