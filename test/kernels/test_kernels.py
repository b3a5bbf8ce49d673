"""The CUDA kernels against their torch references, on a CPU in Triton's interpreter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ecovla_ros.errors import PruningError
from ecovla_ros.kernels import choice, gated, launch, rows
from ecovla_ros.prune.site import Record

pytest.importorskip("triton", reason="Triton has wheels for Linux on x86-64 only")
ROOT = Path(__file__).parents[2]


def interpret(program: str, more: str = "") -> None:
    """Run a program in a process of its own: Triton reads TRITON_INTERPRET when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": f"{ROOT}:{ROOT / more}"}
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]


def test_a_gated_mlp_and_its_sums_equal_the_reference():
    """One kernel, and a product with a pass behind it: X_int, energies, sums, energies at sampled tokens, padding."""
    interpret("""
import torch
import torch.nn.functional as F
from ecovla_ros.kernels import gated, gated_triton
from ecovla_ros.kernels.sums import Sums
g = torch.Generator().manual_seed(0)
tokens = torch.tensor([0, 1, 1, 4, 3])
def sums(channels, length, total, sampled, padded):
    ones = [torch.ones(channels) for _ in range(3)]
    valid = (torch.arange(length) < length - 2).float()
    return Sums(ones[0], ones[1] if total else None, ones[2] if sampled else None, tokens, valid if padded else None)
for length, channels, width, activation in ((5, 40, 33, "gelu"), (64, 64, 32, "silu"), (70, 50, 48, "gelu")):
    x, weights = (torch.randn(n, width, generator=g) for n in (length, 2 * channels))
    expected = gated.reference(x, weights[0::2], weights[1::2], activation)
    for how in (None, (False, False, False), (True, True, True), (False, True, False)):
        wanted = None if how is None else sums(channels + 3, length, *how)
        if wanted is not None:
            wanted.add(expected)
        for few in (False, True)[: 1 + (length <= 64)]:
            noted = None if how is None else sums(channels + 3, length, *how)
            if few:
                found = gated_triton.gated(x, weights[0::2], weights[1::2], activation, noted, (16, 16, 4, 2))
            else:
                found = gated_triton.columns(F.linear(x, weights), activation, noted, (16, 16, 4, 2))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
            for ours, theirs in zip(noted[:3], wanted[:3]) if noted else ():
                if ours is not None:
                    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
torch.testing.assert_close(gated.hidden(x, weights, "gelu"), expected, rtol=1e-4, atol=1e-4)
both = F.linear(x, weights)
for channels, made in (
    (50, lambda n: gated_triton.columns(both, "gelu", n, (16, 16, 4, 2))),
    (50, lambda n: gated_triton.gated(x[:64], weights[0::2], weights[1::2], "gelu", n, (16, 16, 4, 2))),
    (48, lambda n: gated_triton.columns(x, "plain", n, (16, 16, 4, 2))),
):
    plain, always = made(None), sums(channels, 64, True, True, True)
    always = always._replace(valid=torch.ones(70))
    made(always)
    for seen, bound in ((0.5, torch.inf), (0.5, 0.6), (torch.nan, 0.4), (0.5, 0.5), (0.5, 0.4), (0.5, -torch.inf)):
        noted = sums(channels, 64, True, True, True)._replace(valid=torch.ones(70), gate=torch.tensor([seen, bound]))
        torch.testing.assert_close(made(noted), plain, rtol=0, atol=0)
        shut = seen >= bound
        for ours, theirs in zip(noted[:3], always[:3]):
            assert torch.equal(ours, torch.ones(channels) if shut else theirs), (seen, bound)
            assert not torch.equal(theirs, torch.ones(channels))
noted, wanted = Sums(torch.zeros(48)), Sums(torch.zeros(48))
wanted.add(x)
assert gated.activated(x, "plain", noted) is x
torch.testing.assert_close(noted.energy, wanted.energy, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(gated.activated(x, "gelu_alone"), F.gelu(x, approximate="tanh"), rtol=1e-4, atol=1e-5)
torch.testing.assert_close(gated.activated(x, "gelu_exact"), F.gelu(x), rtol=1e-4, atol=1e-5)
""")


def test_a_branch_is_added_and_normed_in_one_kernel():
    interpret("""
import torch
from ecovla_ros.kernels import norm
g = torch.Generator().manual_seed(0)
def r(*shape): return torch.randn(*shape, generator=g)
tokens = torch.tensor([0, 2, 2])
for length, width, how in (
    (5, 48, dict(gain=r(48))),
    (3, 33, dict(branch=r(3, 33), gate=r(33), bias=r(33), gain=r(33), shift=r(33), offset=1.0)),
    (4, 64, dict(branch=r(3, 4, 64), centred=True)),
    (6, 40, dict(branch=r(6, 40), gain=r(40), shift=r(40), centred=True)),
):
    x, aside, other = r(length, width), torch.zeros(3, width), torch.zeros(3, width)
    found = norm.add_and_norm(x, aside=aside, tokens=tokens, **how)
    expected = norm.reference(x, aside=other, tokens=tokens, **how)
    for ours, theirs in zip((*found, aside), (*expected, other)):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(norm.add_and_norm(x, **how), expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
""")


def test_a_product_of_few_rows_is_a_product_whole_or_in_parts():
    interpret("""
import torch
from ecovla_ros.kernels import norm, product, product_triton
g = torch.Generator().manual_seed(0)
x, weights, stream = (torch.randn(*shape, generator=g) for shape in ((13, 70), (70, 50), (13, 50)))
expected = x @ weights
for layout in (weights, weights.T.contiguous().T):
    torch.testing.assert_close(product_triton.thin(x, layout, (16, 16, 1, 4, 2)), expected, rtol=1e-4, atol=1e-4)
    parts = product_triton.thin(x, layout, (16, 16, 3, 4, 2))
    assert parts.shape == (3, 13, 50)
    torch.testing.assert_close(parts.sum(0), expected, rtol=1e-4, atol=1e-4)
for ours, theirs in zip(norm.add_and_norm(stream, parts), norm.reference(stream, expected)):
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
torch.testing.assert_close(product.branch(x, weights), expected)
torch.testing.assert_close(product.linear(x, weights.T.contiguous()), expected)
""")


def test_rows_in_e4m3_carry_their_scales_and_travel_with_them():
    interpret("""
import torch
from ecovla_ros.kernels import float8
from ecovla_ros.kernels.rows import RowSwap
from ecovla_ros.kernels.sums import Sums
from ecovla_ros.models.core.layers import Mlp
torch.manual_seed(0)
x = torch.randn(70, 48) * torch.logspace(-3, 3, 70)[:, None]
x[3] = 0.0
small, scales = float8.by_rows(x)
assert (small.float() * scales[:, None] - x).abs().max(1).values.le(x.abs().amax(1) / 16).all()
mlp = Mlp(48, 64, 3)
mlp.requires_grad_(False).pack()
bf16, energy = mlp.made(x, 0, 64), torch.zeros(64)
rows, factors = mlp.to_float8()
found = mlp.made(x, 0, 64, Sums(energy))
apart = (found - bf16).norm(dim=1) / bf16.norm(dim=1).clamp_min(1e-9)
assert 0.0 < apart.max() < 0.1, apart.max()
torch.testing.assert_close(energy, found.square().sum(0), rtol=1e-4, atol=1e-4)
assert (mlp.made(x[:5], 0, 64) - bf16[:5]).abs().max() < 1e-3, "few tokens go through the weights as they are"
a, b = torch.tensor([[0, 5, 7]]), torch.tensor([[40, 63, 50]])
swap = RowSwap([[mlp.gate.data, mlp.up.data, mlp.down.data, rows, factors]])
swap.apply(a, b, torch.tensor([[True, True, False]]))
order = torch.arange(64)
order[[0, 40, 5, 63]] = order[[40, 0, 63, 5]]
assert torch.equal(mlp.made(x, 0, 64), found[:, order])
assert torch.equal(mlp.made(x, 0, 32), found[:, order[:32]]), "a prefix of the channels"
""")


def test_queries_are_rotated_and_keys_and_values_put_where_they_are_read():
    interpret("""
import torch
from ecovla_ros.kernels import rotary
g = torch.Generator().manual_seed(0)
def r(*shape): return torch.randn(*shape, generator=g)
for length, heads, groups, width in ((5, 4, 1, 16), (260, 2, 2, 24)):
    every = r(length, heads + 2 * groups, width)
    v, k, q = every.split((groups, groups, heads), 1)
    tables, ours = (r(length, width), r(length, width)), torch.zeros(2, groups, length + 7, width)
    theirs, there = ours.clone(), slice(3, 3 + length)
    found = rotary.place(q, k, v, *tables, ours[0, :, there], ours[1, :, there])
    expected = rotary.reference(q, k, v, *tables, theirs[0, :, there], theirs[1, :, there])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ours, theirs)
    turns = torch.stack((q[:, :groups], k, v), -1).unbind(-1)  # the three take turns in memory
    torch.testing.assert_close(
        rotary.place(*turns, *tables, ours[0, :, there], ours[1, :, there]), expected[:, :groups]
    )
    torch.testing.assert_close(ours, theirs)
""")


def test_a_product_that_turns_what_it_makes_equals_the_product_and_the_turn():
    interpret("""
import torch
import torch.nn.functional as F
from ecovla_ros.kernels import rotary
from ecovla_ros.kernels.rotary_triton import project
g = torch.Generator().manual_seed(0)
def r(*shape): return torch.randn(shape, generator=g)
for length, heads, groups, width, inputs in ((5, 4, 1, 16, 33), (1, 6, 2, 24, 40), (50, 2, 2, 40, 70)):
    x, weights = r(length, inputs), r((heads + 2 * groups) * width, inputs)
    tables = r(length, width), r(length, width)
    v, k, q = F.linear(x, weights).unflatten(-1, (-1, width)).split((groups, groups, heads), 1)
    there = slice(3, 3 + length)
    theirs = torch.zeros(2, groups, length + 7, width)
    expected = rotary.reference(q, k, v, *tables, theirs[0, :, there], theirs[1, :, there])
    for shape in (None, (16, 16, 4, 2), (32, 32, 4, 2)):
        ours = torch.zeros(2, groups, length + 7, width)
        more = (*tables, ours[0, :, there], ours[1, :, there])
        found = rotary.project(x, weights, *more) if shape is None else project(x, weights, *more, shape)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
""")


def test_tokens_are_compared_and_kept_in_one_pass():
    interpret("""
import torch
from ecovla_ros.engine.sight import Sight
from ecovla_ros.kernels.available import reference_alone
g = torch.Generator().manual_seed(0)
class Looked:  # of a frame its tokens alone are looked at
    def __init__(self, **vision): self.vision = vision
def r(*shape): return torch.randn(shape, generator=g)
whole = [torch.stack((r(7, 40), r(7, 40)), 1) for _ in range(4)]  # rows that do not lie side by side
whole[2][3] = 0.0
frames = [Looked(a=w[:, 0], b=r(5, 40)) for w in whole]
frames += [Looked(a=frames[-1].vision["a"]), Looked(a=r(7, 40)), Looked(a=r(7, 40) * torch.nan), Looked(a=r(7, 40))]
ours, theirs = Sight(), Sight()
for frame in frames:
    before = {name: tokens.clone() for name, tokens in frame.vision.items()}
    ours.renew(frame.vision)
    ours.compare(frame)
    with reference_alone():
        theirs.renew(frame.vision)
        theirs.compare(frame)
    torch.testing.assert_close(ours.read(), theirs.read(), rtol=1e-5, atol=1e-6, equal_nan=True)
    kept = ours.leave()
    assert all(torch.equal(kept[n].nan_to_num(), t.nan_to_num()) for n, t in before.items())
""")


def test_a_triton_that_knows_no_descriptors_does_without():
    """Before 3.4, which torch 2.8 brings."""
    interpret("""
import sys
import torch
import triton.runtime.interpreter  # this one knows them
known = sys.modules["triton.tools.tensor_descriptor"]
sys.modules["triton.tools.tensor_descriptor"] = None
from ecovla_ros.kernels import attention, attention_triton, launch
q, k = torch.randn(3, 2, 16), torch.randn(1, 9, 16)
assert not launch.knows_descriptors(q)
sys.modules["triton.tools.tensor_descriptor"] = known
shape = attention_triton.Shape(16, 16, 2, 4, 2, described=True)
found = attention_triton.attention(q, k, k, shape)
torch.testing.assert_close(found, attention.reference(q, k, k), rtol=1e-4, atol=1e-4)
""")


def test_the_row_swap_equals_its_reference():
    interpret("""
import torch
from ecovla_ros.kernels import rows
from ecovla_ros.kernels.rows_triton import swap
g = torch.Generator().manual_seed(0)
for width in (1, 7, 1024, 1500):
    sites = [[torch.randn(24, 2 * width, generator=g)[:, :width], torch.randn(24, width)] for _ in range(3)]
    expected = [[block.clone() for block in blocks] for blocks in sites]
    order = torch.stack([torch.randperm(24, generator=g) for _ in sites])
    a, b, wanted = order[:, :9].contiguous(), order[:, 9:18].contiguous(), torch.rand(3, 9, generator=g) < 0.5
    rows.RowSwap(expected).apply(a, b, wanted)
    table = rows.table(sites)
    swap(table, a, b, wanted)
    assert all(torch.equal(x, y) for xs, ys in zip(sites, expected) for x, y in zip(xs, ys))
    assert wanted.any() and not wanted.all()
    none = a[:, :0]
    swap(table, none, none, wanted[:, :0])
    assert all(torch.equal(x, y) for xs, ys in zip(sites, expected) for x, y in zip(xs, ys))
""")


def test_the_probe_of_all_sites_equals_one_after_the_other():
    interpret("""
import torch
from ecovla_ros.kernels import probe, rows
from ecovla_ros.kernels.probe_triton import sums
g = torch.Generator().manual_seed(0)
both = [torch.randn(140, 40, generator=g) / 6 for _ in range(3)]
gates, ups = [w[0::2] for w in both], [w[1::2] for w in both]
tables = [rows.table([[w] for w in weights]) for weights in (gates, ups)]
for activation, tokens, first in (("gelu", 5, 33), ("silu", 40, 33), ("gelu", 90, 0), ("silu", 64, 70)):
    x = torch.randn(3, tokens, 40, generator=g)
    expected = probe.GatedProbe(gates, ups, activation).sums(x, first)
    found = sums(x, *tables, first, 70 - first, activation)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
""")


def test_one_sort_pairs_the_slots_that_two_searches_pair():
    interpret("""
import torch
from ecovla_ros.kernels.available import reference_alone
from ecovla_ros.prune.select import exchange
g = torch.Generator().manual_seed(0)
for layers, channels, kept, groups, budget, margin in (
    (3, 40, 24, 1, None, 0.0), (2, 600, 200, 1, None, 0.05), (2, 24, 16, 4, None, 0.3), (2, 24, 6, 2, 5, 0.0),
    (1, 8, 8, 1, None, 0.0),
):
    scores = torch.randn(layers, channels, generator=g).exp()
    for some in (scores, scores - 1.0, scores.half().float() * 1e30):
        with reference_alone():
            expected = exchange(some, kept, groups, budget, margin)
        found = exchange(some, kept, groups, budget, margin)
        worth = [[some.gather(1, slots) for slots in one[:2]] for one in (found, expected)]
        assert all(torch.equal(a, b) for a, b in zip(*worth)), "equal importances may change places among themselves"
        assert torch.equal(found.wanted, expected.wanted) and found.wanted.dtype == torch.bool
        assert (found.leaving < kept).all() and (found.entering >= kept).all()
        assert (found.leaving % groups == found.entering % groups).all()
        assert all(row.unique().numel() == row.numel() for slots in found[:2] for row in slots)
for scores in (torch.ones(2, 8), torch.full((2, 8), torch.nan), -torch.full((2, 8), torch.nan)):
    assert not exchange(scores, 4).wanted.any()
few = torch.tensor([[1.0, torch.nan, 3.0, 4.0, torch.nan, 9.0, torch.inf, 0.0]])
found = exchange(few, 4)
moved = {*found.leaving[found.wanted].tolist(), *found.entering[found.wanted].tolist()}
assert moved and not moved & {1, 4}, "what is not a number stays"
""")


