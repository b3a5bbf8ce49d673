"""The simulator's cameras: a render thread of its own, so that pictures never hold up physics."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, Image

from ecovla_ros import wire
from ecovla_ros.errors import SimulationError
from ecovla_ros.nodes.ros import qos
from ecovla_ros.sim import render
from ecovla_ros.types import CAMERAS

Size = tuple[int, int]


class SimCameras:
    """Draws and publishes both cameras. `shoot` and `close` belong to the thread that owns the world."""

    def __init__(self, node: Any, model: Any, renderer: str, size: Size) -> None:
        """Start the render thread. Raises SimulationError when the renderer cannot draw here."""
        self._model, self._size = model, size
        self._publishers = {
            name: (
                node.create_publisher(Image, f"{name}/image", qos.SENSOR),
                node.create_publisher(CameraInfo, f"{name}/camera_info", qos.SENSOR),
            )
            for name in CAMERAS
        }
        self._changed = threading.Condition()
        self._stamp_ns: int | None = None
        self._open, self._failure = True, ""
        self._renderer: Any = None
        make = render.choose(renderer)
        self._thread = threading.Thread(target=self._draw, args=(make,), name="cameras")
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._renderer is not None or self._failure)
        if self._failure:
            self._thread.join()
            raise SimulationError(self._failure)

    @property
    def renderer(self) -> str:
        """Name of the renderer that draws."""
        return str(self._renderer.name)

    def shoot(self, data: Any, stamp_ns: int, wait: bool = False) -> None:
        """Have both cameras drawn as of now. While the last pictures are being drawn: `wait` for them, or skip.

        Raises SimulationError when the render thread has broken.
        """
        with self._changed:
            if wait:
                self._changed.wait_for(lambda: self._stamp_ns is None or not self._open)
            if not self._open:
                raise SimulationError("the render thread broke; its traceback stands above")
            if self._stamp_ns is not None:
                return
            self._renderer.snapshot(data)
            self._stamp_ns = stamp_ns
            self._changed.notify_all()

    def settle(self) -> None:
        """Wait until nothing is being drawn."""
        with self._changed:
            self._changed.wait_for(lambda: self._stamp_ns is None or not self._open)

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._thread.join()

    def _draw(self, make: Callable[[Any, int, int], Any]) -> None:
        try:
            renderer = make(self._model, *self._size)  # a GL context belongs to the thread that made it
        except (SimulationError, RuntimeError) as error:
            with self._changed:
                self._failure = str(error)
                self._changed.notify_all()
            return
        with self._changed:
            self._renderer = renderer
            self._changed.notify_all()
        try:
            while (stamp_ns := self._next()) is not None:
                for name in CAMERAS:
                    self._publish(name, renderer.render(name), stamp_ns)
                with self._changed:
                    self._stamp_ns = None
                    self._changed.notify_all()
        finally:
            with self._changed:
                self._open = False
                self._changed.notify_all()
            renderer.close()

    def _next(self) -> int | None:
        """The stamp of the next pictures, once they are due; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stamp_ns is not None or not self._open)
            return self._stamp_ns if self._open else None

    def _publish(self, name: str, picture: np.ndarray, stamp_ns: int) -> None:
        image_publisher, info_publisher = self._publishers[name]
        frame = f"{name}_optical_frame"
        image_publisher.publish(wire.fill_image(Image(), picture, stamp_ns, frame))
        intrinsics = render.camera_info(self._model, name, *self._size)
        info = wire.fill_camera_info(CameraInfo(), intrinsics, self._size, stamp_ns)
        info.header.frame_id = frame
        info_publisher.publish(info)
