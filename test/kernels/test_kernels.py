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
from ecovla_ros.kernels import gated, rows

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
    with pytest.raises(PruningError, match="CUDA"):
        gated.KernelChoice().measure(x, w, w, "gelu")


def test_rows_that_are_not_wanted_are_not_touched():
    block = torch.arange(12.0).view(6, 2)
    rows.swap_all([block], torch.tensor([0, 1]), torch.tensor([4, 5]), torch.tensor([True, False]))
    assert block[:, 0].tolist() == [8, 2, 4, 6, 0, 10]


def test_a_shape_is_timed_once_and_without_energies(monkeypatch):
    """By stand-ins for the kernel and for the device's clock."""
    ran, times = [], iter([2.0, 1.0, 1.0, 2.0])

    def timed(run, repeats):
        run()
        return next(times)

    def kernel(x, gate, up, activation, energy=None, valid=None):
        ran.append((len(gate), energy))

    monkeypatch.setattr(gated, "triton_runs_on", lambda tensor: True)
    monkeypatch.setattr(gated, "_replayed_ms", timed)
    monkeypatch.setitem(sys.modules, "ecovla_ros.kernels.gated_triton", SimpleNamespace(gated=kernel))
    choice, x, w = gated.KernelChoice(), torch.randn(4, 8), torch.randn(6, 8)
    for _ in range(2):
        assert choice.measure(x, w, w, "gelu") == (2.0, 1.0)
        assert choice.measure(x, w[:3], w[:3], "gelu") == (1.0, 2.0)
    assert ran == [(6, None), (3, None)] and choice.fused == {(4, 6, 8, torch.float32)}
