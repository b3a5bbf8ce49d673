"""What LeRobot's command line may say of a policy of ecovla_ros."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs.policies import PreTrainedConfig


@PreTrainedConfig.register_subclass("ecovla")
@dataclass
class EcovlaConfig(PreTrainedConfig):
    """The model, its checkpoint and its pruning are in `ecovla_config`; the rest says where things lie in a batch."""

    ecovla_config: str = "pi05_gen3.yaml"
    """YAML file of ecovla_ros, or the name of a shipped one."""
    overrides: list[str] = field(default_factory=list)
    """section.key=value, e.g. prune.ratio=0.4."""
    cameras: dict[str, str] = field(
        default_factory=lambda: {"third_person": "observation.images.image", "wrist": "observation.images.image2"}
    )
    """Camera of ecovla_ros -> key of its images. The default is LeRobot's LIBERO."""
    state_key: str = "observation.state"
    task_key: str = "task"
    n_action_steps: int = 0
    """Actions of a chunk that are executed before the next inference; 0: all."""
    gripper: str = "as-is"
    """openvla: turned round as LIBERO wants it from OpenVLA's models."""

    def validate_features(self) -> None:
        """Nothing: ecovla_ros checks every observation by name and shape."""

    def get_optimizer_preset(self) -> Any:
        """None: these policies are not trained here."""
        return None

    def get_scheduler_preset(self) -> Any:
        """None: these policies are not trained here."""
        return None

    @property
    def observation_delta_indices(self) -> None:
        """One frame at a time."""
        return None

    @property
    def action_delta_indices(self) -> None:
        """Not trained here."""
        return None

    @property
    def reward_delta_indices(self) -> None:
        """Not trained here."""
        return None
