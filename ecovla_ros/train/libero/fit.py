"""One multi-task policy by flow matching, with labels beside it that privileged state gives for nothing.

What the tower must tell: where each kind of thing is, from the fixed camera in the base frame, from the wrist in the
tool's. What the prompt's hidden states must tell: where the thing that the instruction names is, and where it goes. In
the time that a few cores have, the flow loss alone does not teach a tower to localise (`train.auxiliary`).

A run is counted in steps and not in minutes: stopped and gone on with, on whatever machine, it is the same run, as
long as as many processes have a batch of each step. It may be gone on with to another number of steps: from there the
learning rate follows the new length, and the checkpoint says from which step on each length held. It may be gone on
with where demonstrations of more tasks have come: words that are new start as in a new model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.data.statistics import OtherArmUnits
from ecovla_ros.models.pi.flow import flow_loss
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.train import fit, parallel
from ecovla_ros.train.auxiliary import FINE_M, REACH_M, PromptHead, in_tool_frame, nearness
from ecovla_ros.train.libero.data import LiberoData
from ecovla_ros.train.schedule import LONGEST_STEP_S, cosine

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class FitSettings:
    """One run's optimisation."""

    vision_steps: int = 1500
    """Steps in which the tower alone learns where things are: they cost a tenth of the others."""
    steps: int = 16_000
    """Steps of everything together, after these."""
    batch: int = 32
    """Frames of a step, in each process."""
    rate: float = 5e-4
    draws: int = 2
    """Flow draws per prefix."""
    places_weight: float = 0.5
    grounding_weight: float = 0.3
    decay: float = 0.999
    """Of the moving average of the weights."""
    seed: int = 0
    keep_s: float = 240.0
    """Seconds between two saved states."""


@dataclass
class TrainingProgress:
    """How far a run has come; changes while it goes on."""

    step: int = 0
    hours: float = 0.0
    lengths: dict[str, int] = field(default_factory=dict)
    """`FitSettings.steps` by the step from which on it held."""


Keep = Callable[[PiModel, TrainingProgress], None]


class PlaceHeads(nn.Module):
    """Reads where each kind of thing is off one camera's tokens; exists only in training."""

    def __init__(self, width: int, tokens: int, cameras: int, kinds: int) -> None:
        super().__init__()
        self.read = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Flatten(1), nn.Linear(width * tokens, 128), nn.SiLU(), nn.Linear(128, 3 * kinds)
            )
            for _ in range(cameras)
        )  # fmt: skip

    def loss(self, tokens: Tensor, places: Tensor, tool: Tensor) -> tuple[Tensor, Tensor]:
        """Position loss, and mean errors (cameras,) in m. `tokens` (B, cameras, N, width); `places` (B, K, 3), NaN for
        kinds that are not there; `tool` (B, 12). The wrist answers for what is within 0.25 m of the tool."""
        there = torch.isfinite(places).all(-1)
        known = torch.where(there[..., None], places, torch.zeros_like(places))
        near = (known - tool[:, None, :3]).norm(dim=-1)
        total, errors = tokens.new_zeros(()).float(), []
        for camera, head in enumerate(self.read):
            target = known if camera == 0 else in_tool_frame(known, tool)
            share = there.float() * (nearness(known, tool) if camera == 0 else (near < 0.25).float())
            got = head(tokens[:, camera]).float().view_as(target)
            delta = F.smooth_l1_loss(got, target / REACH_M, reduction="none", beta=FINE_M / REACH_M).sum(-1)
            total = total + (delta * share).sum() / share.sum().clamp(min=1.0)
            distance = (got.detach() * REACH_M - target).norm(dim=-1)
            errors.append((distance * share).sum() / share.sum().clamp(min=1.0))
        return total, torch.stack(errors)


