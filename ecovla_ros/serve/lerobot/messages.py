"""The protobuf messages and the methods of LeRobot's service `transport.AsyncInference`.

Names and field numbers are what its clients send (lerobot 0.3 to 0.6). The descriptors lie in a pool of their own, so
that lerobot's may be loaded in the same process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from ecovla_ros.errors import ObservationError, short
from ecovla_ros.serve.codec import MAX_BYTES

PACKAGE, SERVICE = "transport", "transport.AsyncInference"
BEGIN, MIDDLE, END = 1, 2, 3
"""Which part of a long message a piece is."""
_FIELD = descriptor_pb2.FieldDescriptorProto


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="ecovla_ros/lerobot.proto", package=PACKAGE, syntax="proto3")
    state = file.enum_type.add(name="TransferState")
    for number, name in enumerate(("UNKNOWN", "BEGIN", "MIDDLE", "END")):
        state.value.add(name=f"TRANSFER_{name}", number=number)
    for name in ("Observation", "Actions", "PolicySetup", "Empty"):
        message = file.message_type.add(name=name)
        if name == "Observation":
            message.field.add(
                name="transfer_state", number=1, type=_FIELD.TYPE_ENUM, label=_FIELD.LABEL_OPTIONAL,
                type_name=f".{PACKAGE}.TransferState",
            )  # fmt: skip
        if name != "Empty":
            number = 2 if name == "Observation" else 1
            message.field.add(name="data", number=number, type=_FIELD.TYPE_BYTES, label=_FIELD.LABEL_OPTIONAL)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {m.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{m.name}"))
            for m in file.message_type}  # fmt: skip


_CLASSES = _classes()
Observation, Actions = _CLASSES["Observation"], _CLASSES["Actions"]
PolicySetup, Empty = _CLASSES["PolicySetup"], _CLASSES["Empty"]


async def joined(pieces: AsyncIterator[Any]) -> bytes:
    """The bytes of a message that came in pieces: everything from the last beginning to the first end.

    Pieces are serialized `Observation`s. Raises ObservationError: none ended it, too long, or no such message.
    """
    whole = bytearray()
    async for raw in pieces:
        try:
            piece = Observation.FromString(raw)
        except DecodeError as error:
            raise ObservationError(f"a piece of an observation is no protobuf message: {short(error)}") from error
        if piece.transfer_state not in (BEGIN, MIDDLE, END):
            raise ObservationError(f"transfer state {piece.transfer_state}; valid: {BEGIN} to {END}")
        if piece.transfer_state == BEGIN:
            whole.clear()
        whole += piece.data
        if len(whole) > MAX_BYTES:
            raise ObservationError(f"an observation of more than {MAX_BYTES} bytes; send smaller pictures")
        if piece.transfer_state == END:
            return bytes(whole)
    raise ObservationError("an observation broke off before its end")
