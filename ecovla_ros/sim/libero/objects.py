"""What the expert reads of a LIBERO scene: where things are, how wide they are, and what the task wants."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.sim.libero.scene import LiberoScene

Array = NDArray[np.float64]


def goals(scene: LiberoScene) -> list[tuple[str, ...]]:
    """The goal: predicates of the BDDL file in lower case, such as ("in", "milk_1", "basket_1_contain_region")."""
    return [tuple(str(word).lower() for word in one) for one in scene.env.parsed_problem["goal_state"]]


def position(scene: LiberoScene, name: str) -> Array:
    """Of an object, fixture or region, (3,), m. Raises KeyError for a name that is not in the scene."""
    data, model = scene.env.sim.data, scene.env.sim.model
    if name in scene.env.obj_body_id:
        return np.array(data.body_xpos[scene.env.obj_body_id[name]])
    if name in model.site_names:
        return np.array(data.site_xpos[model.site_name2id(name)])
    raise KeyError(name)


def movable(scene: LiberoScene) -> list[str]:
    """Objects that can be carried."""
    return list(scene.env.objects_dict)


def kind(name: str) -> str:
    """milk_1 is a milk."""
    return name.rsplit("_", 1)[0]


def outline(scene: LiberoScene, name: str) -> Array:
    """Corners of the collision shapes of an object in the world, (n, 3), m: what its sides and its top are found by."""
    points = shapes(scene, name)
    return np.concatenate(points) if points else position(scene, name)[None]


def obstacles(scene: LiberoScene, but: str) -> list[tuple[Array, Array]]:
    """Boxes (lowest corner, highest corner), m, around every collision shape of all things and fixtures but one."""
    found = [points for name in scene.env.obj_body_id if name != but for points in shapes(scene, name)]
    return [(points.min(0), points.max(0)) for points in found]


def clearance(point: Array, boxes: list[tuple[Array, Array]]) -> float:
    """Distance from a point (3,) to the nearest of these boxes, m; 1 without any."""
    return min(
        [float(np.linalg.norm(np.maximum(np.maximum(low - point, point - high), 0.0))) for low, high in boxes] + [1.0]
    )


def shapes(scene: LiberoScene, name: str) -> list[Array]:
    """The same, shape by shape."""
    model, data = scene.env.sim.model, scene.env.sim.data
    root = scene.env.obj_body_id[name]
    points = []
    for geom in range(model.ngeom):
        if _root(model, int(model.geom_bodyid[geom])) != root or not model.geom_contype[geom]:
            continue
        local = _corners(model, geom)
        turn = np.array(data.geom_xmat[geom]).reshape(3, 3)
        points.append(local @ turn.T + np.array(data.geom_xpos[geom]))
    return points


def _root(model: Any, body: int) -> int:
    """The body on the world's floor of the tree that `body` belongs to."""
    return int(model.body_rootid[body])


def _corners(model: Any, geom: int) -> Array:
    """(n, 3) in the frame of the geom: a mesh's vertices, or the corners of the box around it."""
    kind_, size = int(model.geom_type[geom]), np.array(model.geom_size[geom])
    if kind_ == 7:
        mesh = int(model.geom_dataid[geom])
        first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
        return np.array(model.mesh_vert[first : first + count], dtype=np.float64)
    half = {2: size[[0, 0, 0]], 3: size[[0, 0, 1]] + [0, 0, size[0]], 5: size[[0, 0, 1]]}.get(kind_, size)
    signs = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, -1).T
    return signs * half


def width_along(points: Array, yaw: float) -> float:
    """Extent of points (n, 3) along the horizontal direction `yaw`, m."""
    along = points[:, 0] * np.cos(yaw) + points[:, 1] * np.sin(yaw)
    return float(np.ptp(along))
