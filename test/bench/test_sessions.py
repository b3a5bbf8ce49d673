"""`ecovla bench --sessions`: every way answers the same frames, and says what a change of turns moved."""

from __future__ import annotations

import pytest

from ecovla_ros import config
from ecovla_ros.bench.fidelity import recorded
from ecovla_ros.bench.fidelity.comparison import Recording
from ecovla_ros.bench.scenes import stream
from ecovla_ros.bench.speed import sessions
from ecovla_ros.errors import ConfigError

SETTINGS = config.override_texts(config.load(config.shipped("mini_sim.yaml")), ["policy.threads=1"])


def scripted(settings, environment, episodes, seed):
    from ecovla_ros import build

    spec = build.policy(settings.policy).spec
    return [Recording(n, list(stream(spec, 8, n))) for n in range(episodes * len(recorded.TASKS))]


def test_each_way_is_measured_on_the_same_frames(monkeypatch):
    monkeypatch.setattr(recorded, "recordings", scripted)
    rows = sessions.measure(SETTINGS, [1, 2], 8, 0, lambda rounds: None)
    assert [(r["way"], r["sessions"]) for r in rows] == [
        (way, n) for n in (1, 2) for way in ("dense", "fixed", "shared", "own")
    ]
    of = {(r["way"], r["sessions"]): r for r in rows}
    assert of["dense", 2]["rms_rad"] == 0.0 < of["shared", 2]["rms_rad"]
    assert of["shared", 1]["rms_rad"] == of["own", 1]["rms_rad"], "alone there is nothing to share"
    assert of["own", 2]["rows_moved"] > 0 == of["shared", 2]["rows_moved"]


@pytest.mark.parametrize("counts, changes", [([0], []), ([], []), ([2], ["prune.method=dense"])])
def test_what_cannot_be_measured_is_refused(counts, changes):
    with pytest.raises(ConfigError, match="valid"):
        sessions.measure(config.override_texts(SETTINGS, changes), counts, 8, 0, lambda rounds: None)
