"""Which rows of a pi0 model may be reordered."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ecovla_ros.models.base import Site
from ecovla_ros.models.core.layers import Block
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.prune.site import Hidden

HeadProbe = Callable[[str, int], Hidden]
"""(phase, layer) -> the probe of that layer's query heads, which needs the K/V of the last pass."""


def sites(model: PiModel, flow_steps: int, heads: HeadProbe | None = None) -> tuple[Site, ...]:
    """MLP channels and query heads of every LM block and expert block. K/V rows stay: the expert reads the LM's.

    The LM's last layer has none: only its K/V are computed. Expert sites run `flow_steps` times a frame; of their heads
    the last step alone can be probed, as every step overwrites the K/V of the one before.
    """
    found: list[Site] = []
    for name, phase, calls, blocks in (("lm", "prefill", 1, model.lm), ("expert", "act", flow_steps, model.expert)):
        for i, block in enumerate(blocks):
            probe = None if heads is None else heads(phase, i)
            found += _of_block(f"{name}.{i}", name, phase, calls, block, probe)
    return tuple(found)


def _of_block(key: str, name: str, phase: str, calls: int, block: Block, probe: Hidden | None) -> tuple[Site, ...]:
    attention, mlp = block.attention, block.mlp
    down, query, o = (w.detach() for w in (mlp.down, attention.query(), attention.o))
    unit, groups = attention.head_dim, attention.kv_heads

    def channels(inputs: Tensor, tokens: Tensor, first: int, last: int) -> Tensor:
        return mlp.hidden(inputs, first, last)

    return (
        Site(
            f"{key}.mlp",
            f"{name}.mlp",
            phase,
            len(down),
            1,
            mlp.producers(),
            down,
            32,
            calls,
            (),
            channels,
            calls,
            activation=mlp.activation,
        ),
        Site(
            f"{key}.heads",
            f"{name}.heads",
            phase,
            len(o) // unit,
            unit,
            (query,),
            o,
            groups,
            calls,
            (),
            probe,
            of_frame=True,
        ),
    )
