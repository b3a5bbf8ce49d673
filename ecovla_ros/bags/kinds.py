"""Message types of a bag: ROS 2's own, this package's, and whatever a .msg file at hand defines."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore

from ecovla_ros.errors import BagError

UNREADABLE = (SerdeError, TypesysError, KeyError, ValueError, IndexError, TypeError, struct.error, AssertionError)
"""What rosbags raises for bytes that are no message of their type."""
_SOURCE = Path(__file__).resolve().parents[2]


class Kinds:
    """Types by name, e.g. "std_msgs/msg/String". Starts with those of ROS 2 Kilted and learns others when asked."""

    def __init__(self) -> None:
        self.store = get_typestore(Stores.ROS2_KILTED)

    def learn(self, kind: str) -> None:
        """Register `kind` and what it is made of, where they are not known. Raises BagError."""
        if kind in self.store.fielddefs:
            return
        try:
            found = get_types_from_msg(definition(kind), kind)
        except TypesysError as error:
            raise BagError(f"the definition of {kind} cannot be read: {error}") from error
        for _, fields in found.values():
            for _, field in fields:
                node, detail = _element(field)
                if node == Nodetype.NAME and detail not in found:
                    self.learn(str(detail))
        self.store.register(found)

    def new(self, kind: str) -> type:
        """The class of a message. Raises BagError for an unknown type."""
        self.learn(kind)
        return self.store.types[kind]

    def decode(self, kind: str, raw: bytes) -> Any:
        """CDR bytes to a message. Raises BagError."""
        self.learn(kind)
        try:
            return self.store.deserialize_cdr(raw, kind)
        except UNREADABLE as error:
            raise BagError(f"{len(raw)} bytes are not a message of type {kind}: {error}") from error

    def encode(self, kind: str, value: Any) -> bytes:
        """A message to CDR bytes."""
        return bytes(self.store.serialize_cdr(value, kind))

    def blank(self, kind: str) -> Any:
        """A message with every field at zero, empty or false, to be filled. Raises BagError."""
        made = self.new(kind)
        values = [self._zero(*field) for _, field in self.store.fielddefs[kind][1]]
        return made(*values)

    def _zero(self, node: Nodetype, detail: Any) -> Any:
        if node == Nodetype.NAME:
            return self.blank(detail)
        if node == Nodetype.BASE:
            return {"string": "", "bool": False}.get(detail[0], 0.0 if detail[0].startswith("float") else 0)
        (inner, what), count = detail
        count = count if node == Nodetype.ARRAY else 0
        if inner == Nodetype.BASE and what[0] != "string":
            return np.zeros(count, {"octet": np.uint8, "byte": np.uint8, "char": np.uint8}.get(what[0], what[0]))
        return [self._zero(inner, what) for _ in range(count)]


def _element(field: Any) -> tuple[Nodetype, Any]:
    """What a field, or each element of a list, is."""
    node, detail = field
    return detail[0] if node in (Nodetype.ARRAY, Nodetype.SEQUENCE) else (node, detail)


def definition(kind: str) -> str:
    """Text of the .msg file of a type. Raises BagError, saying where it was looked for."""
    package, _, name = kind.replace("/msg/", "/").partition("/")
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    folders = [_SOURCE] if package == "ecovla_ros" else []
    folders += [Path(p) / "share" / package for p in (*prefixes, sys.prefix)]
    for folder in folders:
        file = folder / "msg" / f"{name}.msg"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise BagError(f"no definition of {kind}; looked in {', '.join(map(str, folders))}")
