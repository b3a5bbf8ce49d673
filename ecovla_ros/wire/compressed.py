"""JPEG and PNG to RGB. What a picture claims to be is read from its header, and refused, before anything is decoded.

A file of 69 bytes can claim 65535 x 65535 pixels, and a small JPEG can go over its picture thousands of times. No other
format is decoded, whatever a message calls its data: OpenCV would try a dozen. JPEG is decoded by simplejpeg, which
says when a picture's data end before the picture does; OpenCV fills the rest with grey and says nothing to the caller.
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
PADDING_BYTES = 4
"""Bytes too many at the end of a JPEG's data, which many cameras send. More of them are damage, unless all are alike:
then they fill a buffer."""
_EXTRA = re.compile(r"(\d+) extraneous bytes before marker")
BARE = frozenset((0x01, *range(0xD0, 0xD8)))
"""JPEG markers without a length."""


def decode(data: Any, name: str, most_px: int = MOST_PX, encoding: str = "", upright: bool = False) -> Pixels:
    """Bytes of a whole JPEG or PNG to RGB, uint8, (H, W, 3). Raises ObservationError, naming the picture `name`.

    `encoding`: what the picture was before it was packed, where the sender says so. `upright`: turned as its EXIF
    orientation says, which the Hugging Face libraries do and ROS's image transport does not.
    """
    raw = bytes(data)
    if depth := _depth(raw, encoding):
        raise ObservationError(f"{name}: {depth}; valid: a colour picture")
    try:
        height, width = size(raw)
        if not 0 < height * width <= most_px:
            raise ObservationError(f"{name}: an image of {width} x {height} px; valid: 1 to {most_px} px in all")
        lacks = jpeg.cut(raw) if raw[:2] == JPEG else ""
    except (ValueError, IndexError, struct.error) as error:  # a header that says less than it must
        raise ObservationError(f"{name}: {_undecoded(raw)}: {error}; valid: a whole JPEG or PNG") from error
    if lacks:
        raise ObservationError(f"{name}: {lacks}: the JPEG was cut; valid: a whole JPEG or PNG")
    image = _of_jpeg(raw, name) if raw[:2] == JPEG else _by_opencv(raw, name, cv2.IMREAD_IGNORE_ORIENTATION)
    if upright and (b"Exif" in raw or b"eXIf" in raw):
        return _by_opencv(raw, name)
    return image


def _of_jpeg(raw: bytes, name: str) -> Pixels:
    """The picture, if its data are there to the end. Raises ObservationError."""
    if channels(raw) == 4:
        raise ObservationError(f"{name}: a JPEG of four inks (CMYK), for printing; valid: one of colours or grey")
    import simplejpeg  # here, as what never sees a JPEG, such as a bench on a GPU machine, runs without it

    try:
        return np.asarray(simplejpeg.decode_jpeg(raw, "RGB"))
    except (ValueError, MemoryError) as error:
        if not _padded(raw, str(error)):
            raise ObservationError(
                f"{name}: {_undecoded(raw)} ({error}): the JPEG was cut or damaged; valid: a whole JPEG or PNG"
            ) from error
    return np.asarray(simplejpeg.decode_jpeg(raw, "RGB", strict=False))


def _padded(raw: bytes, warning: str) -> bool:
    """Whether all that is wrong with a JPEG is bytes that its camera put behind its data."""
    if not (found := _EXTRA.search(warning)):
        return False
    count, end = int(found[1]), raw.rfind(b"\xff\xd9")
    return count <= PADDING_BYTES or len(set(raw[max(end - count, 0) : end])) == 1


def _by_opencv(raw: bytes, name: str, flags: int = 0) -> Pixels:
    """Raises ObservationError for what OpenCV cannot read."""
    try:
        image: Any = cv2.imdecode(np.frombuffer(raw, np.uint8), cv2.IMREAD_COLOR | flags)
    except (cv2.error, MemoryError) as error:
        raise ObservationError(f"{name}: {_undecoded(raw)}; valid: a whole JPEG or PNG") from error
    if image is None:
        raise ObservationError(f"{name}: {_undecoded(raw)}; valid: a whole JPEG or PNG")
    return np.ascontiguousarray(image[..., ::-1])


def _undecoded(raw: bytes) -> str:
    return f"{len(raw)} bytes do not decode"


def _depth(raw: bytes, encoding: str) -> str:
    """Why these bytes are a depth picture; empty when they are not. compressed_depth_image_transport puts 12 bytes
    before a PNG."""
    at = raw[:64].find(PNG)
    if at > 0:
        return f"{at} bytes before a PNG, as compressedDepth has them: a depth picture"
    if at == 0 and len(raw) > 26 and raw[24] == 16 and raw[25] in (0, 4) and encoding != "mono16":
        return "a PNG of one channel of 16 bits: a depth picture (16UC1)"
    return ""


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


def channels(raw: bytes) -> int:
    """Numbers of a pixel of a JPEG or PNG, as its header says. Raises ValueError or struct.error as `size`."""
    if raw[:8] == PNG:
        return {0: 1, 4: 2, 6: 4}.get(raw[25], 3)
    return raw[_frame_header(raw) + 7]


def _png(raw: bytes) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", raw, 8)
    if kind != b"IHDR" or length != 13:
        raise ValueError("a PNG that does not begin with its header")
    if b"acTL" in raw[: raw.find(b"IDAT")]:
        raise ValueError("a PNG that moves")
    return height, width


def _jpeg(raw: bytes) -> tuple[int, int]:
    _, _, height, width = struct.unpack_from(">HBHH", raw, _frame_header(raw))
    return height, width


def _frame_header(raw: bytes) -> int:
    """Where it lies, as libjpeg looks for it: over fill bytes, and over whatever stands between two markers."""
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
            return at
        if marker in OTHER_FRAMES or marker in (0xD8, 0xD9, 0xDA):
            raise ValueError("a JPEG without a frame header that is decoded (baseline or progressive)")
        if marker and marker not in BARE:
            at += struct.unpack_from(">H", raw, at)[0]
