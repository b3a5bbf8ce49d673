"""Error of the actions against dense: on scripted observations, and on what the dense policy saw in the simulator."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ecovla_ros import cli, config
from ecovla_ros.bench.fidelity import comparison as fidelity
from ecovla_ros.bench.fidelity import recorded
from ecovla_ros.types import ActionChunk


def test_fidelity_tells_a_scored_pattern_from_a_random_one(tmp_path):
    out = tmp_path / "f.json"
    command = ["bench", "--fidelity", "--frames", "60", "--ratios", "0,0.5", "--method", "ecovla,random"]
    assert cli.main([*command, "--json", str(out)]) == 0
    rows = {(r["method"], r["refresh"], r["ratio"], r["phase"]): r for r in json.loads(out.read_text())["rows"]}
    assert rows["dense", "none", 0.0, "all"]["rms_rad"] == 0.0
    for kind in ("probe", "dense"):
        assert rows["ecovla", kind, 0.0, "all"]["max_rad"] < 1e-5
        assert rows["ecovla", kind, 0.5, "all"]["rms_rad"] > 0.0
    assert rows["ecovla", "probe", 0.5, "calm"]["n"] + rows["ecovla", "probe", 0.5, "changing"]["n"] == 60


def test_fidelity_on_simulated_episodes_is_of_what_a_dense_policy_saw(tmp_path):
    out = tmp_path / "f.json"
    command = ["bench", "--fidelity", "--episodes", "1", "--environment", "shift", "--seed", "20003",
               "--ratios", "0,0.5", "--method", "static", "--set", "sim.episode_s=6.0", "--json", str(out)]  # fmt: skip
    assert cli.main(command) == 0
    rows = {(r["method"], r["ratio"], r["phase"]): r for r in json.loads(out.read_text())["rows"]}
    assert rows["dense", 0.0, "all"]["rms_rad"] == 0.0 == rows["dense", 0.0, "all"]["gripper_rms"]
    assert rows["static", 0.0, "all"]["max_rad"] < 1e-5
    every = rows["static", 0.5, "all"]
    assert every["rms_low_rad"] <= every["rms_rad"] <= every["rms_high_rad"] and every["recordings"] == 3
    phases = [r for (method, ratio, phase), r in rows.items() if (method, ratio) == ("static", 0.5) and phase != "all"]
    assert sum(r["n"] for r in phases) == every["n"] > 3 and {"open", "switch"} <= {r["phase"] for r in phases}


def test_recorded_frames_are_copies_and_those_of_the_episode():
    shipped = config.load(config.shipped("mini_sim.yaml"))
    settings = config.override(shipped, **{"sim.episode_s": 2.0, "policy.threads": 1})
    (first, *_), (again, *_) = (list(recorded.recordings(settings, "calm", 1, 20_003)) for _ in range(2))
    seen = [f.observation for f in first.frames]
    assert len(seen) == 5 and all(np.diff([o.stamp_ns for o in seen]) == 400_000_000)
    assert any((seen[0].images[c] != seen[-1].images[c]).any() for c in seen[0].images)
    assert not np.array_equal(seen[0].joints, seen[-1].joints)
    for one, other in zip(first.frames, again.frames):
        assert one.phase == other.phase and np.array_equal(one.observation.joints, other.observation.joints)


@pytest.mark.parametrize(("gripper", "expected"), [([0, 0.4], "open"), ([0.6, 1], "closed"), ([0.1, 0.9], "switch"),
                                                   ([0.9, 0.1], "switch")])  # fmt: skip
def test_the_phase_of_a_frame_is_what_the_gripper_is_told(gripper, expected):
    assert recorded.phase(ActionChunk(1, 0.1, np.zeros((2, 7)), np.array(gripper))) == expected


def test_an_interval_is_over_whole_recordings():
    low, high = fidelity.interval(np.array([1.0, 1.0, 9.0, 9.0]), np.array([0, 0, 1, 1]))
    assert (low, high) == (1.0, 3.0)
    assert fidelity.interval(np.ones(4), np.zeros(4, int)) == (None, None)


@pytest.mark.parametrize(("words", "why"), [
    (["--episodes", "2"], "goes with --fidelity"), (["--environment", "shift", "--fidelity"], "goes with --episodes"),
    (["--episodes", "2", "--fidelity", "--frames", "9"], "does not go with --frames"),
    (["--episodes", "2", "--fidelity", "--model", "pi0-mid"], "mini alone"),
    (["--episodes", "2", "--fidelity", "--environment", "latency"], "valid: calm, looks, shift"),
])  # fmt: skip
def test_options_of_simulated_fidelity_that_do_not_go_together_are_refused(words, why, capsys):
    assert cli.main(["bench", *words]) == 2
    assert why in capsys.readouterr().err
