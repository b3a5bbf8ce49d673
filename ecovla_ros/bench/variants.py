"""What a benchmark compares: one engine per method, refresh kind and ratio, each with weights of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ecovla_ros import build, config
from ecovla_ros.bench.scenes import stream
from ecovla_ros.bench.speed.device import Timed
from ecovla_ros.engine.calibration import calibration
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Streams
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.models.base import Policy
from ecovla_ros.models.data.statistics import OtherArmUnits
from ecovla_ros.prune import pattern

TOKENS = ("none", "fastv", "vla-cache")
"""All of them run; FastV; VLA-Cache."""
AS_SET = ""
"""As the configuration says, in every variant."""
SHARE = 0.5
"""Of the vision tokens that leave or are reused where the configuration names no share."""

CALIBRATION_FRAMES = 4
"""Frames of another seed that a policy without calibration of its own is calibrated on."""


@dataclass(frozen=True)
class Variant:
    """One way to run the model."""

    method: str
    refresh: str
    ratio: float
    tokens: str = AS_SET
    """Of `TOKENS`: what becomes of vision tokens."""

    def policy(self, settings: config.Config) -> config.PolicyConfig:
        """The policy's configuration of this variant."""
        if self.tokens == AS_SET:
            return settings.policy
        fastv = settings.policy.fastv or SHARE if self.tokens == "fastv" else 0.0
        cached = (settings.policy.vla_cache or (SHARE,)) if self.tokens == "vla-cache" else ()
        return replace(settings.policy, fastv=fastv, vla_cache=cached)


def variants(
    methods: Sequence[str], refreshes: Sequence[str], ratios: Sequence[float], tokens: Sequence[str] = ()
) -> list[Variant]:
    """Dense first, then every method and ratio; adaptive methods with every refresh kind. Raises ConfigError.

    `tokens`: all that once for each of these ways to treat vision tokens, dense without any of them first.
    """
    known = ((methods, config.METHODS, "method"), (refreshes, config.REFRESHES, "refresh"), (tokens, TOKENS, "tokens"))
    for names, valid, what in known:
        for name in names:
            if name not in valid:
                raise ConfigError(unknown(what, name, valid))
    found = [Variant("dense", "none", 0.0, TOKENS[0] if tokens else AS_SET)]
    for way in tokens or (AS_SET,):
        found += [Variant("dense", "none", 0.0, way)] if way not in (AS_SET, TOKENS[0]) else []
        for method in (m for m in methods if m != "dense"):
            kinds = refreshes if method in config.ADAPTIVE else ("none",)
            found += [Variant(method, kind, ratio, way) for kind in kinds for ratio in ratios]
    return found


class Bench:
    """Engines of all variants over one model, calibrated alike."""

    def __init__(
        self, settings: config.Config, chosen: Sequence[Variant], seed: int, first: Policy | None = None
    ) -> None:
        """`first`: a policy to copy weights from instead of loading one. Raises ConfigError if memory is too small."""
        self.settings, self.variants = settings, list(chosen)
        _check_memory(settings, len(self.variants) - (first is not None))
        policy = first or build.policy(self.variants[0].policy(settings), serving=True)
        units = getattr(policy, "normaliser", None)
        self.state = units.widths[0] if isinstance(units, OtherArmUnits) else 0
        """Numbers of the state of another arm; 0: the policy is one of this arm."""
        self.weights_bytes = weights_bytes(policy)
        self.noise = torch.zeros(policy.spec.horizon, policy.spec.action_dim)
        pruned = config.override(settings, **{"prune.method": "static"}).prune
        energies = build.calibration_of(pruned, policy)
        cold = settings.prune.calibration == "none"
        if not energies and not cold and any(v.method != "dense" for v in self.variants):
            frames = stream(policy.spec, CALIBRATION_FRAMES, seed + 1, self.state)
            energies = calibration(policy, (f.observation for f in frames), self.noise)
        self._energies = energies
        self.policies: list[Any] = [policy]
        while len(self.policies) < len(self.variants):
            self.policies.append(_copy(policy, self.variants[len(self.policies)].policy(settings)))

    def engine(self, index: int, streams: Streams, seed: int) -> Engine:
        """The engine of one variant, calibrated and warm."""
        variant = self.variants[index]
        changes = {"prune.method": variant.method, "prune.ratio": variant.ratio}
        if variant.refresh != "none":
            changes["prune.refresh"] = variant.refresh
        prune = config.override(self.settings, **changes).prune
        policy = build.captured(self.policies[index], self.settings.policy)
        if build.device_of(self.settings.policy).type == "cuda":
            policy = Timed(policy)
        engine = Engine(policy, prune, streams, seed, ahead=build.goes_ahead(self.settings.policy))
        if variant.method != "dense" and self._energies:
            engine.calibrate(self._energies)
        if prune.pattern and variant.method != "dense":
            engine.adopt(pattern.load(prune.pattern))
        engine.warm_up()
        return engine


def weights_bytes(policy: Policy) -> int:
    """Memory of a policy's weights, each storage once."""
    storages: dict[int, int] = {}
    model = getattr(policy, "model", None)
    tensors: list[Tensor] = list(model.state_dict().values()) if isinstance(model, torch.nn.Module) else []
    for tensor in tensors or [w for s in policy.sites for w in (*s.producers, s.consumer)]:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _copy(policy: Any, settings: config.PolicyConfig) -> Any:
    """Another policy with the same weights, in channel order."""
    other = build.policy(settings, serving=True)
    other.model.load_state_dict(policy.model.state_dict())
    return other


def _check_memory(settings: config.Config, copies: int) -> None:
    """Refuse before anything is allocated what would not fit."""
    if settings.policy.model not in build.SHAPES:
        return
    shape = build.shape(settings.policy)
    weights = sum(p.numel() * p.element_size() for p in shape.model.parameters())
    free = _free_bytes(build.device_of(settings.policy))
    if copies * weights > 0.9 * free:
        raise ConfigError(
            f"{copies} variants of {settings.policy.model} need {copies * weights / 2**30:.1f} GiB and "
            f"{free / 2**30:.1f} GiB are free; valid: fewer methods and ratios, policy.dtype=bfloat16, or a smaller "
            "model"
        )


def _free_bytes(device: torch.device) -> int:
    """Memory that is free where the weights go."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
