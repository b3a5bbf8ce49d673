"""The training stages: labels mean what they say, and a run of seconds leaves a checkpoint that loads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support.ranks import fail_first_and_end_last, tell_rank

from ecovla_ros.config import PruneConfig
from ecovla_ros.control.kinematics import pose_jacobian
from ecovla_ros.engine.engine import Engine
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import CheckpointError, ConfigError
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.models.pi.config import MINI
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.sim import events
from ecovla_ros.sim.env import KinovaEnv
from ecovla_ros.sim.events import Event
from ecovla_ros.sim.tasks import TASKS
from ecovla_ros.train import auxiliary, corrections, demos, fit, parallel, record, run, together
from ecovla_ros.train.dataset import PLACES, Dataset, ShardWriter, layout
from ecovla_ros.train.device import device
from ecovla_ros.train.frames import DemoSettings
from ecovla_ros.train.libero import run as libero
from ecovla_ros.types import CAMERAS, ActionChunk, Observation

SETTINGS = run.TrainSettings(
    demos=DemoSettings(episodes=3, max_steps=130),
    processes=2,
    threads=1,
    vision_minutes=0.01,
    corrections=2,
    policy_minutes=0.01,
    together_minutes=0.01,
    vision_batch=4,
    policy_batch=4,
    calibration_frames=4,
)


def test_processes_meet_in_a_folder_that_is_not_there_yet(tmp_path):
    told = []
    parallel.everywhere(2, tmp_path / "data" / "demos", told.append, tell_rank)
    assert sorted(row["rank"] for row in told) == [0, 1]


def test_what_is_wrong_in_one_process_is_said_and_not_that_another_lost_it(tmp_path):
    with pytest.raises(CheckpointError, match="the demonstration is broken"):
        parallel.everywhere(2, tmp_path, print, fail_first_and_end_last)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    rows = []
    run.run(folder / "work", folder / "out", SETTINGS, rows.append)
    return folder


def test_cells_of_a_token_are_the_pixels_under_it():
    classes = torch.arange(24 * 24).view(1, 1, 24, 24)
    cells = auxiliary.cells(classes)
    assert cells.shape == (1, 1, 36, 16)
    token = 6 * 2 + 5  # row 2, column 5
    assert torch.equal(cells[0, 0, token].view(4, 4), classes[0, 0, 8:12, 20:24])


def test_in_tool_frame_is_the_inverse_of_the_tool_pose():
    g = torch.Generator().manual_seed(0)
    rotation, _ = torch.linalg.qr(torch.randn(4, 3, 3, generator=g))
    position, local = torch.randn(4, 3, generator=g), torch.randn(4, 5, 3, generator=g)
    world = position[:, None] + torch.einsum("bij,bpj->bpi", rotation, local)
    tool = torch.cat((position, rotation.flatten(1)), 1)
    assert torch.allclose(auxiliary.in_tool_frame(world, tool), local, atol=1e-5)


def test_every_task_knows_its_goal():
    assert {t.name: t.goal for t in TASKS.values()} == fit.GOALS
    assert set(TASKS) <= set(PLACES)


def test_demonstrations_hold_what_the_expert_would_do(trained):
    data = Dataset(trained / "work" / "demos")
    state, actions, episode = data.column("state"), data.column("actions"), data.column("episode")
    assert len(set(episode)) == 3 + SETTINGS.corrections
    step = np.abs(actions[:, 0, :7] - state[:, :7])[episode < run.CORRECTION_SEED]
    assert step.max() < 0.3  # one period away, pushes and servo lag included
    assert set(np.unique(actions[..., 7])) == {0.0, 1.0}
    assert {int(c) for c in np.unique(data.column("classes"))} >= {0, 1, 2, 3, 4, 5, 6}


def test_corrections_are_labelled_by_the_expert_where_the_policy_got_to(trained):
    corrected = [p.name for p in (trained / "work" / "demos").glob("shard-corrected-*")]
    assert len(corrected) == 2  # one a process
    data = Dataset(trained / "work" / "demos")
    seeds = set(data.column("episode"))
    assert len([s for s in seeds if s >= run.CORRECTION_SEED]) == 2


def test_what_disturbs_a_correction_is_a_known_event_before_the_grasp():
    drawn = [corrections.disturbances(np.random.default_rng(seed), "banana") for seed in range(300)]
    assert 0.25 < sum(map(bool, drawn)) / len(drawn) < 0.45
    for event in (e for some in drawn for e in some):
        values = events.check(event)
        assert event.tick < corrections.MOVE_TICKS[1]
        if event.kind == "object_move":
            assert values["object"] == "banana" and max(abs(values["dx"]), abs(values["dy"])) <= corrections.MOVE_M


def test_an_object_that_was_moved_is_labelled_where_it_is_now(monkeypatch):
    """The driver stands still; what the expert would do from there follows the object."""
    env = KinovaEnv()
    stay = lambda obs: ActionChunk(obs.stamp_ns, 0.1, np.tile(obs.joints, (16, 1)), np.zeros(16))  # noqa: E731
    ends = []
    for shift in (0.0, 0.05):
        move = Event("object_move", 30, {"object": "apple", "dx": shift, "dy": 0.0})
        monkeypatch.setattr(corrections, "disturbances", lambda rng, target, move=move: [move])
        monkeypatch.setattr(corrections, "POLICY_SHARES", (1.0,))
        frames, solved = corrections.episode(env, stay, 3 * 7, DemoSettings(max_steps=6))
        assert not solved and len(frames) == 6
        ends.append([pose_jacobian(f["actions"][-1, :7].astype(float))[0] for f in frames])
    env.close()
    moved = np.subtract(ends[1], ends[0])
    assert np.abs(moved[:3]).max() < 0.005 and moved[4:, 0].min() > 0.02


def test_a_finished_run_collects_nothing_again(trained):
    before = (trained / "work" / "demos" / "shard-000" / "images.npy").stat().st_mtime_ns
    demos.collect(trained / "work" / "demos", SETTINGS.demos, 2, lambda *_: None)
    assert (trained / "work" / "demos" / "shard-000" / "images.npy").stat().st_mtime_ns == before


def test_the_checkpoint_of_a_run_drives_the_engine_pruned(trained):
    policy = checkpoint.load(trained / "out")
    assert {s.key for s in policy.sites} <= set(policy.calibration)
    assert policy.spec.renderer == "ray" and set(policy.spec.instructions) == {t.instruction for t in TASKS.values()}
    engine = Engine(policy, PruneConfig(ratio=0.25, sites=("lm.mlp", "lm.heads", "expert.mlp")), Inline())
    engine.calibrate(policy.calibration)
    image = np.full((128, 128, 3), 90, np.uint8)
    obs = Observation(1, {c: image for c in CAMERAS}, np.zeros(7), 0.0, "place the apple in the basket")
    kinds = [engine.step(obs).report.kind for _ in range(3)]
    assert kinds == ["refresh", "sparse", "sparse"]


def test_the_record_tells_of_the_run_it_went_on_from(trained):
    data = Dataset(trained / "work" / "demos")
    first = record.training_of(trained / "out")
    again = record.record_of(dataclasses.replace(SETTINGS, start=str(trained / "out")), data, 2.0)
    assert first["hours"] > 0.0 and "before" not in first
    assert again["before"] == first and record.training_of(trained / "work") == {}


def test_a_run_that_was_stopped_goes_on_with_what_it_saved(trained, tmp_path):
    data = Dataset(trained / "work" / "demos")
    before = checkpoint.load(trained / "out")
    columns = record.policy_columns({name: data.column(name) for name in run.COLUMNS}, before.normaliser)
    prompts = tuple(torch.tensor(p) for p in before.prompt.batch(data.meta["instructions"]))
    rows = []

    def train(seconds):
        model = PiModel(before.config)
        stage = together.TogetherSettings(seconds, batch=2, seed=3)
        state = tmp_path / "state.pt"
        together.train_together(model, data, columns, prompts, stage, state, rows.append, lambda _: None)
        return torch.load(state, weights_only=True)

    first = train(0.5)
    assert first["step"] >= 1 and first["spent"] >= 0.5
    again = train(first["spent"])  # nothing left to do
    assert again["step"] == first["step"]
    further = train(first["spent"] + 0.5)
    assert further["step"] > first["step"]
    with pytest.raises(CheckpointError, match="other weights"):
        together.train_together(
            PiModel(before.config),
            data,
            columns,
            prompts,
            together.TogetherSettings(9.0),
            tmp_path / "state.pt",
            rows.append,
            lambda _: None,
            origin="another",
        )


def test_a_finished_policy_stage_is_not_run_again(trained, monkeypatch):
    monkeypatch.setattr(run, "_vision_stage", None)  # would fail if it were called
    run._from_scratch(trained / "work", trained / "work" / "policy", SETTINGS, lambda row: None, 0.0)


def test_a_checkpoint_that_does_not_fit_the_data_names_what_differs(trained):
    data = Dataset(trained / "work" / "demos")
    spec = checkpoint.load(trained / "out").spec
    run._check_fit(spec, data, trained)
    for change, match in (
        ({"renderer": "egl"}, "renderer"),
        ({"horizon": 8}, "horizon"),
        ({"cameras": {"wrist": (96, 96)}}, "cameras"),
        ({"instructions": ("dance",)}, "instructions"),
    ):
        with pytest.raises(CheckpointError, match=match):
            run._check_fit(dataclasses.replace(spec, **change), data, trained)


def test_an_interrupted_shard_goes_on_after_its_last_episode(tmp_path):
    meta = {"cameras": list(CAMERAS), "size": 32, "horizon": 2, "renderer": "ray", "instructions": ["a"]}
    frame = {n: np.ones(s, d) for n, (d, s) in layout(2, 32, 2).items()}
    ShardWriter(tmp_path / "shard-000", 8, meta).append([frame, frame])
    again = ShardWriter(tmp_path / "shard-000", 8, meta)
    assert again.episodes == 1
    again.append([frame])
    data = Dataset(tmp_path)
    assert len(data) == 3 and data.rows("task", np.array([2, 0])).tolist() == [1, 1]
    assert ShardWriter(tmp_path / "shard-000", 8, {**meta, "horizon": 2, "size": 16}).episodes == 0


def test_every_task_is_drawn_equally_often():
    share = together.balanced(np.array([0] * 90 + [1] * 10))
    assert share[:90].sum() == pytest.approx(share[90:].sum()) and share.sum() == pytest.approx(1.0)


def test_places_near_the_tool_weigh_more():
    tool = torch.zeros(1, 12)
    weights = auxiliary.nearness(torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]]), tool)[0]
    assert weights[0] == pytest.approx(3.0) and weights[1] == pytest.approx(1.0, abs=1e-3)


def test_another_average_is_a_moving_one():
    model = PiModel(dataclasses.replace(MINI, layers=2))
    average = PiModel(dataclasses.replace(MINI, layers=2))
    before = average.state_in.weight.clone()
    fit._follow(average, model, 0.9)
    assert torch.allclose(average.state_in.weight, 0.9 * before + 0.1 * model.state_in.weight, atol=1e-6)


def test_shards_that_do_not_fit_together_are_named(tmp_path):
    meta = {"cameras": list(CAMERAS), "size": 32, "horizon": 2, "renderer": "ray", "instructions": ["a"]}
    frame = {n: np.zeros(s, d) for n, (d, s) in layout(2, 32, 2).items()}
    for i, renderer in enumerate(("ray", "egl")):
        ShardWriter(tmp_path / f"shard-{i:03d}", 4, {**meta, "renderer": renderer}).append([frame])
    with pytest.raises(CheckpointError, match="renderer"):
        Dataset(tmp_path)
    with pytest.raises(CheckpointError, match="no demonstrations"):
        Dataset(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("name", "said"),
    [("gpu", "valid: cpu, cuda"), ("cuda:x", "valid: cpu, cuda"), ("cuda:99", "this machine has"), ("", "valid: cpu")],
)
def test_a_device_that_is_not_there_is_said_before_anything_is_collected(name, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        device(name)
    with pytest.raises(ConfigError, match=said):
        libero.run(tmp_path, tmp_path / "out", libero.LiberoSettings(device=name), print, lambda: False)
    assert not list(tmp_path.iterdir())
