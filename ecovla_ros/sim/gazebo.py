"""The built-in scene as a world of Gazebo, arm and cameras included, and what ros_gz_bridge has to carry.

The world is made from the compiled MuJoCo model, so that both simulators have the same places, sizes, masses and
cameras. What differs: contacts (DART's, without rolling friction), light (no head light) and surfaces (colours, no
textures). The arm is driven by Gazebo's own joint-trajectory system; `nodes/gazebo` tells it where to be, by the rules
of joint_trajectory_controller.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from ecovla_ros.errors import SimulationError, unknown
from ecovla_ros.sim import placement, scene, sdf
from ecovla_ros.sim.props import GOALS, OBJECTS, REST_HEIGHT
from ecovla_ros.sim.sdf import child
from ecovla_ros.types import JOINTS

WORLD = "ecovla_table"
ARM = "gen3"
FINGERS = ("left_finger_joint", "right_finger_joint")
STEP_S = 0.002
ARM_TOPIC, GRIPPER_TOPIC, STATES_TOPIC = "/gazebo/arm", "/gazebo/gripper", "/gazebo/joint_states"
DRIVEN = (ARM_TOPIC, GRIPPER_TOPIC, STATES_TOPIC)
"""Topics of the arm of our world."""
CAMERAS = ("third_person", "wrist")
POSE_HZ = 20.0
"""How often Gazebo tells where a thing is, in simulated time."""
LAY_S = 10.0
"""Gazebo's command has so long to place a thing, s."""
LAY_TRIES = 3
"""A thing is placed again where Gazebo did not say that it was."""
AMBIENT = 0.42
"""Light from everywhere: MuJoCo's head light, roughly."""
POSITION_GAIN, DAMPING = (2000.0,) * 4 + (400.0,) * 3, (100.0,) * 4 + (8.0,) * 3
"""Of the arm's joints, N m/rad and N m s/rad: plausible, not identified. The damping is the joint's own: DART steps it
implicitly, while the same gain of Gazebo's system, on the light links of the wrist, shakes them at the step of 2 ms.
The node `gazebo` gives back what it takes."""
ARM_EFFORT = (39.0,) * 4 + (9.0,) * 3
JAW_GAIN, JAW_DAMPING, JAW_EFFORT = 3000.0, 60.0, 30.0
"""Position gain and damping of one jaw, N/m and N s/m, and the most it presses, N."""


@dataclass(frozen=True)
class GazeboRelease:
    """How a release of Gazebo names its parts."""

    file: str
    """Of a system's library, with the system's name in it."""
    space: str
    """C++ namespace of the systems."""
    messages: str
    """Package of the messages."""
    program: tuple[str, str]
    """Starts Gazebo."""

    def command(self, world: str, window: bool, screen: bool) -> list[str]:
        """What to run for a world's file. `screen`: whether there is one (X) to draw on; else ogre2 draws without."""
        more = [] if window else ["-s"] if screen else ["-s", "--headless-rendering"]
        return [*self.program, "-r", "-v", "2", *more, world]

    def placing(self, name: str, x: float, y: float, z: float, yaw: float) -> list[str]:
        """What to run to put a model of the world somewhere, at rest or not; prints "data: true" when it worked."""
        turn = f"z: {math.sin(yaw / 2.0):.9g} w: {math.cos(yaw / 2.0):.9g}"
        at = f"x: {x:.9g} y: {y:.9g} z: {z:.9g}"
        pose = f'name: "{name}" position {{{at}}} orientation {{{turn}}}'
        kinds = ["--reqtype", f"{self.messages}Pose", "--reptype", f"{self.messages}Boolean"]
        service = f"/world/{WORLD}/set_pose"
        return [self.program[0], "service", "-s", service, *kinds, "--timeout", "3000", "--req", pose]


RELEASES = {
    "harmonic": GazeboRelease("gz-sim-{}-system", "gz::sim::systems::", "gz.msgs.", ("gz", "sim")),
    "fortress": GazeboRelease(
        "ignition-gazebo-{}-system", "ignition::gazebo::systems::", "ignition.msgs.", ("ign", "gazebo")
    ),
}
SYSTEMS = {
    "Physics": "physics", "UserCommands": "user-commands", "SceneBroadcaster": "scene-broadcaster",
    "Sensors": "sensors", "JointStatePublisher": "joint-state-publisher",
    "JointTrajectoryController": "joint-trajectory-controller", "PosePublisher": "pose-publisher",
}  # fmt: skip
"""Class of a system -> the part of its library's name."""


def release(name: str) -> GazeboRelease:
    """The release of that name. Raises SimulationError listing the known ones."""
    if name not in RELEASES:
        raise SimulationError(unknown("release of Gazebo", name, RELEASES))
    return RELEASES[name]


def world(
    name: str, seed: int = 0, size: tuple[int, int] = (128, 128), rate_hz: float = 10.0, engine: str = "ogre2",
    pace: float = 1.0,
) -> str:  # fmt: skip
    """The scene of `seed` for a release of Gazebo, as text. `size`: width and height of both pictures, px.

    `engine`: what draws; ogre2, or ogre where there is no OpenGL 3.3. `pace`: seconds simulated in a second, at most.
    Raises SimulationError for an unknown release or pace.
    """
    if not 0.0 < pace <= 1.0:
        raise SimulationError(f"pace {pace}; valid: more than 0, up to 1, in simulated seconds a second")
    parts, model = release(name), scene.build(*size)
    root = ElementTree.Element("sdf", version="1.9")
    made = child(root, "world", name=WORLD)
    sky = [*np.mean([scene.SKY_TOP, scene.SKY_BOTTOM], axis=0), 1.0]
    physics = child(made, "physics", name="steps", type="ignored")
    child(physics, "max_step_size", STEP_S)
    child(physics, "real_time_factor", pace)
    for kind in ("Physics", "UserCommands", "SceneBroadcaster", "Sensors"):
        system = _system(made, parts, kind)
        if kind == "Sensors":
            child(system, "render_engine", engine)
            child(system, "background_color", sky)
    looks = child(made, "scene")
    child(looks, "ambient", [AMBIENT] * 3 + [1.0])
    child(looks, "background", sky)
    child(looks, "shadows", False)
    _lights(made, model)
    _room(made, model)
    _props(made, parts, model, placement.sample(np.random.default_rng(seed)))
    _third_person(made, model, size, rate_hz)
    _arm(made, parts, model, size, rate_hz)
    ElementTree.indent(root)
    title = f"The built-in scene, seed {seed}, for Gazebo {name.capitalize()}"
    say = f"<!-- {title}. Made by ecovla_ros.sim.gazebo.world. -->"
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{say}\n{ElementTree.tostring(root, encoding="unicode")}\n'


def bridged(name: str) -> list[dict[str, str]]:
    """What ros_gz_bridge carries, as its configuration file has it. Raises SimulationError for an unknown release."""
    kinds = release(name).messages
    to_ros = [("/clock", "rosgraph_msgs/msg/Clock", "Clock"), (STATES_TOPIC, "sensor_msgs/msg/JointState", "Model")]
    for camera in CAMERAS:
        to_ros.append((f"/{camera}/image", "sensor_msgs/msg/Image", "Image"))
        to_ros.append((f"/{camera}/camera_info", "sensor_msgs/msg/CameraInfo", "CameraInfo"))
    to_ros += [(pose_topic(name), "geometry_msgs/msg/PoseStamped", "Pose") for name in (*OBJECTS, *GOALS)]
    told = [(topic, "trajectory_msgs/msg/JointTrajectory", "JointTrajectory") for topic in (ARM_TOPIC, GRIPPER_TOPIC)]
    key = "ign" if kinds.startswith("ign") else "gz"
    return [
        {
            "ros_topic_name": topic,
            f"{key}_topic_name": topic,
            "ros_type_name": ours,
            f"{key}_type_name": kinds + theirs,
            "direction": direction,
        }
        for entries, direction in ((to_ros, f"{key.upper()}_TO_ROS"), (told, f"ROS_TO_{key.upper()}"))
        for topic, ours, theirs in entries
    ]


