"""Which rows of a `PiModel` may be reordered, and how a plan restricts a pass to the first of them."""

from __future__ import annotations

from ecovla_ros.models.base import Plan, Site
from ecovla_ros.models.pi.layers import Block, Use
from ecovla_ros.models.pi.model import PiModel


def sites(model: PiModel, flow_steps: int) -> tuple[Site, ...]:
    """MLP channels and query heads of every LM block and expert block. K/V rows stay: the expert reads the LM's.

    The LM's last layer has none: only its K/V are computed. Expert sites run `flow_steps` times a frame.
    """
    found: list[Site] = []
    for name, phase, calls, blocks in (("lm", "prefill", 1, model.lm), ("expert", "act", flow_steps, model.expert)):
        for i, block in enumerate(blocks):
            found += _of_block(f"{name}.{i}", name, phase, calls, block)
    return tuple(found)


def uses(name: str, count: int, plan: Plan) -> list[Use]:
    """What each of the `count` blocks of `name` ("lm" or "expert") runs under a plan."""
    kept, energy = plan.kept, plan.energy or {}
    keys = [(f"{name}.{i}.heads", f"{name}.{i}.mlp") for i in range(count)]
    return [Use(kept.get(h), kept.get(m), energy.get(h), energy.get(m)) for h, m in keys]


def _of_block(key: str, name: str, phase: str, calls: int, block: Block) -> tuple[Site, ...]:
    attention, mlp = block.attention, block.mlp
    gate, up, down, query, o = (w.detach() for w in (mlp.gate, mlp.up, mlp.down, attention.query(), attention.o))
    unit, groups = attention.head_dim, attention.kv_heads
    return (
        Site(f"{key}.mlp", f"{name}.mlp", phase, len(gate), 1, (gate, up), down, calls=calls),
        Site(f"{key}.heads", f"{name}.heads", phase, len(o) // unit, unit, (query,), o, step=groups, calls=calls),
    )
