"""The kernels on the device itself, against their references; in Triton's interpreter: test/kernels."""

from __future__ import annotations

import pytest
import torch
from support.device_runs import needs_cuda

from ecovla_ros.kernels import gated, rows

pytestmark = needs_cuda
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def made(tokens, channels, width, dtype, seed=0):
    g = torch.Generator(device="cuda").manual_seed(seed)
    sizes = ((tokens, 1.0), (channels, width**-0.5), (channels, width**-0.5))
    return [(scale * torch.randn(n, width, generator=g, device="cuda")).to(dtype) for n, scale in sizes]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("activation", gated.ACTIVATIONS)
@pytest.mark.parametrize("tokens, channels, width", [(50, 4096, 1024), (544, 1024, 512), (1, 96, 48), (70, 130, 80)])
def test_the_fused_mlp_equals_its_reference(tokens, channels, width, activation, dtype):
    from ecovla_ros.kernels.gated_triton import gated as fused

    x, gate, up = made(tokens, channels, width, dtype)
    valid = (torch.arange(tokens, device="cuda") < max(1, tokens - 7)).float()
    ours, theirs = (torch.ones(channels, device="cuda") for _ in range(2))
    expected = gated.reference(x, gate, up, activation, ours, valid)
    found = fused(x, gate, up, activation, theirs, valid)
    torch.testing.assert_close(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    torch.testing.assert_close(theirs, ours, rtol=5 * TOLERANCE[dtype], atol=TOLERANCE[dtype])
    short = torch.zeros(channels, device="cuda")
    fused(x[: max(1, tokens - 7)], gate, up, activation, short)
    torch.testing.assert_close(theirs - 1.0, short, rtol=1e-3, atol=1e-3)


def test_a_row_swap_is_exact():
    g = torch.Generator(device="cuda").manual_seed(0)
    blocks = [torch.randn(4096, width, generator=g, device="cuda") for width in (1, 1000, 2048)]
    order = torch.randperm(4096, generator=g, device="cuda")
    a, b, wanted = order[:900], order[900:1800], torch.rand(900, generator=g, device="cuda") < 0.5
    expected = [block.cpu() for block in blocks]
    rows.swap_all(blocks, a, b, wanted)
    rows.swap_all(expected, a.cpu(), b.cpu(), wanted.cpu())
    assert wanted.any() and all(torch.equal(block.cpu(), e) for block, e in zip(blocks, expected))


def test_a_shape_that_was_timed_on_the_gpu_still_runs_on_the_cpu():
    x, gate, up = made(50, 256, 128, torch.bfloat16)
    gated.CHOICE.measure(x, gate, up, "gelu")
    found = gated.gated(x.cpu(), gate.cpu(), up.cpu(), "gelu")
    torch.testing.assert_close(found, gated.reference(x.cpu(), gate.cpu(), up.cpu(), "gelu"))
