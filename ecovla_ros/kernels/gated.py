"""X_int of a gated MLP: activation(x gate^T) * (x up^T), with the channel energies (paper, Eq. 8) beside it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ecovla_ros.errors import PruningError, unknown
from ecovla_ros.kernels.available import triton_runs_on


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": _gelu, "silu": F.silu}
"""gelu: the tanh form of Gemma. silu: Llama."""


def reference(
    x: Tensor, gate: Tensor, up: Tensor, activation: str, energy: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """X_int (..., k) of x (..., D) through gate and up (k, D).

    `energy` (k,) float32: the sum over all tokens of X_int^2 is added to it, a token with `valid` (L,) 0 not counted.
    """
    hidden = ACTIVATIONS[activation](F.linear(x, gate)).mul_(F.linear(x, up))
    if energy is not None:
        squares = hidden.flatten(0, -2).float().square()
        energy += squares.sum(0) if valid is None else valid @ squares
    return hidden


class KernelChoice:
    """Which of the two runs for a shape: the faster, as `measure` found on this machine; until then the reference."""

    def __init__(self) -> None:
        self.fused: set[tuple[int, int, int, torch.dtype]] = set()
        """Shapes (tokens, k, D, dtype) for which the kernel runs."""
        self._ms: dict[tuple[int, int, int, torch.dtype], tuple[float, float]] = {}

    def measure(self, x: Tensor, gate: Tensor, up: Tensor, activation: str, repeats: int = 20) -> tuple[float, float]:
        """Time both on tensors of the shape that will run; ms of the reference and of the kernel, once a shape.

        Without energies, as in a sparse frame, and replayed from a captured graph, which is what runs. Belongs to
        `warm_up`, before anything else is captured. Raises PruningError where the kernel cannot run.
        """
        if not triton_runs_on(x):
            raise PruningError("the fused kernel needs a CUDA tensor and an installed Triton")
        shape = _shape(x, gate)
        if shape not in self._ms:
            fused = importlib.import_module("ecovla_ros.kernels.gated_triton").gated
            both = (reference, fused)
            plain_ms, fused_ms = (_replayed_ms(partial(f, x, gate, up, activation), repeats) for f in both)
            self._ms[shape] = plain_ms, fused_ms
            if fused_ms < plain_ms:
                self.fused.add(shape)
        return self._ms[shape]

    @contextmanager
    def reference_alone(self) -> Iterator[None]:
        """Every shape runs the reference: who counts products as torch dispatches them sees none in the kernel."""
        fused, self.fused = self.fused, set()
        try:
            yield
        finally:
            self.fused = fused


def gated(
    x: Tensor, gate: Tensor, up: Tensor, activation: str, energy: Tensor | None = None, valid: Tensor | None = None
) -> Tensor:
    """As `reference`, through the kernel where it was found faster. Raises PruningError for an unknown activation."""
    if activation not in ACTIVATIONS:
        raise PruningError(unknown("activation", activation, ACTIVATIONS))
    if KERNEL_CHOICE.fused and _shape(x, gate) in KERNEL_CHOICE.fused:
        fused = importlib.import_module("ecovla_ros.kernels.gated_triton").gated
        out: Tensor = fused(x, gate, up, activation, energy, valid)
        return out
    return reference(x, gate, up, activation, energy, valid)


KERNEL_CHOICE = KernelChoice()
"""The process's choice: what is fastest is a fact of the machine, not of a model."""


def _shape(x: Tensor, gate: Tensor) -> tuple[int, int, int, torch.dtype]:
    return x.numel() // x.shape[-1], len(gate), x.shape[-1], x.dtype


def _replayed_ms(run: Callable[[], object], repeats: int) -> float:
    """Device time of one run, of `repeats` that were captured one after the other."""
    side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # libraries choose kernels and Triton compiles
            run()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        for _ in range(repeats):
            run()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats
