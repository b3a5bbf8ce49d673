"""Changes of the scene at run time, on the one compiled model: nothing is recompiled, the arm notices nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ecovla_ros.errors import SimulationError, unknown
from ecovla_ros.sim.cameras import camera_index
from ecovla_ros.sim.props import DISTRACTORS, OBJECTS
from ecovla_ros.sim.scene import texture_view
from ecovla_ros.sim.textures import PATTERNS, pattern
from ecovla_ros.sim.world import World


@dataclass(frozen=True)
class Event:
    """One change. `KINDS` lists the kinds with the values each takes and their defaults."""

    kind: str
    tick: int = 0
    """Control tick (10 ms) after reset at which a schedule makes it happen."""
    values: Mapping[str, Any] = field(default_factory=dict)


def _light_level(world: World, level: float) -> None:
    for array in _lamps(world):
        array *= level


def _light_colour(world: World, rgb: tuple[float, ...]) -> None:
    for array in _lamps(world):
        array *= np.asarray(rgb, float)


def _object_colour(world: World, object: str, rgb: tuple[float, ...]) -> None:
    """The largest geoms of the object take the colour: stem, tips, cap and label stay."""
    model = world.model
    geoms = [g for g in range(model.ngeom) if model.geom_bodyid[g] == world.body(object) and model.geom_contype[g]]
    model.geom_rgba[geoms, :3] = rgb


def _table_colour(world: World, rgb: tuple[float, ...]) -> None:
    world.model.mat_rgba[world.model.material("table").id, :3] = rgb


def _table_texture(world: World, texture: str, seed: int) -> None:
    texture_view(world.model, "table")[:] = pattern(texture, seed)


def _camera_move(world: World, camera: str, offset: tuple[float, ...], turn: tuple[float, ...]) -> None:
    """Shift by `offset`, m, in the parent's frame, and turn by the rotation vector `turn`, rad, in the camera's."""
    model = world.model
    index = camera_index(model, camera)
    model.cam_pos[index] += offset
    model.cam_quat[index] = _turned(model.cam_quat[index], np.asarray(turn, float))


def _object_move(world: World, object: str, dx: float, dy: float, yaw: float) -> None:
    """Shift on the table from where it is, upright, at rest. The yaw is absolute."""
    position, _ = world.pose(object)
    world.place(object, float(position[0]) + dx, float(position[1]) + dy, yaw)


def _object_push(world: World, object: str, force: tuple[float, ...], duration_s: float) -> None:
    world.push(object, force, duration_s)


def _distractor(world: World, object: str, x: float, y: float, yaw: float) -> None:
    world.place(object, x, y, yaw)


@dataclass(frozen=True)
class _Kind:
    apply: Callable[..., None]
    defaults: Mapping[str, Any]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


_MOVABLE = (*OBJECTS, "basket", "cabinet")
_CAMERAS = ("third_person", "wrist")
KINDS: dict[str, _Kind] = {
    "light_level": _Kind(_light_level, {"level": 0.4}, {"level": (0.0, 3.0)}),
    "light_colour": _Kind(_light_colour, {"rgb": (1.15, 0.95, 0.7)}, {"rgb": (0.0, 2.0)}),
    "object_colour": _Kind(
        _object_colour, {"object": "apple", "rgb": (0.2, 0.7, 0.2)}, {"rgb": (0.0, 1.0)}, {"object": OBJECTS}
    ),
    "table_colour": _Kind(_table_colour, {"rgb": (0.45, 0.6, 0.8)}, {"rgb": (0.0, 1.0)}),
    "table_texture": _Kind(
        _table_texture, {"texture": "checker", "seed": 0}, {"seed": (0, 2**31 - 1)}, {"texture": PATTERNS}
    ),
    "camera_move": _Kind(
        _camera_move,
        {"camera": "third_person", "offset": (0.04, 0.03, 0.02), "turn": (0.0, 0.0, 0.0)},
        {"offset": (-0.5, 0.5), "turn": (-1.0, 1.0)},
        {"camera": _CAMERAS},
    ),
    "object_move": _Kind(
        _object_move,
        {"object": "apple", "dx": 0.05, "dy": -0.04, "yaw": 0.0},
        {"dx": (-1.0, 1.0), "dy": (-1.0, 1.0), "yaw": (-3.15, 3.15)},
        {"object": _MOVABLE},
    ),
    "object_push": _Kind(
        _object_push,
        {"object": "apple", "force": (1.5, 0.0, 0.0), "duration_s": 0.3},
        {"force": (-50.0, 50.0), "duration_s": (0.01, 10.0)},
        {"object": OBJECTS},
    ),
    "distractor": _Kind(
        _distractor,
        {"object": DISTRACTORS[0], "x": 0.5, "y": 0.1, "yaw": 0.0},
        {"x": (-0.1, 0.9), "y": (-0.65, 0.65), "yaw": (-3.15, 3.15)},
        {"object": DISTRACTORS},
    ),
}
"""What can happen, by name."""


def check(event: Event) -> dict[str, Any]:
    """The event's values over the defaults. Raises SimulationError for an unknown kind, key, name or range."""
    if event.kind not in KINDS:
        raise SimulationError(unknown("event", event.kind, KINDS))
    kind = KINDS[event.kind]
    for key in event.values:
        if key not in kind.defaults:
            raise SimulationError(f"event '{event.kind}': " + unknown("value", key, kind.defaults))
    values = {**kind.defaults, **event.values}
    for key, choices in kind.choices.items():
        if values[key] not in choices:
            raise SimulationError(f"event '{event.kind}': " + unknown(key, values[key], choices))
    for key, (low, high) in kind.ranges.items():
        _check_numbers(f"event '{event.kind}': {key}", values[key], kind.defaults[key], low, high)
    return values


def apply(world: World, event: Event) -> None:
    """Make it happen now. Raises SimulationError, and changes nothing, when `check` does."""
    values = check(event)
    KINDS[event.kind].apply(world, **values)


def randomise_looks(world: World, rng: np.random.Generator) -> None:
    """Random lights, colours, table, cameras and up to two distractors, for one episode; objects keep their poses."""
    spots = [world.placement.poses[name] for name in DISTRACTORS]
    happen = [
        Event("light_level", values={"level": rng.uniform(0.55, 1.15)}),
        Event("light_colour", values={"rgb": rng.uniform(0.85, 1.15, 3)}),
        Event("table_colour", values={"rgb": rng.uniform(0.30, 0.68) + rng.uniform(-0.12, 0.12, 3)}),
        Event("table_texture", values={"texture": str(rng.choice(PATTERNS)), "seed": int(rng.integers(1000))}),
    ]
    for name in OBJECTS:
        geom = next(g for g in range(world.model.ngeom) if world.model.geom_bodyid[g] == world.body(name))
        colour = np.clip(world.model.geom_rgba[geom, :3] + rng.uniform(-0.06, 0.06, 3), 0, 1)
        happen.append(Event("object_colour", values={"object": name, "rgb": colour}))
    for camera, shift in (("third_person", 0.02), ("wrist", 0.003)):
        move = {"camera": camera, "offset": rng.uniform(-shift, shift, 3), "turn": rng.uniform(-0.03, 0.03, 3)}
        happen.append(Event("camera_move", values=move))
    for i in range(int(rng.integers(0, len(DISTRACTORS) + 1))):
        x, y, yaw = spots[i]
        happen.append(Event("distractor", values={"object": DISTRACTORS[i], "x": x, "y": y, "yaw": yaw}))
    for event in happen:
        apply(world, event)


def _lamps(world: World) -> list[np.ndarray]:
    headlight = world.model.vis.headlight
    return [world.model.light_diffuse, headlight.ambient, headlight.diffuse]


def _turned(quaternion: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """Quaternion (4,) followed by the rotation vector (3,) in its own frame (Hamilton product)."""
    angle = float(np.linalg.norm(turn))
    if angle < 1e-12:
        return quaternion
    w, v = np.cos(angle / 2), np.sin(angle / 2) * turn / angle
    a, u = quaternion[0], quaternion[1:]
    return np.concatenate(([a * w - u @ v], a * v + w * u + np.cross(u, v)))


def _check_numbers(where: str, value: Any, like: Any, low: float, high: float) -> None:
    try:
        numbers = np.asarray(value, float)
    except (TypeError, ValueError) as error:
        raise SimulationError(f"{where}: {value!r} is not a number") from error
    if numbers.shape != np.shape(like):
        raise SimulationError(f"{where}: expected {np.size(like)} number(s), got {value!r}")
    if not bool(((numbers >= low) & (numbers <= high)).all()):  # also false for NaN
        raise SimulationError(f"{where}: {value!r} is outside [{low}, {high}]")
