"""What one frame costs on paper: multiply-accumulates and weight bytes of every matrix product, from a policy's shapes.

The policy may lie on the device "meta": nothing is run, and no weight is needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import nn

from ecovla_ros.bench.speed.device import PEAKS
from ecovla_ros.models.cogact.policy import CogactPolicy
from ecovla_ros.models.openvla_oft.policy import OftPolicy
from ecovla_ros.models.pi.policy import PiPolicy
from ecovla_ros.prune.select import kept_count
from ecovla_ros.prune.site import Site

STAGES = ("vision", "prefill", "act")
"""Of a frame: encoding, the language model's pass, the actions."""


class Product(NamedTuple):
    """One matrix product, or the scores and sums of one attention (which read no weights)."""

    stage: str
    macs: int
    """Of one call."""
    weights: int
    """Numbers read by one call."""
    calls: int = 1
    site: Site | None = None
    """What it shrinks with; None: it stays as it is."""

    def share(self, ratio: float, groups: Iterable[str]) -> float:
        """Part of it that is left when `groups` are pruned at `ratio`."""
        if self.site is None or self.site.group not in groups:
            return 1.0
        return kept_count(self.site.channels, ratio, self.site.step) / self.site.channels


class Peak(NamedTuple):
    """A GPU's data sheet: dense bfloat16 with float32 sums, and memory."""

    tflops: float
    gb_s: float


GPUS: Mapping[str, Peak] = {
    name: Peak(PEAKS[name][0] / 1e12, PEAKS[name][1] / 1e9) for name in ("3090", "4090", "Orin", "Thor", "H100", "H200")
}
"""Vendors' numbers; real engines reach 60 to 86 % of a bound that is computed from them."""

REACHED: Mapping[str, Peak] = {"H100": Peak(791.0, 3000.0)}
"""What a bfloat16 product of 8192 x 8192 x 8192 and a copy of a gigabyte, read and written, reach on a GPU that was
measured. Each row of `ecovla bench` on a GPU has its own, of that very device (`reached_tflops`, `reached_gb_s`)."""


def products(policy: Any, prompt: int) -> list[Product]:
    """Every product of one frame with a prompt of `prompt` tokens; with VLA-Cache of one that reuses."""
    found = _pi(policy, prompt) if isinstance(policy, PiPolicy) else _prismatic(policy, prompt)
    return list(found)


def macs(found: Iterable[Product], stage: str = "", ratio: float = 0.0, groups: Iterable[str] = ()) -> float:
    """Multiply-accumulates of a frame, of one stage or of all."""
    return sum(p.macs * p.calls * p.share(ratio, groups) for p in found if stage in ("", p.stage))


def streamed(found: Iterable[Product], ratio: float = 0.0, groups: Iterable[str] = (), size: int = 2) -> float:
    """Bytes of weights read in a frame, each call anew; `size`: bytes of one number."""
    return sum(size * p.weights * p.calls * p.share(ratio, groups) for p in found)


def bound_ms(
    found: Iterable[Product], peak: Peak, ratio: float = 0.0, groups: Iterable[str] = (), size: int = 2
) -> float:
    """No frame is faster, ms: every product takes the longer of its arithmetic and its weights; the rest is free."""
    seconds = 0.0
    for p in found:
        share = p.share(ratio, groups)
        arithmetic, memory = 2.0 * p.macs / (peak.tflops * 1e12), size * p.weights / (peak.gb_s * 1e9)
        seconds += p.calls * share * max(arithmetic, memory)
    return 1e3 * seconds


def prefix_tokens(policy: Any, prompt: int) -> int:
    """Tokens of the language model's pass."""
    config = policy.config
    images = len(config.cameras) * config.tokens
    if isinstance(policy, OftPolicy):
        return images + 1 + prompt + policy.model.slots + 1
    return images + prompt


class Lengths(NamedTuple):
    """Tokens of the language model's layers, one entry a layer, the last layer included."""

    run: list[int]
    """That a layer computes."""
    held: list[int]
    """Whose K and V it holds."""

    def attention(self, head_dim: int) -> list[int]:
        """Multiply-accumulates of one head, by layer."""
        return [2 * run * held * head_dim for run, held in zip(self.run, self.held)]


def lengths(policy: Any, length: int) -> Lengths:
    """With FastV later layers run and hold fewer tokens; with VLA-Cache, in a frame that reuses, they run fewer."""
    layers = policy.config.layers
    whole = [length] * layers
    if policy.tokens is not None:
        gone = len(policy.config.cameras) * policy.config.tokens - policy.tokens.keep
        run = [length - gone * (i >= policy.tokens.layer) for i in range(layers)]
        return Lengths(run, run)
    if policy.reuse is not None:
        return Lengths([length - count for count in policy.reuse.counts.counts], whole)
    return Lengths(whole, whole)


