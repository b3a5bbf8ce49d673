"""Policies of ecovla_ros for LeRobot: `--policy.type=ecovla`."""

try:
    import lerobot  # noqa: F401
except ImportError as error:
    raise ImportError("lerobot_policy_ecovla is a plugin of lerobot: pip install lerobot (0.6 or newer)") from error

from .configuration_ecovla import EcovlaConfig
from .modeling_ecovla import EcovlaPolicy
from .processor_ecovla import make_ecovla_pre_post_processors

__all__ = ["EcovlaConfig", "EcovlaPolicy", "make_ecovla_pre_post_processors"]
