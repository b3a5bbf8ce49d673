"""The checkpoint that ships: it drives the arm, it listens to the instruction, and pruning it is real."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from ecovla_ros import build, config
from ecovla_ros.bench.success import evaluation as success
from ecovla_ros.bench.success import trace
from ecovla_ros.bench.success import workers as spread
from ecovla_ros.bench.success.drive import Runner
from ecovla_ros.bench.success.environments import Delays
from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.config import PruneConfig, SimConfig
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import CheckpointError, ConfigError, ObservationError
from ecovla_ros.publish import trace_tables
from ecovla_ros.sim.env import KinovaEnv
from ecovla_ros.sim.tasks import TASKS

SETTINGS = config.override(config.load(config.shipped("mini_sim.yaml")), **{"policy.threads": 1})


SCENE = 4000
"""A scene the shipped checkpoint solves for both tasks of the test."""


@pytest.fixture(scope="module")
def frames():
    """Observations of a few scenes under each instruction."""
    env = KinovaEnv(SimConfig())
    seen = [env.reset(task, seed) for seed in range(900, 904) for task in TASKS]
    env.close()
    return seen


def chunks(method, frames, ratio=0.25, seed=0, sites=("lm.mlp", "lm.heads")):
    policy = build.policy(SETTINGS.policy)
    engine = Engine(policy, PruneConfig(method=method, ratio=ratio, sites=sites, seed=seed), Inline())
    engine.calibrate(policy.calibration)
    steps = [engine.step(obs) for obs in frames]
    return np.stack([s.chunk.joints for s in steps]), steps


def test_another_instruction_makes_it_take_another_object(frames):
    joints, _ = chunks("dense", frames)
    by_scene = joints.reshape(4, len(TASKS), *joints.shape[1:])
    apart = np.abs(by_scene[:, :, -1] - by_scene[:, :1, -1]).max(-1)[:, 1:]
    assert apart.min() > 0.05  # rad, at the end of the chunk, in every scene


def test_another_instruction_takes_another_object():
    """The same scene for both: what was asked for is in the basket at the end, the rest stays where it was."""
    runner = Runner(SETTINGS)
    world = runner._env.world
    for task in ("apple", "banana"):
        row = runner.run(Trial("dense", "none", 0.0, task, "calm", SCENE))
        assert row["success"], row["reason"]
        for name, (x, y, _) in world.placement.poses.items():
            if name in TASKS:
                moved = np.hypot(*(world.pose(name)[0][:2] - (x, y)))
                assert (moved > 0.1) == (name == task), (task, name, moved)


def test_a_random_mask_hurts_more_than_a_scored_one(frames):
    dense, _ = chunks("dense", frames)

    def error(method, seed=0):
        return np.abs(chunks(method, frames, 0.375, seed)[0] - dense).mean()

    random = [error("random", seed) for seed in range(8)]
    for method in ("static", "wanda", "ecovla"):
        scored = error(method)
        assert scored < 0.85 * np.mean(random) and sum(scored < r for r in random) >= 6, method


def test_ratio_zero_equals_dense(frames):
    dense, pruned = chunks("dense", frames)[0], chunks("ecovla", frames, 0.0)[0]
    assert np.abs(dense - pruned).max() < 1e-5


def test_an_episode_is_deterministic():
    trial = Trial("ecovla", "probe", 0.25, "apple", "shift", 31)
    short = config.override(SETTINGS, **{"sim.episode_s": 3.0})
    rows = [Runner(short).run(trial) for _ in range(2)]
    timed = ("policy_p50_ms", "policy_p95_ms")
    assert [{k: v for k, v in r.items() if k not in timed} for r in rows][0] == {
        k: v for k, v in rows[1].items() if k not in timed
    }
    assert rows[0]["frames"] == 8 and rows[0]["path_m"] > 0.01


def test_pictures_that_nobody_looks_at_change_nothing(monkeypatch):
    """Only frames the policy answers are drawn; an episode in which every period is drawn is the same, bit by bit."""
    trial, drawn = Trial("ecovla", "probe", 0.25, "banana", "shift", 31), []
    runner = Runner(config.override(SETTINGS, **{"sim.episode_s": 3.0}))
    render, follow = runner._env.renderer.render, runner._env.follow
    monkeypatch.setattr(runner._env.renderer, "render", lambda camera: (drawn.append(camera), render(camera))[1])
    seen = []
    few = runner.run(trial, lambda engine, saw, step, tick: seen.append(step.chunk.joints))
    assert len(drawn) == 2 * few["frames"]

    def follow_and_draw(trajectory, gripper, ticks, begin_ns=0):
        runner._env.observe()
        return follow(trajectory, gripper, ticks, begin_ns)

    monkeypatch.setattr(runner._env, "follow", follow_and_draw)
    again = []
    many = runner.run(trial, lambda engine, saw, step, tick: again.append(step.chunk.joints))
    assert len(drawn) > 20 * few["frames"] and np.array_equal(seen, again)
    assert {k: v for k, v in few.items() if "_ms" not in k} == {k: v for k, v in many.items() if "_ms" not in k}


def test_an_episode_ends_when_the_object_lies_on_the_floor():
    runner = Runner(SETTINGS)
    world = runner._env.world

    def drop(engine, saw, step, tick):
        if tick == 80:
            world.place("apple", -0.6, 0.9, z=-0.2)

    row = runner.run(Trial("dense", "none", 0.0, "apple", "calm", SCENE), drop)
    assert not row["success"] and "fell off" in row["reason"] and row["frames"] == 3


def test_a_ray_cluster_gives_the_same_rows():
    pytest.importorskip("ray")
    short = config.override(SETTINGS, **{"sim.episode_s": 1.0})
    todo = [Trial(m, r, p, "apple", "looks", SCENE) for m, r, p in (("dense", "none", 0.0), ("ecovla", "probe", 0.25))]
    rows = [success.run(short, todo, how, lambda row: None) for how in (spread.processes(1), spread.ray("local"))]
    timed = ("policy_p50_ms", "policy_p95_ms")
    here, there = ([{k: v for k, v in row.items() if k not in timed} for row in some] for some in rows)
    assert here == there


def test_injected_latency_delays_what_the_arm_is_told():
    short = config.override(SETTINGS, **{"sim.episode_s": 1.5})
    rows = {}
    for seconds in (0.0, 0.3):
        times = {("dense", "none", 0.0): {"all": seconds, "dense": seconds}}
        runner = Runner(short, Delays(times, "a test"))
        rows[seconds] = runner.run(Trial("dense", "none", 0.0, "banana", "latency", SCENE))
    calm = Runner(short).run(Trial("dense", "none", 0.0, "banana", "calm", SCENE))
    same = ("path_m", "jerk", "frames", "steps", "success")
    assert [rows[0.0][k] for k in same] == [calm[k] for k in same]
    assert rows[0.3]["path_m"] < calm["path_m"]  # it starts 0.3 s later, and is still on its first way
    with pytest.raises(ConfigError, match="needs measured times"):
        Runner(short).run(Trial("dense", "none", 0.0, "apple", "latency", SCENE))


def test_a_trace_shows_the_trigger_and_how_much_of_the_pattern_changes():
    short = config.override(SETTINGS, **{"sim.episode_s": 6.0})
    rows, outcome = trace.measure(short, Trial("ecovla", "probe", 0.25, "apple", "shift", SCENE))
    assert len(rows) == 15 and [kind for _, kind in outcome["events"]] == ["light_level", "distractor", "object_move"]
    assert rows[0]["similarity"] is None and any(r["triggered"] for r in rows)
    changed = [r for a, r in zip(rows, rows[1:]) if r["pattern_id"] != a["pattern_id"]]
    assert all(0.0 <= r["churn"] <= 1.0 for r in rows) and changed


def test_the_table_of_an_episode_is_about_the_frames_after_its_last_refresh():
    def frame(i, **more):
        seconds = 0.4 * i
        return {"seconds": seconds, "kind": "sparse", "similarity": 0.9, "threshold": 0.8, "gripper_first": 0.0,
                "gripper_last": 0.0, **more}  # fmt: skip

    def document(refreshed, **settings):
        rows = [frame(i, kind="refresh" if i in refreshed else "sparse") for i in range(6)]
        rows[4:] = [{**r, "similarity": 0.9999, "gripper_first": 1.0} for r in rows[4:]]
        return {
            "rows": rows,
            "settings": {"set": [], "seed": 7, "ratio": 0.5, **settings},
            "commit": "c",
            "machine": {"cpu": "x", "cores": 1},
            "versions": {},
            "outcome": {"success": False, "seconds": 20.0},
        }

    text = trace_tables.waiting(document([0, 3]), document([5], set=["prune.max_age=5"]))
    one, other = ([c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines()[2:4])
    assert one == ["as shipped", "not solved, 20.0 s", "1.2 s", "2", "0.9999", "0.8000", "1.00 / 0.00"]
    assert other[0] == "prune.max_age=5" and other[2:4] == ["2.0 s", "0"]
    assert "`python -m ecovla_ros.bench.success.trace --ratio 0.5 --seed 7`" in text


def test_the_command_under_an_episode_knows_the_defaults(monkeypatch):
    seen = {}
    monkeypatch.setattr(trace, "measure", lambda settings, trial: ([], seen.update(trial=trial)))
    assert trace.main([]) == 0
    defaults = trace_tables.TRACE_DEFAULTS
    assert vars(seen["trial"]) == {k: v for k, v in defaults.items() if k != "json"}


def test_pictures_of_another_renderer_are_refused(monkeypatch):
    policy = build.policy(SETTINGS.policy)
    policy.spec = dataclasses.replace(policy.spec, renderer="egl")
    monkeypatch.setattr(build, "policy", lambda _: policy)
    with pytest.raises(CheckpointError, match="trained on 'egl' images and this run draws with 'ray'"):
        Runner(SETTINGS)


def test_an_instruction_it_never_saw_is_named(frames):
    policy = build.policy(SETTINGS.policy)
    with pytest.raises(ObservationError, match="known: .*apple"):
        policy.encode(dataclasses.replace(frames[0], instruction="dance on the table"))
