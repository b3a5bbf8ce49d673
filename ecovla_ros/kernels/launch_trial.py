"""Whether kernels that begin early are right and faster here: a chain of them, both ways, in a captured graph."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from ecovla_ros.kernels import gated_triton, launch, product_triton
from ecovla_ros.kernels.attention_triton import Shape, attention
from ecovla_ros.kernels.norm_triton import add_and_norm
from ecovla_ros.kernels.rotary_triton import place
from ecovla_ros.kernels.sums import Sums

LAYERS, ROWS, WIDTH, HEADS, HEAD, CHANNELS, KEYS = 6, 50, 1024, 8, 256, 3072, 576
"""An action head of six layers: its weights are more than lies in a cache for long."""


def wins(device: torch.device) -> bool:
    """Both ways give the same bits, and beginning early takes less time. False where it cannot run at all."""
    was, found, times = launch.EARLY[0], [], []
    try:
        run, sums = _chain(device)
        for early in (False, True):
            launch.EARLY[0] = early
            values, ms = _captured(run, sums)
            found.append(values)
            times.append(ms)
    except Exception as error:  # noqa: BLE001 - what a driver does not have differs by version
        if "out of memory" in str(error):
            raise
        return False
    finally:
        launch.EARLY[0] = was
    return times[1] < times[0] and all(torch.equal(a, b) for a, b in zip(*found))


def _chain(device: torch.device) -> tuple[Callable[[], Tensor], list[Sums]]:
    g = torch.Generator(device=device).manual_seed(0)

    def drawn(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=g, device=device)).to(torch.bfloat16)

    qkv = [drawn((HEADS + 2) * HEAD, WIDTH, scale=0.03) for _ in range(LAYERS)]
    out = [drawn(HEADS * HEAD, WIDTH, scale=0.01) for _ in range(LAYERS)]
    both = [drawn(2 * CHANNELS, WIDTH, scale=0.03) for _ in range(LAYERS)]
    down = [drawn(CHANNELS, WIDTH, scale=0.01) for _ in range(LAYERS)]
    caches = [drawn(2, 1, KEYS, HEAD) for _ in range(LAYERS)]
    sums = [Sums(torch.zeros(CHANNELS, device=device)) for _ in range(LAYERS)]
    first, table = drawn(ROWS, WIDTH), drawn(2, ROWS, HEAD).float()
    gap = torch.tensor((500, 512), dtype=torch.int32, device=device)
    plain = (None, None, None, None, 1e-6, 0.0, False, None, None)

    def run() -> Tensor:
        x, branch = first, None
        for i in range(LAYERS):
            x, normed = add_and_norm(x, branch, *plain)
            v, k, q = (
                product_triton.thin(normed, qkv[i].T, (32, 128, 1, 4, 4)).view(ROWS, -1, HEAD).split((1, 1, HEADS), 1)
            )
            here = slice(KEYS - ROWS, KEYS)
            q = place(q, k, v, table[0], table[1], caches[i][0, :, here], caches[i][1, :, here])
            hidden = attention(q, caches[i][0], caches[i][1], Shape(32, 64, 9, 4, 2), gap).view(ROWS, -1)
            x, normed = add_and_norm(x, product_triton.thin(hidden, out[i], (32, 128, 4, 4, 4)), *plain)
            hidden = gated_triton.gated(normed, both[i][0::2], both[i][1::2], "gelu", sums[i], (32, 128, 4, 4))
            branch = product_triton.thin(hidden, down[i], (32, 128, 4, 4, 4))
        return add_and_norm(x, branch, *plain)[0]

    return run, sums


def _captured(run: Callable[[], Tensor], sums: list[Sums]) -> tuple[list[Tensor], float]:
    """What a replay gives and adds, and its median time, ms."""
    side, graph = launch.timing_stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        for each in sums:
            each.energy.zero_()
        value = run()
    times = []
    for _ in range(7):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return [value.clone(), *(each.energy.clone() for each in sums)], statistics.median(times)
