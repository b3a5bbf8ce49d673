"""Transformer layers over channel-major weights, the same code for LM and expert, training and inference.

Every row block of a weight belongs to one hidden channel or query head, so that a layer restricted to its first k
channels is the layer run on the views `w[:k]` (a mask is a permutation; the sparse model is a prefix).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.kernels import float8
from ecovla_ros.kernels.attention import attention
from ecovla_ros.kernels.available import triton_runs_on
from ecovla_ros.kernels.gated import Small, hidden, reference
from ecovla_ros.kernels.rotary import project
from ecovla_ros.kernels.sums import Sums
from ecovla_ros.models.core import fused
from ecovla_ros.models.core.keys import Keys
from ecovla_ros.models.core.modulation import Modulation
from ecovla_ros.prune.energy import add_energy, add_samples
from ecovla_ros.prune.site import SiteUse

Extend = Callable[[Tensor, Tensor], "tuple[Tensor, Tensor]"]
"""Takes this pass's K and V (B, G, L, head_dim) and gives those to attend to: with the past before them."""


Mask = Tensor | Keys | None
"""Which keys may be seen: booleans (…, L or 1, keys), True where so; `Keys`, the same said as lengths; None: all."""


class Rope(NamedTuple):
    """Rotary tables of one pass, each (B or 1, L, 1, head_dim); `sin` carries the sign of the half rotation."""

    cos: Tensor
    sin: Tensor


class Use(NamedTuple):
    """How one call of a block runs (see prune/site.py)."""

    heads: SiteUse = SiteUse()
    mlp: SiteUse = SiteUse()
    valid: Tensor | None = None
    """(L,) float32, 1 for a token and 0 for padding; None: no padding."""
    modulation: tuple[Modulation, Modulation] | None = None
    """What the time makes of the attention's norm and branch, and of the MLP's (pi0.5); None: plain norms."""


FULL = Use()
ALL = SiteUse()


class LastNorm(NamedTuple):
    """The norm behind a stack of blocks, which the kernel that takes the last branch computes too."""

    norm: nn.Module
    modulation: Modulation | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """(…, width) to the same shape."""
        out: Tensor = self.norm(x) if self.modulation is None else self.norm(x, self.modulation)
        return out


