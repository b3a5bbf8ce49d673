"""The engine of ecovla_ros, pruning and refreshing as configured, as a LeRobot policy."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.pretrained import PreTrainedPolicy

from ecovla_ros import build, config
from ecovla_ros.errors import ObservationError
from ecovla_ros.serve.session import MessageKeys, Session

from .configuration_ecovla import EcovlaConfig


class EcovlaPolicy(PreTrainedPolicy):
    """One episode at a time, as on an arm: batches of one observation."""

    config_class = EcovlaConfig
    name = "ecovla"

    def __init__(self, config: EcovlaConfig, **_: Any) -> None:
        """Loads and warms up. Raises what ecovla_ros raises: ConfigError, CheckpointError, PruningError."""
        super().__init__(config)
        settings = settings_of(config)
        keys = MessageKeys(dict(config.cameras), (config.state_key,), config.task_key)
        self._session = Session(
            build.engine(settings, serving=True), keys, settings.policy.embodiment.other, config.n_action_steps,
            gripper=config.gripper, seed=settings.policy.seed, clock=time.time_ns,
        )  # fmt: skip
        self.reset()

    @classmethod
    def from_pretrained(
        cls, pretrained_name_or_path: str | Path, *, config: PreTrainedConfig | None = None, **kwargs: Any
    ) -> EcovlaPolicy:
        """From a folder with LeRobot's config.json alone: weights are where `ecovla_config` says."""
        return cls(config or PreTrainedConfig.from_pretrained(pretrained_name_or_path, **kwargs))

    def reset(self) -> None:
        """A new episode."""
        self._session.start()

    @torch.no_grad()
    def predict_action_chunk(self, batch: Mapping[str, Any], **_: Any) -> torch.Tensor:
        """Actions (1, H, D), as the data of the checkpoint have them."""
        return torch.from_numpy(self._session.chunk(self._message(batch)))[None]

    @torch.no_grad()
    def select_action(self, batch: Mapping[str, Any], **_: Any) -> torch.Tensor:
        """The next action (1, D): of the chunk at hand, or of a new one."""
        return torch.from_numpy(self._session.action(self._message(batch)))[None]

    def forward(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, dict[str, Any]]:
        """Raises NotImplementedError: for inference only. LeRobot's base class demands the method."""
        raise NotImplementedError("policies of ecovla_ros are not trained through lerobot; see `ecovla train`")

    def get_optim_params(self) -> dict[str, Any]:
        """Nothing to optimise."""
        return {}

    def _message(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch of one as the plain values of `ecovla_ros.serve`. Raises ObservationError for a larger one."""
        keys, out = self._session.keys, {}
        for key in keys.images.values():
            if key in batch:
                out[key] = pixels(one(key, batch[key]))
        for key in keys.state:
            if key in batch:
                out[key] = one(key, batch[key]).double().cpu().numpy()
        text = batch.get(keys.text)
        out |= {} if text is None else {keys.text: text if isinstance(text, str) else text[0]}
        return out


def settings_of(config_: EcovlaConfig) -> config.Config:
    """The YAML file and its overrides. Raises ConfigError."""
    path = Path(config_.ecovla_config)
    loaded = config.load(path if path.is_file() else config.shipped(config_.ecovla_config))
    return config.override_texts(loaded, config_.overrides)


def one(key: str, values: torch.Tensor) -> torch.Tensor:
    """The only row of a batch. Raises ObservationError."""
    if len(values) != 1:
        raise ObservationError(f"'{key}' holds {len(values)} observations; valid: batches of one (--eval.batch_size=1)")
    return values[0]


def pixels(image: torch.Tensor) -> np.ndarray:
    """LeRobot's (3, H, W), float in 0..1 or uint8, to uint8 (H, W, 3)."""
    whole = image if image.dtype == torch.uint8 else (image * 255.0).round().clamp(0, 255).to(torch.uint8)
    return whole.permute(1, 2, 0).contiguous().cpu().numpy()