def lay(server: GazeboRelease, seed: int) -> str:
    """Ask a running server to put everything where `seed` says, through its command. Returns what went wrong, if
    anything did. An object keeps the speed it had: let it come to rest before.

    What was not confirmed is asked again, `LAY_TRIES` times in all: Gazebo answers before the connection back stands
    now and then ("Host unreachable" in its log), and to be put at the same place twice does no harm."""
    poses = placement.sample(np.random.default_rng(seed)).poses
    left = [
        server.placing(name, x, y, REST_HEIGHT.get(name, 0.0), yaw)
        for name, (x, y, yaw) in poses.items()
        if name in (*OBJECTS, *GOALS)
    ]
    for _ in range(LAY_TRIES):
        try:
            left = _refused(left)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{server.program[0]} service: {error}"
        if not left:
            return ""
    return f"Gazebo did not do this, asked {LAY_TRIES} times: {'; '.join(command[-1] for command in left)}"


def _refused(commands: list[list[str]]) -> list[list[str]]:
    """Run all at once. Returns those whose success Gazebo did not confirm."""
    asked: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            asked.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
        said = [process.communicate(timeout=LAY_S)[0] for process in asked]
    except (OSError, subprocess.TimeoutExpired):
        for process in asked:
            process.kill()
        raise
    return [command for command, text in zip(commands, said) if "data: true" not in text]


def pose_topic(name: str) -> str:
    """Where Gazebo tells the pose of one of the world's things."""
    return f"/model/{name}/pose"


def yaw(turn: Sequence[float]) -> float:
    """Yaw of a turn about z, rad, from a quaternion (x, y, z, w) as SDF writes it."""
    return 2.0 * math.atan2(turn[2], turn[3])


def _system(parent: Any, parts: GazeboRelease, kind: str) -> Any:
    return child(parent, "plugin", filename=parts.file.format(SYSTEMS[kind]), name=parts.space + kind)


def _lights(made: Any, model: Any) -> None:
    for index in range(model.nlight):
        light = child(made, "light", name=model.light(index).name, type="directional")
        sdf.pose(light, model.light_pos[index])
        child(light, "cast_shadows", False)
        child(light, "diffuse", [*model.light_diffuse[index], 1.0])
        child(light, "specular", [*model.light_specular[index], 1.0])
        child(light, "direction", model.light_dir[index])


def _room(made: Any, model: Any) -> None:
    """Floor and table: what MuJoCo fixes to its world."""
    room = child(made, "model", name="room")
    child(room, "static", True)
    link = child(room, "link", name="body")
    for index, geom in enumerate(np.flatnonzero(model.geom_bodyid == 0)):
        sdf.shape(link, model, int(geom), index)


def _props(made: Any, parts: GazeboRelease, model: Any, placed: placement.Placement) -> None:
    """Objects and furniture. The cubes, which only some looks of the scene have, are left out."""
    for name in (*OBJECTS, *GOALS):
        x, y, yaw = placed.poses[name]
        prop = child(made, "model", name=name)
        child(prop, "static", name in GOALS)
        half = yaw / 2.0
        sdf.pose(prop, (x, y, REST_HEIGHT.get(name, 0.0)), (np.cos(half), 0.0, 0.0, np.sin(half)))
        sdf.link(prop, model, model.body(name).id, (0.0, 0.0, 0.0), sdf.IDENTITY, "")
        told = _system(prop, parts, "PosePublisher")
        for tag, value in (
            ("publish_model_pose", True), ("publish_nested_model_pose", True),  # Fortress wants both
            ("publish_link_pose", False), ("use_pose_vector_msg", False),
        ):  # fmt: skip
            child(told, tag, value)
        child(told, "update_frequency", POSE_HZ)


