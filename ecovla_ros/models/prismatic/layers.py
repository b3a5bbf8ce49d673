"""Transformer layers whose heads own their K and V, and an MLP without a gate, on the layers of the pi0 family.

A head that is left out takes its q, k and v rows and its o rows with it. What a left-out head would have attended to
is then not there either, so that its energy can be recorded by a dense pass only.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecovla_ros.kernels.gated import through
from ecovla_ros.kernels.product import linear
from ecovla_ros.kernels.rotary import place
from ecovla_ros.kernels.sums import Sums
from ecovla_ros.models.core.layers import ALL, Attention, Block, Extend, Mask, Mlp, RMSNorm, Rope, rotate, weight
from ecovla_ros.models.core.modulation import Modulation
from ecovla_ros.prune.site import SiteUse


class MultiHead(Attention):
    """Multi-head attention. `rotary`: positions are rotated in; else the tables of a call are not looked at."""

    def __init__(
        self,
        width: int,
        heads: int,
        head_dim: int,
        norm: nn.Module,
        depth: int,
        bias: bool = False,
        rotary: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        rows = heads * head_dim
        self.head_dim, self.norm, self.rotary = head_dim, norm, rotary
        self.q, self.k, self.v = (weight(rows, width, fan_in=width) for _ in range(3))
        self.o = weight(rows, width, fan_in=2 * depth * rows)
        self.biases = nn.Parameter(torch.zeros(3, rows)) if bias else None
        self.packed: Tensor | None = None
        """(3 rows, width): the rows of q, k and v, which are then views of it, in turn; None: not packed."""
        self.packed_biases: Tensor | None = None
        """(rows, 3): the biases likewise."""
        self.o_bias = nn.Parameter(torch.zeros(width)) if bias else None

    def pack(self) -> None:
        """Let rows of q, k and v take turns in one matrix, so that the first heads are one product."""
        every = torch.stack((self.q.data, self.k.data, self.v.data), 1)
        self.packed = every.flatten(0, 1)
        self.q.data, self.k.data, self.v.data = every.unbind(1)
        if self.biases is not None:
            self.packed_biases = self.biases.data.T.contiguous()
            self.biases.data = self.packed_biases.T

    def producers(self) -> tuple[Tensor, ...]:
        """What of the weights makes a head: rows of q, k and v, or all three side by side, (rows, 3 * width)."""
        if self.packed is not None:
            return (self.packed.view(len(self.o), -1),)
        return self.q.detach(), self.k.detach(), self.v.detach()

    def extras(self) -> tuple[Tensor, ...]:
        """What else travels with a head: its biases, all three side by side where the rows are."""
        if self.biases is None:
            return ()
        return tuple(self.biases.detach()) if self.packed_biases is None else (self.packed_biases,)

    def project(self, normed: Tensor, rows: int, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, width) to K, V (B, heads, L, head_dim) and Q (B, L, heads, head_dim) of the first `rows` rows."""
        q, k, v = (self.rows_of(normed, i, rows) for i in range(3))
        if self.rotary:
            q, k = rotate(q, rope), rotate(k, rope)
        return k.transpose(1, 2), v.transpose(1, 2), q

    def raw(self, normed: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Q, K and V (L, heads, head_dim) of the first `rows` rows, not rotated."""
        if self.packed is not None:
            if self.packed_biases is None:
                every = linear(normed, self.packed[: 3 * rows])
            else:
                every = F.linear(normed, self.packed[: 3 * rows], self.packed_biases[:rows].flatten())
            q, k, v = every.unflatten(-1, (-1, self.head_dim, 3)).unbind(-1)
        else:
            q, k, v = (self.rows_of(normed, i, rows) for i in range(3))
        return q, k, v

    def groups_of(self, rows: int) -> int:
        """Every head has K and V of its own."""
        return rows // self.head_dim

    def placed(self, normed: Tensor, rows: int, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Rotated queries (L, heads, head_dim) of the first `rows` rows; K and V go to `keys` and `values`."""
        return place(*self.raw(normed, rows), cos, sin, keys, values)

    def queries(self, normed: Tensor, rows: int, rope: Rope) -> Tensor:
        """Q (B, L, heads, head_dim) of the first `rows` query rows for normed inputs (B, L, width)."""
        q = self.rows_of(normed, 0, rows)
        return rotate(q, rope) if self.rotary else q

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
        out = super().forward(x, rope, extend, mask, use, valid, modulation)
        return out if self.o_bias is None else out + self.o_bias

    def read(self, x: Tensor, rope: Rope, extend: Extend, rows: slice, mask: Mask) -> Tensor:
        """(B, L, width) to (B, len(rows), width): what forward gives at `rows`, with K and V of all positions.

        `mask` is of these rows.
        """
        normed, all_rows = self.norm(x), len(self.o)
        k, v = rotate(self.rows_of(normed, 1, all_rows), rope), self.rows_of(normed, 2, all_rows)
        there = Rope(rope.cos[rows], rope.sin[rows])
        q = self.queries(normed[:, rows], all_rows, there)
        return self.heads(q, *extend(k.transpose(1, 2), v.transpose(1, 2)), mask) @ self.o

    def rows_of(self, normed: Tensor, which: int, rows: int) -> Tensor:
        """Q (`which` 0), K (1) or V (2) of normed inputs, first `rows` rows, not rotated: (B, L, heads, head_dim)."""
        bias = None if self.biases is None else self.biases[which, :rows]
        w = (self.q, self.k, self.v)[which][:rows]
        return F.linear(normed, w, bias).unflatten(-1, (-1, self.head_dim))


class LlamaBlock(Block):
    """One layer of Llama: RMS norms, rotary multi-head attention, an MLP gated by SiLU."""

    attention: MultiHead

    def __init__(self, width: int, mlp: int, heads: int, head_dim: int, eps: float, depth: int) -> None:
        nn.Module.__init__(self)
        self.attention = MultiHead(width, heads, head_dim, RMSNorm(width, eps, offset=0.0), depth)
        self.norm = RMSNorm(width, eps, offset=0.0)
        self.mlp = Mlp(width, mlp, depth, "silu")

    def read(self, x: Tensor, rope: Rope, extend: Extend, rows: slice, mask: Mask) -> Tensor:
        """(B, L, width) to (B, len(rows), width): the block's output at `rows` and nowhere else."""
        out = x[:, rows] + self.attention.read(x, rope, extend, rows, mask)
        return out + self.mlp(self.norm(out))


class PlainMlp(Mlp):
    """gelu(x gate^T + bias) down + down_bias: an MLP without a gated product. `gate` is what others call fc1."""

    down_bias: nn.Parameter

    def __init__(self, width: int, channels: int, depth: int) -> None:
        nn.Module.__init__(self)
        self.activation, self.packed = "", None
        self.gate, self.gate_bias = weight(channels, width, fan_in=width), nn.Parameter(torch.zeros(channels))
        self.down = weight(channels, width, fan_in=2 * depth * channels)
        self.down_bias = nn.Parameter(torch.zeros(width))

    def hidden(
        self, x: Tensor, first: int, last: int, energy: Tensor | None = None, valid: Tensor | None = None
    ) -> Tensor:
        """X_int (..., last - first) of x (..., width) in slots first..last-1."""
        out = F.gelu(F.linear(x, self.gate[first:last], self.gate_bias[first:last]), approximate="tanh")
        if energy is not None:
            squares = out.flatten(0, -2).float().square()
            energy += squares.sum(0) if valid is None else valid @ squares
        return out

    def pack(self) -> None:
        """There is one matrix as it is."""
        self.packed = self.gate.data

    def producers(self) -> tuple[Tensor, ...]:
        """`gate`."""
        return (self.gate.detach(),)

    def made(self, x: Tensor, first: int, last: int, sums: Sums | None = None) -> Tensor:
        """X_int (L, last - first) of x (L, width) by few kernels, where Triton runs."""
        return through(x, self.gate[first:last], self.gate_bias[first:last], "gelu_alone", sums)

    def forward(self, x: Tensor, use: SiteUse = ALL, valid: Tensor | None = None) -> Tensor:
        """(B, L, width) to the same shape through the kept channels."""
        return super().forward(x, use, valid) + self.down_bias


class PlainBlock(Block):
    """Pre-norm multi-head attention and plain MLP, norms without weights, biases: a block of CogACT's DiT."""

    def __init__(self, width: int, mlp: int, heads: int, depth: int) -> None:
        nn.Module.__init__(self)
        self.attention = MultiHead(width, heads, width // heads, bare_norm(width), depth, bias=True, rotary=False)
        self.norm = bare_norm(width)
        self.mlp = PlainMlp(width, mlp, depth)


UNTURNED = Rope(torch.ones(()), torch.zeros(()))
"""What a pass without rotary positions is called with."""


def bare_norm(width: int) -> nn.LayerNorm:
    """Layer norm without weights, epsilon 1e-6."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def own(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attend to this pass's K and V, and nothing before them."""
    return k, v
