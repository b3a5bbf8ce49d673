"""Calibrations of a LIBERO policy from demonstrations: of the same suite, of another one, of a mixture, or none."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.engine.calibration import calibration
from ecovla_ros.errors import CheckpointError
from ecovla_ros.train.libero.data import LiberoData
from ecovla_ros.train.libero.demos import SOLVED

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
    data = LiberoData(work / "demos", suites_of(which))
    rows = np.random.default_rng(seed).choice(len(data), min(frames, len(data)), replace=False, p=data.share)
    return calibration(policy, data.observations(rows), torch.zeros(policy.spec.horizon, policy.spec.action_dim))


def suites_of(which: str) -> list[str]:
    """Suites whose demonstrations a calibration looks at; none for those that look at nothing."""
    return [] if which in (OWN, COLD, WEIGHTS) else [name.strip().replace("-", "_") for name in which.split("+")]


def demonstrations(which: str, work: Path) -> str:
    """SHA-256 over the solved demonstrations that `which` draws its looks from, by suite, task and name: another one
    among them gives other looks. "" for a calibration that looks at nothing. Raises CheckpointError where one cannot
    be read.
    """
    digest, names = hashlib.sha256(), suites_of(which)
    try:
        for suite in names:
            for path in sorted((work / "demos" / suite).glob(f"*/*{SOLVED}")):
                digest.update(path.relative_to(work).as_posix().encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
    except OSError as error:
        raise CheckpointError(f"cannot read the demonstrations of {', '.join(names)}: {error}") from error
    return digest.hexdigest() if names else ""
