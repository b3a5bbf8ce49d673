"""Real-time chunking (arXiv 2506.07339) in the form that needs no gradient: a chunk begins where the last one leads.

While the arm executes the last chunk, every flow step of the new one is drawn towards what is left of it. With the
predicted actions a = x_t - t v and the last chunk p on the same instants, v <- v - g(t) W (p - a): the published pull
with the derivative of a by x_t taken as one. W is 1 for actions that will be executed before the new chunk arrives, and
falls to 0 at the end of the overlap. g(t) = min(limit, t / (1 - t) * (t^2 + (1 - t)^2) / t^2), as in lerobot.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecovla_ros.errors import ConfigError
from ecovla_ros.models.core.staging import Upload
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.types import JOINTS, ActionChunk, Floats, Observation

LIMIT = 10.0
"""Largest pull, lerobot's default."""

ASTRAY_RAD = 0.1
"""An arm that is farther than this from where it began and from every row that is due is not following the last chunk.
A chunk that is drawn begins as far from the arm as that and one row more. The guard refuses what lies farther than
`control.max_jump_rad`, twice this, and latches when it refuses one chunk after the other.
"""

NEAR_RAD = 0.02
"""Rows whose distances from the arm differ by no more are equally near: some lag and noise of an arm that stands."""


class RealTimeChunking:
    """What is left of the last chunk, in buffers that a captured pass may read.

    Belongs to the inference thread: `look` before a pass, `pull` in it, `keep` after it.
    """

    def __init__(
        self,
        normaliser: Normaliser,
        period_s: float,
        shape: tuple[int, int],
        overlap: int,
        delay: int,
        device: torch.device,
        apart_rad: float = 0.0,
    ) -> None:
        """`shape` (H, action_dim). `overlap`: actions that are drawn; `delay`: of these, fully.

        `apart_rad`: a chunk that would lie farther from the last one than this, by its first flow step, is not drawn;
        0: it is drawn however far. Raises ConfigError.
        """
        if not 0 <= delay <= overlap <= shape[0] or overlap < 1:
            wrong = f"real-time chunking over {overlap} actions, {delay} fully"
            raise ConfigError(f"{wrong}; valid: delay <= overlap <= {shape[0]}")
        self._normaliser, self._period_s = normaliser, period_s
        self.target = torch.zeros(shape, device=device)
        self.weight = torch.zeros(shape, device=device)
        self._apart_rad = apart_rad
        width, rows = min(shape[1], len(JOINTS)), len(normaliser.action_std)
        self._scale = torch.zeros(shape, device=device)
        """Radians of one unit of a normalised joint action; 0 for what is no joint."""
        self._scale[:rows, :width] = torch.tensor(normaliser.action_std, device=device)[:, :width]
        ramp = np.clip((overlap - np.arange(shape[0])) / (overlap - delay + 1), 0.0, 1.0)
        self._ramp = torch.tensor(np.where(np.arange(shape[0]) < delay, 1.0, ramp), device=device).float()
        self._upload = Upload((shape[0], len(JOINTS) + 1), torch.float32, device)
        self.last: tuple[ActionChunk, str, Floats] | None = None
        """The last answer, the instruction, and where the arm was, (7,) rad."""

    def forget(self) -> None:
        """A new episode: the next chunk follows none."""
        self.last = None

    def let_go(self) -> None:
        """After `look`: the chunk of this frame is not drawn."""
        self.weight.zero_()

    def look(self, obs: Observation) -> None:
        """Put the last chunk on the instants of a chunk for `obs`, if the arm is still following it; else forget it."""
        rows = self._left(obs)
        self.weight.zero_()
        if rows is None:
            return
        width = rows.shape[1]
        self.target[: len(rows), :width] = self._upload.copy(rows.astype(np.float32))
        self.weight[: len(rows), :width] = self._ramp[: len(rows), None]

    def pull(self, x_t: Tensor, velocity: Tensor, t: float) -> Tensor:
        """The velocity (H, action_dim) at time `t`, drawn towards the last chunk; float32."""
        error = self.target - (x_t - t * velocity)
        if t >= 1.0 and self._apart_rad:
            self.weight.mul_(self.apart(error) <= self._apart_rad)
        return torch.addcmul(velocity, self.weight, error, value=-strength(t))

    def apart(self, error: Tensor) -> Tensor:
        """Largest distance, rad, (), of the joints that are drawn from where they are drawn to; `error` normalised."""
        return (error.abs() * self._scale * (self.weight > 0.0)).max()

    def keep(self, chunk: ActionChunk, obs: Observation) -> None:
        """Remember the answer to a frame; not that to an example, which has no stamp."""
        if chunk.stamp_ns:
            self.last = (chunk, obs.instruction, obs.joints)

    def _left(self, obs: Observation) -> NDArray[np.float64] | None:
        """Normalised rows (<= H, 8) of the last chunk from the first action of a chunk for `obs` on."""
        if self.last is None:
            return None
        (chunk, instruction, began), behind = self.last, (obs.stamp_ns - self.last[0].stamp_ns) * 1e-9
        due = round(behind / self._period_s)
        if behind <= 0.0 or due >= chunk.horizon or instruction != obs.instruction:
            return None
        count = reached(np.vstack((began, chunk.joints[:due])), obs.joints)
        if count is None:
            return None
        first = count - 1
        return self._normaliser.actions(chunk.joints[first:], chunk.gripper[first:], obs.joints)


def reached(joints: Floats, measured: Floats) -> int | None:
    """How many of the rows (n, 7), rad, from where the arm began to the last that is due, it has reached; None where it
    is astray.

    Where the arm is counts, not the time: a guard that slows a chunk keeps its path and not its pace, and a chunk drawn
    to targets that the arm has not reached would run farther ahead with every frame. Of rows that are as near as the
    nearest, within `NEAR_RAD`, the last: where the arm is meant to stand, time goes on.
    """
    apart = np.abs((joints - measured + np.pi) % (2.0 * np.pi) - np.pi).max(1)
    if apart.min() > ASTRAY_RAD:
        return None
    return int(np.flatnonzero(apart <= apart.min() + NEAR_RAD)[-1]) + 1


def strength(t: float) -> float:
    """g(t), 0 at t = 0 and at most `LIMIT`."""
    if t >= 1.0:
        return LIMIT
    return min(LIMIT, t / (1.0 - t) * (t**2 + (1.0 - t) ** 2) / t**2) if t > 0.0 else 0.0
