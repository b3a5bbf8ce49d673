"""MuJoCo's own OpenGL renderer, headless: EGL or OSMesa. A context belongs to the thread that draws first."""

from __future__ import annotations

import importlib
import os
from typing import Any

import mujoco
import numpy as np

from ecovla_ros.errors import SimulationError
from ecovla_ros.sim.cameras import camera_index
from ecovla_ros.sim.scene import build, geom_classes, texture_view

MAX_GEOMS = 500


class GlRenderer:
    """Draws with GL, in the thread of its first picture only.

    PyOpenGL reads its back-end once a process: a process draws with egl or with osmesa, never both.
    """

    def __init__(self, model: Any, width: int, height: int, name: str) -> None:
        """`name`: egl or osmesa. The context is opened by the first picture."""
        self.name = name
        self._model, self._width, self._height = model, width, height
        self._data: Any = mujoco.MjData(model)
        self._classes = geom_classes(model)
        self._texture = texture_view(model, "table")
        self._context: Any = None

    @staticmethod
    def probe(name: str) -> None:
        """Draw one small frame; raises whatever the driver raises."""
        model = build(16, 16)
        renderer = GlRenderer(model, 16, 16, name)
        renderer.snapshot(mujoco.MjData(model))
        if int(renderer.render("third_person").max()) == 0:
            raise SimulationError(f"{name} draws black frames")
        renderer.close()

    def snapshot(self, data: Any) -> None:
        """Copy what is drawn of `data` (mujoco.MjData): poses of all bodies and cameras."""
        self._data.qpos[:] = data.qpos
        self._data.mocap_pos[:], self._data.mocap_quat[:] = data.mocap_pos, data.mocap_quat

    def render(self, camera: str) -> np.ndarray:
        """Image of the snapshot, uint8 RGB (H, W, 3). Raises SimulationError for an unknown camera."""
        return self._draw(camera, identities=False)

    def segmentation(self, camera: str) -> np.ndarray:
        """Class of every pixel, int32 (H, W), ids of `scene.CLASSES`. Raises SimulationError."""
        colour = self._draw(camera, identities=True).astype(np.int32)
        drawn = colour[:, :, 0] + (colour[:, :, 1] << 8) + (colour[:, :, 2] << 16)  # 0: nothing, else its number + 1
        classes = np.zeros(int(drawn.max()) + 2, np.int32)
        for shape in self._scene.geoms[: self._scene.ngeom]:
            if shape.objtype == int(mujoco.mjtObj.mjOBJ_GEOM) and 0 <= shape.segid + 1 < len(classes):
                classes[shape.segid + 1] = self._classes[shape.objid]
        return classes[drawn]

    def close(self) -> None:
        """Free the GL context; call it in the thread that drew."""
        if self._context is not None:
            self._drawing.free()
            self._context.free()
            self._context = None

    def _open(self) -> None:
        """Context, GPU copies of the model and an empty scene, in the calling thread."""
        self._context = _context_class(self.name)(self._width, self._height)
        self._context.make_current()
        self._drawing = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._drawing)
        self._scene = mujoco.MjvScene(self._model, maxgeom=MAX_GEOMS)
        self._uploaded = self._texture.copy()

    def _draw(self, camera: str, identities: bool) -> np.ndarray:
        """Pixels (H, W, 3), uint8: the picture, or each geom painted in its number."""
        view = mujoco.MjvCamera()
        view.type, view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera_index(self._model, camera)
        if self._context is None:
            self._open()
        self._context.make_current()
        if not np.array_equal(self._texture, self._uploaded):
            self._uploaded = self._texture.copy()
            mujoco.mjr_uploadTexture(self._model, self._drawing, self._model.texture("table").id)
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_comPos(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        every = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(self._model, self._data, mujoco.MjvOption(), None, view, every, self._scene)
        for flag in (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR):
            self._scene.flags[flag] = int(identities)
        pixels = np.empty((self._height, self._width, 3), np.uint8)
        frame = mujoco.MjrRect(0, 0, self._width, self._height)
        mujoco.mjr_render(frame, self._scene, self._drawing)
        mujoco.mjr_readPixels(pixels, None, frame, self._drawing)
        return np.ascontiguousarray(pixels[::-1])


def _context_class(name: str) -> Any:
    """MuJoCo's context class of that back-end. Raises SimulationError when PyOpenGL already serves the other."""
    taken = os.environ.get("PYOPENGL_PLATFORM", name)
    if taken != name:
        raise SimulationError(f"renderer '{name}' cannot draw: this process uses '{taken}'; available: {taken}, ray")
    return importlib.import_module(f"mujoco.{name}").GLContext
