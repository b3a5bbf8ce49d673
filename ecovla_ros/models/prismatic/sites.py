"""Which rows of a model with heads of their own may be reordered: MLP channels, and whole heads with their K and V."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ecovla_ros.models.base import Site
from ecovla_ros.models.core.layers import Block
from ecovla_ros.models.prismatic.layers import MultiHead


def sites(name: str, phase: str, calls: int, blocks: Iterable[nn.Module]) -> tuple[Site, ...]:
    """MLP channels and heads of every block of `name` ("lm" or "expert"), which runs `calls` times a frame.

    Heads cannot be probed: K and V of a head that did not run are nowhere.
    """
    found: list[Site] = []
    for i, block in enumerate(blocks):
        assert isinstance(block, Block)
        found.append(_mlp(f"{name}.{i}.mlp", name, phase, calls, block))
        found.append(_heads(f"{name}.{i}.heads", name, phase, calls, block))
    return tuple(found)


def _mlp(key: str, name: str, phase: str, calls: int, block: Block) -> Site:
    mlp = block.mlp
    named = {n: w.detach() for n, w in mlp.named_parameters()}
    producers = mlp.producers()
    extra = tuple(named[n] for n in ("gate_bias",) if n in named)

    def hidden(inputs: Tensor, tokens: Tensor, first: int, last: int) -> Tensor:
        return mlp.hidden(inputs, first, last)

    return Site(
        key,
        f"{name}.mlp",
        phase,
        len(mlp.gate),
        1,
        producers,
        named["down"],
        calls=calls,
        extra=extra,
        hidden=hidden,
        samples=calls,
        activation=mlp.activation,
    )


def _heads(key: str, name: str, phase: str, calls: int, block: Block) -> Site:
    attention = block.attention
    assert isinstance(attention, MultiHead)
    o = attention.o.detach()
    unit = attention.head_dim
    return Site(
        key,
        f"{name}.heads",
        phase,
        len(o) // unit,
        unit,
        attention.producers(),
        o,
        step=1,
        calls=calls,
        extra=attention.extras(),
    )
