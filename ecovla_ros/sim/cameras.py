"""Finds cameras of a compiled model by their names."""

from __future__ import annotations

import math
from typing import Any

from ecovla_ros.errors import SimulationError, unknown


def camera_index(model: Any, name: str) -> int:
    """Index of a camera of the model. Raises SimulationError listing the valid names."""
    names = [model.camera(i).name for i in range(model.ncam)]
    if name not in names:
        raise SimulationError(unknown("camera", name, names))
    return names.index(name)


def focal_px(model: Any, index: int, height: int) -> float:
    """Focal length in pixels for an image of `height` rows, from the vertical field of view."""
    return 0.5 * height / math.tan(math.radians(float(model.cam_fovy[index])) / 2)


def intrinsics(model: Any, name: str, width: int, height: int) -> tuple[float, float, float, float]:
    """Pinhole intrinsics (fx, fy, cx, cy), px, as sensor_msgs/CameraInfo has them: pixel centres at whole numbers.

    Raises SimulationError for an unknown camera.
    """
    focal = focal_px(model, camera_index(model, name), height)
    return focal, focal, (width - 1) / 2, (height - 1) / 2
