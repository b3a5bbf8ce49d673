"""First stage: the vision tower alone, until it knows where things are to about a centimetre."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.train.auxiliary import VisionHeads
from ecovla_ros.train.schedule import cosine


def jitter(images: Tensor, rng: torch.Generator) -> Tensor:
    """uint8 (B, H, W, 3) to the same: gain, offset and colour of each image vary by some per cent."""

    def spread(*shape: int) -> Tensor:
        return 2 * torch.rand((len(images), *shape), generator=rng, device=images.device) - 1

    gain, tint, offset = 1.0 + 0.15 * spread(1, 1, 1), 1.0 + 0.06 * spread(1, 1, 3), 14.0 * spread(1, 1, 1)
    return (images.float() * gain * tint + offset).clamp_(0, 255).to(torch.uint8)


def train_vision(
    model: PiModel,
    data: dict[str, np.ndarray],
    seconds: float,
    batch: int,
    rate: float,
    seed: int,
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Train `model.vision` in place for `seconds`. `data`: columns of train.dataset; `report` gets a row at times."""
    device = next(model.parameters()).device
    rng, generator = np.random.default_rng(seed), torch.Generator(device).manual_seed(seed)
    config, cameras = model.config, data["images"].shape[1]
    model.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run twice as fast (AVX512-BF16, oneDNN)
    heads = VisionHeads(config.vision_width, config.tokens, cameras).to(device)
    parameters = [*model.vision.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01)
    start, step = time.monotonic(), 0
    mean: np.ndarray = np.zeros(4)
    while (spent := time.monotonic() - start) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = rate * cosine(spent / seconds, step)
        rows = np.sort(rng.integers(0, len(data["task"]), batch))
        names = ("images", "classes", "places", "tool")
        part = {name: torch.from_numpy(data[name][rows]).to(device) for name in names}
        images = jitter(part["images"].flatten(0, 1), generator)
        with torch.autocast(device.type, torch.bfloat16):
            tokens = model.vision(images).unflatten(0, (batch, cameras))
            dense, places, error = heads.losses(tokens, part["classes"], part["places"], part["tool"])
        optimiser.zero_grad(set_to_none=True)
        (dense + places).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        now = np.array([dense.item(), places.item(), *error.tolist()])
        mean = now if step == 0 else 0.98 * mean + 0.02 * now
        step += 1
        if step % 100 == 0:
            report(
                {
                    "stage": "vision",
                    "step": step,
                    "seconds_left": seconds - spent,
                    "classes": mean[0],
                    "places": mean[1],
                    "third_person_m": mean[2],
                    "wrist_m": mean[3],
                    "samples_per_s": step * batch / spent,
                }
            )


@torch.no_grad()
def cache_tokens(
    model: PiModel, images: np.ndarray, seed: int, report: Callable[[dict[str, Any]], None], batch: int = 64
) -> Tensor:
    """Tower output of slightly varied images, (F, cameras * N, vision_width), bfloat16."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    frames, cameras = images.shape[:2]
    out = torch.empty((frames, cameras * model.config.tokens, model.config.vision_width), dtype=torch.bfloat16)
    for at in range(0, frames, batch):
        part = jitter(torch.from_numpy(images[at : at + batch]).flatten(0, 1).to(device), generator)
        with torch.autocast(device.type, torch.bfloat16):
            tokens = model.vision(part)
        out[at : at + batch] = tokens.cpu().view(-1, cameras * model.config.tokens, model.config.vision_width)
        if at % (batch * 50) == 0:
            report({"stage": "tokens", "frames": at, "of": frames})
    return out
