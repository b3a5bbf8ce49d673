"""Where a policy is trained."""

from __future__ import annotations

import torch

from ecovla_ros.errors import ConfigError


def device(name: str) -> torch.device:
    """cpu, or cuda. Raises ConfigError for anything else, and for a GPU that this machine does not have."""
    if name == "cpu":
        return torch.device("cpu")
    if name.partition(":")[0] != "cuda" or not name.partition(":")[2].isdigit() and name != "cuda":
        raise ConfigError(f"device '{name}'; valid: cpu, cuda, or cuda:0 and so on")
    count = torch.cuda.device_count()
    if int(name.partition(":")[2] or 0) >= count:
        raise ConfigError(f"device '{name}': this machine has {count or 'no'} GPUs that torch can use; valid: cpu")
    return torch.device(name)
