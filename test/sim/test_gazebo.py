"""The world for Gazebo is the built-in scene: same places, masses, joints and cameras, named as the release does."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import mujoco
import numpy as np
import pytest

from ecovla_ros.errors import SimulationError
from ecovla_ros.sim import gazebo, placement, scene, sdf
from ecovla_ros.sim.props import GOALS, OBJECTS, REST_HEIGHT
from ecovla_ros.types import JOINTS

SEED, SIZE, RATE_HZ = 3, (160, 128), 12.5
KNOWN = {
    "harmonic": ("gz-sim-%s-system", "gz::sim::systems::%s"),
    "fortress": ("ignition-gazebo-%s-system", "ignition::gazebo::systems::%s"),
}
"""How a release names the library and the class of a system: as gz-sim 8 and ign-gazebo 6 have them."""
SYSTEMS = {
    "Physics": "physics", "UserCommands": "user-commands", "SceneBroadcaster": "scene-broadcaster",
    "Sensors": "sensors", "JointStatePublisher": "joint-state-publisher",
    "JointTrajectoryController": "joint-trajectory-controller", "PosePublisher": "pose-publisher",
}  # fmt: skip


@pytest.fixture(scope="module", params=sorted(gazebo.RELEASES))
def release(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def text(release: str) -> str:
    return gazebo.world(release, SEED, SIZE, RATE_HZ)


@pytest.fixture(scope="module")
def world(text: str) -> ElementTree.Element:
    found = ElementTree.fromstring(text.encode()).find("world")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def model():
    return scene.build(*SIZE)


def floats(element: ElementTree.Element, path: str) -> np.ndarray:
    return np.array([float(part) for part in (element.findtext(path) or "").split()])


def placed(element: ElementTree.Element | None) -> np.ndarray:
    """A pose as a matrix (4, 4)."""
    result = np.eye(4)
    pose = None if element is None else element.find("pose")
    if pose is not None:
        assert pose.get("rotation_format") == "quat_xyzw"
        x, y, z, qx, qy, qz, qw = (float(part) for part in (pose.text or "").split())
        result[:3, 3], result[:3, :3] = (x, y, z), sdf.rotation((qw, qx, qy, qz))
    return result


def test_every_system_is_one_of_the_release_and_stands_where_it_belongs(release: str, world) -> None:
    file, name = KNOWN[release]
    known = {name % kind: file % part for kind, part in SYSTEMS.items()}
    for plugin in world.iter("plugin"):
        assert known[str(plugin.get("name"))] == plugin.get("filename")
    at_world = {str(plugin.get("name")).rpartition(":")[2] for plugin in world.iterfind("plugin")}
    assert at_world == {"Physics", "UserCommands", "SceneBroadcaster", "Sensors"}, "of the whole world, not of a model"
    assert len(world.findall("model[@name='gen3']/plugin")) == 3


def test_what_is_bridged_exists_in_the_world(release: str, world) -> None:
    theirs = {element.text for tag in ("topic", "camera_info_topic") for element in world.iter(tag)}
    key = "ign" if release == "fortress" else "gz"
    carried = {entry[f"{key}_topic_name"]: entry for entry in gazebo.bridged(release)}
    things = [
        str(m.get("name")) for m in world.iterfind("model") if m.find("plugin[@filename]/update_frequency") is not None
    ]
    assert set(things) == {*OBJECTS, *GOALS}, "whose poses the judge needs"
    for publisher in world.iterfind("model/plugin[publish_model_pose]"):
        told = {child.tag: child.text for child in publisher}
        own = told["publish_model_pose"], told["publish_nested_model_pose"], told["publish_link_pose"]
        assert own == ("true", "true", "false"), "the model's own pose, which Fortress tells only with both"
    assert set(carried) == theirs | {"/clock", *map(gazebo.pose_topic, things)}
    for topic, entry in carried.items():
        assert entry["ros_topic_name"] == topic
        assert entry["direction"].startswith("ROS") == (topic in (gazebo.ARM_TOPIC, gazebo.GRIPPER_TOPIC))
        assert entry[f"{key}_type_name"].startswith("ignition.msgs." if release == "fortress" else "gz.msgs.")


def test_nothing_needs_a_file(world) -> None:
    assert not [element.tag for element in world.iter() if element.tag in ("mesh", "uri", "include", "albedo_map")]
    kinds = {next(iter(form)).tag for form in world.iter("geometry")}
    assert kinds <= {"box", "sphere", "capsule", "cylinder", "ellipsoid", "plane"}


def test_nothing_touches_by_a_mesh(world, model) -> None:
    """Of what Gazebo makes meshes of, round parts of the same size are made: the banana is as long as it is seen."""
    forms = [next(iter(form)).tag for form in world.iterfind(".//collision/geometry")]
    assert {"capsule", "ellipsoid"}.isdisjoint(forms) and {"sphere", "cylinder", "box"} <= set(forms)
    link = world.find("model[@name='banana']/link")
    parts = {str(c.get("name")): c for c in link.iterfind("collision")}
    seen = [v for v in link.iterfind("visual") if str(v.get("name")).removesuffix("_seen") in parts]
    assert len(parts) == 3 * len(seen) > 0
    for visual in seen:
        name, pose = str(visual.get("name")).removesuffix("_seen"), placed(visual)
        radius, length = (floats(visual, f"geometry/capsule/{size}")[0] for size in ("radius", "length"))
        assert floats(parts[name], "geometry/cylinder/length")[0] == pytest.approx(length)
        assert placed(parts[name]) == pytest.approx(pose, abs=1e-6)
        for part, side in ((parts[f"{name}_1"], -0.5), (parts[f"{name}_2"], 0.5)):
            assert floats(part, "geometry/sphere/radius")[0] == pytest.approx(radius)
            assert placed(part)[:3, 3] == pytest.approx(pose[:3, 3] + side * length * pose[:3, 2], abs=1e-6)


def test_names_are_unique_where_gazebo_wants_them_so(world) -> None:
    for parent in world.iter():
        if parent.tag in ("world", "model", "link"):
            named = [child.get("name") for child in parent if child.get("name") and child.tag != "plugin"]
            assert len(named) == len(set(named)), (parent.get("name"), named)


def test_every_link_that_moves_has_the_mass_of_the_built_in_one(world, model) -> None:
    """And an inertia that a body can have: positive, each less than the other two together."""
    for name in (*OBJECTS, gazebo.ARM):
        for link in world.iterfind(f"model[@name='{name}']/link"):
            mass, body = floats(link, "inertial/mass")[0], model.body(str(link.get("name")))
            assert mass == pytest.approx(float(body.mass[0]) or sdf.LIGHT_KG)
            inertia = [floats(link, f"inertial/inertia/{axis}")[0] for axis in ("ixx", "iyy", "izz")]
            assert min(inertia) > 0.0 and 2.0 * max(inertia) <= sum(inertia) * (1.0 + 1e-6)
            assert link.find("collision") is not None


def test_things_stand_where_the_seed_puts_them(world) -> None:
    poses = placement.sample(np.random.default_rng(SEED)).poses
    for name in (*OBJECTS, *GOALS):
        x, y, yaw = poses[name]
        pose = placed(world.find(f"model[@name='{name}']"))
        assert pose[:3, 3] == pytest.approx([x, y, REST_HEIGHT.get(name, 0.0)], abs=1e-6)
        assert math.atan2(pose[1, 0], pose[0, 0]) == pytest.approx(yaw, abs=1e-6)
        assert (world.findtext(f"model[@name='{name}']/static") == "true") == (name in GOALS)
        turn = (world.findtext(f"model[@name='{name}']/pose") or "").split()[3:]
        assert gazebo.yaw([float(part) for part in turn]) == pytest.approx(yaw, abs=1e-6)
    other = ElementTree.fromstring(gazebo.world("harmonic", SEED + 1).encode())
    assert not np.allclose(placed(other.find("world/model[@name='apple']")), placed(world.find("model[@name='apple']")))


def links(arm: ElementTree.Element, joints: dict[str, float]) -> dict[str, np.ndarray]:
    """Pose of every link at these joint positions, by what SDF says."""
    by_child = {joint.findtext("child"): joint for joint in arm.iterfind("joint")}
    result: dict[str, np.ndarray] = {}
    for link in arm.iterfind("link"):
        pose, element, joint = placed(link), link.find("pose"), by_child[str(link.get("name"))]
        frame = element.get("relative_to") if element is not None else None
        assert frame == (None if joint.findtext("parent") == "world" else joint.findtext("parent"))
        motion, value = np.eye(4), joints.get(str(joint.get("name")))
        if value is not None:
            axis = floats(joint, "axis/xyz")
            if joint.get("type") == "prismatic":
                motion[:3, 3] = value * axis
            else:
                half = value / 2.0
                motion[:3, :3] = sdf.rotation((math.cos(half), *(math.sin(half) * axis)))
        result[str(link.get("name"))] = result.get(frame or "", np.eye(4)) @ pose @ motion
    return result


def test_the_arm_moves_as_the_built_in_one(world, model) -> None:
    arm, data = world.find("model[@name='gen3']"), mujoco.MjData(model)
    rng = np.random.default_rng(1)
    for _ in range(5):
        moved = {name: float(rng.uniform(-2.0, 2.0)) for name in JOINTS}
        moved |= {name: float(rng.uniform(0.0, 0.04)) for name in gazebo.FINGERS}
        for name, value in moved.items():
            data.qpos[model.joint(name).qposadr[0]] = value
        mujoco.mj_kinematics(model, data)
        for name, pose in links(arm, moved).items():
            body = data.body(name)
            assert pose[:3, 3] == pytest.approx(body.xpos, abs=1e-6)
            assert pose[:3, :3].ravel() == pytest.approx(body.xmat, abs=1e-6)


def test_limits_are_those_of_the_built_in_arm(world, model) -> None:
    joints = {joint.get("name"): joint for joint in world.iterfind("model[@name='gen3']/joint")}
    for name in (*JOINTS, *gazebo.FINGERS):
        own, joint = model.joint(name), joints[name]
        if own.range[0] < own.range[1]:
            limit = [floats(joint, f"axis/limit/{end}")[0] for end in ("lower", "upper")]
            assert limit == pytest.approx(list(own.range), abs=1e-6)
        else:
            assert joint.find("axis/limit/lower") is None and joint.find("axis/limit/upper") is None
        assert joint.get("type") in ("revolute", "prismatic"), "what ign-physics 5 makes no fixed joint of"
    for system in world.iterfind("model[@name='gen3']/plugin"):
        if "JointTrajectory" in str(system.get("name")):
            count = len(system.findall("joint_name"))
            gains = {
                child.tag: len(system.findall(child.tag)) for child in system if child.tag.split("_")[-1] != "name"
            }
            assert gains.pop("topic") == 1 and set(gains.values()) == {count}, "one of each for every joint"
            assert not any(float(gain.text or 0) for gain in system.iter("velocity_p_gain")), "damping is the joint's"


def test_no_joint_is_shaken_by_its_own_gain(world, model) -> None:
    """The gain on the position, at the step of 2 ms, is below what inertia and damping (stepped implicitly) bear."""
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    stiffness = dict(zip((*JOINTS, *gazebo.FINGERS), (*gazebo.POSITION_GAIN, *(gazebo.JAW_GAIN,) * 2)))
    for name, gain in stiffness.items():
        damping = floats(world.find(f"model[@name='gen3']/joint[@name='{name}']"), "axis/dynamics/damping")[0]
        dof = model.joint(name).dofadr[0]
        unit, column = np.eye(model.nv)[dof], np.zeros(model.nv)
        mujoco.mj_mulM(model, data, column, unit)
        own = column[dof] - model.dof_armature[dof]
        assert gazebo.STEP_S**2 * gain < 0.5 * (own + gazebo.STEP_S * damping), name


def test_the_cameras_see_the_sky_that_the_scene_has(world) -> None:
    """A camera of Fortress is made before the scene's colours are known: the system's own are in time."""
    sensors = next(p for p in world.iterfind("plugin") if str(p.get("name")).endswith("::Sensors"))
    assert sensors.findtext("background_color") == world.findtext("scene/background") != "0 0 0 1"


def test_a_slow_machine_asks_for_a_slow_world() -> None:
    slow = ElementTree.fromstring(gazebo.world("fortress", pace=0.25).encode())
    assert floats(slow, "world/physics/real_time_factor")[0] == 0.25
    for pace in (0.0, -1.0, 1.5, math.nan):
        with pytest.raises(SimulationError, match="pace"):
            gazebo.world("fortress", pace=pace)


def test_a_scene_is_laid_by_gazebos_own_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thing once, where the seed has it; a server that does not answer is said so, with what it was asked."""
    tool, heard = tmp_path / "ign", tmp_path / "heard"
    tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {heard}\necho data: true\n', encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    server = gazebo.release("fortress")
    assert gazebo.lay(server, SEED) == ""
    said = heard.read_text(encoding="utf-8")
    poses = placement.sample(np.random.default_rng(SEED)).poses
    for name in (*OBJECTS, *GOALS):
        assert said.count(f'name: "{name}" position {{x: {poses[name][0]:.9g} y: {poses[name][1]:.9g}') == 1
    assert said.count("/world/ecovla_table/set_pose --reqtype ignition.msgs.Pose") == len((*OBJECTS, *GOALS))
    tool.write_text("#!/bin/sh\necho data: false\n", encoding="utf-8")
    assert "apple" in gazebo.lay(server, SEED)
    heard.unlink()
    lost = 'case "$*" in *basket*) [ $(/bin/grep -c basket HEARD) -gt 1 ] || exit 0 ;; esac\n'.replace(
        "HEARD", str(heard)
    )
    tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {heard}\n{lost}echo data: true\n', encoding="utf-8")
    assert gazebo.lay(server, SEED) == "", "an answer that was lost once"
    said = heard.read_text(encoding="utf-8")
    assert said.count('name: "basket"') == 2 and said.count('name: "apple"') == 1
    tool.unlink()
    assert "ign" in gazebo.lay(server, SEED)


