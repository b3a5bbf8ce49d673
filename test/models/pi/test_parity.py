"""The lean pi0 agrees with transformers' PI0 on equal random weights and equal noise."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

from ecovla_ros.bench.fidelity import parity  # noqa: E402
from ecovla_ros.errors import CheckpointError  # noqa: E402
from ecovla_ros.models.pi import convert  # noqa: E402


@pytest.mark.parametrize("path", [parity.batched, parity.through_policy], ids=["batched", "policy"])
@pytest.mark.parametrize("case", parity.CASES, ids=[case.name for case in parity.CASES])
def test_actions_are_those_of_transformers(case, path):
    ours, theirs, noise = path(case, parity.CASES.index(case))
    assert ours.shape == theirs.shape == noise.shape
    assert (ours - theirs).abs().max() <= parity.TOLERANCE
    assert (theirs - noise).abs().max() > 0.1, "the velocity is too small for the agreement to mean anything"


def test_rank_major_holds_equally_many_heads_of_each_group_in_every_prefix():
    heads = torch.arange(6).repeat_interleave(2)[:, None].expand(-1, 3)  # 6 heads of 2 rows, 2 groups of 3 ranks
    order = convert.rank_major(heads, kv_heads=2, head_dim=2)[::2, 0].tolist()
    assert order == [0, 3, 1, 4, 2, 5]


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_foreign_weights_are_refused(change):
    reference, model = parity.pair(parity.CASES[0], 0)
    state = dict(reference.state_dict())
    name = "model.dit.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del state[name]
    elif change == "extra":
        state["model.dit.layers.9.mlp.up_proj.weight"] = state[name]
    else:
        state[name] = state[name][:-1]
    with pytest.raises(CheckpointError, match="up_proj|mlp.up"):
        convert.from_state(model.config, state)
