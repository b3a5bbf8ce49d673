"""Device times on CUDA, and the roofline bound they are held against (not measured where there is no GPU).

Bound of one product: max(weight bytes / bandwidth, 2 MACs / peak); weights are streamed once per use, activations are
free, launches cost nothing. Peaks are dense bf16 with float32 accumulation: of the vendor's data sheet, or what a large
product and a large copy reach on the very device, in the part of it that the process runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ecovla_ros.engine.wrapped import WrappedPolicy
from ecovla_ros.kernels.available import reference_alone
from ecovla_ros.models.base import Plan, Policy, Seen
from ecovla_ros.types import Observation

PEAKS = {
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.04e12),
    "4090": (165.2e12, 1.008e12),
    "3090": (71.2e12, 0.936e12),
    "Orin": (42.6e12, 0.2048e12),
    "Thor": (258e12, 0.273e12),
}
"""Part of a GPU's name -> (bf16 FLOP/s, bytes/s)."""

PRODUCTS = {
    torch.ops.aten.mm.default: (0, 1),
    torch.ops.aten.addmm.default: (1, 2),
    torch.ops.aten.bmm.default: (0, 1),
    torch.ops.aten.baddbmm.default: (1, 2),
}
"""Matrix product -> which arguments are left and right."""


EDGE, COPIED, REPEATS = 8192, 1 << 30, 10
"""Of a measured ceiling: rows and columns of the product, bytes of the copy, runs."""


def ceilings() -> tuple[float, float]:
    """FLOP/s of a large bfloat16 product and bytes/s of a large copy, read and written, as measured on the device."""
    left, right = (torch.randn(EDGE, EDGE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    here = torch.empty(COPIED, dtype=torch.uint8, device="cuda")
    there = torch.empty_like(here)
    seconds = [_seconds(run) for run in (lambda: left @ right, lambda: there.copy_(here))]
    return 2 * EDGE**3 / seconds[0], 2 * COPIED / seconds[1]


def _seconds(run: Callable[[], object]) -> float:
    """Device time of one run, of several in a row."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(3):
        run()
    start.record()
    for _ in range(REPEATS):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / REPEATS / 1e3


def peaks_of(name: str) -> tuple[float, float] | None:
    """FLOP/s and bytes/s of a GPU by its name; None for one that is not in the table."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


class Roofline(TorchDispatchMode):
    """Sums the bound of every product that is dispatched, s."""

    def __init__(self, flops_per_s: float, bytes_per_s: float) -> None:
        super().__init__()
        self._flops, self._bytes = flops_per_s, bytes_per_s
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in PRODUCTS:  # in inference mode composite operators arrive whole
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        else:
            left, right = (args[i] for i in PRODUCTS[func])
            macs = left.numel() * right.shape[-1]
            self.seconds += max(right.nbytes / self._bytes, 2 * macs / self._flops)
        return func(*args, **(kwargs or {}))


@reference_alone()
def bound_ms(
    policy: Policy, obs: Observation, plan: Plan, noise: Tensor, peaks: tuple[float, float]
) -> dict[str, float]:
    """Lower bounds of one frame by scope, ms: prefill, act, and the policy call with the vision tower.

    Attention counts where it runs as plain products, and convolutions (a tower's patches) do not.
    """
    with Roofline(*peaks) as encode:
        seen = replace(policy.encode(obs), reuse=None)
    with Roofline(*peaks) as prefill:
        handoff = policy.prefill(seen, plan)
    with Roofline(*peaks) as act:
        policy.act(seen, handoff, plan, noise)
    parts = [1e3 * part.seconds for part in (encode, prefill, act)]
    return {"prefill": parts[1], "act": parts[2], "policy": sum(parts)}


class Timed(WrappedPolicy):
    """A policy whose prefill and act are timed by CUDA events; everything else is the policy's."""

    def __init__(self, policy: Any) -> None:
        super().__init__(policy)
        self._events = {name: [torch.cuda.Event(enable_timing=True) for _ in range(2)] for name in ("prefill", "act")}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def prefill(self, seen: Seen, plan: Plan) -> Any:
        """The policy's, between two events."""
        return self._between("prefill", lambda: self.inner.prefill(seen, plan))

    def act(self, seen: Seen, handoff: Any, plan: Plan, noise: Tensor) -> Any:
        """The policy's, between two events."""
        return self._between("act", lambda: self.inner.act(seen, handoff, plan, noise))

    def take_ms(self) -> dict[str, float]:
        """Device time of the last frame's prefill and act, ms; its chunk is on the host, so nothing is waited for."""
        return {name: start.elapsed_time(end) for name, (start, end) in self._events.items()}

    def _between(self, name: str, run: Any) -> Any:
        start, end = self._events[name]
        start.record()
        out = run()
        end.record()
        return out