def _third_person(made: Any, model: Any, size: tuple[int, int], rate_hz: float) -> None:
    stand = child(made, "model", name="third_person")
    child(stand, "static", True)
    sdf.lens(child(stand, "link", name="lens"), model, "third_person", "/third_person", size, rate_hz)


def _arm(made: Any, parts: GazeboRelease, model: Any, size: tuple[int, int], rate_hz: float) -> None:
    arm = child(made, "model", name=ARM)
    base = model.body("base_link").id
    sdf.tree(arm, model, base, model.body_pos[base], model.body_quat[base])
    fixed = child(arm, "joint", name="base", type="fixed")
    child(fixed, "parent", "world")
    child(fixed, "child", "base_link")
    for link in arm.iterfind("link"):
        if link.get("name") == model.body(int(model.cam_bodyid[model.camera("wrist").id])).name:
            sdf.lens(link, model, "wrist", "/wrist", size, rate_hz)
    states = _system(arm, parts, "JointStatePublisher")
    child(states, "topic", STATES_TOPIC)
    for joint in (*JOINTS, *FINGERS):
        child(states, "joint_name", joint)
    damping = dict(zip((*JOINTS, *FINGERS), (*DAMPING, *(JAW_DAMPING,) * 2)))
    for moved in arm.iterfind("joint"):
        loss = moved.find("axis/dynamics/damping")
        if loss is not None:
            loss.text = sdf.numbers(damping[str(moved.get("name"))])
    _driven(arm, parts, ARM_TOPIC, JOINTS, list(zip(POSITION_GAIN, ARM_EFFORT)))
    _driven(arm, parts, GRIPPER_TOPIC, FINGERS, [(JAW_GAIN, JAW_EFFORT)] * 2)


def _driven(
    arm: Any, parts: GazeboRelease, topic: str, joints: Sequence[str], gains: Sequence[tuple[float, float]]
) -> None:
    """Gazebo's joint-trajectory system on `joints`: position gain and its largest effort of each."""
    system = _system(arm, parts, "JointTrajectoryController")
    child(system, "topic", topic)
    for joint in joints:
        child(system, "joint_name", joint)
    for stiffness, most in gains:
        for tag, value in (
            ("position_p_gain", stiffness), ("position_i_gain", 0.0), ("position_d_gain", 0.0),
            ("position_cmd_min", -most), ("position_cmd_max", most),
            ("velocity_p_gain", 0.0), ("velocity_i_gain", 0.0), ("velocity_d_gain", 0.0),
        ):  # fmt: skip
            child(system, tag, value)


def main(arguments: list[str] | None = None) -> int:
    """Write a world to the standard output: `python3 -m ecovla_ros.sim.gazebo RELEASE`."""
    parser = argparse.ArgumentParser("ecovla_ros.sim.gazebo", description="The built-in scene as a world of Gazebo.")
    parser.add_argument("release", choices=sorted(RELEASES))
    parser.add_argument("--seed", type=int, default=0, help="where things stand")
    parser.add_argument("--size", type=int, default=128, help="width and height of both pictures, px")
    parser.add_argument("--hz", type=float, default=10.0, help="pictures a second")
    parser.add_argument("--pace", type=float, default=1.0, help="seconds simulated in a second, at most")
    parser.add_argument("--engine", choices=("ogre2", "ogre"), default="ogre2", help="what draws")
    told = parser.parse_args(arguments)
    sys.stdout.write(world(told.release, told.seed, (told.size, told.size), told.hz, told.engine, told.pace))
    return 0


if __name__ == "__main__":
    sys.exit(main())
