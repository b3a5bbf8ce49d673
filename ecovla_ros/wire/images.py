"""Images to RGB arrays and back."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from ecovla_ros.errors import ObservationError, short, unknown
from ecovla_ros.types import Pixels
from ecovla_ros.wire import compressed
from ecovla_ros.wire.fields import sequence, set_stamp

CHANNELS: dict[str, tuple[int, ...]] = {
    "rgb8": (0, 1, 2),
    "bgr8": (2, 1, 0),
    "rgba8": (0, 1, 2),
    "bgra8": (2, 1, 0),
    "mono8": (0, 0, 0),
    "rgb16": (0, 1, 2),
    "bgr16": (2, 1, 0),
    "rgba16": (0, 1, 2),
    "bgra16": (2, 1, 0),
    "mono16": (0, 0, 0),
    "8UC1": (0, 0, 0),
    "8UC3": (2, 1, 0),
    "8UC4": (2, 1, 0),
}
"""Image encoding -> where red, green and blue stand in a pixel. 8UC3 and 8UC4 are as OpenCV writes them: blue first. Of
16 bits the upper 8 are taken."""
CONVERTED: dict[str, tuple[int, int]] = {
    "bayer_rggb8": (1, cv2.COLOR_BayerRGGB2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerBGGR2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGBRG2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGRBG2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUYV),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUYV),
}
"""Image encoding -> bytes of a pixel, and OpenCV's conversion."""
PLANAR: dict[str, tuple[int, int]] = {
    "nv12": (cv2.COLOR_YUV2RGB_NV12, 2),
    "nv21": (cv2.COLOR_YUV2RGB_NV21, 2),
    "nv24": (cv2.COLOR_YUV2RGB_NV12, 1),
    "yuv420": (cv2.COLOR_YUV2RGB_I420, 2),
    "i420": (cv2.COLOR_YUV2RGB_I420, 2),
    "yv12": (cv2.COLOR_YUV2RGB_YV12, 2),
}
"""Image encoding -> OpenCV's conversion, and how many pixels a side share a colour: brightness first, then colours."""
DEPTH = ("16UC1", "32FC1", "16SC1", "64FC1")
_BYTES = {
    "rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "rgb16": 6, "bgr16": 6, "rgba16": 8, "bgra16": 8,
    "mono16": 2, "8UC1": 1, "8UC3": 3, "8UC4": 4, **{name: size for name, (size, _) in CONVERTED.items()},
}  # fmt: skip


def decode_image(msg: Any, name: str = "image", most_px: int = compressed.MOST_PX) -> Pixels:
    """sensor_msgs/Image or CompressedImage to RGB, uint8, (H, W, 3). Row padding (`step`) is honoured.

    Raises ObservationError, naming the camera `name`, for another encoding, for data that do not fit the size, and,
    before anything is decoded, for more than `most_px` pixels.
    """
    if hasattr(msg, "encoding"):
        return _raw(msg, name, most_px)
    return _packed(msg, f"{name} ('{short(msg.format)}')", most_px)


def _packed(msg: Any, name: str, most_px: int) -> Pixels:
    """A CompressedImage. image_transport packs a mosaic as it is, as grey, and says in `format` which one it was."""
    encoding = str(msg.format).partition(";")[0].strip()
    picture = compressed.decode(msg.data, name, most_px, encoding)
    if encoding.startswith("bayer") and encoding in CONVERTED and compressed.channels(bytes(msg.data)) == 1:
        return _colours(picture[..., :1], encoding, False, name)
    return picture


def _raw(msg: Any, name: str, most_px: int) -> Pixels:
    if not int(msg.height) * int(msg.width) and not len(msg.data):
        raise ObservationError(f"{name}: an empty picture, {int(msg.width)} x {int(msg.height)} px without data")
    if msg.encoding in DEPTH:
        raise ObservationError(
            f"{name}: {msg.encoding} is a depth picture; valid: the colour topic of the camera, or as one of "
            f"{', '.join(sorted([*_BYTES, *PLANAR]))}"
        )
    if msg.encoding in PLANAR:
        return _planar(msg, name, most_px)
    if msg.encoding not in _BYTES:
        raise ObservationError(f"{name}: " + unknown("image encoding", msg.encoding, (*_BYTES, *PLANAR)))
    height, width, step, unit = int(msg.height), int(msg.width), int(msg.step), _BYTES[msg.encoding]
    if not 0 < height * width <= most_px:
        raise ObservationError(f"{name}: size {width} x {height} px; valid: 1 to {most_px} px in all")
    data = np.frombuffer(msg.data, np.uint8)
    if step < width * unit or data.size < height * step - (step - width * unit):
        raise ObservationError(
            f"{name}: {data.size} bytes with step {step} are not {width} x {height} px of {msg.encoding}; valid: a "
            f"step of at least {width * unit} and step x height bytes"
        )
    rows = np.lib.stride_tricks.as_strided(data, (height, width, unit), (step, unit, 1), writeable=False)
    return _colours(rows, msg.encoding, bool(getattr(msg, "is_bigendian", 0)), name)


