"""CogACT at batch 1: one causal pass to a cognition vector, then DDIM steps of the diffusion head.

Exact savings: of the last layer one row, the time embeddings once, the condition once a frame, the unused history
embedding not at all.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecovla_ros.models.base import Plan, PolicySpec, Seen
from ecovla_ros.models.cogact.ddim import ddim_steps
from ecovla_ros.models.cogact.model import CogactModel
from ecovla_ros.models.core.layers import pack
from ecovla_ros.models.core.uses import uses
from ecovla_ros.models.data.units import Units
from ecovla_ros.models.prismatic.policy import PrismaticPolicy
from ecovla_ros.models.prismatic.prompt import QuestionPrompt
from ecovla_ros.models.prismatic.sites import sites
from ecovla_ros.types import ActionChunk


class CogactPolicy(PrismaticPolicy):
    """See models/base.py `Policy`. Sites: MLP channels and heads of language model ("lm") and head ("expert")."""

    def __init__(
        self,
        model: CogactModel,
        spec: PolicySpec,
        normaliser: Units,
        prompt: QuestionPrompt,
        flow_steps: int = 0,
        calibration: Mapping[str, Tensor] | None = None,
        bucket: int = 1,
    ) -> None:
        """`flow_steps`: DDIM steps; 0: as the checkpoint says. Raises CheckpointError where the parts do not fit and
        ConfigError for a number of steps that the schedule does not have."""
        super().__init__(model, spec, normaliser, prompt, calibration, bucket)
        self.model = model
        pack(model.dit.blocks)
        self.flow_steps = flow_steps or model.config.steps
        self._steps = ddim_steps(self.flow_steps)
        self._guided = model.config.guidance > 1.0
        self.sites = (
            *sites("lm", "prefill", 1, model.lm),
            *sites("expert", "act", self.flow_steps, model.dit.blocks),
        )
        with torch.inference_mode():
            self._times = model.dit.times(torch.tensor([s.time for s in self._steps], device=self.device))

    def sequence(self, vision: Tensor, state: Tensor, prompt: Tensor) -> Tensor:
        """Begin, vision, prompt: (S, width). CogACT does not look at the state."""
        return self.model.sequence(vision[None], prompt[None])[0]

    @torch.inference_mode()
    def prefill(self, seen: Seen, plan: Plan) -> Tensor:
        """The cognition vector (width,)."""
        last = slice(len(seen.prefix) - 1, len(seen.prefix))
        use = uses("lm", len(self.model.lm), plan, valid=seen.valid)
        return self.read(seen, last, use)[0]

    @torch.inference_mode()
    def act(self, seen: Seen, handoff: Tensor, plan: Plan, noise: Tensor) -> Tensor:
        """DDIM from `noise` (H, action_dim) to normalised actions (H, action_dim), float32."""
        dit, guidance = self.model.dit, self.model.config.guidance
        conditions = dit.conditions(handoff, self._guided) + self._times[:, None]  # (steps, 1 or 2, width)
        x = noise.to(self.device, torch.float32, non_blocking=True)
        for i, step in enumerate(self._steps):
            use = uses("expert", len(dit.blocks), plan, i, self.flow_steps)
            predicted = dit(x.to(self.dtype), conditions[i], use).float()
            eps = torch.lerp(predicted[1], predicted[0], guidance) if self._guided else predicted[0]
            x = torch.add(step.keep * x, eps, alpha=step.noise)
        return x

    def to_chunk(self, seen: Seen, actions: Tensor) -> ActionChunk:
        """As the base, of actions within -1..1, which CogACT's are clipped to."""
        return super().to_chunk(seen, actions.clamp(-1.0, 1.0))
