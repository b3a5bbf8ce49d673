"""A ray-cast renderer: no GL, no driver, any thread. The default, so that tests and demo need only wheels.

Rays and normals come from MuJoCo (mj_multiRay). Shading is Lambert with the model's directional lights and
headlight; colours, materials and textures are the model's, so that every change of looks is seen.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

from ecovla_ros.sim.cameras import camera_index, focal_px
from ecovla_ros.sim.scene import SKY_BOTTOM, SKY_TOP, geom_classes, texture_view
from ecovla_ros.sim.textures import Pyramid

FAR = 10.0
"""Nothing farther than this is drawn, m."""
TEXTURE_METRES = {"table": 0.55, "floor": 1.0}
"""Side of one texture tile, m."""
_VISIBLE = np.array([1, 1, 1, 0, 0, 0], np.uint8)


class RayRenderer:
    """Lambert shading, tiled textures on table and floor, no shadows. Works in any thread, one at a time."""

    name = "ray"

    def __init__(self, model: Any, width: int, height: int) -> None:
        self._model, self._width, self._height = model, width, height
        self._data: Any = mujoco.MjData(model)
        self._classes = geom_classes(model)
        self._rays: dict[tuple[int, float], np.ndarray] = {}
        count = width * height
        self._cast_of: str | None = None  # camera whose picture geom, distance and normal hold
        self._geom = np.empty(count, np.int32)
        self._distance, self._normal = np.empty(count), np.empty((count, 3))
        self._pyramids = {name: Pyramid() for name in TEXTURE_METRES}
        self._focal = 1.0
        self._textured = {name: model.geom(name).id for name in TEXTURE_METRES}
        self._height_of = np.full(model.ngeom, np.nan)
        for index in self._textured.values():
            top = model.geom_size[index, 2] if model.geom_type[index] == mujoco.mjtGeom.mjGEOM_BOX else 0.0
            self._height_of[index] = model.geom_pos[index, 2] + top

    def snapshot(self, data: Any) -> None:
        """Copy what is drawn of `data` (mujoco.MjData): poses of all bodies and cameras."""
        self._cast_of = None
        self._data.qpos[:] = data.qpos
        self._data.mocap_pos[:], self._data.mocap_quat[:] = data.mocap_pos, data.mocap_quat

    def render(self, camera: str) -> np.ndarray:
        """Image of the snapshot, uint8 RGB (H, W, 3). Raises SimulationError for an unknown camera."""
        origin, directions = self._cast(camera)
        image = np.take(self._colours(), self._geom, axis=0)  # the rays that hit nothing (-1) become sky below
        image *= self._light(directions)
        for name, index in self._textured.items():
            pixels = np.flatnonzero(self._geom == index)
            image[pixels] *= self._texture(name, origin, directions[pixels], self._distance[pixels])[:, None]
        sky = np.flatnonzero(self._geom < 0)
        image[sky] = _sky(directions[sky])
        np.minimum(image, 255.0, out=image)
        return image.astype(np.uint8).reshape(self._height, self._width, 3)

    def segmentation(self, camera: str) -> np.ndarray:
        """Class of every pixel, int32 (H, W), ids of `scene.CLASSES`; free after `render`. Raises SimulationError."""
        if self._cast_of != camera:
            self._cast(camera)
        classes = np.where(self._geom >= 0, self._classes[self._geom], 0)
        return classes.astype(np.int32).reshape(self._height, self._width)

    def close(self) -> None:
        """Nothing is held."""

    def _cast(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Fill geom, distance and normal of every pixel; returns eye (3,) and directions (H * W, 3) in the world."""
        index = camera_index(self._model, camera)
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        origin = self._data.cam_xpos[index].copy()
        self._focal = focal_px(self._model, index, self._height)
        turned = self._pixel_rays(index) @ self._data.cam_xmat[index].reshape(3, 3).T
        even = np.zeros((self._height, self._width), bool)
        even[::2, ::2] = True
        self._shoot(origin, turned, np.flatnonzero(even))
        flat = self._flat_blocks()
        filled = flat.repeat(2, axis=0).repeat(2, axis=1)[: self._height, : self._width]
        self._shoot(origin, turned, np.flatnonzero(~(filled | even)))
        self._fill(origin, turned, np.flatnonzero(filled & ~even))
        self._cast_of = camera
        return origin, turned.astype(np.float32)

    def _shoot(self, origin: np.ndarray, directions: np.ndarray, pixels: np.ndarray) -> None:
        """Cast the rays of some pixels; fills geom, distance and normal there."""
        count = len(pixels)
        geom, distance, normal = np.empty(count, np.int32), np.empty(count), np.empty(3 * count)
        rays = np.take(directions, pixels, axis=0).ravel()
        mujoco.mj_multiRay(self._model, self._data, origin, rays, _VISIBLE, 1, -1, geom, distance, normal, count, FAR)
        self._geom[pixels], self._distance[pixels] = geom, distance
        self._normal[pixels] = normal.reshape(-1, 3)

    def _flat_blocks(self) -> np.ndarray:
        """Which 2x2 blocks, bool (H / 2, W / 2), show one flat surface, or nothing, at all four surrounding rays.

        Such a block is taken to show nothing else, and is filled without casting: half the cost of a picture.
        """
        shape = (self._height, self._width)
        coarse = self._geom.reshape(shape)[::2, ::2]
        upright = self._normal.reshape(*shape, 3)[::2, ::2, 2] > 0.99
        flat = (coarse < 0) | (np.isfinite(self._height_of[coarse]) & upright)
        flat[-1, :] = flat[:, -1] = False
        inner = flat[:-1, :-1]
        for rows, columns in ((1, 0), (0, 1), (1, 1)):
            there = np.s_[rows : coarse.shape[0] - 1 + rows, columns : coarse.shape[1] - 1 + columns]
            inner &= coarse[there] == coarse[:-1, :-1]
        return flat

    def _fill(self, origin: np.ndarray, directions: np.ndarray, pixels: np.ndarray) -> None:
        """Meet the rays of some pixels with the horizontal surface their block shows."""
        row, column = np.divmod(pixels, self._width)
        geom = self._geom[(row & ~1) * self._width + (column & ~1)]
        self._geom[pixels] = geom
        self._normal[pixels] = (0.0, 0.0, 1.0)
        self._distance[pixels] = (self._height_of[geom] - origin[2]) / directions[pixels, 2]

    def _pixel_rays(self, index: int) -> np.ndarray:
        """Unit directions (H * W, 3) in the camera frame, which looks along -z."""
        key = (index, float(self._model.cam_fovy[index]))
        if key not in self._rays:
            focal = focal_px(self._model, index, self._height)
            u, v = np.meshgrid(np.arange(self._width) + 0.5, np.arange(self._height) + 0.5)
            rays = np.stack(
                [(u - self._width / 2) / focal, (self._height / 2 - v) / focal, -np.ones_like(u)], axis=-1
            ).reshape(-1, 3)
            self._rays[key] = rays / np.linalg.norm(rays, axis=1, keepdims=True)
        return self._rays[key]

    def _colours(self) -> np.ndarray:
        """Colour of every geom, float32 (ngeom, 3), 0..255: its material's, or its own."""
        model = self._model
        own, shared = model.geom_rgba[:, :3], model.mat_rgba[model.geom_matid, :3]
        return (255.0 * np.where(model.geom_matid[:, None] >= 0, shared, own)).astype(np.float32)

    def _texture(self, name: str, origin: np.ndarray, directions: np.ndarray, distance: np.ndarray) -> np.ndarray:
        """Texture value, float32 (N,) in 0..1, where rays meet a horizontal surface; tiled.

        Each pixel reads the averaged copy of the texture whose grain is as coarse as the pixel's footprint.
        """
        pyramid = self._pyramids[name]
        pyramid.update(texture_view(self._model, name))
        scale = pyramid.size / TEXTURE_METRES[name]
        shift = pyramid.size * 1000  # positive, so that the cast to int rounds down
        far = (np.maximum(distance, 0.0) * scale).astype(np.float32)  # an eye below the surface sees it behind itself
        x = (directions[:, 0] * far + np.float32(origin[0] * scale + shift)).astype(np.int32) % pyramid.size
        y = (directions[:, 1] * far + np.float32(origin[1] * scale + shift)).astype(np.int32) % pyramid.size
        grain = far / (self._focal * np.sqrt(np.abs(directions[:, 2]) + 1e-6))
        return pyramid.read(x, y, grain)

    def _light(self, directions: np.ndarray) -> np.ndarray:
        """Light that falls on each pixel, float32 (N, 3): headlight and directional lights (Lambert), and ambient."""
        model, headlight = self._model, self._model.vis.headlight
        normal = self._normal.astype(np.float32)
        share = np.empty((len(normal), 1 + model.nlight), np.float32)
        np.einsum("ij,ij->i", normal, directions, out=share[:, 0])
        share[:, 0] *= -1.0  # the headlight shines along the view
        np.matmul(normal, -self._data.light_xdir.T.astype(np.float32), out=share[:, 1:])
        np.maximum(share, 0.0, out=share)
        light = share @ np.vstack((headlight.diffuse, model.light_diffuse)).astype(np.float32)
        light += np.asarray(headlight.ambient, np.float32)
        return light


def _sky(directions: np.ndarray) -> np.ndarray:
    """Gradient from the horizon up, float32 (N, 3)."""
    up = directions[:, 2:3] * 0.5 + 0.5
    bottom, top = 255.0 * np.array(SKY_BOTTOM, np.float32), 255.0 * np.array(SKY_TOP, np.float32)
    return bottom + up * (top - bottom)
