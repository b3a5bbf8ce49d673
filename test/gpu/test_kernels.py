"""The kernels on the device itself, against their references at the widths of pi0.5 and Llama; `-s` shows their times.

In Triton's interpreter: test/kernels.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from support.device_runs import needs_cuda

from ecovla_ros.kernels import attention, float8, gated, launch, likeness, norm, product, rotary, rows
from ecovla_ros.kernels.available import reference_alone
from ecovla_ros.kernels.choice import KERNEL_CHOICE, measured
from ecovla_ros.kernels.sums import PARTS, Sums
from ecovla_ros.models.core import layers
from ecovla_ros.models.core.cache import Cache
from ecovla_ros.models.core.keys import Keys
from ecovla_ros.models.core.modulation import Modulation
from ecovla_ros.prune.select import exchange
from ecovla_ros.prune.site import Record, SiteUse

pytestmark = needs_cuda
BF16 = torch.bfloat16
TIMES: dict[str, dict[str, float]] = {}
"""Device time by call and way, ms."""


@pytest.fixture(autouse=True, scope="module")
def _inference():
    with torch.inference_mode():
        yield
    for call, ways in TIMES.items():
        best = min(ways, key=ways.get, default="none ran")
        print(f"\n{call:58s} " + "  ".join(f"{w} {1e3 * ms:.1f}" for w, ms in ways.items()) + f"  us; best: {best}")
    if os.environ.get("ECOVLA_TIMES"):
        Path(os.environ["ECOVLA_TIMES"]).write_text(json.dumps(TIMES, indent=1) + "\n")


def drawn(*shape, dtype=BF16, scale=1.0, seed=0):
    g = torch.Generator(device="cuda").manual_seed(seed + sum(shape))
    return (scale * torch.randn(*shape, generator=g, device="cuda")).to(dtype)


def gap(*ends):
    return torch.tensor(ends, dtype=torch.int32, device="cuda")


def close(found, expected, limit):
    apart = (found.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-6)
    assert torch.isfinite(found).all() and apart < limit, f"relative distance {float(apart):.2e}, limit {limit:.0e}"


ATTENTION = {
    "pi0.5 act": (50, 8, 1, 594, 256, {"gap": (530, 544)}),
    "pi0.5 prefill": (544, 8, 1, 544, 256, {"gap": (530, 544)}),
    "pi0 state token": (1, 8, 1, 545, 256, {"gap": (530, 544)}),
    "openvla-oft prefill": (608, 32, 32, 608, 128, {"gap": (514, 530)}),
    "cogact prefill": (288, 32, 32, 288, 128, {"gap": (257, 270), "causal": True}),
    "cogact head": (34, 12, 12, 34, 64, {"segments": 2}),
}


@pytest.mark.parametrize(
    "call, dtype, limit", [*((call, BF16, 1e-2) for call in ATTENTION), ("cogact head", torch.float32, 1e-5)]
)
def test_attention_is_attention_every_way(call, dtype, limit):
    from ecovla_ros.kernels import attention_triton as kernel

    length, heads, groups, keys, width, how = ATTENTION[call]
    how = how | ({"gap": gap(*how["gap"])} if "gap" in how else {})
    q, k, v = (drawn(n, m, width, dtype=dtype) for n, m in ((length, heads), (groups, keys), (groups, keys)))
    if call == "cogact head":  # the three take turns in memory, as one product makes them
        q, k, v = torch.stack((q.transpose(0, 1), k, v), -1).unbind(-1)
        q = q.transpose(0, 1)
    expected = attention.reference(q.double(), k.double(), v.double(), **how)
    ran, refused, ways = 0, [], {}
    shapes = attention._shapes(kernel, q, k, how.get("segments", 1))
    kinds = list(dict.fromkeys((s.alone, s.described, s.warps) for s in shapes))
    one_of_each = [next(s for s in shapes if (s.alone, s.described, s.warps) == kind) for kind in kinds]
    for shape in shapes if call.startswith("pi0.5") else one_of_each:
        try:
            found = kernel.attention(q, k, v, shape, **how)
        except Exception as error:  # a shape may ask for more memory than a block has
            refused.append(f"{shape}: {error}")
            continue
        close(found, expected, limit)
        assert torch.equal(found, kernel.attention(q, k, v, shape, **how)), "run to run"
        ran += 1
        ways[str(tuple(shape))] = lambda q, k, v, shape=shape: kernel.attention(q, k, v, shape, **how)
    assert ran > len(refused), refused
    if dtype == BF16:
        ways["torch"] = lambda q, k, v: attention.reference(q, k, v, **how)
        TIMES[f"attention {call} {(length, heads, width, groups, keys)}"] = measured(ways, (q, k, v))


def sums(channels, length, sampled, padded):
    ones = [torch.ones(channels, device="cuda") for _ in range(3)]
    tokens = torch.arange(0, length, max(1, length // 32), device="cuda")[:32] if sampled else None
    valid = (torch.arange(length, device="cuda") < length - length // 8).float() if padded else None
    return Sums(ones[0], ones[1], ones[2] if sampled else None, tokens, valid)


def in_parts(notes):
    """The same with a part of its own for each stretch of tokens, as a refresh has them; all but the first are 0."""
    parts = torch.zeros(3, PARTS, len(notes.energy), device="cuda")
    parts[:, 0] = 1.0
    energy, sampled, total = parts[:, 0]
    sampled = None if notes.sampled is None else sampled
    return notes._replace(energy=energy, total=total, sampled=sampled, parts=parts)


GATED = {
    "expert 40 %": (50, 2464, 1024, "gelu"),
    "lm 40 %": (544, 9824, 2048, "gelu"),
    "llama": (608, 11008, 4096, "silu"),
    "odd": (37, 96, 80, "silu"),
}


@pytest.mark.parametrize("call", GATED)
@pytest.mark.parametrize("noted", [None, (True, True)], ids=["plain", "probe, padded"])
def test_a_gated_mlp_and_its_sums_equal_the_reference_every_way(call, noted):
    from ecovla_ros.kernels import gated_triton as kernel

    length, channels, width, activation = GATED[call]
    x, weights = drawn(length, width), drawn(2 * channels, width, scale=width**-0.5)
    expected = gated.reference(x.float(), weights[0::2].float(), weights[1::2].float(), activation)
    several = slice(None) if "40" in call else slice(1)
    shapes = gated.COLUMNS[several]
    ways = {f"columns {s}": lambda w, n, s=s: kernel.columns(F.linear(x, w), activation, n, s) for s in shapes}
    if length <= gated.FEW:
        for s in gated.FUSED[several]:
            ways[f"fused {s}"] = lambda w, n, s=s: kernel.gated(x, w[0::2], w[1::2], activation, n, s)
    wanted = None if noted is None else sums(channels, length, *noted)
    if wanted is not None:
        wanted.add(expected)
    for name, way in ways.items():
        notes = [None if noted is None else sums(channels, length, *noted) for _ in range(2)]
        found, again = (way(weights, n) for n in notes)
        close(found, expected, 1e-2)
        assert torch.equal(found, again), name
        for first, second, theirs in zip(*(n[:3] for n in notes), wanted[:3]) if wanted else ():
            if first is not None:
                assert torch.equal(first, second), f"{name}: sums run to run"
                close(first, theirs, 1e-2)
        if noted is not None and name.startswith("columns"):
            apart = in_parts(sums(channels, length, *noted))
            assert torch.equal(way(weights, apart), found), f"{name}: in one part or in many"
            close(apart.parts.sum(1)[0], wanted.energy, 1e-2)
            close(apart.parts.sum(1)[1], wanted.sampled, 1e-2)
            close(apart.parts.sum(1)[2], wanted.total, 1e-2)
        if noted is not None:
            for seen, bound in ((0.5, 0.5), (0.5, 0.6)):
                gated_sums = sums(channels, length, *noted)._replace(gate=torch.tensor([seen, bound], device="cuda"))
                assert torch.equal(way(weights, gated_sums), found), f"{name}: recording or not"
                for first, open_gate in zip(gated_sums[:3], notes[0][:3]):
                    expected_sums = torch.ones_like(first) if seen >= bound else open_gate
                    assert torch.equal(first, expected_sums), f"{name}: gate {seen}, {bound}"
    if several == slice(None):
        notes = None if noted is None else sums(channels, length, *noted)
        timed = {name: lambda w, way=way: way(w, notes) for name, way in ways.items()}
        timed["torch"] = lambda w: gated.reference(x, w[0::2], w[1::2], activation)
        label = "" if noted is None else ", recorded"
        TIMES[f"gated {call}{label} {(length, channels, width)}"] = measured(timed, (weights,))
        if notes is not None:
            notes = notes._replace(gate=torch.tensor([0.5, 0.5], device="cuda"))
            TIMES[f"gated {call}, not wanted {(length, channels, width)}"] = measured(timed, (weights,))


@pytest.mark.parametrize("length, width", [(50, 1024), (544, 2048), (608, 4096), (34, 768), (512, 1152)])
@pytest.mark.parametrize("centred", [False, True], ids=["rms", "layer"])
def test_a_branch_is_added_and_normed(length, width, centred):
    g = torch.randn(4, width, device="cuda")
    tokens = torch.arange(0, length, max(1, length // 32), device="cuda")[:32]
    how = {"gate": g[0].to(BF16), "gain": g[1], "shift": g[2], "bias": g[3].to(BF16), "centred": centred}
    x, branch = drawn(length, width), drawn(length, width, seed=1)
    ours, theirs = (torch.zeros(len(tokens), width, device="cuda", dtype=BF16) for _ in range(2))
    found = norm.add_and_norm(x, branch, aside=ours, tokens=tokens, **how)
    expected = norm.reference(x, branch, aside=theirs, tokens=tokens, **how)
    for a, b in zip((*found, ours), (*expected, theirs)):
        close(a, b, 5e-3)
    if not centred:
        ways = {"fused": lambda b: norm.add_and_norm(x, b, **how), "torch": lambda b: norm.reference(x, b, **how)}
        TIMES[f"add and norm {(length, width)}"] = measured(ways, (branch,))


@pytest.mark.parametrize("length, heads, groups, width", [(50, 8, 1, 256), (544, 8, 1, 256), (608, 32, 32, 128)])
def test_queries_are_rotated_and_keys_and_values_put_where_they_are_read(length, heads, groups, width):
    every = drawn(length, heads + 2 * groups, width)
    v, k, q = every.split((groups, groups, heads), 1)
    tables, ours = (torch.rand(length, width, device="cuda") for _ in range(2)), drawn(2, groups, length + 7, width)
    tables, theirs, there = tuple(tables), ours.clone(), slice(3, 3 + length)
    found = rotary.place(q, k, v, *tables, ours[0, :, there], ours[1, :, there])
    close(found, rotary.reference(q, k, v, *tables, theirs[0, :, there], theirs[1, :, there]), 5e-3)
    close(ours, theirs, 5e-3)
    assert torch.equal(ours[1], theirs[1]) and torch.equal(ours[:, :, :3], theirs[:, :, :3]), "nothing else is written"
    ways = {
        "fused": lambda e: rotary.place(*(e.split((groups, groups, heads), 1)[i] for i in (2, 1, 0)), *tables,
                                        ours[0, :, there], ours[1, :, there]),
    }  # fmt: skip
    TIMES[f"rotary {(length, heads, groups, width)}"] = measured(ways, (every,))


@pytest.mark.parametrize("length, heads", [(50, 8), (50, 5), (1, 8)])
def test_a_product_that_turns_what_it_makes_every_way(length, heads):
    from ecovla_ros.kernels import rotary_triton as kernel

    x, weights = drawn(length, 1024), drawn((heads + 2) * 256, 1024, scale=1 / 32)
    tables = drawn(length, 256, dtype=torch.float32), drawn(length, 256, dtype=torch.float32, seed=1)
    q, k, v = (
        t.unflatten(-1, (-1, 256))
        for t in F.linear(x.double(), weights.double()).split((256, 256, heads * 256), 1)[::-1]
    )
    room, theirs = drawn(2, 1, 600, 256), torch.zeros(2, 1, length, 256, device="cuda", dtype=torch.float64)
    expected = rotary.reference(q, k, v, *tables, *theirs)
    ways = {}
    for shape in rotary.PROJECTED:
        ours = room.clone()
        found = kernel.project(x, weights, *tables, *ours[:, :, 544 : 544 + length], shape)
        close(found, expected, 1e-2)
        close(ours[:, :, 544 : 544 + length], theirs, 1e-2)
        ours[:, :, 544 : 544 + length] = room[:, :, 544 : 544 + length]
        assert torch.equal(ours, room), "nothing else is written"
        ways[str(shape)] = lambda w, s=shape: kernel.project(x, w, *tables, *room[:, :, 544 : 544 + length], s)
    ways["apart"] = lambda w: rotary._apart(x, *tables, *room[:, :, 544 : 544 + length], w)
    TIMES[f"q, k and v, turned {(length, len(weights), 1024)}"] = measured(ways, (weights,))


@pytest.mark.parametrize("length, channels, width", [(512, 4304, 1152), (34, 3072, 768)])
def test_a_product_that_ends_with_gelu_is_the_product_and_the_gelu(length, channels, width):
    x, weights, bias = drawn(length, width), drawn(channels, width, scale=width**-0.5), drawn(channels)
    expected = F.gelu(F.linear(x.double(), weights.double(), bias.double()), approximate="tanh")
    ways = {
        "apart": lambda w: gated._apart(x, bias, "gelu_alone", None, w),
        "at once": lambda w: gated._at_once(x, bias, None, w),
    }
    for way in ways.values():
        close(way(weights), expected, 1e-2)
    noted, whole = (Sums(torch.zeros(channels, device="cuda")) for _ in range(2))
    whole.add(gated._at_once(x, bias, noted, weights))
    close(noted.energy, whole.energy, 1e-4)
    TIMES[f"gelu of a product {(length, channels, width)}"] = measured(ways, (weights,))


@pytest.mark.parametrize("length, width", [(256, 2048), (36, 192), (256, 4096)])
def test_tokens_are_compared_as_torch_does_and_kept(length, width):
    now, before = ([drawn(length, width, seed=s + i) for i in range(2)] for s in (0, 2))
    expected = torch.cat([F.cosine_similarity(a.float(), b.float(), dim=-1) for a, b in zip(now, before)]).mean()
    kept, into = [t.clone() for t in before], torch.zeros((), device="cuda")
    torch.testing.assert_close(likeness.renewed(now, kept, into), expected, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(now, kept))
    ways = {
        "one pass": lambda a, b: likeness.renewed([a], [b], into),
        "torch": lambda a, b: F.cosine_similarity(a.float(), b.float(), dim=-1).mean() + b.copy_(a)[0, 0],
    }
    TIMES[f"tokens compared {(length, width)}"] = measured(ways, (now[0], before[0]))


def test_a_row_swap_is_exact():
    g = torch.Generator(device="cuda").manual_seed(0)
    packed = torch.randn(4096, 2, 64, generator=g, device="cuda")
    blocks = [torch.randn(4096, width, generator=g, device="cuda") for width in (1, 1000, 2048)]
    blocks += [packed[:, 0], packed[:, 1]]
    order = torch.randperm(4096, generator=g, device="cuda")
    a, b, wanted = order[:900], order[900:1800], torch.rand(900, generator=g, device="cuda") < 0.5
    expected = [block.cpu() for block in blocks]
    rows.RowSwap([blocks]).apply(a[None], b[None], wanted[None])
    rows.RowSwap([expected]).apply(a.cpu()[None], b.cpu()[None], wanted.cpu()[None])
    assert wanted.any() and all(torch.equal(block.cpu(), e) for block, e in zip(blocks, expected))


PRODUCTS = {
    "o": (50, 2048, 1024), "down": (50, 4096, 1024), "down 40 %": (50, 2464, 1024), "dit fc2": (34, 3072, 768),
    "lm down": (544, 16384, 2048), "lm down 40 %": (544, 9824, 2048), "lm o": (544, 2048, 2048),
}  # fmt: skip


@pytest.mark.parametrize("call", PRODUCTS)
def test_a_branch_is_a_product_every_way(call):
    length, depth, width = PRODUCTS[call]
    x, weights, stream = drawn(length, depth, scale=depth**-0.5), drawn(depth, width), drawn(length, width)
    ways = {"torch": lambda w: x @ w}
    if length <= product.FEW:
        ways |= product._thin(x, product.PARTS)
    wanted = norm.reference(stream, (x.float() @ weights.float()))
    for name, way in ways.items():
        for found, expected in zip(norm.add_and_norm(stream, way(weights)), wanted):
            close(found, expected, 1e-2)
        assert torch.equal(way(weights), way(weights)), name
    TIMES[f"branch and norm {call} {PRODUCTS[call]}"] = measured(
        {name: lambda w, way=way: norm.add_and_norm(stream, way(w)) for name, way in ways.items()}, (weights,)
    )


@pytest.mark.parametrize("length, width, depth", [(50, 2560, 1024), (544, 2560, 2048), (544, 32768, 2048)])
def test_a_linear_layer_is_one_every_way(length, width, depth):
    x, weights = drawn(length, depth), drawn(width, depth, scale=depth**-0.5)
    ways = {"torch": lambda w: F.linear(x, w)}
    if length <= product.FEW:
        thin = product._thin(x, product.WHOLE)
        ways |= {name: lambda w, way=way: way(w.T) for name, way in thin.items()}
    for way in ways.values():
        close(way(weights), x.float() @ weights.float().T, 1e-2)
    TIMES[f"linear {(length, width, depth)}"] = measured(ways, (weights,))


@pytest.mark.skipif(not (torch.cuda.is_available() and float8.runs_on(torch.device("cuda"))), reason="needs e4m3")
@pytest.mark.parametrize("channels", [16384, 9824])
def test_rows_in_e4m3_give_nearly_the_same_product(channels):
    x, weights = drawn(544, 2048), drawn(2 * channels, 2048, scale=2048**-0.5)
    small, scales = float8.by_rows(weights)
    with reference_alone():
        expected, theirs = float8.by_rows(weights)
    close(scales, theirs, 1e-6)
    assert (small.float() != expected.float()).float().mean() < 1e-3, "a quotient may round to the other side"
    found = float8.linear(x, small, scales)
    close(found, F.linear(x, weights), 5e-2)
    rows, scale = float8.by_rows(x)
    close(found, (rows.float() @ small.float().T) * scale[:, None] * scales, 1e-2)
    ways = {"bf16": lambda w: F.linear(x, w), "e4m3": lambda w: float8.linear(x, small, scales)}
    TIMES[f"float8 gate-up {(544, 2 * channels, 2048)}"] = measured(ways, (weights,))


def stack(count=18):
    """The layers of pi0.5's action head over a prefix of 544 tokens, recording as a probing frame does."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(BF16)
    with torch.device("cuda"):
        blocks = [layers.Block(1024, 4096, 8, 1, 256, 1e-6, 18, True) for _ in range(count)]
        caches = [Cache(1, 595, 256, torch.zeros((), dtype=BF16)) for _ in range(count)]
        scale = [Modulation(*(torch.randn(1, 1, 1024, dtype=kind) for kind in (torch.float32, torch.float32, BF16)))
                 for _ in range(2 * count)]  # fmt: skip
        records = [Record(torch.zeros(4096, dtype=torch.float32), None, torch.zeros(4096, dtype=torch.float32),
                          torch.zeros(1, 32, 1024, dtype=BF16), torch.arange(32)) for _ in range(count)]  # fmt: skip
        cos, sin = layers.rope_tables(600, 256, 1e4)
        x = torch.randn(1, 50, 1024, dtype=BF16)
    torch.set_default_dtype(before)
    for cache in caches:
        cache.keys.normal_()
        cache.values.normal_()
    layers.pack(blocks)
    rope, keys = layers.Rope(cos[544:594, None], sin[544:594, None]), Keys(50, 594, gap(530, 544))
    uses = [layers.Use(mlp=SiteUse(2464, record, 0), modulation=(scale[2 * i], scale[2 * i + 1]))
            for i, record in enumerate(records)]  # fmt: skip
    return (lambda: layers.run(blocks, x, rope, [c.at(544) for c in caches], keys, uses)), records