def _looks(policy: Any, length: int, prompt: int, read: int) -> Iterator[Product]:
    """What choosing tokens costs: queries of the rows that decide in one layer, and their scores.

    FastV asks the `read` rows, VLA-Cache the prompt.
    """
    if policy.tokens is not None:
        layer, rows = policy.tokens.layer - 1, read
    elif policy.reuse is not None and policy.reuse.counts.excluded:
        layer, rows = policy.reuse.counts.layer, prompt
    else:
        return
    site = next(s for s in policy.sites if s.key == f"lm.{layer}.heads")
    query = site.producers[0].numel()
    yield Product("prefill", rows * query, query, 1, site)
    yield Product("prefill", rows * length * site.rows, 0, 1, site)


def _pi(policy: PiPolicy, prompt: int) -> Iterator[Product]:
    model, config, length = policy.model, policy.config, prefix_tokens(policy, prompt)
    cameras, head, tokens = len(config.cameras), config.head_dim, lengths(policy, length)
    yield from _matrices("vision", model.vision, cameras * config.tokens)
    yield from _matrices("vision", model.projector, cameras * config.tokens)
    if config.vision == "siglip":
        scores = 2 * config.tokens**2 * config.vision_width * cameras
        yield from (Product("vision", scores, 0) for _ in range(config.vision_layers))
    kv = 2 * config.kv_heads * head
    yield from (Product("prefill", run * kv * config.lm_width, kv * config.lm_width) for run in tokens.run)
    yield from _sites(policy.sites, "prefill", tokens.run, tokens.attention(head))
    yield from _looks(policy, length, prompt, prompt)
    horizon, steps, width = config.horizon, policy.flow_steps, config.expert_width
    keys = [held + config.state_tokens + horizon for held in tokens.held]
    yield from _sites(policy.sites, "act", [horizon] * config.layers, [2 * horizon * k * head for k in keys])
    yield from (Product("act", horizon * kv * width, kv * width, steps) for _ in model.expert)
    ends = 2 * config.action_dim * width + (width * width if config.variant == "pi0" else 0)
    yield Product("act", horizon * ends, ends, steps)
    if config.state_tokens:
        yield Product("act", config.state_dim * width, config.state_dim * width)
        yield from (Product("act", kv * width, kv * width) for _ in model.expert)
        last = len(model.expert) - 1
        others = (replace(s, calls=1) for s in policy.sites if s.key.split(".")[1] != str(last))
        yield from _sites(others, "act", [1] * config.layers, [0] * config.layers)


def _prismatic(policy: OftPolicy | CogactPolicy, prompt: int) -> Iterator[Product]:
    config, length = policy.config, prefix_tokens(policy, prompt)
    model: Any = policy.model
    cameras, lm = len(config.cameras), lengths(policy, length)
    for tower, shape in zip(model.vision.towers, config.towers):
        tokens = config.tokens + shape.prefix
        yield from _matrices("vision", tower.layers, cameras * tokens)
        yield from _matrices("vision", tower.patches, cameras * config.tokens)
        yield from (Product("vision", 2 * tokens**2 * shape.width * cameras, 0) for _ in range(shape.layers))
    yield from _matrices("vision", model.projector, cameras * config.tokens)
    yield from _sites(policy.sites, "prefill", lm.run, lm.attention(config.head_dim))
    read = model.slots if isinstance(policy, OftPolicy) else 1
    yield from _looks(policy, length, prompt - 1, read)
    last, square = model.lm_last, config.heads * config.head_dim * config.width
    yield from (Product("prefill", lm.run[-1] * square, square) for _ in "kv")
    yield from (Product("prefill", read * square, square) for _ in "qo")
    yield Product("prefill", 2 * read * lm.held[-1] * config.heads * config.head_dim, 0)
    yield from _matrices("prefill", last.mlp, read)
    if isinstance(policy, OftPolicy):
        yield from _matrices("vision", model.state_token, 1)
        yield from _matrices("act", model.head, config.horizon)
    if isinstance(policy, CogactPolicy):
        dit, half = model.dit, 1 + config.horizon
        halves = 2 if policy.model.config.guidance > 1.0 else 1
        tokens = half * halves
        head = dit.blocks[0].attention.head_dim
        blocks = len(dit.blocks)
        yield from _sites(policy.sites, "act", [tokens] * blocks, [2 * tokens * tokens * head] * blocks)
        for part, count in ((dit.action_in, config.horizon), (dit.action_out, tokens)):
            yield from (p._replace(calls=policy.flow_steps) for p in _matrices("act", part, count))
        yield from _matrices("act", dit.condition_in, halves)


def _sites(sites: Iterable[Site], phase: str, tokens: Sequence[int], attention: Sequence[int]) -> Iterator[Product]:
    """Products of every site of a phase; heads bring `attention` multiply-accumulates each, of one head. By layer."""
    for site in sites:
        if site.phase == phase:
            layer, weights = int(site.key.split(".")[1]), sum(w.numel() for w in (*site.producers, site.consumer))
            yield Product(phase, tokens[layer] * weights, weights, site.calls, site)
            if site.unit > 1:
                yield Product(phase, attention[layer] * site.channels, 0, site.calls, site)


def _matrices(stage: str, module: nn.Module, tokens: int) -> Iterator[Product]:
    for name, p in module.named_parameters():
        if p.dim() > 1 and not name.endswith(("position", "prefix")):
            yield Product(stage, tokens * p.numel(), p.numel())
