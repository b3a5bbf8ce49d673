"""JPEG and PNG to RGB. What a picture claims to be is read from its header, and refused, before anything is decoded.

A file of 69 bytes can claim 65535 x 65535 pixels, and a small JPEG can go over its picture thousands of times. No other
format is decoded, whatever a message calls its data: OpenCV would try a dozen.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import cv2
import numpy as np

from ecovla_ros.errors import ObservationError
from ecovla_ros.types import Pixels
from ecovla_ros.wire import jpeg
from ecovla_ros.wire.jpeg import FRAMES

MOST_PX = 2 * 1920 * 1080
"""Pixels of a picture at most, unless told otherwise."""
MOST_SCANS = 20
"""Passes over a JPEG's picture; a progressive one has about ten."""
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
OTHER_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC, *FRAMES}
"""Lossless, hierarchical and arithmetic ones, which nobody sends."""
BLOCK, LEAST_BITS, TAIL = 16, 6, 1024
"""Largest side of a JPEG's unit, px, fewest bits that one of one colour costs, and the bytes at the end looked at."""
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
BARE = frozenset((0x01, *range(0xD0, 0xD8)))
"""JPEG markers without a length."""


def decode(data: Any, name: str, most_px: int = MOST_PX) -> Pixels:
    """Bytes of a whole JPEG or PNG to RGB, uint8, (H, W, 3). Raises ObservationError, naming the picture `name`."""
    raw = bytes(data)
    if depth := _depth(raw):
        raise ObservationError(f"{name}: {depth}; valid: a colour picture")
    try:
        height, width = size(raw)
        if not 0 < height * width <= most_px:
            raise ObservationError(f"{name}: an image of {width} x {height} px; valid: 1 to {most_px} px in all")
        lacks = jpeg.cut(raw) if raw[:2] == JPEG else ""
    except (ValueError, IndexError, struct.error) as error:  # a header that says less than it must
        raise ObservationError(
            f"{name}: {len(raw)} bytes do not decode: {error}; valid: a whole JPEG or PNG"
        ) from error
    if lacks:
        raise ObservationError(f"{name}: {lacks}: the JPEG was cut; valid: a whole JPEG or PNG")
    try:
        image: Any = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as error:
        raise ObservationError(f"{name}: {len(raw)} bytes do not decode; valid: a whole JPEG or PNG") from error
    if image is None:
        raise ObservationError(f"{name}: {len(raw)} bytes do not decode; valid: a whole JPEG or PNG")
    if missing := _missing_rows(raw, image):
        raise ObservationError(
            f"{name}: of {height} rows the last {missing} are not in the {len(raw)} bytes: the JPEG was cut; valid: a "
            "whole JPEG or PNG"
        )
    return np.ascontiguousarray(image[..., ::-1])


def _depth(raw: bytes) -> str:
    """Why these bytes are a depth picture; empty when they are not. compressed_depth_image_transport puts 12 bytes
    before a PNG."""
    at = raw[:64].find(PNG)
    if at > 0:
        return f"{at} bytes before a PNG, as compressedDepth has them: a depth picture"
    if at == 0 and len(raw) > 26 and raw[24] == 16 and raw[25] in (0, 4):
        return "a PNG of one channel of 16 bits: a depth picture (16UC1)"
    return ""


def _missing_rows(raw: bytes, image: Pixels) -> int:
    """Rows at the bottom that a JPEG does not hold: cameras that lose half of one still end it with its marker.

    The decoder fills them with one colour. So does a picture that is really of one colour there; but that costs bits,
    the same few over and over, and so the last bytes repeat. Of baseline JPEGs without restart markers;
    others tell by their markers (see `jpeg`).
    """
    if raw[:2] != JPEG or not (image[-1] == image[-1, 0]).all():
        return 0
    filled = (image == image[-1, -1]).reshape(len(image), -1).all(1)
    rows = len(filled) if filled.all() else int(np.argmin(filled[::-1]))
    scans, end = raw.count(b"\xff\xda"), raw.rfind(b"\xff\xd9")
    if rows < 2 * BLOCK or rows == len(filled) or scans != 1 or b"\xff\xc2" in raw[: raw.find(b"\xff\xda")]:
        return 0
    bits = (rows // BLOCK - 1) * (image.shape[1] // BLOCK) * LEAST_BITS
    data = _RESTART.sub(b"\xff\xd0", raw[: end if end > 0 else len(raw)])
    tail = data[-min(bits // 8, TAIL) : -1]  # the last byte is filled up
    return 0 if len(tail) < 8 or any(tail[p:] == tail[:-p] for p in range(1, len(tail) - 3)) else rows


def encode(image: Pixels) -> bytes:
    """RGB, uint8, (H, W, 3) to a PNG."""
    return bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())


def encode_jpeg(image: Pixels, quality: int) -> bytes:
    """RGB, uint8, (H, W, 3) to a JPEG; `quality` 1 to 100."""
    return bytes(cv2.imencode(".jpg", image[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes())


def size(raw: bytes) -> tuple[int, int]:
    """Height and width as the header says them. Raises ValueError or struct.error for what is neither JPEG nor PNG."""
    if raw[:8] == PNG:
        return _png(raw)
    if raw[:2] == JPEG:
        return _jpeg(raw)
    raise ValueError("neither JPEG nor PNG")


def _png(raw: bytes) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", raw, 8)
    if kind != b"IHDR" or length != 13:
        raise ValueError("a PNG that does not begin with its header")
    if b"acTL" in raw[: raw.find(b"IDAT")]:
        raise ValueError("a PNG that moves")
    return height, width


def _jpeg(raw: bytes) -> tuple[int, int]:
    """As libjpeg looks for it: over fill bytes, and over whatever stands between two markers."""
    if raw.count(b"\xff\xda") > MOST_SCANS:
        raise ValueError(f"a JPEG of more than {MOST_SCANS} scans")
    at = 2
    while True:
        at = raw.find(b"\xff", at)
        while 0 <= at < len(raw) and raw[at] == 0xFF:
            at += 1
        if at < 0 or at >= len(raw):
            raise ValueError("a JPEG without a frame header")
        marker, at = raw[at], at + 1
        if marker in FRAMES:
            _, _, height, width = struct.unpack_from(">HBHH", raw, at)
            return height, width
        if marker in OTHER_FRAMES or marker in (0xD8, 0xD9, 0xDA):
            raise ValueError("a JPEG without a frame header that is decoded (baseline or progressive)")
        if marker and marker not in BARE:
            at += struct.unpack_from(">H", raw, at)[0]
