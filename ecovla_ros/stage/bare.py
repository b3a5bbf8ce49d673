"""Bytes on any topic of the middleware, also on those that ROS keeps for itself: requests, replies, its own talk.

rclpy publishes bytes only to what ROS calls a topic. The interface below it (rmw, in C) takes any name: what somebody
could send who speaks DDS without ROS. For the fuzz campaign and the tests.
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

from ecovla_ros.errors import ControlError

RMW, RCL = "librmw_fastrtps_cpp.so", "librcl.so"
RELIABLE, KEEP_LAST, TRANSIENT_LOCAL, VOLATILE = 1, 1, 1, 2
"""Values of rmw's enumerations."""
DISCOVERY = "ros_discovery_info"
"""What the middleware of every ROS 2 process reads by itself: which nodes there are."""
OPTIONS_BYTES = 256
"""More than rmw's options of a publisher have; all zero means default."""


class _Time(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_uint64), ("nsec", ctypes.c_uint64))


class _Profile(ctypes.Structure):
    """rmw_qos_profile_t."""

    _fields_ = (
        ("history", ctypes.c_int), ("depth", ctypes.c_size_t), ("reliability", ctypes.c_int),
        ("durability", ctypes.c_int), ("deadline", _Time), ("lifespan", _Time), ("liveliness", ctypes.c_int),
        ("lease", _Time), ("verbatim", ctypes.c_bool),
    )  # fmt: skip


class _Bytes(ctypes.Structure):
    """rcutils_uint8_array_t, whose allocator is not used for what is only read."""

    _fields_ = (
        ("buffer", ctypes.c_void_p), ("length", ctypes.c_size_t), ("capacity", ctypes.c_size_t),
        ("allocator", ctypes.c_void_p * 5),
    )  # fmt: skip


def requests(service: str) -> str:
    """The topic on which requests of a service travel."""
    return f"rq{service}Request"


def replies(service: str) -> str:
    """The topic on which its replies travel."""
    return f"rr{service}Reply"


class BareTopic:
    """A publisher of bytes under a name that is taken as it stands. Belongs to a node, which must outlive it."""

    def __init__(self, node: Any, kind: Any, name: str, durability: int = VOLATILE) -> None:
        """`kind`: message, or `Service.Request`, whose type the topic has. Raises ControlError where it cannot be."""
        rcl = ctypes.CDLL(RCL)
        rcl.rcl_node_get_rmw_handle.restype, rcl.rcl_node_get_rmw_handle.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
        self._rmw = ctypes.CDLL(RMW)
        self._rmw.rmw_create_publisher.restype = ctypes.c_void_p
        self._rmw.rmw_create_publisher.argtypes = [ctypes.c_void_p] * 5
        self._rmw.rmw_publish_serialized_message.argtypes = [ctypes.c_void_p] * 3
        self._rmw.rmw_publisher_count_matched_subscriptions.argtypes = [ctypes.c_void_p] * 2
        profile = _Profile(KEEP_LAST, 100, RELIABLE, durability, verbatim=True)
        options = ctypes.create_string_buffer(OPTIONS_BYTES)
        with node.handle:
            place = rcl.rcl_node_get_rmw_handle(node.handle.pointer)
            self._publisher = self._rmw.rmw_create_publisher(
                place, _type_support(kind), ctypes.create_string_buffer(name.encode()), ctypes.byref(profile), options
            )
        if not self._publisher:
            raise ControlError(f"no publisher for '{name}'; valid: a topic of the middleware, with rmw_fastrtps_cpp")

    def matched(self, wanted: int = 1, seconds: float = 20.0) -> bool:
        """Whether so many readers are found within this time."""
        end, count = time.monotonic() + seconds, ctypes.c_size_t()
        while time.monotonic() < end:
            self._rmw.rmw_publisher_count_matched_subscriptions(self._publisher, ctypes.byref(count))
            if count.value >= wanted:
                return True
            time.sleep(0.05)
        return False

    def publish(self, raw: bytes) -> None:
        """Send these bytes. Raises RuntimeError where the middleware does not let them out."""
        held = ctypes.create_string_buffer(raw, len(raw))
        message = _Bytes(ctypes.cast(held, ctypes.c_void_p), len(raw), len(raw))
        if self._rmw.rmw_publish_serialized_message(self._publisher, ctypes.byref(message), None):
            ctypes.CDLL("librcutils.so").rcutils_reset_error()
            raise RuntimeError(f"{len(raw)} bytes are not let out")


def _type_support(kind: Any) -> int:
    """Address of the type support of a message class."""
    metaclass, python = kind.__class__, ctypes.pythonapi
    metaclass.__import_type_support__()
    python.PyCapsule_GetName.restype, python.PyCapsule_GetName.argtypes = ctypes.c_char_p, [ctypes.py_object]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    capsule = metaclass._TYPE_SUPPORT
    return int(python.PyCapsule_GetPointer(capsule, python.PyCapsule_GetName(capsule)))