@pytest.mark.parametrize("name", gazebo.CAMERAS)
def test_a_camera_sees_what_the_built_in_one_sees(name: str, world, model) -> None:
    sensor = next(sensor for sensor in world.iter("sensor") if sensor.get("name") == name)
    own = model.camera(name)
    pose, mine = placed(sensor), sdf.rotation(own.quat)
    assert pose[:3, 3] == pytest.approx(own.pos, abs=1e-6)
    assert pose[:3, 0] == pytest.approx(-mine[:, 2], abs=1e-6), "Gazebo's camera looks along x, MuJoCo's along -z"
    assert pose[:3, 2] == pytest.approx(mine[:, 1], abs=1e-6), "up"
    width, height = (int(sensor.findtext(f"camera/image/{side}") or 0) for side in ("width", "height"))
    assert (width, height) == SIZE and floats(sensor, "update_rate")[0] == RATE_HZ
    assert floats(sensor, "camera/noise/stddev")[0] > 1.0 / 255.0, "or a camera at rest looks like a frozen one"
    tall = 2.0 * math.atan(math.tan(floats(sensor, "camera/horizontal_fov")[0] / 2.0) * height / width)
    assert math.degrees(tall) == pytest.approx(float(own.fovy[0]), abs=1e-4)


def test_an_unknown_release_is_named_with_the_known_ones() -> None:
    with pytest.raises(SimulationError, match="harmonic"):
        gazebo.world("classic")


def test_without_a_screen_the_server_is_told_so() -> None:
    made = gazebo.release("fortress").command("w.sdf", window=False, screen=False)
    assert made[:2] == ["ign", "gazebo"] and {"-s", "-r", "--headless-rendering"} <= set(made) and made[-1] == "w.sdf"
    shown = gazebo.release("harmonic").command("w.sdf", window=True, screen=True)
    assert shown[:2] == ["gz", "sim"] and "-s" not in shown and "--headless-rendering" not in shown


def test_gazebos_own_checker_finds_nothing(text: str, tmp_path: Path) -> None:
    tool = shutil.which("gz") or shutil.which("ign")
    if not tool:
        pytest.skip("neither gz nor ign is installed")
    path = tmp_path / "world.sdf"
    path.write_text(text, encoding="utf-8")
    checked = subprocess.run([tool, "sdf", "-k", str(path)], capture_output=True, text=True)
    said = [line for line in (checked.stdout + checked.stderr).splitlines() if "backward.so" not in line]
    assert checked.returncode == 0 and said == ["Valid."], said
