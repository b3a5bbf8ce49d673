"""Replay: a bag is the same as the frames it holds; damage and foreign content are named."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pi_models import SMALL, TEXTS, model, normaliser, spec
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from ecovla_ros import build, config
from ecovla_ros.bags import read, replay
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import BagError
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.models.pi.prompt import Prompt
from ecovla_ros.types import CAMERAS, GRIPPER_JOINT, JOINTS, Observation

STORE = get_typestore(Stores.ROS2_KILTED)
T = STORE.types
PERIOD_NS = 100_000_000


def header(ns):
    return T["std_msgs/msg/Header"](T["builtin_interfaces/msg/Time"](ns // 10**9, ns % 10**9), "")


def scenes(frames):
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (2, 32, 32, 3))
    for i in range(frames):
        if i == frames // 2:
            base = rng.integers(0, 256, (2, 32, 32, 3))
        yield 10**9 + i * PERIOD_NS, np.clip(base + rng.integers(-3, 4, base.shape), 0, 255).astype(np.uint8), rng.normal(size=7)


def write(path, frames=12, storage=StoragePlugin.MCAP, instruction=TEXTS[0], jump=None):
    with Writer(path, version=9, storage_plugin=storage) as bag:
        kinds = {"/third_person/image": "sensor_msgs/msg/Image", "/wrist/image": "sensor_msgs/msg/Image",
                 "/joint_states": "sensor_msgs/msg/JointState", "/instruction": "std_msgs/msg/String"}
        to = {t: bag.add_connection(t, k, typestore=STORE) for t, k in kinds.items()}

        def put(topic, message, ns):
            bag.write(to[topic], ns, STORE.serialize_cdr(message, kinds[topic]))

        put("/instruction", T["std_msgs/msg/String"](instruction), 10**9)
        for i, (ns, images, joints) in enumerate(scenes(frames)):
            stamp = ns if jump is None or i < jump else ns - 10 * PERIOD_NS
            state = T["sensor_msgs/msg/JointState"](
                header(stamp), [*JOINTS, GRIPPER_JOINT], np.append(joints, 0.2), np.zeros(8), np.zeros(0))
            put("/joint_states", state, ns)
            for camera, image in zip(CAMERAS, images):
                put(f"/{camera}/image", T["sensor_msgs/msg/Image"](
                    header(stamp), 32, 32, "rgb8", 0, 96, image.ravel()), ns)
    return path


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    prompt = Prompt.build(TEXTS, SMALL.max_prompt)
    checkpoint.save(folder, model(), normaliser(), prompt, spec(), {})
    return config.override(config.Config(), **{
        "policy.checkpoint": str(folder), "prune.ratio": 0.5, "prune.sites": ["lm.mlp", "lm.heads"]})


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_a_bag_gives_the_chunks_of_the_frames_it_holds(settings, tmp_path, storage):
    rows = replay.run(settings, write(tmp_path / "bag", storage=storage), replay.INPUTS)
    engine = build.engine(settings, Inline())
    for row, (ns, images, joints) in zip(rows, scenes(12)):
        obs = Observation(ns, dict(zip(CAMERAS, images)), joints, 0.25, TEXTS[0])
        step = engine.step(obs)
        assert row["joints"] == step.chunk.joints.tolist() and row["kind"] == step.report.kind
    assert len(rows) == 12 and {"sparse", "refresh"} == {r["kind"] for r in rows}


def test_replay_twice_is_the_same_and_golden_notices_a_change(settings, tmp_path, capsys):
    bag = write(tmp_path / "bag")
    rows = replay.run(settings, bag, replay.INPUTS)
    golden = tmp_path / "golden.json"
    golden.write_text(json.dumps({"rows": rows}))
    assert replay.compare(replay.run(settings, bag, replay.INPUTS), golden) == 0
    assert replay.compare(replay.run(config.override(settings, **{"prune.method": "dense"}), bag, replay.INPUTS), golden) == 1
    assert "frame" in capsys.readouterr().out


def test_a_clock_that_jumps_back_starts_over(settings, tmp_path):
    rows = replay.run(settings, write(tmp_path / "bag", jump=8), replay.INPUTS)
    assert rows[8]["similarity"] is None and rows[7]["similarity"] is not None


def test_frames_that_cannot_be_answered_say_why(settings, tmp_path):
    with pytest.raises(BagError, match="unknown words"):
        replay.run(settings, write(tmp_path / "bag", instruction="dance"), replay.INPUTS)


def test_missing_foreign_and_damaged_bags(settings, tmp_path):
    with pytest.raises(BagError, match="no bag"):
        list(read.messages(tmp_path / "none", ["/x"]))
    bag = write(tmp_path / "bag")
    with pytest.raises(BagError, match="Did you mean '/wrist/image'"):
        replay.run(settings, bag, replay.mapping(["wrist=/wrist/imgae"]))
    (tmp_path / "foreign.mcap").write_bytes(b"not a bag at all" * 10)
    with pytest.raises(BagError, match="foreign.mcap"):
        list(read.messages(tmp_path / "foreign.mcap", ["/x"]))
    mcap = next(bag.glob("*.mcap"))
    mcap.write_bytes(mcap.read_bytes()[: mcap.stat().st_size // 2])
    with pytest.raises(BagError):
        list(read.messages(bag, ["/wrist/image"]))
    with pytest.raises(BagError, match="input"):
        replay.mapping(["wirst=/x"])
