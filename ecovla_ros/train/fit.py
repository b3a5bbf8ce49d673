"""Second stage: language model and action expert by flow matching, on the tokens of the trained tower."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.models.pi.flow import flow_loss
from ecovla_ros.models.pi.model import KV, PiModel
from ecovla_ros.train import parallel
from ecovla_ros.train.auxiliary import OBJECTS, PromptHead, in_tool_frame
from ecovla_ros.train.schedule import cosine

GOALS = {"apple": "basket", "banana": "basket", "bottle": "cabinet"}


def task_targets(places: Tensor, tool: Tensor, things: Tensor, goals: Tensor) -> Tensor:
    """(B, 9) in m: the thing to take in base and tool frame, the goal in base frame.

    `places` (B, 5, 3), `tool` (B, 12); `things`, `goals` (B,) are rows of `places`.
    """
    rows = torch.arange(len(places))
    taken = places[rows, things]
    return torch.cat((taken, in_tool_frame(taken[:, None], tool)[:, 0], places[rows, goals]), 1)


def embed(model: PiModel, tokens: Tensor, ids: Tensor) -> Tensor:
    """Cached tower output (B, cameras * N, vision_width) and prompt ids (B, T) to the prefix (B, S, lm_width)."""
    parts = dict(zip(model.config.cameras, tokens.unflatten(1, (-1, model.config.tokens)).unbind(1)))
    return torch.cat([*model.project(parts).values(), model.embed_prompt(ids)], 1)


def prefix(model: PiModel, tokens: Tensor, ids: Tensor, real: Tensor) -> tuple[list[KV], Tensor, Tensor]:
    """K/V per layer, the key mask (B, S) and the hidden states of the prompt (B, T, lm_width)."""
    mask = torch.cat((torch.ones(tokens.shape[:2], dtype=torch.bool, device=real.device), real), 1)
    kv, hidden = model.prefix(embed(model, tokens, ids), mask)
    return kv, mask, hidden[:, tokens.shape[1] :]


def train_policy(
    model: PiModel,
    tokens: Tensor,
    columns: dict[str, Tensor],
    prompts: tuple[Tensor, Tensor],
    seconds: float,
    batch: int,
    rate: float,
    draws: int,
    seed: int,
    report: Callable[[dict[str, Any]], None],
    keep: Callable[[PiModel], None],
) -> PiModel:
    """Train everything but `model.vision` for `seconds`; returns the moving average of the weights.

    `columns`: "state" (F, 8) and "actions" (F, H, 8) normalised, "task" (F,), "targets" (F, 9) in m. `prompts`: ids and
    real-token mask of each task, (tasks, T). `keep` is handed the average about every five minutes, to save it.
    """
    device = next(model.parameters()).device
    order, generator = torch.Generator().manual_seed(seed), torch.Generator(device).manual_seed(seed)
    head = PromptHead(model.config.lm_width).to(device)
    model.vision.requires_grad_(False)
    parameters = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.01, betas=(0.9, 0.95))
    average = deepcopy(model)
    start, step, saved = time.monotonic(), 0, 0.0
    mean: np.ndarray = np.zeros(2)
    rows = _batches(len(tokens), batch, order)
    while (spent := parallel.agree(time.monotonic() - start)) < seconds:
        for group in optimiser.param_groups:
            group["lr"] = rate * cosine(spent / seconds, step)
        losses = _losses(model, head, tokens, columns, prompts, next(rows), draws, generator)
        optimiser.zero_grad(set_to_none=True)
        (losses[0] + 0.3 * losses[1]).backward()
        parallel.average(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        step += 1
        _follow(average, model, min(0.999, step / (step + 10)))
        now = np.array([loss.item() for loss in losses])
        mean = now if step == 1 else 0.98 * mean + 0.02 * now
        if step % 100 == 0:
            report(
                {
                    "stage": "policy",
                    "step": step,
                    "seconds_left": seconds - spent,
                    "flow": mean[0],
                    "grounding": mean[1],
                    "samples_per_s": step * batch / spent,
                }
            )
        if spent - saved > 300:
            keep(average)
            saved = spent
    return average


def _losses(
    model: PiModel,
    head: PromptHead,
    tokens: Tensor,
    columns: dict[str, Tensor],
    prompts: tuple[Tensor, Tensor],
    rows: Tensor,
    draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    device = generator.device
    part = {name: values[rows].to(device) for name, values in columns.items()}
    task, state = part["task"].long(), part["state"]
    state = state + 0.02 * torch.randn(state.shape, generator=generator, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        kv, mask, hidden = prefix(model, tokens[rows].to(device), prompts[0][task], prompts[1][task])
        flow = flow_loss(model, kv, mask, state, part["actions"], generator, draws)
        grounding = head.loss(hidden, part["targets"])
    return flow, grounding


def _batches(frames: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Every frame once per epoch, in random order."""
    while True:
        order = torch.randperm(frames, generator=generator)
        yield from (order[i : i + batch] for i in range(0, frames - batch + 1, batch))


@torch.no_grad()
def _follow(average: PiModel, model: PiModel, decay: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters()):
        if fast.requires_grad:
            slow.lerp_(fast, 1.0 - decay)


def targets(columns: dict[str, np.ndarray], tasks: tuple[str, ...], places: tuple[str, ...]) -> Tensor:
    """`task_targets` of every frame, (F, 9); `tasks` names the rows of column "task"."""
    task = columns["task"].astype(int)
    assert set(places[:OBJECTS]) >= set(tasks)
    things = torch.tensor([places.index(t) for t in tasks])[task]
    goals = torch.tensor([places.index(GOALS[t]) for t in tasks])[task]
    return task_targets(torch.from_numpy(columns["places"]), torch.from_numpy(columns["tool"]), things, goals)
