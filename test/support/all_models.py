"""A small model of every family, and what it takes to run them alike."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from ecovla_ros.models.data.prompt import Prompt, state_prompt
from ecovla_ros.models.pi.policy import PiPolicy
from support import pi_models, prismatic_models
from support.pi_models import noise as noise_of

PI = {
    "pi0": dataclasses.replace(pi_models.SIGLIP, layers=4, kv_heads=2, max_prompt=16),
    "pi05": dataclasses.replace(pi_models.SIGLIP, layers=4, variant="pi05", max_prompt=64, vocab=512),
}
FAMILIES = ("pi0", "pi05", "oft", "cogact")
PRISMATIC = ("oft", "cogact")


def policy(family, seed=0, **options):
    if family in PRISMATIC:
        return prismatic_models.policy(family, seed, config={"image_size": 56}, **options)  # 4 x 4 patches
    config = PI[family]
    told = family == "pi05"
    words = [state_prompt(text, range(-1, 256)) for text in pi_models.TEXTS] if told else list(pi_models.TEXTS)
    prompt = Prompt.build(words, config.max_prompt)
    model = pi_models.model(config, seed)
    return PiPolicy(model, pi_models.spec(config), pi_models.normaliser(config.horizon), prompt, **options)


def observation(of, seed=0, **changes):
    module = prismatic_models if hasattr(of.config, "towers") else pi_models
    return dataclasses.replace(module.observation(of.config, seed), **changes)


def noise(of, seed=0):
    return noise_of(of.config, seed)


def actions(of, obs, plan, start):
    return pi_models.actions(of, obs, plan, start)


def moved(obs, camera, patches, seed=0, side=4, **changes):
    """`obs` a moment later: other pixels in some of the `side` x `side` patches of one camera."""
    rng = np.random.default_rng(seed)
    image = obs.images[camera].copy()
    size = image.shape[0] // side
    for patch in patches:
        i, j = divmod(patch, side)
        image[i * size : (i + 1) * size, j * size : (j + 1) * size] = rng.integers(0, 256, (size, size, 3), np.uint8)
    return dataclasses.replace(obs, images={**obs.images, camera: image}, **changes)


def counted_macs(run):
    """Multiply-accumulates of a call, as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2
