"""Heads that exist only in training: labels that are free in simulation teach the tower where things are.

A plain flow-matching loss does not localise in the time two cores have; dense classes and positions do. None of
these weights reaches the checkpoint.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.train.dataset import PLACES

CLASSES = 8
OBJECTS = 3
"""The first places (apple, banana, bottle) are things to take; the rest are where to put them."""
REACH_M = 0.5
"""Positions are predicted in units of this length, m."""
FINE_M = 0.004
"""Errors above this pull with full strength, m: a grasp needs millimetres."""


class VisionHeads(nn.Module):
    """What the tokens of one camera must tell: the class of every 4 px cell, and where objects are.

    The third-person camera is fixed: it tells places in the base frame. The wrist camera moves with the tool: it
    tells objects in the tool frame, where it sees them.
    """

    def __init__(self, width: int, tokens: int, cameras: int) -> None:
        super().__init__()
        self.classes = nn.Linear(width, 16 * CLASSES)
        self.places = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Flatten(1),
                nn.Linear(width * tokens, 128),
                nn.SiLU(),
                nn.Linear(128, 3 * len(PLACES)),
            )
            for _ in range(cameras)
        )

    def losses(self, tokens: Tensor, classes: Tensor, places: Tensor, tool: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class cross-entropy, position loss, and mean position error (cameras,) in m, of visible things.

        `tokens` (B, cameras, N, width); `classes` (B, cameras, S/4, S/4); `places` (B, 5, 3) in base; `tool` (B, 12).
        """
        logits = self.classes(tokens).unflatten(-1, (16, CLASSES)).float()
        dense = F.cross_entropy(logits.flatten(0, 3), cells(classes).flatten())
        loss, errors = tokens.new_zeros(()).float(), []
        for camera, head in enumerate(self.places):
            target = places if camera == 0 else in_tool_frame(places, tool)
            got = head(tokens[:, camera]).float().view_as(target)
            seen = visible(classes[:, camera])
            delta = F.smooth_l1_loss(got, target / REACH_M, reduction="none", beta=FINE_M / REACH_M).sum(-1)
            share = seen * nearness(places, tool)
            loss = loss + (delta * share).sum() / share.sum().clamp(min=1)
            distance = (got.detach() * REACH_M - target).norm(dim=-1)[:, :OBJECTS]
            errors.append((distance * seen[:, :OBJECTS]).sum() / seen[:, :OBJECTS].sum().clamp(min=1))
        return dense, loss, torch.stack(errors)


class PromptHead(nn.Module):
    """What the prompt's hidden states must tell: where the thing to take is, and where it goes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Linear(width, 128), nn.SiLU(), nn.Linear(128, 9))

    def loss(self, hidden: Tensor, target: Tensor) -> Tensor:
        """`hidden` (B, T, width) of the prompt; `target` (B, 9), m: object in base and tool frame, goal in base."""
        return F.smooth_l1_loss(self.read(hidden.mean(1)).float(), target / REACH_M, beta=0.05)


def nearness(places: Tensor, tool: Tensor) -> Tensor:
    """Weight (B, P) of places: 1 far from the tool, 3 at it, where a grasp is decided."""
    return 1.0 + 2.0 * torch.exp(-(places - tool[:, None, :3]).norm(dim=-1) / 0.08)


def in_tool_frame(places: Tensor, tool: Tensor) -> Tensor:
    """Base-frame points (B, P, 3) seen from the tool (B, 12): R^T (p - t)."""
    return torch.einsum("bji,bpj->bpi", tool[:, 3:].unflatten(1, (3, 3)), places - tool[:, None, :3])


def cells(classes: Tensor) -> Tensor:
    """(B, cameras, 4g, 4g) to the 16 cells of each of g * g tokens, (B, cameras, g * g, 16), int64."""
    g = classes.shape[-1] // 4
    return classes.long().unflatten(-1, (g, 4)).unflatten(-3, (g, 4)).transpose(-3, -2).flatten(-4, -3).flatten(-2)


def visible(classes: Tensor) -> Tensor:
    """Share 0 or 1 of each place (B, 5) that at least two cells of a camera's class map (B, g, g) show."""
    counts = torch.stack([(classes == c).flatten(1).sum(1) for c in range(1, 1 + len(PLACES))], 1)
    return (counts >= 2).float()
