"""Renderers: geometry is right, colours and classes agree, snapshots are copies, names are checked."""

from __future__ import annotations

import numpy as np
import pytest

mujoco = pytest.importorskip("mujoco")

from ecovla_ros.config import SimConfig  # noqa: E402
from ecovla_ros.errors import SimulationError  # noqa: E402
from ecovla_ros.sim import render  # noqa: E402
from ecovla_ros.sim.env import KinovaEnv  # noqa: E402
from ecovla_ros.sim.raycast import RayRenderer  # noqa: E402
from ecovla_ros.sim.scene import CLASSES  # noqa: E402
from ecovla_ros.sim.world import World  # noqa: E402
from ecovla_ros.types import CAMERAS  # noqa: E402

OBJECTS = ("apple", "banana", "bottle")


@pytest.fixture(scope="module")
def world() -> World:
    world = World()
    world.reset("apple", 5)
    return world


def ray(world: World, width: int = 128, height: int = 128) -> RayRenderer:
    renderer = RayRenderer(world.model, width, height)
    renderer.snapshot(world.data)
    return renderer


def test_every_object_is_seen_and_has_its_colour(world: World) -> None:
    for seed in range(8):
        world.reset("apple", seed)
        renderer = ray(world)
        image, classes = renderer.render("third_person").astype(int), renderer.segmentation("third_person")
        colour = {name: image[classes == CLASSES.index(name)] for name in (*OBJECTS, "basket", "cabinet")}
        assert all(len(colour[name]) >= 30 for name in OBJECTS)
        assert all(len(colour[name]) >= 300 for name in ("basket", "cabinet"))
        red, green, blue = colour["apple"].mean(axis=0)
        assert red > 3 * green and red > 3 * blue
        red, green, blue = colour["banana"].mean(axis=0)
        assert red > 2 * blue and green > 2 * blue
        assert np.ptp(colour["bottle"].max(axis=0)) < 30, "white parts"


def test_a_body_appears_where_camera_info_projects_it(world: World) -> None:
    world.reset("apple", 5)
    renderer = ray(world, 160, 120)
    for camera in CAMERAS:
        fx, fy, cx, cy = render.camera_info(world.model, camera, 160, 120)
        index = world.model.camera(camera).id
        mujoco.mj_forward(world.model, world.data)
        eye, axes = world.data.cam_xpos[index], world.data.cam_xmat[index].reshape(3, 3)
        x, y, z = axes.T @ (world.pose("apple")[0] - eye)
        rows, columns = np.nonzero(renderer.segmentation(camera) == CLASSES.index("apple"))
        assert columns.mean() == pytest.approx(cx - fx * x / z, abs=1.5)
        assert rows.mean() == pytest.approx(cy + fy * y / z, abs=1.5)


def test_filling_flat_blocks_equals_casting_every_ray(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.reset("apple", 5)
    renderer = ray(world, 97, 64)
    for camera in CAMERAS:
        quick, classes = renderer.render(camera).astype(int), renderer.segmentation(camera)
        whole = ray(world, 97, 64)
        monkeypatch.setattr(whole, "_flat_blocks", lambda: np.zeros((32, 49), bool))
        assert (whole.segmentation(camera) != classes).sum() <= 2
        assert (np.abs(whole.render(camera).astype(int) - quick).max(axis=2) > 3).sum() <= 3


def test_a_snapshot_is_a_copy(world: World) -> None:
    world.reset("apple", 5)
    renderer = ray(world)
    before = renderer.render("wrist")
    held = world.commanded()
    for _ in range(5):
        world.step(held + 0.3, 0.0)
    assert np.array_equal(renderer.render("wrist"), before)
    renderer.snapshot(world.data)
    assert not np.array_equal(renderer.render("wrist"), before)


def test_hidden_groups_are_not_drawn(world: World) -> None:
    world.reset("apple", 5)
    renderer = ray(world)
    geoms = [g for g in range(world.model.ngeom) if world.model.geom_bodyid[g] == world.body("apple")]
    groups = world.model.geom_group[geoms].copy()
    world.model.geom_group[geoms] = 3
    hidden = renderer.segmentation("third_person")
    world.model.geom_group[geoms] = groups
    assert not (hidden == CLASSES.index("apple")).any()


def test_unknown_names_say_what_is_valid(world: World) -> None:
    with pytest.raises(SimulationError, match="auto, egl, osmesa, ray"):
        render.choose("vulkan")
    with pytest.raises(SimulationError, match="third_person, wrist"):
        ray(world).render("front")
    with pytest.raises(SimulationError, match="third_person, wrist"):
        render.camera_info(world.model, "front", 10, 10)


def test_an_unavailable_renderer_says_what_is_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "probe", lambda name: "no driver")
    with pytest.raises(SimulationError, match=r"no driver.*available: ray"):
        render.choose("egl")
    assert render.choose("auto") is RayRenderer


def test_auto_prefers_egl_then_osmesa(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    for works, expected in (({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa")):
        monkeypatch.setattr(render, "probe", lambda name, works=works: "" if name in works else "no")
        assert render.choose("auto")(world.model, 32, 32).name == expected


@pytest.mark.parametrize("name", ["egl", "osmesa"])
def test_gl_agrees_with_the_ray_caster(name: str) -> None:
    if render.probe(name):
        pytest.skip(f"{name} cannot draw here: {render.probe(name)}")
    import os

    if os.environ.get("PYOPENGL_PLATFORM", name) != name:
        pytest.skip("this process draws with another GL already")
    envs = [KinovaEnv(SimConfig(renderer=kind)) for kind in (name, "ray")]
    seen = [env.reset("banana", 6, looks=True) for env in envs]
    classes = [env.segment() for env in envs]
    for camera in CAMERAS:
        assert (classes[0][camera] != classes[1][camera]).mean() < 0.01
        gap = np.abs(seen[0].images[camera].astype(int) - seen[1].images[camera])
        assert np.median(gap) < 12
    envs[0].close()


def test_an_eye_in_the_table_still_sees_something() -> None:
    """An arm that is driven through the table takes its camera along: a wrong picture, and no failure."""
    world = World()
    world.reset("apple", 5)
    index = world.model.camera("third_person").id
    rng = np.random.default_rng(0)
    with np.errstate(invalid="raise", divide="raise"):
        for height in (-0.0015, -0.02, 0.0003, -0.3):
            for _ in range(6):
                world.model.cam_pos[index] = (rng.uniform(0.2, 0.7), rng.uniform(-0.4, 0.4), height)
                quaternion = rng.normal(size=4)
                world.model.cam_quat[index] = quaternion / np.linalg.norm(quaternion)
                assert ray(world).render("third_person").shape == (128, 128, 3)
