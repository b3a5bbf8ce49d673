"""Real-time chunking: a chunk begins where the last one leads, unless arm, task or time have gone elsewhere."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support import pi_models as small

from ecovla_ros import build
from ecovla_ros.config import ControlConfig, PolicyConfig
from ecovla_ros.engine.graphs import Graphed
from ecovla_ros.engine.recorder import EagerRecorder
from ecovla_ros.errors import ConfigError
from ecovla_ros.models.base import DENSE
from ecovla_ros.models.pi.chunking import ASTRAY_RAD, NEAR_RAD, RealTimeChunking, reached, strength
from ecovla_ros.types import ActionChunk

CONFIG = dataclasses.replace(small.SMALL, flow_steps=10)
PERIOD_NS = 100_000_000


def policy(overlap=4, delay=2):
    made = small.policy(CONFIG)
    if overlap:
        made.follow_chunks(overlap, delay)
    return made


def answer(of, obs, seed=0):
    seen = of.encode(obs)
    return of.to_chunk(seen, of.act(seen, of.prefill(seen, DENSE), DENSE, small.noise(CONFIG, seed)))


def later(obs, chunk, steps=1, seed=5):
    """Another picture, `steps` periods later, with the arm where the chunk leads by then."""
    there = small.observation(CONFIG, seed)
    joints = chunk.joints[steps - 1] if steps else obs.joints
    return dataclasses.replace(there, stamp_ns=obs.stamp_ns + steps * PERIOD_NS, joints=joints)


def gaps(first, second, steps):
    """Distance of the new chunk from what is left of the old one, rad, by action."""
    left = first.joints[steps:]
    difference = second.joints[: len(left)] - left
    return np.abs((difference + np.pi) % (2 * np.pi) - np.pi).max(1)


def test_the_first_chunk_is_the_one_without():
    obs = small.observation(CONFIG)
    assert np.array_equal(answer(policy(), obs).joints, answer(policy(0), obs).joints)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_next_chunk_begins_where_the_last_one_leads(steps):
    drawn, free, obs = policy(overlap=3, delay=2), policy(0), small.observation(CONFIG)
    first = answer(drawn, obs)
    after = later(obs, first, steps)
    here, there = answer(drawn, after, seed=1), answer(free, after, seed=1)
    assert (gaps(first, here, steps)[:2] < 0.35 * gaps(first, there, steps)[:2]).all()
    assert np.abs(here.joints[3:] - there.joints[3:]).max() > 0.0 or steps == 3, "the rest follows on its own"


def literal(velocity, x, target, weights, steps):
    """Euler with the pull, action by action and number by number; formulas of arXiv 2506.07339 with tau = 1 - t."""
    for step in range(steps):
        t = 1.0 - step / steps
        tau = 1.0 - t
        v = velocity(x, t)
        strength_ = 10.0 if tau == 0.0 else min(10.0, (1 - tau) / tau * ((1 - tau) ** 2 + tau**2) / (1 - tau) ** 2)
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                predicted = x[i, j] - t * v[i, j]
                v[i, j] = v[i, j] - strength_ * weights[i] * (target[i, j] - predicted)
        x = x - v / steps
    return x


def test_the_pull_is_the_formula():
    g = torch.Generator().manual_seed(0)
    target, x, a = (torch.randn(6, 8, generator=g) for _ in range(3))
    follow = RealTimeChunking(small.normaliser(), 0.1, (6, 8), overlap=5, delay=2, device=torch.device("cpu"))
    follow.target.copy_(target)
    weights = [1.0, 1.0, 3 / 4, 2 / 4, 1 / 4, 0.0]  # lerobot's linear schedule
    follow.weight.copy_(torch.tensor(weights)[:, None].expand(6, 8))

    def velocity(now, t):
        return torch.tanh(now) - a * t

    expected = literal(velocity, x, target, weights, 10)
    for step in range(10):
        t = 1.0 - step / 10
        x = x - follow.pull(x, velocity(x, t), t) / 10
    assert (x - expected).abs().max() < 1e-5


def test_the_ramp_is_lerobots_linear_one():
    follow = RealTimeChunking(small.normaliser(), 0.1, (6, 8), overlap=5, delay=2, device=torch.device("cpu"))
    assert np.allclose(follow._ramp, [1.0, 1.0, 3 / 4, 2 / 4, 1 / 4, 0.0])
    assert [strength(1.0), strength(0.0)] == [10.0, 0.0] and strength(0.5) == pytest.approx(2.0)


def test_the_last_chunk_is_put_on_the_instants_and_the_joints_of_now():
    of, obs = policy(overlap=6, delay=0), small.observation(CONFIG)
    first = answer(of, obs)
    after = later(obs, first, 2)
    of.follow.look(after)
    expected = of.normaliser.actions(first.joints[2:], first.gripper[2:], after.joints)
    assert np.allclose(of.follow.target[:4].numpy(), expected, atol=1e-5)
    assert (of.follow.weight[4:] == 0.0).all() and (of.follow.weight[:4] > 0.0).all()


def path(rows=6):
    """Targets 0.1 rad apart in the second joint, (rows, 7)."""
    return 0.1 * np.arange(1, rows + 1)[:, None] * np.eye(7)[1]


@pytest.mark.parametrize("at", [0, 1, 3, 5])
def test_what_is_left_begins_where_the_arm_is_not_where_time_says(at):
    assert reached(path(), path()[at] - 0.03 * np.eye(7)[1]) == at + 1
    turned = path()[at] + 2 * np.pi * np.eye(7)[1]
    assert reached(path(), turned) == at + 1


def test_where_the_arm_stands_time_goes_on():
    """A gripper that opens at the end of a chunk whose joints stand opens: the rows before it are over."""
    standing = np.repeat(path(1), 4, 0) + np.random.default_rng(0).uniform(-0.005, 0.005, (4, 7))
    assert reached(standing, path(1)[0]) == 4
    assert reached(np.concatenate((standing, path(9)[7:])), path(1)[0]) == 4


def test_an_arm_that_is_slowed_is_not_drawn_ahead_of_itself():
    """Played at half its pace: the chunk for now begins at the row after the arm, and never after what is due."""
    of, obs = policy(overlap=6, delay=0), small.observation(CONFIG)
    chunk = dataclasses.replace(answer(of, obs), joints=obs.joints + path(), gripper=np.linspace(0, 1, 6))
    ahead = chunk.joints[1] + 0.09 * np.eye(7)[1]
    cases = ((4, chunk.joints[1], 2), (4, chunk.joints[3], 4), (2, ahead, 2), (0.4, obs.joints, 0))
    for behind, joints, first in cases:
        of.follow.keep(chunk, obs)
        now = dataclasses.replace(obs, stamp_ns=obs.stamp_ns + round(behind * PERIOD_NS), joints=joints)
        of.follow.look(now)
        expected = of.normaliser.actions(chunk.joints[first:], chunk.gripper[first:], now.joints)
        assert np.allclose(of.follow.target[: 6 - first].numpy(), expected, atol=1e-5)
        assert (of.follow.weight[: 6 - first] > 0.0).all() and (of.follow.weight[6 - first :] == 0.0).all()


@pytest.mark.parametrize("speed", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("pace", [0.0, 0.5, 1.0])
def test_a_chunk_never_runs_away_from_an_arm_that_a_guard_holds_or_slows(speed, pace):
    """A plan goes on at `speed`, rad/s, for ever, and each chunk is drawn to the one before and nowhere else. The arm
    stands, or moves at half the pace, or at all of it: what is left of the plan begins two rows ahead of it at most, so
    that the guard, which refuses what lies too far from the arm, takes it.
    """
    made, step = small.normaliser(), speed * 0.1 * np.eye(7)[1]
    follow = RealTimeChunking(made, 0.1, (6, 8), overlap=6, delay=6, device=torch.device("cpu"))
    obs = dataclasses.replace(small.observation(CONFIG), joints=np.zeros(7))
    row, drawn = obs.joints + step, 0
    for _ in range(40):
        follow.keep(ActionChunk(obs.stamp_ns, 0.1, row + step * np.arange(6)[:, None], np.zeros(6)), obs)
        obs = dataclasses.replace(obs, stamp_ns=obs.stamp_ns + PERIOD_NS, joints=obs.joints + pace * step)
        follow.look(obs)
        drawn += bool(follow.weight.any())
        row = made.targets(follow.target[:1].numpy(), obs.joints)[0][0] if follow.weight.any() else obs.joints + step
        assert np.abs(row - obs.joints).max() <= 2.0 * speed * 0.1 + NEAR_RAD + 1e-5
    assert drawn == 40, "it follows its plan, be it slowly"


def test_what_is_astray_for_a_chunk_is_well_within_what_the_guard_takes():
    assert ControlConfig().max_jump_rad / 2.0 >= ASTRAY_RAD


ELSEWHERE = {
    "too late": lambda o: dataclasses.replace(o, stamp_ns=o.stamp_ns + 6 * PERIOD_NS),
    "back in time": lambda o: dataclasses.replace(o, stamp_ns=0),
    "another task": lambda o: dataclasses.replace(o, instruction=small.TEXTS[1]),
    "pushed away": lambda o: dataclasses.replace(o, joints=o.joints + np.eye(7)[2] * 0.3),
}


@pytest.mark.parametrize("why", ELSEWHERE)
def test_an_arm_that_does_not_follow_is_not_drawn(why):
    drawn, free, obs = policy(), policy(0), small.observation(CONFIG)
    obs = later(obs, answer(drawn, obs), 1)  # drawn once already
    after = ELSEWHERE[why](later(obs, answer(drawn, obs), 1))
    assert np.array_equal(answer(drawn, after).joints, answer(free, after).joints)


def test_a_full_turn_is_no_distance():
    drawn, free, obs = policy(), policy(0), small.observation(CONFIG)
    after = later(obs, answer(drawn, obs), 1)
    turned = dataclasses.replace(after, joints=after.joints + 2 * np.pi * np.eye(7)[0])  # joint_1 turns without end
    assert not np.array_equal(answer(drawn, turned).joints, answer(free, turned).joints)


def test_captured_and_plain_passes_follow_alike():
    plain, inner, obs = policy(), policy(), small.observation(CONFIG)
    graphed = Graphed(inner, EagerRecorder())
    graphed.warm_up()
    assert inner.follow.last is None, "a grey picture is no frame"
    for steps in (1, 1, 2):
        one, two = answer(plain, obs), answer(graphed, obs)
        assert np.allclose(one.joints, two.joints, atol=1e-6)
        obs = later(obs, one, steps)


@pytest.mark.parametrize("overlap, delay", [(7, 0), (3, 4), (2, 3)])
def test_an_overlap_that_is_none_is_refused(overlap, delay):
    with pytest.raises(ConfigError, match="valid: delay <= overlap <= 6"):
        policy(overlap, delay)


def test_the_configuration_reaches_the_policy_and_is_refused_where_it_cannot():
    assert build.policy(PolicyConfig(rtc=8, rtc_delay=2)).follow is not None
    with pytest.raises(ConfigError, match="policy.rtc does not go with 'cogact-reduced'"):
        build.policy(PolicyConfig(model="cogact-reduced", rtc=4))
