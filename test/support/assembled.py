"""Kernels compiled and assembled for a GPU that is not here, every way that each can run.

Triton's compiler and NVIDIA's assembler need no GPU, only to be told of one. Calls go to tensors without memory (device
"meta"), and the driver that Triton is given launches nothing. What is checked is that every way compiles, and that a
block asks for no more shared memory than the GPU gives it; not what is computed, nor how fast.

    python -m support.assembled 90    # compute capability 9.0; prints how many ways there were, and each that failed
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

BLOCK_BYTES = {80: 166912, 86: 101376, 87: 166912, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
"""Shared memory that a block may ask for, by compute capability: CUDA's programming guide, technical specifications."""
BF16, META = torch.bfloat16, torch.device("meta")


def pretend(capability: int) -> None:
    """Let Triton compile for a GPU of `capability`, and launch nothing. Before any kernel of ours is imported."""
    import triton
    from triton.backends.compiler import GPUTarget

    from ecovla_ros.kernels import available, launch

    room = BLOCK_BYTES[capability]
    active: Any = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        launcher_cls=lambda source, metadata: lambda *arguments: None,
        utils=SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": room},
            load_binary=lambda name, kernel, shared, device: (1, 1, 0, 0, 1024),
        ),
    )
    triton.runtime.driver.set_active(active)
    early = {"EARLY": True, "launch_pdl": True} if capability >= 90 else {"EARLY": False}
    changed: Any = launch
    changed.options = lambda like: early
    changed.block_bytes = lambda like: room
    changed.knows_descriptors = lambda like: capability >= 90
    changed = available
    changed.triton_runs_on = lambda tensor: True


def ways_of_all(capability: int) -> tuple[int, list[str]]:
    """How many ways were compiled, and what failed. e4m3 is known from 8.9 on."""
    from ecovla_ros.kernels.choice import KernelChoice

    count, failed = 0, []

    def every(self: object, key: object, like: Tensor, ways: Mapping[str, Callable[..., object]],
              cold: Sequence[Tensor] = ()) -> str:  # fmt: skip
        nonlocal count
        for name, way in ways.items():
            count += 1
            try:
                way(*cold)
            except Exception as error:  # whatever the compiler raises
                failed.append(f"{key} {name}: {type(error).__name__}: {str(error)[-400:]}")
        return next(iter(ways))

    changed: Any = KernelChoice
    changed.of = every
    every_call = (attention_calls, mlp_calls, refresh_calls, *([small_calls] if capability >= 89 else []))
    for calls in every_call:
        calls()
    return count, failed


def some(*shape: int, dtype: torch.dtype = BF16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=META)


def attention_calls() -> None:
    """pi0.5's two phases, CogACT's language model and its action head."""
    from ecovla_ros.kernels.attention import attention

    gap = some(2, dtype=torch.int32)
    cases: Any = (
        (50, 8, 1, 594, 256, {"gap": gap}),
        (544, 8, 1, 544, 256, {"gap": gap}),
        (288, 32, 32, 288, 128, {"gap": gap, "causal": True}),
        (34, 12, 12, 34, 64, {"segments": 2}),
    )
    for length, heads, groups, keys, width, how in cases:
        attention(some(length, heads, width), some(groups, keys, width), some(groups, keys, width), **how)


def mlp_calls() -> None:
    """MLPs that record, at few tokens and at many, and the products around them."""
    from ecovla_ros.kernels.gated import hidden
    from ecovla_ros.kernels.norm import add_and_norm
    from ecovla_ros.kernels.product import branch, linear
    from ecovla_ros.kernels.rotary import project
    from ecovla_ros.kernels.sums import PARTS, Sums

    for length, width, channels in ((50, 1024, 2464), (544, 2048, 9824)):
        sums = some(2, PARTS, channels, dtype=torch.float32)
        tokens, valid = some(32, dtype=torch.int64), some(length, dtype=torch.float32)
        notes = Sums(sums[0, 0], None, sums[1, 0], tokens, valid, sums, some(2, dtype=torch.float32))
        x = some(length, width)
        made = hidden(x, some(2 * channels, width), "gelu", notes)
        hidden(x, some(2 * channels, width), "gelu")
        out = branch(made, some(channels, width))
        add_and_norm(x, out, gain=some(width), aside=some(32, width), tokens=tokens)
        add_and_norm(x, out, some(width), gain=some(width, dtype=torch.float32), shift=some(width, dtype=torch.float32))
        tables = [some(length, 256, dtype=torch.float32) for _ in range(2)]
        project(x, some(2560, width), *tables, *some(2, 1, length, 256))
        linear(x, some(1024, width))


def refresh_calls() -> None:
    """What a refresh runs, and the comparison of frames."""
    from ecovla_ros.kernels.gated import activated
    from ecovla_ros.kernels.likeness import renewed
    from ecovla_ros.kernels.pairs import ranked
    from ecovla_ros.kernels.probe import GatedProbe
    from ecovla_ros.kernels.rows import RowSwap
    from ecovla_ros.kernels.sums import Sums

    packed = [some(4096, 2, 1024) for _ in range(2)]
    GatedProbe([p[:, 0] for p in packed], [p[:, 1] for p in packed], "gelu").sums(some(2, 32, 1024), 2464)
    RowSwap([[p[:, 0], p[:, 1], some(4096, 1024)] for p in packed], [some(2, 4096, dtype=torch.float32)]).apply(
        some(2, 64, dtype=torch.int64), some(2, 64, dtype=torch.int64), some(2, 64, dtype=torch.bool)
    )
    ranked(some(2, 4096, dtype=torch.float32), 2464, 1, 64, 0.05)
    into = some(dtype=torch.float32)
    renewed([some(256, 2048)] * 2, [some(256, 2048)] * 2, into)
    renewed([some(256, 1152), some(256, 2048)], [some(256, 1152), some(256, 2048)], into)
    activated(some(50, 2048), "plain", Sums(some(2048, dtype=torch.float32)))
    activated(some(512, 4304), "gelu_exact")


def small_calls() -> None:
    """Products in e4m3."""
    from ecovla_ros.kernels.float8_triton import by_rows

    by_rows(some(544, 2048))


if __name__ == "__main__":
    pretend(int(sys.argv[1]))
    ways, refused = ways_of_all(int(sys.argv[1]))
    print(ways, *refused, sep="\n")