def test_the_pairs_of_a_pattern_are_those_that_a_cpu_finds():
    g = torch.Generator(device="cuda").manual_seed(0)
    for layers_, channels, kept, groups in ((18, 16384, 9824, 1), (18, 4096, 2464, 1), (31, 32, 20, 4)):
        scores = torch.rand(layers_, channels, generator=g, device="cuda")
        found, expected = exchange(scores, kept, groups, None, 0.05), exchange(scores.cpu(), kept, groups, None, 0.05)
        assert torch.equal(found.wanted.cpu(), expected.wanted)
        for slots, theirs in zip(found[:2], expected[:2]):
            assert torch.equal(scores.gather(1, slots).cpu(), scores.cpu().gather(1, theirs))

    def way(scores):
        return exchange(scores, 9824)

    def searched(scores):
        with reference_alone():
            return exchange(scores, 9824)

    scores = torch.rand(18, 16384, generator=g, device="cuda")
    TIMES["pairs of 18 x 16384"] = measured({"one sort": way, "two searches": searched}, (scores,))


def test_kernels_that_begin_early_give_the_same_and_are_timed():
    run, records = stack()
    found, times = [], {}
    was = launch.EARLY[0]
    try:
        with KERNEL_CHOICE.tuning():
            run()
        for early in (False, True):
            launch.EARLY[0] = early
            run()
            for record in records:
                record.energy.zero_()
                record.sampled.zero_()
            side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=side):
                out = run()
            for _ in range(5):
                graph.replay()
            torch.cuda.synchronize()
            found.append([out.clone(), *(t.clone() for r in records for t in (r.energy, r.sampled, r.inputs))])
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(10):
                graph.replay()
            end.record()
            end.synchronize()
            times["early" if early else "in turn"] = start.elapsed_time(end) / 10
    finally:
        launch.EARLY[0] = was
    TIMES["18 layers of the action head, 40 %, recording"] = times
    assert all(torch.equal(a, b) for a, b in zip(*found)), "the same bits"
    assert torch.isfinite(found[0][0]).all() and (found[0][1][:2464] > 0.0).all()
