"""Calibrations of a LIBERO policy from demonstrations: of the same suite, of another one, of a mixture, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.engine.calibration import calibration
from ecovla_ros.train.libero.data import LiberoData

OWN, COLD, WEIGHTS = "own", "none", "weights"
"""The checkpoint's own calibration (of what it was trained on); none at all; all energies alike: weights decide."""
FRAMES = 128


def energies(policy: Any, which: str, work: Path, frames: int = FRAMES, seed: int = 0) -> dict[str, Tensor]:
    """Energies by site, as `engine.calibrate` takes them. `which`: "own", "none", "weights", or suites joined by "+",
    whose demonstrations under `work`/demos are looked at, all tasks alike. Raises CheckpointError for none.
    """
    if which == OWN:
        return dict(policy.calibration)
    if which == COLD:
        return {}
    if which == WEIGHTS:
        return {site.key: torch.ones(site.rows) for site in policy.sites}
    data = LiberoData(work / "demos", [name.strip().replace("-", "_") for name in which.split("+")])
    rows = np.random.default_rng(seed).choice(len(data), min(frames, len(data)), replace=False, p=data.share)
    return calibration(policy, data.observations(rows), torch.zeros(policy.spec.horizon, policy.spec.action_dim))
