"""Blocks as few kernels: whole policies against the layers they are made of, and how many kernels a layer takes.

In Triton's interpreter, on a CPU, each in a process of its own.
"""

from __future__ import annotations

import pytest
from kernels.test_kernels import interpret

pytest.importorskip("triton", reason="Triton has wheels for Linux on x86-64 only")

WHOLE = """
import sys
from contextlib import nullcontext
import torch
from ecovla_ros.kernels.available import reference_alone
from ecovla_ros.models.base import Plan
from ecovla_ros.prune.site import Record
from support import all_models
torch.set_num_threads(1)
policy = all_models.policy({family!r}, bucket=8)
obs, start = all_models.observation(policy), all_models.noise(policy)
kept = {{s.key: s.channels // 2 for s in policy.sites}}
def record(site):
    probed = site.hidden is not None
    energy, total, sampled = (torch.zeros(site.rows) for _ in range(3))
    inputs, tokens = torch.zeros(site.samples, 5, site.consumer.shape[1]), torch.tensor([0, 1, 1, 3, 4])
    return Record(energy, total, *((sampled, inputs, tokens) if probed else ()))
found = []
with torch.inference_mode():
    for plainly in (True, False):
        plan = Plan(kept, {{s.key: record(s) for s in policy.sites}})
        with reference_alone() if plainly else nullcontext():
            seen = policy.encode(obs)
            assert seen.padding, "some of the prompt must be padding"
            actions = policy.act(seen, policy.prefill(seen, plan), plan, start)
        found.append([actions, *(t for r in plan.record.values() for t in r[:4] if t is not None)])
for plain, few in zip(*found):
    torch.testing.assert_close(few, plain, rtol=1e-3, atol=1e-4)
assert all(t.abs().sum() > 0 for t in found[1])
from ecovla_ros.prune.partition import Partition
from ecovla_ros.prune.select import Exchange
with torch.inference_mode():
    def answer():
        seen = policy.encode(obs)
        return policy.act(seen, policy.prefill(seen, Plan()), Plan(), start)
    before, g = answer(), torch.Generator().manual_seed(0)
    for site in policy.sites:
        pairs = site.channels // site.groups // 2
        order = torch.randperm(site.channels // site.groups, generator=g) * site.groups
        ends = (order[:pairs][None], order[pairs : 2 * pairs][None])
        Partition([site]).apply(Exchange(*ends, torch.ones(1, pairs, dtype=torch.bool)))
    torch.testing.assert_close(answer(), before, rtol=1e-3, atol=1e-4)
"""


@pytest.mark.parametrize("family", ["pi05", "cogact"])
def test_a_policy_of_few_kernels_computes_and_records_what_its_layers_say(family):
    interpret(WHOLE.format(family=family), "test")


COUNT = """
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from ecovla_ros.kernels import attention_triton, gated_triton, norm_triton, rotary_triton
from ecovla_ros.models.core import layers, vit
from ecovla_ros.models.core.cache import Cache
from ecovla_ros.models.core.keys import Keys
from ecovla_ros.models.core.modulation import Modulation
from ecovla_ros.models.prismatic.layers import UNTURNED, LlamaBlock, PlainBlock, own
from ecovla_ros.prune.site import Record, SiteUse
VIEWS = ("view", "slice", "select", "transpose", "t.", "unsqueeze", "detach", "split", "alias", "permute", "expand",
         "empty", "new_empty", "as_strided", "unbind", "lift", "squeeze")
class Count(TorchDispatchMode):
    kernels = ()
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name, out = str(func).removeprefix("aten."), func(*args, **(kwargs or {}))
        perhaps = name.startswith(("reshape", "flatten", "unflatten", "contiguous", "to."))
        same = perhaps and out.data_ptr() == args[0].data_ptr()
        if not same and not name.startswith(VIEWS):
            self.kernels = (*self.kernels, name)
        return out
class Counted:
    def __init__(self, kernel): self.kernel = kernel
    def __getitem__(self, grid):
        def launch(*args, **kwargs):
            count.kernels = (*count.kernels, self.kernel.fn.__name__)  # it need not run
        return launch
for module, names in ((attention_triton, ("_attend", "_merge")), (gated_triton, ("_gated", "_columns")),
                      (norm_triton, ("_norm",)), (rotary_triton, ("_place",))):
    for name in names:
        setattr(module, name, Counted(getattr(module, name)))
def counted(run):
    global count
    count = Count()
    with torch.inference_mode(), count:
        run()
    return count.kernels
def a_layer(blocks, tokens, keys, extends, rope, record, modulated=False):
    width, rows = blocks[0].mlp.down.shape[1], len(blocks[0].mlp.down)
    sums = [torch.zeros(rows) for _ in range(3)]
    noted = Record(*sums, torch.zeros(1, 3, width), torch.tensor([0, 1, 3]))
    scale = Modulation(torch.ones(1, 1, width), torch.ones(1, 1, width), torch.ones(1, 1, width))
    use = layers.Use(mlp=SiteUse(None, noted if record else None, 0 if record else None),
                     modulation=(scale, scale) if modulated else None)
    layers.pack(blocks)
    x = torch.randn(1, tokens, width)
    two, three = (counted(lambda: layers.run(blocks[:n], x, rope, extends[:n], keys, [use] * n)) for n in (2, 3))
    return three, len(three) - len(two)
torch.manual_seed(0)
cos, sin = (t[:, None] for t in layers.rope_tables(70, 16, 1e4))
gap = torch.tensor([3, 5], dtype=torch.int32)
def rope(n): return layers.Rope(cos[:n], sin[:n])
def pi(): return [layers.Block(32, 48, 4, 1, 16, 1e-6, 3, modulated) for _ in range(3)]
found = {}
for record in (False, True):
    modulated = False
    caches = [Cache(1, 80, 16, torch.zeros(())) for _ in range(3)]
    found["prefill of pi0", record] = a_layer(
        pi(), 70, Keys(70, 70, gap), [c.at(0) for c in caches], rope(70), record)
    modulated = True
    found["head of pi0.5", record] = a_layer(
        pi(), 6, Keys(6, 76, gap), [c.at(70) for c in caches], rope(6), record, True)
    found["prefill of Llama", record] = a_layer(
        [LlamaBlock(32, 48, 2, 16, 1e-6, 3) for _ in range(3)], 70, Keys(70, 70, gap, True), [own] * 3, rope(70),
        record)
    found["head of CogACT", record] = a_layer(
        [PlainBlock(32, 64, 2, 3) for _ in range(3)], 34, Keys(34, 34, segments=2), [own] * 3, UNTURNED, record)
towers = [vit.VitLayer(24, 4, 40) for _ in range(3)]
x = torch.randn(2, 5, 24)
two, three = (counted(lambda: vit.run(towers[:n], x)) for n in (2, 3))
found["vision", False] = three, len(three) - len(two)
limits = {"prefill of pi0": 12, "head of pi0.5": 10, "prefill of Llama": 10, "head of CogACT": 8, "vision": 9}
for (phase, record), (kernels, layer) in found.items():
    print(phase, "recording" if record else "", layer, kernels)
    assert 0 < layer <= limits[phase], (phase, record, layer, kernels)
    assert (phase, False) not in found or layer == found[phase, False][1], "recording costs no kernel"
"""


def test_a_layer_of_each_phase_takes_few_kernels_recording_or_not():
    """Counted: what torch dispatches that is no view and no allocation, and every launch of a kernel of our own."""
    interpret(COUNT, "test")