class LiberoLearner(nn.Module):
    """The model and the heads that exist only in training."""

    ids: Tensor
    real: Tensor

    def __init__(self, model: PiModel, kinds: int, prompts: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.model = model
        model.vision.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as in train.together
        self.places = PlaceHeads(model.config.vision_width, model.config.tokens, len(model.config.cameras), kinds)
        self.prompt = PromptHead(model.config.lm_width)
        self.register_buffer("ids", prompts[0], persistent=False)
        self.register_buffer("real", prompts[1], persistent=False)

    def losses(
        self, batch: dict[str, Tensor], draws: int, generator: torch.Generator, flow: bool
    ) -> tuple[Tensor, Tensor]:
        """(flow, grounding, places) as one tensor (3,), and position errors (cameras,), m; without `flow` the last."""
        images, task = batch["images"], batch["task"]
        with torch.autocast(images.device.type, torch.bfloat16):
            tokens = self.model.vision(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            places, error = self.places.loss(tokens, batch["places"], batch["tool"])
            if not flow:
                return torch.stack((places.new_zeros(()), places.new_zeros(()), places)), error
            kv, mask, hidden = fit.prefix(self.model, tokens.flatten(1, 2), self.ids[task], self.real[task])
            loss = flow_loss(
                self.model, kv, mask, batch["state"], batch["actions"], generator, draws, weight=batch["weight"]
            )
            taken = in_tool_frame(batch["taken"][:, None], batch["tool"])[:, 0]
            grounding = self.prompt.loss(hidden, torch.cat((batch["taken"], taken, batch["goal"]), 1))
        return torch.stack((loss, grounding, places)), error


def train(
    model: PiModel,
    data: LiberoData,
    units: OtherArmUnits,
    prompts: tuple[Tensor, Tensor],
    words: Sequence[str],
    settings: FitSettings,
    state: Path,
    report: Report,
    keep: Keep,
    stop: Callable[[], bool],
    rank: int = 0,
) -> None:
    """Train until the steps are done or `stop`, which the first process is asked; see `finished`.

    On the model's device. `words`: the prompt's tokens, by id. Goes on from the file `state` where there is one; raises
    CheckpointError where that is of settings that differ in more than the number of steps, of data of other kinds, or
    knows words that are not there. `keep` is handed the average and the progress at times and at the end.
    """
    device = next(model.parameters()).device
    learner = LiberoLearner(model, len(data.kinds), prompts).to(device)
    parameters = list(learner.parameters())
    optimiser = torch.optim.AdamW(
        parameters, lr=settings.rate, weight_decay=0.01, betas=(0.9, 0.95), fused=device.type == "cuda"
    )
    average, done = deepcopy(model), TrainingProgress()
    asked = {k: v for k, v in asdict(settings).items() if k != "keep_s"}
    head = {"settings": asked, "kinds": list(data.kinds), "words": list(words)}
    if state.exists():
        done = _restore(state, learner, average, optimiser, head)
    if settings.steps not in list(done.lengths.values())[-1:]:
        done.lengths[str(done.step)] = settings.steps
    picker, generator = np.random.default_rng([settings.seed, rank, done.step]), torch.Generator(device)
    generator.manual_seed(hash((settings.seed, rank, done.step)) % 2**31)
    columns, total = data.columns_on(device, units), settings.vision_steps + settings.steps
    weights = torch.tensor((1.0, settings.grounding_weight, settings.places_weight), device=device)
    mean: Tensor | None = None
    saved = ticked = time.monotonic()
    while done.step < total and not parallel.agree(float(stop())):
        flow = done.step >= settings.vision_steps
        for group in optimiser.param_groups:
            group["lr"] = settings.rate * _rate(done.step, settings)
        batch = data.batch(columns, settings.batch, picker, generator)
        losses, error = learner.losses(batch, settings.draws, generator, flow)
        optimiser.zero_grad(set_to_none=True)
        (losses * weights).sum().backward()
        parallel.average(parameters)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        done.step += 1
        before, ticked = ticked, time.monotonic()
        done.hours += min(ticked - before, LONGEST_STEP_S) / 3600
        _follow(average, model, min(settings.decay, done.step / (done.step + 10)))
        now = torch.cat((losses.detach(), error))  # stays on the device: a step must not wait for the one before
        mean = now if mean is None else mean.lerp(now, 0.02)
        if done.step % 50 == 0 and rank == 0:
            names = ("flow", "grounding", "places", "third_person_m", "wrist_m")
            report({"step": done.step, "of": total, "hours": done.hours, **dict(zip(names, mean.tolist()))})
        if ticked - saved > settings.keep_s:
            saved = ticked
            _keep(rank, state, learner, average, optimiser, done, head, keep)
    _keep(rank, state, learner, average, optimiser, done, head, keep)


def finished(path: Path, settings: FitSettings) -> bool:
    """Whether all steps of the run with this state are done."""
    return int(torch.load(path, weights_only=True, mmap=True)["step"]) >= settings.vision_steps + settings.steps


def _rate(step: int, settings: FitSettings) -> float:
    """Each part has its own warm-up and cosine."""
    if step < settings.vision_steps:
        return cosine(step / settings.vision_steps, step)
    late = step - settings.vision_steps
    return cosine(late / settings.steps, late)


@torch.no_grad()
def _follow(average: PiModel, model: PiModel, decay: float) -> None:
    for slow, fast in zip(average.parameters(), model.parameters()):
        slow.lerp_(fast, 1.0 - decay)


def _keep(
    rank: int, path: Path, learner: LiberoLearner, average: PiModel, optimiser: torch.optim.Optimizer,
    done: TrainingProgress, head: dict[str, Any], keep: Keep,
) -> None:  # fmt: skip
    if rank:
        return
    partial = path.with_suffix(".partial")
    parts = {"learner": learner.state_dict(), "average": average.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save({**parts, **asdict(done), "head": head}, partial)
    partial.replace(path)
    keep(average, done)


def _restore(
    path: Path, learner: LiberoLearner, average: PiModel, optimiser: torch.optim.Optimizer, head: dict[str, Any]
) -> TrainingProgress:
    try:
        state = torch.load(path, weights_only=True, map_location=next(learner.parameters()).device)
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is not a state of a training run; remove it to start anew") from error
    settings = state["head"]["settings"]
    differ = [k for k in head["settings"] if k != "steps" and settings.get(k) != head["settings"][k]]
    differ += ["kinds of things"] if state["head"]["kinds"] != head["kinds"] else []
    words = state["head"].get("words", ())
    differ += [] if words and set(words) <= set(head["words"]) else ["set of words"]
    if differ:
        raise CheckpointError(
            f"'{path}' is of a run with another {', '.join(differ)}; remove it, or use another --work"
        )
    if words != head["words"]:
        _grow(state, learner, words, head["words"])
    learner.load_state_dict(state["learner"])
    average.load_state_dict(state["average"])
    optimiser.load_state_dict(state["optimiser"])
    return TrainingProgress(int(state["step"]), float(state["hours"]), state.get("lengths") or {"0": settings["steps"]})


def _grow(state: dict[str, Any], learner: LiberoLearner, before: Sequence[str], now: Sequence[str]) -> None:
    """Bring a state's embedding of words to the ids that they have now; a new word's is the model's own."""
    rows = [now.index(word) for word in before]
    embedding = learner.model.embedding
    fresh = embedding.detach().clone()
    number = next(i for i, parameter in enumerate(learner.parameters()) if parameter is embedding)
    moments = state["optimiser"]["state"].get(number)  # none before the first step in which words count
    for parts, name, start in (
        (state["learner"], "model.embedding", fresh),
        (state["average"], "embedding", fresh),
        *((moments, name, torch.zeros_like(fresh)) for name in ("exp_avg", "exp_avg_sq") if moments),
    ):
        parts[name] = start.index_copy(0, torch.tensor(rows, device=start.device), parts[name])
