"""What a pass notes of a site while it runs: channel energies (paper, Eq. 8), and what a probe needs.

The notes are by-products of the activations that the pass computes anyway. Nothing here waits for a device or
depends on data, so that a pass that records can be captured as a graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ecovla_ros.prune.site import SiteUse


def add_energy(use: SiteUse, hidden: Tensor, valid: Tensor | None = None) -> None:
    """Add sum over the sequence of X_int^2 (Eq. 8) to the record of `use`; does nothing when it has none.

    `hidden`: X_int (L, k * unit) of the kept channels. `valid` (L,) float32: 1 for a token, 0 for padding, which counts
    for nothing; None: no padding.
    """
    if use.record is not None:
        squares = hidden.float().square()
        use.record.energy[: hidden.shape[-1]] += squares.sum(0) if valid is None else valid @ squares


def add_samples(use: SiteUse, inputs: Tensor, hidden: Tensor, valid: Tensor | None = None) -> None:
    """Leave what a probe and a compensation need: sampled `inputs` (L, D) of the layer, and sums of `hidden`."""
    record = use.record
    if record is None:
        return
    rows = hidden.shape[-1]
    if record.total is not None:
        wide = hidden.float()
        record.total[:rows] += wide.sum(0) if valid is None else valid @ wide
    if use.sample is not None and record.inputs is not None and record.tokens is not None:
        torch.index_select(inputs, 0, record.tokens, out=record.inputs[use.sample])
        if record.sampled is not None:
            record.sampled[:rows] += hidden.index_select(0, record.tokens).float().square().sum(0)


def spread(count: int, length: int, offset: float, padding: range = range(0)) -> Tensor:
    """`count` token positions spread evenly over 0..length-1, shifted by `offset` in [0, 1): systematic sampling.

    Every token is as likely as any other when `offset` is uniform, and every stretch of length/count tokens (a camera,
    the prompt) is looked at once. count = length takes every token once. Those in `padding` are no tokens.
    Returns (count,) int64.
    """
    real = length - len(padding)
    steps = (torch.arange(count, dtype=torch.float64) + offset) * (real / count)
    ranks = steps.floor().long().clamp_(max=real - 1)
    return ranks + len(padding) * (ranks >= padding.start) if padding else ranks


def estimate(record: Tensor, sampled: Tensor, probed: Tensor, kept: int) -> Tensor:
    """Energies of all channels from a sparse pass and a probe, (L, R) in slot order.

    `record` (L, R): exact energies of the first `kept` rows. `sampled` (L, R): the same over the sampled tokens.
    `probed` (L, R - kept): energies of the other rows over the sampled tokens.

    This is a ratio estimator, layer by layer: the energy of a pruned row is its energy over the sampled tokens, times
    what all kept rows hold in the whole sequence, divided by what they hold in the sample. With every token sampled
    the two are equal and the estimate is exact.
    """
    whole, part = record[:, :kept].sum(1, keepdim=True), sampled[:, :kept].sum(1, keepdim=True)
    scale = torch.where(part > 0, whole / part.clamp_min(torch.finfo(part.dtype).tiny), torch.ones_like(part))
    return torch.cat((record[:, :kept], probed * scale), 1)