def _planar(msg: Any, name: str, most_px: int) -> Pixels:
    """Brightness of every pixel, then the colours, in a plane of pairs (nv) or in two."""
    height, width, step = int(msg.height), int(msg.width), int(msg.step) or int(msg.width)
    conversion, share = PLANAR[msg.encoding]
    if not 0 < height * width <= most_px:
        raise ObservationError(f"{name}: size {width} x {height} px; valid: 1 to {most_px} px in all")
    if share == 2 and (height % 2 or width % 2):
        raise ObservationError(f"{name}: {width} x {height} px of {msg.encoding}; valid: even sides")
    data, rows = np.frombuffer(msg.data, np.uint8), height * 3 if share == 1 else height * 3 // 2
    if step < width or step % 2 or data.size < step * rows:
        raise ObservationError(
            f"{name}: {data.size} bytes with step {step} are not {width} x {height} px of {msg.encoding}; valid: an "
            f"even step of at least {width}, and step x {rows} bytes"
        )
    bright, colours = data[: step * height].reshape(height, step)[:, :width], data[step * height : step * rows]
    if share == 1:  # a colour for each pixel: as a picture of twice the side that shares it among four
        wide = np.repeat(np.repeat(bright, 2, 0), 2, 1)
        pairs = colours.reshape(height, 2 * step)[:, : 2 * width]
        return np.ascontiguousarray(cv2.cvtColor(np.vstack([wide, pairs]), conversion)[::2, ::2])
    if msg.encoding.startswith("nv"):
        colours = colours.reshape(height // 2, step)[:, :width]
    else:
        colours = colours.reshape(height, step // 2)[:, : width // 2].reshape(height // 2, width)
    return np.asarray(cv2.cvtColor(np.vstack([bright, colours]), conversion))


def _colours(rows: Pixels, encoding: str, big_endian: bool, name: str) -> Pixels:
    """Bytes (H, W, B) of an encoding to RGB, uint8, (H, W, 3)."""
    if encoding in CONVERTED:
        if rows.shape[0] < 2 or rows.shape[1] % 2 or (encoding.startswith("bayer") and rows.shape[0] % 2):
            raise ObservationError(f"{name}: {rows.shape[1]} x {rows.shape[0]} px of {encoding}; valid: even sides")
        whole = np.ascontiguousarray(rows if rows.shape[2] > 1 else rows[..., 0])
        return np.asarray(cv2.cvtColor(whole, CONVERTED[encoding][1]))
    if encoding.endswith("16"):
        rows = rows[..., 0 if big_endian else 1 :: 2]
    first, _, last = CHANNELS[encoding]
    if first == last:
        return np.repeat(rows[..., :1], 3, axis=2)
    return np.array(rows[..., :3] if first < last else rows[..., 2::-1])  # a copy: the message may go


def fill_image(msg: Any, image: Pixels, ns: int, frame: str) -> Any:
    """RGB uint8 (H, W, 3) into a sensor_msgs/Image."""
    set_stamp(msg.header.stamp, ns)
    msg.header.frame_id = frame
    msg.height, msg.width = image.shape[:2]
    msg.encoding, msg.is_bigendian, msg.step = "rgb8", 0, 3 * image.shape[1]
    msg.data = sequence(msg.data, "B", image)
    return msg


def fill_camera_info(msg: Any, intrinsics: tuple[float, float, float, float], size: tuple[int, int], ns: int) -> Any:
    """Pinhole intrinsics (fx, fy, cx, cy), px, of an image (width, height) into a sensor_msgs/CameraInfo."""
    fx, fy, cx, cy = intrinsics
    set_stamp(msg.header.stamp, ns)
    msg.width, msg.height = size
    msg.distortion_model, msg.d = "plumb_bob", [0.0] * 5
    msg.k = [fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]
    msg.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    msg.p = [fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return msg