def test_a_cpu_runs_the_reference_and_says_what_it_knows():
    x, w = torch.randn(4, 8), torch.randn(6, 8)
    with pytest.raises(PruningError, match="gelu, silu"):
        gated.gated(x, w, w, "relu")
    with choice.KernelChoice().tuning():
        assert choice.KERNEL_CHOICE.of(("a",), x, {"first": torch.neg, "second": torch.abs}) == "first"


def test_rows_that_are_not_wanted_are_not_touched():
    block, known = torch.arange(12.0).view(6, 2), torch.arange(12).view(1, 12)
    pairs = (torch.tensor([row]) for row in ([0, 1], [4, 5], [True, False]))
    rows.RowSwap([[block]], [known]).apply(*pairs)
    assert block[:, 0].tolist() == [8, 2, 4, 6, 0, 10]
    assert known[0].tolist() == [8, 9, 2, 3, 4, 5, 6, 7, 0, 1, 10, 11], "what is known of the rows goes with them"


def test_blocks_that_cannot_be_exchanged_in_place_are_refused():
    with pytest.raises(PruningError, match="side by side"):
        rows.RowSwap([[torch.rand(2, 6).T]])
    with pytest.raises(PruningError, match="alike"):
        rows.RowSwap([[torch.rand(6, 2)], [torch.rand(6, 3)]])


def test_the_fastest_way_is_found_once_for_each_device(monkeypatch):
    """By stand-ins for the device's clock and for CUDA tensors."""
    ran, times = [], {"slow": 2.0, "wrong": 0.5, "fast": 1.0}

    class Cuda(SimpleNamespace):
        is_cuda, dtype = True, torch.float32

    def timed(way, sets):
        way(*sets[0])
        if ran[-1] == "broken":
            raise RuntimeError("out of resource: shared memory")
        return times[ran[-1]], torch.full((2,), 3.0 if ran[-1] == "wrong" else 2.0)

    monkeypatch.setattr(choice, "_replayed_ms", timed)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launch, "choose", lambda device: False)
    ways = {name: lambda name=name: ran.append(name) for name in ("slow", "broken", "wrong", "fast")}
    found, first, second = choice.KernelChoice(), Cuda(device="cuda:0"), Cuda(device="cuda:1")
    assert found.of(("a", 3), first, ways) == "slow" and not ran, "outside of a warm-up nothing is timed"
    with found.tuning():
        assert [found.of(("a", 3), first, ways) for _ in range(2)] == ["fast", "fast"]
        assert ran == ["slow", "broken", "wrong", "fast"]
        assert found.of(("a", 3), torch.zeros(1), ways) == "slow", "a CPU tensor of a shape that CUDA runs"
        found.of(("a", 3), second, ways)
    assert len(ran) == 8 and found.of(("a", 3), first, ways) == "fast"
    assert found.times_ms[("a", 3, "cuda:0", torch.float32)] == {"slow": 2.0, "fast": 1.0}, (
        "not what gives something else"
    )


def test_where_no_way_can_be_timed_the_first_one_runs_and_nothing_is_kept(monkeypatch, tmp_path):
    """It then says itself what is wrong; the next process is not told that there are no ways."""
    refused, device = [], SimpleNamespace(is_cuda=True, dtype=torch.float32, device="cuda:0")
    monkeypatch.setattr(choice, "_replayed_ms", lambda way, sets: refused.append(1) or (1.0, torch.tensor(torch.nan)))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launch, "choose", lambda device: False)
    for process in (1, 2):
        found = choice.KernelChoice()
        found.keep(tmp_path / "kernels.json")
        with found.tuning():
            assert found.of(("k", 1), device, {"a": torch.neg, "b": torch.abs}) == "a"
        assert len(refused) == 2 * process
    (tmp_path / "kernels.json").write_text(json.dumps({f"{('k', 1, 'cuda:0', torch.float32)} of a, b": {}}))
    found.keep(tmp_path / "kernels.json")
    with found.tuning():
        assert found.of(("k", 2), device, {"a": torch.neg, "b": torch.abs}) == "a"


