"""msgpack with arrays: what openpi-client and vla-eval send, and what they read. Plain numbers only, no objects.

Whoever can connect can send anything. So everything that a message can be large in is bounded before work is done for
it: bytes, values, depth, lengths of texts, and pixels of all its pictures together.
"""

from __future__ import annotations

import re
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from ecovla_ros.errors import ObservationError, short
from ecovla_ros.wire import compressed

MAX_BYTES = 32 * 2**20
"""Longest message, bytes: two raw images of 1920 x 1080 and what goes with them."""
MAX_PIXELS = 2 * compressed.MOST_PX
"""Pixels of all compressed images of a message together."""
MAX_VALUES = 20_000
"""Values of a message: keys, numbers, texts and arrays, each counted once, however deep they lie."""
MAX_DEPTH = 16
MAX_TEXT = 2**14
"""Bytes of one text."""
DTYPE = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248])|bool|u?int(8|16|32|64)|float(16|32|64)")
TEXT = re.compile(r"<U(\d{1,4})")
"""One text as numpy has it."""
"""Arrays that may come in: bool, integers, floats."""


def unpack(data: Any) -> Any:
    """Bytes to plain values and arrays. Raises ObservationError: text, too long, malformed, a forbidden type."""
    if not isinstance(data, (bytes, bytearray)):
        raise ObservationError("a message must be binary (msgpack), got text")
    if len(data) > MAX_BYTES:
        raise ObservationError(f"a message of {len(data)} bytes; at most {MAX_BYTES}")
    reader = _Reader()
    try:
        value = msgpack.unpackb(
            data, object_hook=reader.mapping, list_hook=reader.sequence, ext_hook=_no_extension, raw=False,
            strict_map_key=False, max_str_len=MAX_TEXT, max_bin_len=MAX_BYTES, max_array_len=MAX_VALUES,
            max_map_len=MAX_VALUES, max_ext_len=0,
        )  # fmt: skip
        _check_depth(value)
    except ObservationError as error:
        raise ObservationError(f"a message is refused: {error}") from error
    except (msgpack.UnpackException, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise ObservationError(f"a message is not msgpack of plain values and arrays: {short(error)}") from error
    return value


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


class _Reader:
    """Makes the values of one message, and stops where they become too many."""

    def __init__(self) -> None:
        self._values, self._pixels = MAX_VALUES, MAX_PIXELS

    def sequence(self, values: list[Any]) -> list[Any]:
        """A list, counted."""
        self._count(len(values))
        return values

    def mapping(self, mapping: dict[Any, Any]) -> Any:
        """An array, a number or an image where the mapping is one; else the mapping, counted."""
        self._count(2 * len(mapping))
        named = {k.decode() if isinstance(k, bytes) else k: v for k, v in mapping.items()}
        if "__ndarray__" in named:
            return _array(named["data"], named["dtype"], named["shape"])
        if "__npgeneric__" in named:
            return np.asarray(named["data"], dtype=_dtype(named["dtype"]))[()]
        if "__image__" in named:
            if named["format"] == "raw":
                return _array(named["data"], named["dtype"], named["shape"])
            return self._image(named["data"])
        return mapping

    def _count(self, values: int) -> None:
        self._values -= 1 + values
        if self._values < 0:
            raise ValueError(f"more than {MAX_VALUES} values")

    def _image(self, data: Any) -> NDArray[np.uint8]:
        """PNG or JPEG to RGB (H, W, 3); its header is looked at before memory is given to it."""
        if not isinstance(data, bytes):
            raise ValueError("an image must be bytes")
        image = compressed.decode(data, "an image", self._pixels)
        self._pixels -= image.shape[0] * image.shape[1]
        return image


def _dtype(name: Any) -> np.dtype[Any]:
    text = str(name)
    if not DTYPE.fullmatch(text):
        raise ValueError(f"an array of {short(text, 40)}; valid kinds: bool, integers, floats")
    return np.dtype(text)


def _array(data: Any, name: Any, shape: Any) -> NDArray[Any]:
    if not isinstance(data, bytes) or not isinstance(shape, list) or len(shape) > 8:
        raise ValueError("an array needs bytes and at most 8 axes")
    if not shape and (length := TEXT.fullmatch(str(name))):  # openpi's clients may send the prompt so
        if len(data) != 4 * int(length[1]):
            raise ValueError(f"{len(data)} bytes are no text of {length[1]} characters")
        return np.array(data.decode("utf-32-le"))
    sides = [int(n) for n in shape]
    if any(side < 0 for side in sides):
        raise ValueError("an array needs sides of at least 0")
    return np.frombuffer(data, dtype=_dtype(name)).reshape(sides).copy()


def _check_depth(value: Any) -> None:
    """Level by level, since what is too deep is too deep for a function that calls itself."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = [v for v in level if isinstance(v, (dict, list))]
        level = [v for holder in inner for v in (holder.values() if isinstance(holder, dict) else holder)]
        if not level:
            return
    raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _no_extension(code: int, _data: bytes) -> Any:
    raise ValueError(f"msgpack's extension type {code}")
