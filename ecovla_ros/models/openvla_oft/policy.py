"""OpenVLA-OFT at batch 1: one pass and a head, no noise, no steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ecovla_ros.models.base import Plan, PolicySpec, Seen
from ecovla_ros.models.core.uses import uses
from ecovla_ros.models.data.units import Units
from ecovla_ros.models.openvla_oft.model import OftModel
from ecovla_ros.models.prismatic.policy import PrismaticPolicy
from ecovla_ros.models.prismatic.prompt import QuestionPrompt
from ecovla_ros.models.prismatic.sites import sites


class OftPolicy(PrismaticPolicy):
    """See models/base.py `Policy`. MLP channels and whole heads of all layers but the last are its sites."""

    state_tokens = 1

    def __init__(
        self,
        model: OftModel,
        spec: PolicySpec,
        normaliser: Units,
        prompt: QuestionPrompt,
        calibration: Mapping[str, Tensor] | None = None,
        bucket: int = 1,
    ) -> None:
        """Raises CheckpointError where model, spec, statistics and tokenizer do not fit."""
        super().__init__(model, spec, normaliser, prompt, calibration, bucket)
        self.model = model
        self.sites = sites("lm", "prefill", 1, model.lm)

    def sequence(self, vision: Tensor, state: Tensor, prompt: Tensor) -> Tensor:
        """Begin, vision, state, prompt, slots, end: (S, width)."""
        return self.model.sequence(vision[None], state[None], prompt[None])[0]

    @torch.inference_mode()
    def prefill(self, seen: Seen, plan: Plan) -> Tensor:
        """Hidden states (H * action_dim, width) of the action slots."""
        rows = self.model.rows(len(seen.prefix))
        use = uses("lm", len(self.model.lm), plan, valid=seen.valid)
        return self.read(seen, rows, use)

    @torch.inference_mode()
    def act(self, seen: Seen, handoff: Tensor, plan: Plan, noise: Tensor) -> Tensor:
        """Normalised actions (H, action_dim), float32. `noise` is not used: the head is a regression."""
        return self.model.head(handoff[None])[0].float()