def test_a_gpu_that_fails_in_a_way_that_is_tried_is_named(monkeypatch):
    """Every later way would fail too, and whoever calls CUDA next would be blamed."""

    def fails(*ignored):
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(choice, "_replayed_ms", fails)
    assert choice.measured({"a": torch.neg}) == {}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    with pytest.raises(PruningError, match=r"'a'.*illegal memory.*policy.kernels=torch"):
        choice.measured({"a": torch.neg})


def test_ways_are_compared_by_all_they_write(monkeypatch):
    """Also where each writes to the same memory."""
    room = torch.zeros(3)
    ways = {"one": lambda: room.fill_(1.0), "two": lambda: room.fill_(2.0), "same": lambda: room.fill_(1.0)}
    monkeypatch.setattr(choice, "_replayed_ms", lambda way, sets: (1.0, (None, way())))
    assert list(choice.measured(ways)) == ["one", "same"]


def test_ways_agree_when_they_differ_by_rounding_alone():
    g = torch.Generator().manual_seed(0)
    a = torch.randn(40, 8, generator=g)
    assert choice.agree(a.bfloat16(), a) and choice.agree((a, None), (a.bfloat16(), None))
    broken = [a.roll(1, 0), a[:39], torch.zeros_like(a), torch.where(a == a[3, 3], torch.nan, a), None, (a, a)]
    assert not any(choice.agree(given, a) for given in broken)
    assert not choice.agree((a, a.roll(1, 0)), (a, a)) and not choice.agree(a, a * torch.nan)


def test_the_next_process_reads_what_was_timed(monkeypatch, tmp_path):
    """And nothing else: not of other ways, not out of a file that is broken or cannot be written."""
    timed, device = [], SimpleNamespace(is_cuda=True, dtype=torch.float32, device="cuda:0")
    monkeypatch.setattr(choice, "measured", lambda ways, cold: timed.append(list(ways)) or {"a": 2.0, "b": 1.0})
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr(launch, "choose", lambda device: False)
    file = tmp_path / "user" / "kernels.json"

    def fresh(ways="ab", key=("k", 1), where=file):
        found = choice.KernelChoice()
        found.keep(where)
        with found.tuning():
            return found.of(key, device, {name: torch.neg for name in ways})

    assert [fresh(), fresh()] == ["b", "b"] and len(timed) == 1
    assert fresh(key=("k", 2)) == "b" and len(timed) == 2 and fresh() == "b" and len(timed) == 2
    assert fresh("abc") == "b" and len(timed) == 3, "another way has come: all are timed again"
    for text in ("", "[1]", "{\"('k', 1)\": 3}", "[" * 100_000):
        file.write_text(text)
        before = len(timed)
        assert fresh() == "b" and len(timed) == before + 1
    blocked = tmp_path / "a file"
    blocked.write_text("")
    assert fresh(where=blocked / "kernels.json") == "b"
    assert not list(tmp_path.glob("**/*.part"))


