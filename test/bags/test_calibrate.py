"""A calibration from a bag: that of the frames a replay would answer, for these weights and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.pi_models import SMALL, TEXTS, model, normaliser, spec
from support.small_bag import SAMPLE, settings

from ecovla_ros import build, cli, config
from ecovla_ros.bags import replay, sample
from ecovla_ros.config import Config
from ecovla_ros.engine.calibration import calibration
from ecovla_ros.engine.streams import Inline
from ecovla_ros.errors import PruningError
from ecovla_ros.models.data import calibration_file
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.pi import checkpoint
from ecovla_ros.types import Demonstration


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return settings(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample.write(tmp_path_factory.mktemp("bag") / "bag", list(SAMPLE.events()), "mcap")


def called(small: Config, source: Path, out: Path, *more: str) -> int:
    chosen = ["--set", f"policy.checkpoint={small.policy.checkpoint}", *more]
    return cli.main(["calibrate", str(source), "--out", str(out), *chosen])


def frames_of(small: Config, bag: Path) -> list:
    """What a replay hands to the engine."""
    seen = []

    class Noting:
        def __init__(self, inner):
            self.inner, self.policy, self.sparse_plan = inner, inner.policy, inner.sparse_plan

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def step(self, obs):
            seen.append(obs)
            return self.inner.step(obs)

    with pytest.MonkeyPatch.context() as patch:
        made = build.engine
        patch.setattr(build, "engine", lambda *a: Noting(made(*a)))
        replay.run(config.override(small, **{"prune.method": "dense"}), bag)
    return seen


def test_it_is_the_calibration_of_the_frames_a_replay_answers(small: Config, bag: Path, tmp_path: Path, capsys) -> None:
    assert called(small, bag, tmp_path / "own.safetensors", "--rate", "0") == 0
    policy = build.policy(small.policy)
    noise = torch.randn((policy.spec.horizon, 8), generator=torch.Generator().manual_seed(small.policy.seed))
    seen = frames_of(small, bag)
    expected = calibration(policy, seen, noise)
    found = calibration_file.load(tmp_path / "own.safetensors", policy.sites)
    assert found.keys() == expected.keys() and all(torch.allclose(found[k], expected[k], rtol=1e-5) for k in found)
    about = calibration_file.source(tmp_path / "own.safetensors")
    assert about["frames"] == len(seen) > 10 and about["instructions"] == {TEXTS[0]: len(seen)}
    assert f"{len(seen)} frames: {TEXTS[0]}" in capsys.readouterr().out


def test_engines_start_from_the_file_adaptive_and_static_alike(small: Config, bag: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.safetensors"
    assert called(small, bag, out) == 0
    few = calibration_file.source(out)["frames"]
    assert 1 < few < 10, "two frames a second"
    for method in ("static", "ecovla", "wanda"):
        chosen = config.override(small, **{"prune.calibration": str(out), "prune.method": method})
        engine = build.engine(chosen, Inline())
        assert engine.cold_frames == 0
        engine.close()
        cold = build.engine(config.override(chosen, **{"prune.calibration": "auto"}), Inline())
        assert cold.cold_frames == chosen.prune.cold_frames, "the checkpoint has none of its own"
        cold.close()


def test_a_file_of_other_weights_or_another_layout_is_refused(small: Config, bag: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.safetensors"
    assert called(small, bag, out) == 0
    sites = build.policy(small.policy).sites
    with torch.no_grad():
        wide = replace(sites[0], key="lm.9.mlp")
        with pytest.raises(PruningError, match=r"lm\.0\.\w+.* another model"):
            calibration_file.load(out, (wide, *sites[1:]))
        half = replace(sites[0], channels=sites[0].channels // 2)
        with pytest.raises(PruningError, match="this model's site has"):
            calibration_file.load(out, (half, *sites[1:]))
        other = replace(sites[0], consumer=sites[0].consumer + 0.1)
        with pytest.raises(PruningError, match="other weights"):
            calibration_file.load(out, (other, *sites[1:]))
        same = [replace(s, consumer=s.consumer.to(torch.bfloat16)) for s in sites]
        calibration_file.load(out, same)


def test_what_is_no_calibration_is_one_line(small: Config, bag: Path, tmp_path: Path, capsys) -> None:
    weights = Path(small.policy.checkpoint) / "model.safetensors"
    (tmp_path / "text").write_text("no tensors here")
    for wrong, said in (
        (weights, "is no calibration"),
        (tmp_path / "text", "cannot read"),
        (tmp_path / "no", "cannot"),
    ):
        with pytest.raises(PruningError, match=said):
            build.engine(config.override(small, **{"prune.calibration": str(wrong)}), Inline())
    assert called(small, bag, tmp_path / "x", "--instruction", "make tea") == 2
    assert "no frame to calibrate on" in capsys.readouterr().err and not (tmp_path / "x").exists()
    assert called(small, bag, tmp_path / "x", "--rate", "nan") == 2


def test_a_damaged_bag_gives_what_was_readable_and_says_so(small: Config, tmp_path: Path, capsys) -> None:
    longer = replace(SAMPLE, seconds=4.0, size=128)  # a file of several chunks, so that a half can be read
    path = sample.write(tmp_path / "bag", list(longer.events()), "mcap")
    file = next(path.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert called(small, path, tmp_path / "own", "--rate", "0") == 2
    about = calibration_file.source(tmp_path / "own")
    assert about["damage"] and about["frames"] > 0
    assert "the calibration is of what came before" in capsys.readouterr().err


def test_a_lerobot_data_set_serves_too(small: Config, bag: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("av")
    from ecovla_ros.train import lerobot

    frames = frames_of(small, bag)[:12]
    joints, gripper = np.stack([f.joints for f in frames]), np.array([f.gripper for f in frames])
    lerobot.write(tmp_path / "set", [Demonstration(tuple(frames), joints, gripper, 0.1)])
    assert called(small, tmp_path / "set", tmp_path / "own", "--rate", "0") == 0
    assert calibration_file.source(tmp_path / "own")["instructions"] == {TEXTS[0]: len(frames)}
    assert called(small, tmp_path / "set", tmp_path / "x", "--instruction", "make tea") == 2
    assert called(small, tmp_path / "set", tmp_path / "x", "--map", "wrist=/wrist") == 2


def test_frames_that_the_policy_does_not_take_are_passed_over(small: Config, bag: Path) -> None:
    policy = build.policy(small.policy)
    seen, told = frames_of(small, bag)[:4], []
    broken = replace(seen[1], joints=seen[1].joints * float("nan"))
    noise = torch.zeros((policy.spec.horizon, 8))
    found = calibration(policy, [seen[0], broken, *seen[2:]], noise, lambda obs, error: told.append(error))
    expected = calibration(policy, [seen[0], *seen[2:]], noise)
    assert len(told) == 1 and all(torch.equal(found[k], expected[k]) for k in found)


def test_the_checkpoints_own_calibration_is_left_alone_where_none_is_asked_for(tmp_path: Path, small: Config) -> None:
    policy = build.policy(small.policy)
    own = {s.key: torch.ones(s.rows) for s in policy.sites}
    prompt = Prompt.build(TEXTS, SMALL.max_prompt)
    checkpoint.save(tmp_path / "with", model(), normaliser(), prompt, spec(), {}, own)
    chosen = config.override(small, **{"policy.checkpoint": str(tmp_path / "with"), "prune.method": "static"})
    for asked, left in (("auto", 0), ("none", small.prune.cold_frames)):
        engine = build.engine(config.override(chosen, **{"prune.calibration": asked}), Inline())
        assert engine.cold_frames == left
        engine.close()
