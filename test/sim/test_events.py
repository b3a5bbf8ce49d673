"""Events: each kind changes what it says and nothing else; random looks change pixels and no physics."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from ecovla_ros.config import SimConfig  # noqa: E402
from ecovla_ros.errors import SimulationError  # noqa: E402
from ecovla_ros.sim.env import KinovaEnv  # noqa: E402
from ecovla_ros.sim.events import KINDS, Event, check, randomise_looks  # noqa: E402
from ecovla_ros.sim.scene import CLASSES  # noqa: E402

LOOKS = ("light_level", "light_colour", "object_colour", "table_colour", "table_texture", "camera_move")
SEED = 11


@pytest.fixture(scope="module")
def env() -> KinovaEnv:
    return KinovaEnv(SimConfig(width=96, height=96))


def picture(env: KinovaEnv) -> np.ndarray:
    return env.observe().images["third_person"].astype(int)


def physics(env: KinovaEnv) -> np.ndarray:
    return np.concatenate([env.world.data.qpos, env.world.data.qvel, env.world.data.mocap_pos.ravel()])


@pytest.mark.parametrize("kind", LOOKS)
def test_a_look_changes_pixels_only_and_reset_undoes_it(env: KinovaEnv, kind: str) -> None:
    env.reset("apple", SEED)
    before, still = picture(env), physics(env)
    env.apply(Event(kind))
    assert np.abs(picture(env) - before).max() > 20
    assert np.array_equal(physics(env), still)
    env.reset("apple", SEED)
    assert np.array_equal(picture(env), before)


def mean_colour(env: KinovaEnv, name: str) -> np.ndarray:
    return picture(env)[env.segment()["third_person"] == CLASSES.index(name)].mean(axis=0)


def test_light_level_and_colour_act_on_the_whole_picture(env: KinovaEnv) -> None:
    env.reset("apple", SEED)
    table = mean_colour(env, "background")
    env.apply(Event("light_level", values={"level": 0.5}))
    assert (mean_colour(env, "basket") < 120).all() and (mean_colour(env, "background") < 0.85 * table).all()
    env.reset("apple", SEED)
    basket = mean_colour(env, "basket")
    env.apply(Event("light_colour", values={"rgb": (1.0, 1.0, 0.3)}))
    tinted = mean_colour(env, "basket")
    assert tinted[:2] == pytest.approx(basket[:2], abs=1.0) and tinted[2] < 0.5 * basket[2]


def test_object_colour_acts_on_that_object_alone(env: KinovaEnv) -> None:
    env.reset("apple", SEED)
    others = {name: mean_colour(env, name) for name in ("banana", "bottle")}
    env.apply(Event("object_colour", values={"object": "apple", "rgb": (0.1, 0.8, 0.1)}))
    red, green, _ = mean_colour(env, "apple")
    assert green > 2 * red
    assert all(mean_colour(env, name) == pytest.approx(colour) for name, colour in others.items())


def test_object_move_moves_by_the_distance_said(env: KinovaEnv) -> None:
    for name in ("banana", "basket"):
        env.reset("apple", SEED)
        before = env.world.pose(name)[0]
        env.apply(Event("object_move", values={"object": name, "dx": 0.03, "dy": -0.02}))
        assert (env.world.pose(name)[0] - before)[:2] == pytest.approx([0.03, -0.02], abs=1e-9)


def test_a_push_moves_the_object_and_ends(env: KinovaEnv) -> None:
    env.reset("apple", SEED)
    before = env.world.pose("apple")[0]
    env.apply(Event("object_push", values={"force": (0.0, -2.0, 0.0), "duration_s": 0.2}))
    env.follow(None, None, 30)
    moved = env.world.pose("apple")[0] - before
    assert moved[1] < -0.02 and abs(moved[0]) < 0.2 * abs(moved[1])
    assert not env.world.data.xfrc_applied.any()


def test_distractors_appear_where_they_are_put(env: KinovaEnv) -> None:
    env.reset("apple", SEED)
    cube = CLASSES.index("distractor")
    assert not any((classes == cube).any() for classes in env.segment().values())
    env.apply(Event("distractor", values={"object": "cube_1", "x": 0.5, "y": -0.22}))
    assert env.world.pose("cube_1")[0][:2] == pytest.approx([0.5, -0.22])
    assert (env.segment()["third_person"] == cube).sum() > 5


def test_a_schedule_happens_at_its_ticks(env: KinovaEnv) -> None:
    late = Event("object_move", 25, {"object": "banana", "dx": 0.04, "dy": 0.0})
    env.reset("apple", SEED, schedule=[late, Event("light_level", 5)])
    lamp, at = env.world.model.light_diffuse[0, 0], env.world.pose("banana")[0][0]
    env.follow(None, None, 5)
    assert env.world.model.light_diffuse[0, 0] == lamp
    env.follow(None, None, 20)
    assert env.world.model.light_diffuse[0, 0] < 0.5 * lamp
    assert env.world.pose("banana")[0][0] == pytest.approx(at, abs=2e-3)
    env.follow(None, None, 1)
    assert env.world.pose("banana")[0][0] == pytest.approx(at + 0.04, abs=2e-3)


def test_random_looks_change_pixels_but_not_where_arm_and_objects_go(env: KinovaEnv) -> None:
    tracks, pictures = [], []
    for looks in (False, True):
        env.reset("apple", SEED, looks)
        for i in range(10):
            env.step(env.world.commanded() + 0.02, float(i > 4))
        poses = [env.world.pose(name)[0] for name in ("apple", "banana", "bottle")]
        tracks.append(np.concatenate([env.world.arm_state().joints, *poses]))
        pictures.append(picture(env))
    assert tracks[0] == pytest.approx(tracks[1], abs=1e-6)
    assert np.abs(pictures[0] - pictures[1]).mean() > 5


def test_random_looks_are_a_function_of_the_rng(env: KinovaEnv) -> None:
    seen = []
    for seed in (1, 1, 2):
        env.reset("apple", SEED)
        randomise_looks(env.world, np.random.default_rng(seed))
        seen.append(picture(env))
    assert np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_has_valid_defaults(kind: str) -> None:
    assert set(check(Event(kind))) == set(KINDS[kind].defaults)


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (Event("light_levels"), "Did you mean 'light_level'"),
        (Event("light_level", values={"levle": 1.0}), "valid: level"),
        (Event("light_level", values={"level": -1.0}), "outside"),
        (Event("light_level", values={"level": float("nan")}), "outside"),
        (Event("light_level", values={"level": "dim"}), "not a number"),
        (Event("table_colour", values={"rgb": (1.0, 1.0)}), r"expected 3 number\(s\)"),
        (Event("table_texture", values={"texture": "marble"}), "checker"),
        (Event("object_push", values={"object": "basket"}), "apple, banana, bottle"),
        (Event("camera_move", values={"camera": "front"}), "third_person"),
    ],
)
def test_a_bad_event_says_what_is_valid_and_changes_nothing(env: KinovaEnv, event: Event, says: str) -> None:
    env.reset("apple", SEED)
    before = physics(env), picture(env)
    with pytest.raises(SimulationError, match=says):
        env.apply(event)
    with pytest.raises(SimulationError, match=says):
        env.reset("apple", SEED, schedule=[event])
    assert np.array_equal(physics(env), before[0]) and np.array_equal(picture(env), before[1])
