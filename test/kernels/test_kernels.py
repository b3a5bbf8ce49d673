"""The CUDA kernels against their torch references, on a CPU in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ecovla_ros.errors import PruningError
from ecovla_ros.kernels import choice, gated, rows

pytest.importorskip("triton", reason="Triton has wheels for Linux on x86-64 only")
ROOT = Path(__file__).parents[2]


def interpret(program: str) -> None:
    """Run a program in a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]


def test_the_fused_mlp_equals_its_reference():
    interpret("""
import torch
from ecovla_ros.kernels import gated
from ecovla_ros.kernels.gated_triton import gated as fused
g = torch.Generator().manual_seed(0)
for tokens, channels, width, activation, recorded in (
    (70, 96, 48, "gelu", True), (64, 64, 32, "silu", True), (5, 32, 80, "gelu", False), (1, 130, 33, "silu", True),
):
    x, gate, up = (torch.randn(n, width, generator=g) for n in (tokens, channels, channels))
    ours, theirs = (torch.ones(channels) if recorded else None for _ in range(2))
    expected = gated.reference(x[None], gate, up, activation, ours)
    found = fused(x[None], gate, up, activation, theirs)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    if recorded:
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-3)
""")


def test_the_fused_mlp_runs_on_a_prefix_of_the_channels():
    interpret("""
import torch
from ecovla_ros.kernels import gated
from ecovla_ros.kernels.gated_triton import gated as fused
x, gate, up = torch.randn(20, 32), torch.randn(128, 32), torch.randn(128, 32)
energy = torch.zeros(128)
found = fused(x, gate[:96], up[:96], "gelu", energy[:96])
torch.testing.assert_close(found, gated.reference(x, gate, up, "gelu")[:, :96], rtol=1e-5, atol=1e-4)
assert (energy[96:] == 0).all() and (energy[:96] > 0).all()
""")


def test_padding_counts_for_nothing_in_the_energies():
    interpret("""
import torch
from ecovla_ros.kernels import gated
from ecovla_ros.kernels.gated_triton import gated as fused
x, gate, up = torch.randn(70, 32), torch.randn(64, 32), torch.randn(64, 32)
valid = (torch.arange(70) < 50).float()
ours, theirs, short = (torch.zeros(64) for _ in range(3))
gated.reference(x, gate, up, "gelu", ours, valid)
fused(x, gate, up, "gelu", theirs, valid)
gated.reference(x[:50], gate, up, "gelu", short)
torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-3)
torch.testing.assert_close(ours, short, rtol=1e-4, atol=1e-3)
""")


def test_the_row_swap_equals_its_reference():
    interpret("""
import torch
from ecovla_ros.kernels import rows
from ecovla_ros.kernels.rows_triton import swap
g = torch.Generator().manual_seed(0)
for width in (1, 7, 1024, 1500):
    block = torch.randn(24, width, generator=g)
    order = torch.randperm(24, generator=g)
    a, b, wanted = order[:9], order[9:18], torch.rand(9, generator=g) < 0.5
    expected = block.clone()
    rows.swap_all([expected], a, b, wanted)
    swap(block, a, b, wanted)
    assert torch.equal(block, expected) and wanted.any() and not wanted.all()
swap(block, a[:0], b[:0], wanted[:0])
assert torch.equal(block, expected)
""")


def test_a_cpu_runs_the_reference_and_says_what_it_knows():
    x, w = torch.randn(4, 8), torch.randn(6, 8)
    with pytest.raises(PruningError, match="gelu, silu"):
        gated.gated(x, w, w, "relu")
    with choice.KernelChoice().tuning():
        assert choice.KERNEL_CHOICE.of(("a",), x, {"first": torch.neg, "second": torch.abs}) == "first"


def test_rows_that_are_not_wanted_are_not_touched():
    block = torch.arange(12.0).view(6, 2)
    rows.swap_all([block], torch.tensor([0, 1]), torch.tensor([4, 5]), torch.tensor([True, False]))
    assert block[:, 0].tolist() == [8, 2, 4, 6, 0, 10]


def test_the_fastest_way_is_found_once_for_each_device(monkeypatch):
    """By stand-ins for the device's clock and for CUDA tensors."""
    ran, times = [], {"slow": 2.0, "fast": 1.0}

    class Cuda(SimpleNamespace):
        is_cuda, dtype = True, torch.float32

    def timed(way, sets):
        way(*sets[0])
        if ran[-1] == "broken":
            raise RuntimeError("out of resource: shared memory")
        return times[ran[-1]]

    monkeypatch.setattr(choice, "_replayed_ms", timed)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    ways = {name: lambda name=name: ran.append(name) for name in ("slow", "broken", "fast")}
    found, first, second = choice.KernelChoice(), Cuda(device="cuda:0"), Cuda(device="cuda:1")
    assert found.of(("a", 3), first, ways) == "slow" and not ran, "outside of a warm-up nothing is timed"
    with found.tuning():
        assert [found.of(("a", 3), first, ways) for _ in range(2)] == ["fast", "fast"]
        assert ran == ["slow", "broken", "fast"]
        assert found.of(("a", 3), torch.zeros(1), ways) == "slow", "a CPU tensor of a shape that CUDA runs"
        found.of(("a", 3), second, ways)
    assert len(ran) == 6 and found.of(("a", 3), first, ways) == "fast"
    assert found.times_ms[("a", 3, "cuda:0", torch.float32)] == times


def test_attention_is_attention_whatever_is_not_seen():
    interpret("""
import torch
from ecovla_ros.kernels import attention
from ecovla_ros.kernels.attention_triton import Shape, attention as kernel
g = torch.Generator().manual_seed(0)
def gap(*ends): return torch.tensor(ends, dtype=torch.int32)
for length, heads, groups, keys, width, how, shape in (
    (5, 8, 1, 70, 32, dict(), Shape(16, 16, 4, 4, 2)),
    (5, 8, 1, 70, 32, dict(gap=gap(20, 52)), Shape(16, 16, 5, 4, 2)),
    (33, 4, 4, 33, 24, dict(gap=gap(28, 33)), Shape(32, 16, 1, 4, 2)),
    (33, 4, 4, 33, 24, dict(gap=gap(9, 14), causal=True), Shape(16, 16, 1, 4, 2)),
    (7, 4, 4, 33, 16, dict(causal=True, positions=torch.tensor([2, 5, 9, 20, 30, 31, 32])), Shape(16, 16, 2, 4, 2)),
    (34, 3, 3, 34, 16, dict(segments=2), Shape(16, 16, 1, 4, 2)),
    (9, 2, 2, 40, 16, dict(gap=gap(0, 0)), Shape(16, 16, 3, 4, 2)),
    (9, 6, 2, 40, 48, dict(gap=gap(16, 40)), Shape(16, 16, 3, 4, 2)),
):
    q, k, v = (torch.randn(n, m, width, generator=g) for n, m in ((length, heads), (groups, keys), (groups, keys)))
    found, expected = kernel(q, k, v, shape, **how), attention.reference(q, k, v, **how)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(attention.attention(q, k, v, **how), expected, rtol=1e-4, atol=1e-5)
wide = torch.randn(1, 4, 40, 16, generator=g)
torch.testing.assert_close(  # views into a cache
    kernel(q[:, :4, :16], wide[0, :2, :30], wide[0, 2:, :30], Shape(16, 16, 2, 4, 2), gap(3, 9)),
    attention.reference(q[:, :4, :16], wide[0, :2, :30], wide[0, 2:, :30], gap(3, 9)), rtol=1e-4, atol=1e-5,
)
""")
