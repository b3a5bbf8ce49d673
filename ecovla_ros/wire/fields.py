"""Stamps and number sequences of messages, whether rclpy's or those read from a bag."""

from __future__ import annotations

import struct
from array import array
from typing import Any

import numpy as np

from ecovla_ros.errors import ObservationError
from ecovla_ros.types import Floats, Pixels

NS = 1_000_000_000


def stamp_ns(stamp: Any) -> int:
    """builtin_interfaces/Time or Duration to nanoseconds."""
    return int(stamp.sec) * NS + int(stamp.nanosec)


def raw_stamp_ns(raw: bytes) -> int:
    """Stamp, ns, of a serialized message (CDR) that starts with a std_msgs/Header. Raises ObservationError."""
    if len(raw) < 12 or raw[0] or raw[1] > 1:
        raise ObservationError(f"{len(raw)} bytes that are no serialized message with a stamp; valid: plain CDR")
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return int(sec) * NS + int(nanosec)


def set_stamp(stamp: Any, ns: int) -> None:
    """Nanoseconds into a builtin_interfaces/Time or Duration."""
    stamp.sec, stamp.nanosec = divmod(int(ns), NS)


def sequence(like: Any, code: str, values: Floats | Pixels) -> Any:
    """Values as a message holds them: numpy from a bag, array.array in rclpy (whose setters copy all else slowly)."""
    flat = np.ascontiguousarray(values, np.uint8 if code == "B" else np.float64).ravel()
    if isinstance(like, np.ndarray):
        return flat
    filled = array(code)
    filled.frombytes(flat.view(np.uint8).data)
    return filled
