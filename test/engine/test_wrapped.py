"""A policy around a policy counts as whatever an engine may ask for."""

from __future__ import annotations

import inspect

import pytest
from support import all_models as models
from support.toy import Toy

from ecovla_ros.bench.speed.device import Timed
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.wrapped import WrappedPolicy
from ecovla_ros.models.base import BoundPolicy, LookingPolicy, Policy, TakesTurns

PROTOCOLS = (Policy, BoundPolicy, LookingPolicy, TakesTurns)
MEMBERS = {
    name
    for protocol in PROTOCOLS
    for name in (*vars(protocol), *getattr(protocol, "__annotations__", ()))
    if not name.startswith("_")
}


@pytest.mark.parametrize("kind", [WrappedPolicy, Graphed, Timed])
def test_every_member_of_every_protocol_is_the_class_s_own(kind):
    """As `isinstance` looks for them from Python 3.12 on: what `__getattr__` would find does not count."""
    assert len(MEMBERS) > 12 and {"encode_and", "lets_go", "leave", "spec"} <= MEMBERS
    assert not [name for name in MEMBERS if inspect.getattr_static(kind, name, None) is None]


def test_what_the_inner_policy_lacks_is_done_without():
    wrapped, seen = WrappedPolicy(Toy()), []
    obs = next(iter(wrapped.examples()))
    assert wrapped.encode_and(obs, seen.append).vision is seen[0]
    assert not wrapped.lets_go and wrapped.leave() is None
    wrapped.enter(None), wrapped.let_go(), wrapped.forget_chunk()


def test_what_it_has_is_asked():
    policy = models.policy("pi0")
    policy.follow_chunks(4, 0)
    wrapped = WrappedPolicy(WrappedPolicy(policy))
    assert wrapped.lets_go
    wrapped.enter("the last chunk")
    assert policy.follow.last == wrapped.leave() == "the last chunk"
    wrapped.forget_chunk()
    assert policy.follow.last is None
