"""Energies of channels that a pass left out, from sampled inputs: all sites of a shape in one kernel."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import torch
from torch import Tensor

from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.gated import gated
from ecovla_ros.kernels.rows import Table, table


class GatedProbe:
    """Probes the gated MLPs of L sites of one shape: gate and up (C, D) of each, rows side by side in memory."""

    def __init__(self, gates: Sequence[Tensor], ups: Sequence[Tensor], activation: str) -> None:
        self._gates, self._ups, self._activation = list(gates), list(ups), activation
        self._tables: tuple[Table, Table] | None = None
        if triton_runs_on(gates[0]):
            self._tables = table([[w] for w in gates]), table([[w] for w in ups])

    def sums(self, inputs: Tensor, first: int) -> Tensor:
        """Sums over n tokens of X_int^2 and of X_int in slots first..C-1, float32 (2, L, C - first).

        `inputs` (L, n, D): what the layers read at the sampled tokens.
        """
        rows = len(self._gates[0]) - first
        if self._tables is not None:
            run = importlib.import_module("ecovla_ros.kernels.probe_triton").sums
            out: Tensor = run(inputs, *self._tables, first, rows, self._activation)
            return out
        found = []
        for x, gate, up in zip(inputs, self._gates, self._ups):
            hidden = gated(x, gate[first:], up[first:], self._activation).float()
            found.append(torch.stack((hidden.square().sum(0), hidden.sum(0))))
        return torch.stack(found, 1)
