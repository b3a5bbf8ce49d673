"""What of a flow step depends on the step alone, computed once: exact up to rounding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ecovla_ros.models.core.layers import Use
from ecovla_ros.models.core.modulation import Modulation
from ecovla_ros.models.pi.model import PiModel


@dataclass(frozen=True)
class FlowSteps:
    """How the noisy actions of each step become tokens, and what the step's time makes of the expert's norms."""

    action: Tensor
    """(expert_width, action_dim). pi0: action columns of `time_in` after `action_in`, folded. pi0.5: `action_in`."""
    bias: Tensor
    """(steps, expert_width): biases, and in pi0 the time columns of `time_in` at the time of each step."""
    modulations: tuple[list[Modulation], ...] = ()
    """pi0.5: of each step, of every norm in order, the expert's last norm at the end. pi0: none."""

    def tokens(self, model: PiModel, x_t: Tensor, step: int) -> Tensor:
        """Noisy actions (H, action_dim) to expert tokens (H, expert_width)."""
        hidden = F.linear(x_t, self.action, self.bias[step])
        return hidden if self.modulations else model.time_out(F.silu(hidden))

    def modulate(self, uses: Sequence[Use], step: int) -> tuple[Sequence[Use], Modulation | None]:
        """`uses` of the expert's blocks with the step's modulations, and that of the last norm."""
        if not self.modulations:
            return uses, None
        *blocks, last = self.modulations[step]
        pairs = zip(blocks[::2], blocks[1::2])
        return [use._replace(modulation=pair) for use, pair in zip(uses, pairs)], last


@torch.inference_mode()
def flow_step_parts(model: PiModel, steps: int) -> FlowSteps:
    """The parts for `steps` Euler steps from t = 1."""
    times = 1.0 - torch.arange(steps, dtype=torch.float32, device=model.action_in.weight.device) / steps
    if model.modulator is not None:
        made = []
        for t in times:
            uses, last = model.modulate(t[None])
            assert uses is not None and last is not None
            made.append([m for use in uses for m in use.modulation or ()] + [last])
        return FlowSteps(model.action_in.weight, model.action_in.bias.expand(steps, -1), tuple(made))
    width = model.config.expert_width
    on_action, on_time = (w.float() for w in model.time_in.weight.split(width, 1))
    constant = model.time_in.bias.float() + on_action @ model.action_in.bias.float()
    bias = F.linear(model.time_embedding(times), on_time) + constant
    dtype = model.time_in.weight.dtype
    return FlowSteps((on_action @ model.action_in.weight.float()).to(dtype), bias.to(dtype))
