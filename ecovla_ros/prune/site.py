"""What can be pruned, and how one pass runs. Weights in, no model names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torch import Tensor

Hidden = Callable[[Tensor, Tensor, int, int], Tensor]
"""(inputs (n, D), tokens (n,), first, last) -> X_int (n, (last - first) * unit) of the channels in slots first..last-1,
from inputs that a pass sampled at those tokens. It may read what the pass left behind (K/V), until the next pass."""


@dataclass(frozen=True)
class Site:
    """One group of coupled rows that may be reordered without changing the function (paper, Eq. 1-4).

    Every weight is channel-major: row block c (of `unit` rows) belongs to channel c, so that the layer restricted
    to its first k channels is the layer run on the views `w[: k * unit]`.
    """

    key: str
    """Unique name, e.g. "lm.3.mlp", "expert.0.heads"."""
    group: str
    """What the configuration selects: "lm.mlp", "lm.heads", "expert.mlp", "expert.heads"."""
    phase: str
    """When it runs: "prefill" or "act"."""
    channels: int
    """C: hidden channels of an MLP, or query heads."""
    unit: int
    """Rows per channel: 1 (MLP) or the head dimension."""
    producers: tuple[Tensor, ...]
    """Weights whose out-rows are the channels, each (C * unit, D): gate and up, or query."""
    consumer: Tensor
    """Transposed W_down or W_O, (C * unit, D)."""
    step: int = 32
    """Kept counts are a multiple of this: 32 for MLP channels, the number of KV groups for heads."""
    calls: int = 1
    """How often the site runs in one frame (flow steps for the expert)."""
    extra: tuple[Tensor, ...] = ()
    """Per-row vectors that travel with the rows, each (C * unit,): biases."""
    hidden: Hidden | None = None
    """Computes channels from sampled inputs, for a probe. None: the site cannot be probed."""
    samples: int = 1
    """How many of the `calls` leave sampled inputs: all of them, or the last alone where K/V are overwritten."""
    recorded: int = 0
    """How many of the `calls`, the last ones, record; 0: all."""
    activation: str = ""
    """Of a gated MLP, whose X_int is activation(x gate^T) * (x up^T) and nothing else: a probe of many such sites runs
    as one kernel. Empty: a probe asks `hidden`."""
    of_frame: bool = False
    """Whether `hidden` goes by the last pass, its length and padding too: a captured refresh would for ever go by the
    pass that it was captured behind."""

    def recording(self, steps: int) -> Site:
        """This site with the last `steps` of its calls alone recorded; 0: all."""
        if not 0 < steps < self.calls:
            return self
        return replace(self, recorded=steps, samples=min(self.samples, steps))

    @property
    def recorded_calls(self) -> int:
        """How many calls of one frame record."""
        return self.recorded or self.calls

    @property
    def groups(self) -> int:
        """KV groups among which kept heads are spread evenly; slot s belongs to group s mod groups. 1 for an MLP."""
        return self.step if self.unit > 1 else 1

    @property
    def rows(self) -> int:
        """R = C * unit."""
        return self.channels * self.unit


class Record(NamedTuple):
    """Where a pass leaves what a refresh wants to know of one site. A pass ADDS to all but `inputs`, in slot order."""

    energy: Tensor
    """Sum over the sequence of X_int^2 (Eq. 8), (R,) float32; the first k * unit entries are added to."""
    total: Tensor | None = None
    """Sum over the sequence of X_int, (R,) float32."""
    sampled: Tensor | None = None
    """Sum of X_int^2 over the sampled tokens alone, (R,) float32."""
    inputs: Tensor | None = None
    """Inputs of the layer at the sampled tokens, (samples, m, D), in the model's dtype."""
    tokens: Tensor | None = None
    """Which tokens of the pass are sampled, (m,) int64."""
    parts: Tensor | None = None
    """Where kernels add for stretches of tokens apart, so that these run side by side: (kinds, P, R) float32, of which
    part 0 is `energy`, `sampled` and `total`. What was recorded is the sum over the parts. None: there is one part."""
    calls: int = 0
    """How many calls of the frame, the last ones, record; 0: all."""
    gate: Tensor | None = None
    """Where a device finds whether what is recorded is wanted (`kernels.sums.Sums.gate`), and kernels then leave it:
    a frame is issued before its trigger is known. None: it is wanted."""

    def added(self) -> list[Tensor]:
        """Everything a pass adds to."""
        return [t for t in self[:3] if t is not None] if self.parts is None else [self.parts]


class SiteUse(NamedTuple):
    """How one call of one site runs."""

    kept: int | None = None
    """Leading channels that run; None: all."""
    record: Record | None = None
    sample: int | None = None
    """Row of `record.inputs` that this call fills; None: this call leaves no samples."""
    bias: Tensor | None = None
    """Added to the site's output, (D,): the mean of what the pruned channels would have given."""


@dataclass(frozen=True, eq=False)
class Plan:
    """How one pass runs: how many leading channels of each site, what is recorded, and what is added.

    Compared by identity: the plans of an engine are made once, and a captured graph belongs to one of them.
    """

    kept: Mapping[str, int] = field(default_factory=dict)
    """Site key -> kept channels k (a prefix). A site not named runs with all its channels."""
    record: Mapping[str, Record] | None = None
    """Site key -> where the pass leaves its statistics. None: nothing is recorded."""
    bias: Mapping[str, Tensor] = field(default_factory=dict)
    """Site key -> vector (D,) added to the output of the site."""
    ratio: float = 0.0
    """Share of the selected rows that this plan leaves out, as the exact counts have it."""

    @classmethod
    def recording(cls, energy: Mapping[str, Tensor], total: Mapping[str, Tensor] | None = None) -> Plan:
        """A dense pass that adds energies (and sums) of the named sites to buffers (R,)."""
        return cls(record={k: Record(e, None if total is None else total[k]) for k, e in energy.items()})

    def use(self, key: str, call: int = 0, calls: int = 1, samples: int = 1) -> SiteUse:
        """How call number `call` of `calls` runs. The last `samples` of the calls leave sampled inputs."""
        record = None if self.record is None else self.record.get(key)
        if record is not None and record.calls and call < calls - record.calls:
            record = None
        if record is not None and record.calls:
            samples = min(samples, record.calls)
        sample = call - (calls - samples) if record is not None and record.inputs is not None else -1
        return SiteUse(self.kept.get(key), record, sample if sample >= 0 else None, self.bias.get(key))


DENSE = Plan()
