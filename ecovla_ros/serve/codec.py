"""msgpack with arrays: what openpi-client and vla-eval send, and what they read. Plain numbers only, no objects."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import cv2
import msgpack
import numpy as np
from numpy.typing import NDArray

from ecovla_ros.errors import ObservationError

MAX_BYTES = 32 * 2**20
"""Longest message, bytes: two raw images of 1920 x 1080 and what goes with them."""

MAX_PIXELS = 1920 * 1080 * 2
KINDS = "biuf"
"""numpy kinds that may come in: bool, integers, floats."""


def unpack(data: Any) -> Any:
    """Bytes to plain values and arrays. Raises ObservationError: text, too long, malformed, a forbidden type."""
    if not isinstance(data, (bytes, bytearray)):
        raise ObservationError("a message must be binary (msgpack), got text")
    if len(data) > MAX_BYTES:
        raise ObservationError(f"a message of {len(data)} bytes; at most {MAX_BYTES}")
    try:
        return msgpack.unpackb(data, object_hook=_array, raw=False, strict_map_key=False)
    except (msgpack.UnpackException, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ObservationError(f"a message is not msgpack of plain values and arrays: {error}") from error


def pack(value: Any, form: str) -> bytes:
    """Plain values and arrays to bytes. `form`: "openpi" or "vla-eval", whose keys of an array are bytes or text."""
    packed: bytes = msgpack.packb(value, default=lambda v: _parts(v, form), use_bin_type=True)
    return packed


def _parts(value: Any, form: str) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot be sent")
    parts = {"__ndarray__": True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}
    return {k.encode(): v for k, v in parts.items()} if form == "openpi" else parts


def _array(mapping: Mapping[Any, Any]) -> Any:
    """An array, a number or an image where the mapping is one; else the mapping."""
    named = {k.decode() if isinstance(k, bytes) else k: v for k, v in mapping.items()}
    if "__ndarray__" in named:
        return _values(named["data"], named["dtype"], named["shape"])
    if "__npgeneric__" in named:
        return np.asarray(named["data"], dtype=_dtype(named["dtype"]))[()]
    if "__image__" in named:
        if named["format"] == "raw":
            return _values(named["data"], named["dtype"], named["shape"])
        return _picture(named["data"])
    return mapping


def _dtype(name: Any) -> np.dtype[Any]:
    dtype = np.dtype(str(name))
    if dtype.kind not in KINDS:
        raise ValueError(f"an array of {dtype}; valid kinds: bool, integers, floats")
    return dtype


def _values(data: Any, name: Any, shape: Any) -> NDArray[Any]:
    if not isinstance(data, bytes) or len(shape) > 8:
        raise ValueError("an array needs bytes and at most 8 axes")
    return np.frombuffer(data, dtype=_dtype(name)).reshape([int(n) for n in shape]).copy()


def _picture(data: Any) -> NDArray[np.uint8]:
    """PNG or JPEG to RGB (H, W, 3); its header is looked at before memory is given to it."""
    height, width = _size(data)
    if not 0 < height * width <= MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} px; at most {MAX_PIXELS} px")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError("an image is broken")
    return np.ascontiguousarray(image[..., ::-1])


def _size(data: Any) -> tuple[int, int]:
    """Height and width as a PNG's or JPEG's header says them."""
    if isinstance(data, bytes) and data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) > 24:
        width, height = struct.unpack(">II", data[16:24])
        return height, width
    if isinstance(data, bytes) and data[:2] == b"\xff\xd8":
        at = 2
        while at + 9 < len(data) and data[at] == 0xFF:
            if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):
                height, width = struct.unpack(">HH", data[at + 5 : at + 9])
                return height, width
            at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    raise ValueError("an image is neither PNG nor JPEG")
