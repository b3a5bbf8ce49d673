"""The middleware's reader keeps within a message: what sees to it is loaded here, and tried when a node starts.

Fast CDR as of Kilted can be ended by a message of four bytes, and made to ask for gigabytes by one of thirty
(`src/cdr_bounds.cpp` says how). Nothing in Python can catch that, and it concerns what Python never sees: requests,
replies, and what the middleware tells itself. The library that the build makes of that file must be there first.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

LIBRARY = "libecovla_cdr_bounds.so"
WITHOUT = "ECOVLA_WITHOUT_CDR_BOUNDS"
"""Environment variable: set, the library is not loaded. For the tests of what it is for."""
SHORT = b"\0\1\0\1"
"""A message that says it has one byte of padding, and has none."""


def load() -> bool:
    """Load the library, for the whole process. Whether it is there; a build without Fast CDR has none.

    It counts for what is loaded later: call it before rclpy is imported.
    """
    if os.environ.get(WITHOUT):
        return False
    prefixes = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)), sys.prefix]
    for place in (*(Path(prefix, "lib", LIBRARY) for prefix in prefixes), Path(LIBRARY)):
        try:
            ctypes.CDLL(str(place), ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return True
    return False


def looks() -> bool:
    """Whether the middleware of this process looks before it reads. Tried with a type in which no harm can come."""
    from rclpy.serialization import deserialize_message
    from std_msgs.msg import Bool

    try:
        deserialize_message(SHORT, Bool)
    except (RuntimeError, ValueError):  # RMWError is a RuntimeError
        return True
    return False


def fault() -> str:
    """What is wrong with the middleware's reader; empty when it looks before it reads."""
    if looks():
        return ""
    return (
        "the middleware (Fast CDR) reads behind the end of a message of four bytes: whoever speaks DDS on this network "
        f"can end this process; valid: a build of ecovla_ros that has {LIBRARY}, discovery:=localhost, or SROS2"
    )


def warn(node: Any) -> None:
    """Say so in the log of a node."""
    if text := fault():
        node.get_logger().warning(text)
