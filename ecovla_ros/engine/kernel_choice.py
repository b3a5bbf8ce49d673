"""Which kernel runs which shape: timed on the machine itself, before anything is captured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch

from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.gated import KERNEL_CHOICE
from ecovla_ros.prune.site import Plan, Site


def choose_kernels(sites: Sequence[Site], plans: Iterable[Plan], tokens: Mapping[str, int]) -> int:
    """Time the fused gated MLP against its reference for every shape the plans run; returns how many there are.

    `tokens`: phase -> tokens of one call. Does nothing on a CPU; a shape is timed once a process. The activation does
    not matter to the choice.
    """
    shapes = {}
    for site in sites:
        if site.unit == 1 and len(site.producers) == 2 and triton_runs_on(site.consumer):
            for plan in plans:
                kept = plan.kept.get(site.key, site.channels)
                shapes[tokens[site.phase], kept, site.consumer.shape[1]] = site
    for (length, kept, width), site in shapes.items():
        gate, up = site.producers
        x = torch.randn(length, width, device=gate.device).to(gate.dtype)
        KERNEL_CHOICE.measure(x, gate[:kept], up[:kept], "gelu")
    return len(shapes)