def test_attention_is_attention_whatever_is_not_seen():
    interpret("""
import torch
from ecovla_ros.kernels import attention
from ecovla_ros.kernels.attention_triton import Shape, _counters as counted, attention as kernel
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
    for more in (dict(described=True), dict(described=True, alone=True)):
        again = kernel(q, k, v, shape._replace(**more), **how)
        torch.testing.assert_close(again, expected, rtol=1e-4, atol=1e-5)
    if how.get("segments", 1) > 1:  # a block that reaches into the next segment makes nothing of what lies there
        half = len(k[0]) // 2
        broken = v.clone()
        broken[:, half:] = torch.nan
        for described in (False, True):
            own = kernel(q, k, broken, shape._replace(described=described), **how)
            torch.testing.assert_close(own[: length // 2], expected[: length // 2], rtol=1e-4, atol=1e-5)
    for _ in range(2):  # a call leaves its counters as it found them
        alone = kernel(q, k, v, shape._replace(alone=True), **how)
        torch.testing.assert_close(alone, found, rtol=1e-6, atol=1e-6)
    assert not any(c.any() for c in counted.values()), "as they were"
    torch.testing.assert_close(attention.attention(q, k, v, **how), expected, rtol=1e-4, atol=1e-5)
    if heads == groups and length == keys:  # the three take turns in memory
        q, k, v = torch.stack((q.transpose(0, 1), k, v), -1).unbind(-1)
        torch.testing.assert_close(kernel(q.transpose(0, 1), k, v, shape, **how), expected, rtol=1e-4, atol=1e-5)
wide = torch.randn(1, 4, 40, 16, generator=g)
torch.testing.assert_close(  # views into a cache
    kernel(q[:, :4, :16], wide[0, :2, :30], wide[0, 2:, :30], Shape(16, 16, 2, 4, 2), gap(3, 9)),
    attention.reference(q[:, :4, :16], wide[0, :2, :30], wide[0, 2:, :30], gap(3, 9)), rtol=1e-4, atol=1e-5,
)
assert counted, "some were merged by the last program of their rows"
""")


def test_tokens_are_compared_as_torch_does_and_kept():
    """Cameras in one block, three apart, and of several forms; a row that is zero; a place for what is found."""
    interpret("""
import torch
import torch.nn.functional as F
from ecovla_ros.kernels.likeness import renewed
from ecovla_ros.kernels.likeness_triton import _steps
g = torch.Generator().manual_seed(0)
def drawn(*shapes): return [torch.randn(*shape, generator=g) for shape in shapes]
block = torch.randn(2, 9, 20, generator=g)
assert _steps(list(block)) == 180 and _steps([block[1], block[0]]) == -180 and _steps([block[0]]) == 0
assert _steps([block[0], block[0][:4]]) is None and _steps([block[0], block[0].double()]) is None
three = torch.randn(7, 9, 20, generator=g)
assert _steps([three[0], three[1], three[5]]) is None, "not equally far apart"
cases = [*block], [*block.flip(0)], [three[0], three[1], three[5]], drawn((9, 20), (4, 20), (4, 33)), drawn((5, 16))
for now in cases:
    before = [torch.randn(t.shape, generator=g) for t in now]
    before[0][2] = 0
    expected = torch.cat([F.cosine_similarity(a, b, dim=-1) for a, b in zip(now, before)]).mean()
    kept, place = [b.clone() for b in before], torch.zeros(())
    torch.testing.assert_close(renewed(now, kept, torch.zeros(())), expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(now, kept))
    assert renewed(now, [b.clone() for b in before], place) is place
    torch.testing.assert_close(place, expected, rtol=1e-5, atol=1e-6)
""")


def test_stretches_of_tokens_are_summed_apart_and_give_the_same():
    interpret("""
import torch
from ecovla_ros.kernels.gated_triton import columns
from ecovla_ros.kernels.sums import Sums
g = torch.Generator().manual_seed(0)
length, channels = 200, 40
x, tokens = torch.randn(length, 2 * channels, generator=g), torch.tensor([3, 77, 199, 77])
valid = (torch.arange(length) < 190).float()
for kind, parts in (("silu", 4), ("gelu", 8), ("silu", 1)):
    whole, apart = torch.zeros(3, 1, 64), torch.zeros(3, parts, 64)
    found = [
        columns(x, kind, Sums(b[0, 0], b[2, 0], b[1, 0], tokens, valid, b), (32, 16, 4, 1)) for b in (whole, apart)
    ]
    assert torch.equal(*found)
    torch.testing.assert_close(apart.sum(1), whole[:, 0], rtol=1e-5, atol=1e-4)
    assert parts == 1 or (apart[0, :, :channels] > 0).all(1).sum() > 1, "more than one stretch"
    assert (apart[..., channels:] == 0).all()
""")


def test_what_a_pass_adds_to_is_known_whole():
    parts = torch.zeros(2, 4, 6)
    assert Record(parts[0, 0], sampled=parts[1, 0], parts=parts).added()[0] is parts
    assert len(Record(parts[0, 0], sampled=parts[1, 0]).added()) == 2