def rope_tables(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and signed sin of positions 0..length-1, each (length, head_dim), float32 (RoFormer, half-split form)."""
    frequency = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.arange(length, dtype=torch.float32)[:, None] * frequency
    sin = angle.sin()
    return torch.cat((angle.cos(),) * 2, -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Rotary embedding of x (B, L, heads, head_dim): x * cos + (x with swapped halves) * signed sin."""
    swapped = torch.roll(x, x.shape[-1] // 2, -1)
    return torch.addcmul(x * rope.cos.to(x.dtype), swapped, rope.sin.to(x.dtype))


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
    """Softmax attention of q (B, G, Lq, head_dim) over k, v (B, G, L, head_dim) that `mask` lets them see.

    The fused kernel, but for bfloat16 on a CPU: there it takes twice the time of the plain products, and its backward
    pass five times (torch 2.13, AVX512-BF16).
    """
    if isinstance(mask, Keys):
        mask = mask.mask
    if not (q.dtype == torch.bfloat16 and q.device.type == "cpu"):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    left, right = q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2)
    scores = torch.baddbmm(q.new_zeros(1), left, right, beta=0, alpha=q.shape[-1] ** -0.5).unflatten(0, q.shape[:2])
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, -1, dtype=q.dtype) @ v


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + weight), in float32: offset 1 is Gemma's, 0 Llama's. Not `weighted`: without gain."""

    def __init__(self, width: int, eps: float, offset: float = 1.0, weighted: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 - offset)) if weighted else None
        self.eps, self.offset = eps, offset

    def forward(self, x: Tensor, modulation: Modulation | None = None) -> Tensor:
        """(…, width) to the same shape; under autocast in the dtype of the products that follow."""
        gain = None if self.weight is None else self.offset + self.weight.float()
        out = F.rms_norm(x.float(), x.shape[-1:], gain, self.eps)
        if modulation is not None:
            out = torch.addcmul(modulation.shift, out, modulation.gain)
        device = x.device.type
        return out.to(torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype)


class Mlp(nn.Module):
    """Gated MLP: (act(x gate^T) * (x up^T)) down, each weight (C, width) with `down` stored transposed."""

    def __init__(self, width: int, channels: int, depth: int, activation: str = "gelu") -> None:
        super().__init__()
        self.activation = activation
        self.gate = weight(channels, width, fan_in=width)
        self.up = weight(channels, width, fan_in=width)
        self.down = weight(channels, width, fan_in=2 * depth * channels)
        self.down_bias: nn.Parameter | None = None
        self.packed: Tensor | None = None
        """(2 C, width): the rows of `gate` and `up`, which are then views of it, in turn; None: not packed."""
        self.small: Small | None = None
        """The same in e4m3; None: not used."""

    def pack(self) -> None:
        """Let rows of gate and up take turns in one matrix, so that a prefix of the channels is one product.

        Once the weights lie where they will stay: the parameters become views.
        """
        both = torch.stack((self.gate.data, self.up.data), 1)
        self.packed = both.flatten(0, 1)
        self.gate.data, self.up.data = both[:, 0], both[:, 1]

    def to_float8(self) -> tuple[Tensor, Tensor]:
        """From now on let many tokens at once go through gate and up in e4m3, which must be packed.

        Gives what must travel with the channels then: rows (C, 2 * width) of bytes, and scales (C, 2).
        """
        assert self.packed is not None
        self.small = Small(*float8.by_rows(self.packed))
        channels = len(self.gate)
        return self.small.weights.view(torch.uint8).view(channels, -1), self.small.scales.view(channels, 2)

    def producers(self) -> tuple[Tensor, ...]:
        """Gate and up, a row of each for each channel."""
        return self.gate.detach(), self.up.detach()

    def hidden(
        self, x: Tensor, first: int, last: int, energy: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """X_int (..., last - first) of x (..., width) in slots first..last-1."""
        if self.packed is not None and not torch.is_grad_enabled() and triton_runs_on(x):
            sums = None if energy is None else Sums(energy, valid=valid)
            return self.made(x.reshape(-1, x.shape[-1]), first, last, sums).view(*x.shape[:-1], -1)
        return reference(x, self.gate[first:last], self.up[first:last], self.activation, energy, valid)

    def made(self, x: Tensor, first: int, last: int, sums: Sums | None = None) -> Tensor:
        """X_int (L, last - first) of x (L, width) by few kernels, where Triton runs and the weights are packed."""
        assert self.packed is not None
        small = None if self.small is None else self.small.rows(2 * first, 2 * last)
        return hidden(x, self.packed[2 * first : 2 * last], self.activation, sums, small)

    def forward(self, x: Tensor, use: SiteUse = ALL, valid: Tensor | None = None) -> Tensor:
        """(B, L, width) to the same shape through the kept channels; records only at B = 1."""
        kept = len(self.gate) if use.kept is None else use.kept
        energy = None if use.record is None else use.record.energy[:kept]
        hidden = self.hidden(x, 0, kept, energy, valid)
        if use.record is not None:
            add_samples(use, x[0], hidden[0], valid)
        return add_bias(hidden @ self.down[:kept], use.bias)


class KeyValue(nn.Module):
    """Norm, and the rows of `vkq` that give V and K: all there is of the LM's last layer."""

    def __init__(
        self, width: int, kv_heads: int, head_dim: int, eps: float, heads: int = 0, weighted: bool = True
    ) -> None:
        super().__init__()
        self.kv_heads, self.head_dim, self.kv_rows = kv_heads, head_dim, 2 * kv_heads * head_dim
        self.rotary = True
        self.o_bias: nn.Parameter | None = None
        self.norm: nn.Module = RMSNorm(width, eps, weighted=weighted)
        self.vkq = weight(self.kv_rows + heads * head_dim, width, fan_in=width)

    def keys_values(self, x: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """Post-rotary K and V of x (B, L, width), each (B, G, L, head_dim)."""
        k, v, _ = self.split(F.linear(self.norm(x), self.vkq[: self.kv_rows]), rope)
        return k, v

    def split(self, vkq: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, rows) to K, V (B, G, L, head_dim) and Q (B, L, heads, head_dim), K and Q rotated."""
        rows = vkq.unflatten(-1, (-1, self.head_dim))
        v, kq = rows[:, :, : self.kv_heads], rotate(rows[:, :, self.kv_heads :], rope)
        return kq[:, :, : self.kv_heads].transpose(1, 2), v.transpose(1, 2), kq[:, :, self.kv_heads :]


class Attention(KeyValue):
    """Grouped-query attention. Query heads lie rank-major (slot = rank * kv_heads + group), so that every prefix of a
    multiple of kv_heads slots holds equally many heads of each group, and folding heads into the query sequence is a
    view: no K/V is repeated and nothing is permuted."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_dim: int, eps: float, depth: int, weighted: bool = True
    ) -> None:
        super().__init__(width, kv_heads, head_dim, eps, heads, weighted)
        self.o = weight(heads * head_dim, width, fan_in=2 * depth * heads * head_dim)

    def query(self) -> Tensor:
        """View of the query rows (heads * head_dim, width)."""
        return self.vkq[self.kv_rows :]

    def forward(
        self,
        x: Tensor,
        rope: Rope,
        extend: Extend,
        mask: Mask,
        use: SiteUse = ALL,
        valid: Tensor | None = None,
        modulation: Modulation | None = None,
    ) -> Tensor:
        """(B, L, width) to the same shape."""
        rows = len(self.o) if use.kept is None else use.kept * self.head_dim
        normed = self.norm(x, modulation) if modulation is not None else self.norm(x)
        k, v, q = self.project(normed, rows, rope)
        hidden = self.heads(q, *extend(k, v), mask)
        if use.record is not None:
            add_energy(use, hidden[0], valid)
            add_samples(use, normed[0], hidden[0], valid)
        return add_bias(hidden @ self.o[:rows], use.bias)

    def project(self, normed: Tensor, rows: int, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """K and V of normed inputs (B, L, width), and Q of the first `rows` query rows, as `split` gives them."""
        return self.split(F.linear(normed, self.vkq[: self.kv_rows + rows]), rope)

    def pack(self) -> None:
        """V, K and Q are one matrix as they are."""

    def groups_of(self, rows: int) -> int:
        """Heads that have K and V of their own where `rows` query rows run."""
        return self.kv_heads

    def placed(self, normed: Tensor, rows: int, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Rotated queries (L, heads, head_dim) of the first `rows` query rows; K and V go to `keys` and `values`."""
        return project(normed, self.vkq[: self.kv_rows + rows], cos, sin, keys, values)

    def queries(self, normed: Tensor, rows: int, rope: Rope) -> Tensor:
        """Q (B, L, heads, head_dim) of the first `rows` query rows for normed inputs (B, L, width), rotated."""
        return rotate(F.linear(normed, self.query()[:rows]).unflatten(-1, (-1, self.head_dim)), rope)

    def heads(self, q: Tensor, k: Tensor, v: Tensor, mask: Mask) -> Tensor:
        """Concatenated heads (B, L, heads * head_dim) of q (B, L, heads, head_dim) over k, v (B, G, keys, head_dim)."""
        batch, length = q.shape[:2]
        if batch == 1 and not isinstance(mask, Tensor) and not torch.is_grad_enabled() and triton_runs_on(q):
            how = () if mask is None else (mask.gap, mask.causal, mask.positions, mask.segments)
            return attention(q[0], k[0], v[0], *how).reshape(1, length, -1)
        folded = q.reshape(batch, -1, k.shape[1], self.head_dim).transpose(1, 2)
        return attend(folded, k, v, mask).transpose(1, 2).reshape(batch, length, -1)

    def probe(self, x: Tensor, rope: Rope, k: Tensor, v: Tensor, mask: Mask, first: int, last: int) -> Tensor:
        """Outputs (n, (last - first) * head_dim) of the heads in slots first..last-1 for normed inputs x (n, width)."""
        query = self.query()[first * self.head_dim : last * self.head_dim]
        q = F.linear(x, query).unflatten(-1, (-1, self.head_dim))[None]
        return self.heads(rotate(q, rope), k, v, mask)[0]


class Block(nn.Module):
    """Pre-norm attention and MLP with residuals."""

    def __init__(
        self,
        width: int,
        mlp: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        eps: float,
        depth: int,
        modulated: bool = False,
    ) -> None:
        """`modulated`: the norms have no weights of their own, a modulation brings them with every call."""
        super().__init__()
        self.attention = Attention(width, heads, kv_heads, head_dim, eps, depth, not modulated)
        self.norm: nn.Module = RMSNorm(width, eps, weighted=not modulated)
        self.mlp = Mlp(width, mlp, depth)

    def forward(self, x: Tensor, rope: Rope, extend: Extend, mask: Mask = None, use: Use = FULL) -> Tensor:
        """(B, L, width) to the same shape."""
        if use.modulation is None:
            x = x + self.attention(x, rope, extend, mask, use.heads, use.valid)
            return x + self.mlp(self.norm(x), use.mlp, use.valid)
        first, second = use.modulation
        x = torch.addcmul(x, first.gate, self.attention(x, rope, extend, mask, use.heads, use.valid, first))
        return torch.addcmul(x, second.gate, self.mlp(self.norm(x, second), use.mlp, use.valid))


def run(
    blocks: Iterable[nn.Module],
    x: Tensor,
    rope: Rope,
    extends: Sequence[Extend],
    mask: Mask = None,
    uses: Sequence[Use] | None = None,
    last: LastNorm | None = None,
) -> Tensor:
    """x (B, L, width) through `blocks`, block i with `extends[i]` and `uses[i]`, and through `last` behind them."""
    blocks = list(blocks)
    uses = [FULL] * len(blocks) if uses is None else uses
    if fused.fits(blocks, x, mask):
        return fused.run(blocks, x, rope, extends, mask, uses, last)
    for i, block in enumerate(blocks):
        x = block(x, rope, extends[i], mask, uses[i])
    return x if last is None else last(x)


def pack(blocks: Iterable[nn.Module]) -> None:
    """Lay the weights of `blocks` out as few kernels want them, where Triton runs; elsewhere nothing changes."""
    for block in blocks:
        if isinstance(block, Block) and triton_runs_on(block.mlp.down):
            block.mlp.pack()
            block.attention.pack()


def add_bias(out: Tensor, bias: Tensor | None) -> Tensor:
    """`out` (B, L, width), plus a bias (width,) when there is one."""
    return out if bias is None else out + bias


def weight(rows: int, columns: int, fan_in: int) -> nn.Parameter:
    """A (rows, columns) weight, normal with variance 1 / fan_in."""
    return nn.Parameter(torch.randn(rows, columns) * fan_in**-0.5)


class Blocks(nn.ModuleList):
    """Layers of one kind, first to last."""

    if TYPE_CHECKING:

        def __iter__(self) -> Iterator[Block]: ...  # type: ignore[override]

        def __getitem__(self, index: int) -> Block: ...  # type: ignore[override]


def key_mask(mask: Tensor | None) -> Tensor | None:
    """(B, S) to (B, 1, 1, S) bool for scaled-dot-product attention."""
    return None if mask is None else mask.bool()[:, None, None]
