"""What may enter the model: images checked and resized, numbers checked. Nothing is replaced silently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.errors import ObservationError, unknown
from ecovla_ros.models.data.resize import resize
from ecovla_ros.types import JOINTS, Observation


class CameraShape(Protocol):
    """The part of a model's configuration that says what images it takes."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Camera slots in the model's order."""

    @property
    def optional_cameras(self) -> bool:
        """Whether an image may be missing."""

    @property
    def fit(self) -> str:
        """How an image of another shape becomes the model's, see models/data/resize.py."""

    @property
    def image_size(self) -> int:
        """Height and width, px."""


def camera_images(images: Mapping[str, Any], config: CameraShape) -> dict[str, NDArray[np.uint8]]:
    """Camera -> (image_size, image_size, 3) uint8 of every present camera, in order; see `checked_images`."""
    checked = checked_images(images, config)
    return {name: resize(image, config.image_size, config.fit) for name, image in checked.items()}


def checked_images(images: Mapping[str, Any], config: CameraShape) -> dict[str, NDArray[np.uint8]]:
    """Camera -> (H, W, 3) uint8 of every present camera, in the model's order, of whatever size.

    Raises ObservationError for an unknown or missing camera, a wrong type or shape. A camera given as None is left out
    of the prefix if the model allows it (`optional_cameras`) and another remains.
    """
    for name in images:
        if name not in config.cameras:
            raise ObservationError(unknown("camera", name, config.cameras))
    present: dict[str, NDArray[np.uint8]] = {}
    for name in config.cameras:
        image = images.get(name)
        if image is not None:
            present[name] = _checked(name, image)
        elif not (config.optional_cameras and name in images):
            raise ObservationError(f"no image of camera '{name}'; this policy needs: {', '.join(config.cameras)}")
    if not present:
        raise ObservationError(f"no image of any camera; at least one is needed of: {', '.join(config.cameras)}")
    return present


def joint_state(observation: Observation) -> tuple[NDArray[np.float64], float]:
    """Joints (7,) rad and gripper 0..1 of an observation. Raises ObservationError: a wrong shape, NaN, infinity."""
    joints = np.asarray(observation.joints, dtype=np.float64)
    if joints.shape != (len(JOINTS),):
        raise ObservationError(f"joints must have shape ({len(JOINTS)},), got {joints.shape}")
    if not np.isfinite(joints).all():
        bad = [name for name, value in zip(JOINTS, joints) if not np.isfinite(value)]
        raise ObservationError(f"joint position not finite: {', '.join(bad)}")
    if not np.isfinite(observation.gripper):
        raise ObservationError(f"gripper opening must be within 0..1, got {observation.gripper}")
    return joints, float(observation.gripper)


def _checked(name: str, image: Any) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise ObservationError(f"image of camera '{name}' must be a uint8 array, got {kind}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ObservationError(f"image of camera '{name}' must be RGB (H, W, 3), got {image.shape}")
    return image
