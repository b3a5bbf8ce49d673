"""Last stage: tower, language model and expert together, on pictures that vary anew each time they are drawn.

The flow loss reaches the tower here, so that it learns what the labels of the vision stage leave out (which way the
banana lies); these labels stay on beside it, so that it keeps knowing where things are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.pi.flow import flow_loss
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.train import fit, parallel
from ecovla_ros.train.auxiliary import PromptHead, VisionHeads
from ecovla_ros.train.dataset import Dataset
from ecovla_ros.train.schedule import LONGEST_STEP_S, cosine
from ecovla_ros.train.vision import jitter

Report = Callable[[dict[str, Any]], None]
HEAD_STEPS = 150
"""Steps in which only the heads learn: they start at random, and would spoil a tower that is trained already."""
KEEP_S = 240.0
"""Training time between two saved states, s."""


@dataclass(frozen=True)
class TogetherSettings:
    """Settings of this stage."""

    seconds: float
    batch: int = 32
    """Frames a step and process."""
    rate: float = 3e-4
    draws: int = 2
    """Flow draws per prefix."""
    vision_weight: float = 0.5
    grounding_weight: float = 0.3
    decay: float = 0.998
    """Of the moving average of the weights."""
    seed: int = 0


class Learner(nn.Module):
    """The model and the heads that exist only in training; one forward pass gives all losses."""

    ids: Tensor
    real: Tensor

    def __init__(self, model: PiModel, prompts: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        config = model.config
        self.model = model
        model.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run twice as fast (AVX512-BF16, oneDNN)
        self.heads = VisionHeads(config.vision_width, config.tokens, len(config.cameras))
        self.prompt = PromptHead(config.lm_width)
        self.register_buffer("ids", prompts[0], persistent=False)
        self.register_buffer("real", prompts[1], persistent=False)

    def losses(self, batch: dict[str, Tensor], draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(flow, grounding, classes, places) as one tensor (4,), and the position errors (cameras,) in m.

        `batch`: "images" (B, cameras, S, S, 3), "classes", "places", "tool" as on disk; "state" (B, 8), "actions"
        (B, H, 8) normalised, "task" (B,), "targets" (B, 9) in m.
        """
        images, task = batch["images"], batch["task"].long()
        with torch.autocast(images.device.type, torch.bfloat16):
            tokens = self.model.vision(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            dense, places, error = self.heads.losses(tokens, batch["classes"], batch["places"], batch["tool"])
            kv, mask, hidden = fit.prefix(self.model, tokens.flatten(1, 2), self.ids[task], self.real[task])
            flow = flow_loss(self.model, kv, mask, batch["state"], batch["actions"], generator, draws)
            grounding = self.prompt.loss(hidden, batch["targets"])
        return torch.stack((flow, grounding, dense, places)), error


def train_together(
    model: PiModel,
    data: Dataset,
    columns: dict[str, Tensor],
    prompts: tuple[Tensor, Tensor],
    settings: TogetherSettings,
    state: Path,
    report: Report,
    keep: Callable[[PiModel], None],
    rank: int = 0,
    origin: str = "",
) -> PiModel:
    """Train all of `model` for `settings.seconds`; returns the moving average of its weights.

    `columns`: "state", "actions" normalised, "task", "targets" (see `fit.targets`). Where the file `state` exists, the
    run goes on from it; raises CheckpointError if that began from other weights than `origin`. `keep` is handed the
    average at times.
    """
    device = next(model.parameters()).device
    learner = Learner(model, prompts).to(device)
    parameters = list(learner.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=settings.rate, weight_decay=0.01, betas=(0.9, 0.95))
    average, step, spent = deepcopy(model), 0, 0.0
    if state.exists():
        step, spent = _restore(state, learner, average, optimiser, origin)
    picker = np.random.default_rng([settings.seed, rank, step])
    generator = torch.Generator(device).manual_seed(hash((settings.seed, rank, step)) % 2**31)
    share = balanced(columns["task"].numpy())
    labels = (settings.grounding_weight, settings.vision_weight, settings.vision_weight)
    weights = (1.0, *(labels if data.labelled else (0.0, 0.0, 0.0)))
    saved = spent
    mean: np.ndarray = np.zeros(6)
    while parallel.agree(spent) < settings.seconds:
        start = time.monotonic()
        model.requires_grad_(step >= HEAD_STEPS)
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * cosine(spent / settings.seconds, step)
        batch = _draw(data, columns, picker.choice(len(share), settings.batch, p=share), generator, device)
        losses, error = learner.losses(batch, settings.draws, generator)
        optimiser.zero_grad(set_to_none=True)
        (losses * losses.new_tensor(weights)).sum().backward()
        parallel.average(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        _follow(average, model, min(settings.decay, step / (step + 10)))
        now = np.array([*losses.tolist(), *error.tolist()[:2]])
        mean = now if not mean.any() else 0.98 * mean + 0.02 * now
        spent += min(time.monotonic() - start, LONGEST_STEP_S)
        if step % 50 == 0:
            report(_row(step, spent, settings, mean))
        if spent - saved > KEEP_S:
            saved = spent
            if rank == 0:
                _save(state, learner, average, optimiser, step, spent, origin)
            keep(average)
    if rank == 0:
        _save(state, learner, average, optimiser, step, spent, origin)
    return average


def balanced(task: np.ndarray) -> np.ndarray:
    """Chance of each frame (F,): every task is drawn equally often."""
    counts = np.bincount(task)
    share = 1.0 / counts[task]
    return share / share.sum()


def _draw(
    data: Dataset, columns: dict[str, Tensor], rows: np.ndarray, generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    pictures = ("images", "classes", "places", "tool")
    batch = {name: torch.from_numpy(data.rows(name, rows)).to(device) for name in pictures}
    batch |= {name: values[torch.from_numpy(rows)].to(device) for name, values in columns.items()}
    batch["images"] = jitter(batch["images"].flatten(0, 1), generator).view_as(batch["images"])
    noise = torch.randn(batch["state"].shape, generator=generator, device=device)
    batch["state"] = batch["state"] + 0.02 * noise
    return batch


def _row(step: int, spent: float, settings: TogetherSettings, mean: np.ndarray) -> dict[str, Any]:
    names = ("flow", "grounding", "classes", "places", "third_person_m", "wrist_m")
    left = settings.seconds - spent
    rate = step * settings.batch / max(spent, 1e-9)
    losses = dict(zip(names, mean.tolist()))
    return {"stage": "together", "step": step, "seconds": spent, "seconds_left": left, **losses, "samples_per_s": rate}


@torch.no_grad()
def _follow(average: PiModel, model: PiModel, decay: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters()):
        slow.lerp_(fast, 1.0 - decay)


def _save(
    path: Path,
    learner: Learner,
    average: PiModel,
    optimiser: torch.optim.Optimizer,
    step: int,
    spent: float,
    origin: str,
) -> None:
    partial = path.with_suffix(".partial")
    torch.save(
        {
            "learner": learner.state_dict(),
            "average": average.state_dict(),
            "optimiser": optimiser.state_dict(),
            "step": step,
            "spent": spent,
            "origin": origin,
        },
        partial,
    )
    partial.replace(path)


def _restore(
    path: Path, learner: Learner, average: PiModel, optimiser: torch.optim.Optimizer, origin: str
) -> tuple[int, float]:
    state = torch.load(path, weights_only=True, map_location=next(learner.parameters()).device)
    if state["origin"] != origin:
        raise CheckpointError(f"'{path}' is of a run that began from other weights; remove it, or use another --work")
    learner.load_state_dict(state["learner"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"]), float(state["spent"])
