"""One client's episode: its messages to observations, chunks to actions. No sockets here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ecovla_ros.engine.engine import Engine
from ecovla_ros.errors import ConfigError, ObservationError, short
from ecovla_ros.models.data.units import HasUnits
from ecovla_ros.serve.ensemble import Ensemble
from ecovla_ros.types import ArmState, FrameReport, Observation
from ecovla_ros.wire.arm import check_radians
from ecovla_ros.wire.frames import MOST_INSTRUCTION


@dataclass(frozen=True)
class MessageKeys:
    """Where things lie in a client's messages: "a/b" is the key "a/b", or "b" within "a"."""

    images: Mapping[str, str]
    """Camera -> key of its image."""
    state: tuple[str, ...]
    """Keys whose numbers, one after the other, are the state."""
    text: str


VLA_EVAL = MessageKeys({"third_person": "images/agentview", "wrist": "images/wrist"}, ("states",), "task_description")
OPENPI = MessageKeys(
    {"third_person": "observation/image", "wrist": "observation/wrist_image"}, ("observation/state",), "prompt"
)
"""LIBERO's names, of vla-eval's benchmark and of openpi's example."""
DROID = MessageKeys(
    {"third_person": "observation/exterior_image_1_left", "wrist": "observation/wrist_image_left"},
    ("observation/joint_position", "observation/gripper_position"),
    "prompt",
)
ALOHA = MessageKeys({"third_person": "images/cam_high", "wrist": "images/cam_right_wrist"}, ("state",), "prompt")
LEROBOT = MessageKeys({"third_person": "third_person", "wrist": "wrist"}, ("observation.state",), "task")
"""Of what `serve/lerobot` makes of an observation."""
PRESETS = {"libero": OPENPI, "droid": DROID, "aloha": ALOHA}
"""What openpi's examples call things."""
GRIPPER_BESIDE = 0.1
"""A measured gripper may lie so far outside 0 to 1."""
RESET = "reset"
"""Key of an openpi client's message that begins an episode."""
STAMP = "stamp_ns"
"""Key of a message's own stamp, nanoseconds, which the answer repeats; without it a message has that of its arrival."""


@dataclass
class Session:
    """The engine as a client sees it. Methods belong to the inference thread."""

    engine: Engine
    keys: MessageKeys
    other: bool
    """Whether the checkpoint is of another arm: the state goes in, and the actions come out, as its data have them."""
    execute: int = 0
    """Actions of a chunk that are handed out one by one before the next inference; 0: all."""
    ensemble: Ensemble | None = None
    """Averages the last chunks instead: an inference for every action."""
    gripper: str = "as-is"
    """"openvla": the last number, 0 closed to 1 open as in Open X-Embodiment, becomes -1 open or 1 closed (LIBERO)."""
    seed: int = 0
    clock: Callable[[], int] = field(default=lambda: 0)
    """Nanoseconds, for stamps."""
    prompt: str = ""
    """The instruction of messages that have none."""
    key: str = ""
    """What the session is called in its answers; empty: they do not say."""
    shares: bool = False
    """Whether the pattern is that of other sessions too: an episode of this one does not begin it anew."""
    report: FrameReport | None = None
    """Of the frame that the last message had computed; None where it had none."""
    stamp_ns: int = 0
    """Of the observation that was answered last, ns."""
    _left: list[NDArray[np.float32]] = field(default_factory=list)
    _text: str = ""

    def start(self) -> None:
        """A new episode: forget the last one."""
        self.engine.reset(self.seed, pattern=not self.shares)
        self._left, self._text = [], ""
        if self.ensemble is not None:
            self.ensemble.reset()

    def chunk(self, message: Any) -> NDArray[np.float32]:
        """Actions (H, D) for an observation; one with another instruction begins an episode.

        Raises ObservationError, ControlError, PruningError.
        """
        return self._turned(self._infer(message))

    def answer(self, message: Any) -> NDArray[np.float32] | None:
        """As `chunk`. A message with `reset` set begins an episode; None where it holds nothing else."""
        if isinstance(message, Mapping) and message.get(RESET) is not None:
            if not isinstance(message[RESET], (bool, int, np.bool_)):
                raise ObservationError(f"'{RESET}' is {short(message[RESET], 40)}; valid: true or false")
            if bool(message[RESET]):
                self.start()
            message = {key: value for key, value in message.items() if key != RESET}
            if not message:
                return None
        return self.chunk(message)

    def action(self, message: Any) -> NDArray[np.float32]:
        """The next action (D,): of the chunk at hand, or of a new one. Raises as `chunk`."""
        if self.ensemble is not None:
            return self._turned(self.ensemble.action(self._infer(message))[None])[0]
        if self._left:
            self.stamp_ns = self._stamp(message)
        else:
            chunk = self.chunk(message)
            self._left = list(chunk[: self.execute or len(chunk)])
        return self._left.pop(0)

    def origin(self) -> dict[str, Any]:
        """What an answer says of itself: its session, and the stamp of the observation that it answers."""
        return {"session": self.key, STAMP: self.stamp_ns} if self.key else {}

    def observation(self, message: Any) -> Observation:
        """A client's message. Raises ObservationError naming the key that is missing or wrong."""
        if not isinstance(message, Mapping):
            raise ObservationError(f"an observation must be a mapping, got {type(message).__name__}")
        cameras = self.engine.policy.spec.cameras
        keys = {camera: self.keys.images.get(camera, camera) for camera in cameras}
        images = {camera: picture(self._look(message, key), key) for camera, key in keys.items()}
        text = self._instruction(message)
        if isinstance(text, np.ndarray) and text.shape == () and text.dtype.kind == "U":
            text = text.item()  # as openpi takes it
        if not isinstance(text, str):
            raise ObservationError(f"'{self.keys.text}' must be text, got {type(text).__name__}")
        if len(text) > MOST_INSTRUCTION:
            raise ObservationError(
                f"'{self.keys.text}' has {len(text)} characters; valid: an instruction of up to {MOST_INSTRUCTION}"
            )
        state = self._state(message)
        if not self.other:
            check_state(state)
        arm = np.zeros(7) if self.other else state[:7]
        return Observation(self._stamp(message), images, arm, 0.0 if self.other else float(state[7]), text, state)

    def _stamp(self, message: Any) -> int:
        """The message's own stamp, or that of now, ns. Raises ObservationError for one that is none."""
        given = message.get(STAMP) if isinstance(message, Mapping) else None
        if given is None:
            return self.clock()
        if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or not 0 <= given < 2**63:
            raise ObservationError(
                f"'{STAMP}' is {short(given, 40)}; valid: nanoseconds, a whole number from 0 to 2^63"
            )
        return int(given)

    def _instruction(self, message: Mapping[str, Any]) -> Any:
        """The message's, or the default one where it has none."""
        if not self.prompt:
            return self._look(message, self.keys.text)
        try:
            return self._look(message, self.keys.text) or self.prompt
        except ObservationError:
            return self.prompt

    def _infer(self, message: Any) -> NDArray[np.float32]:
        seen = self.observation(message)
        if self._text and seen.instruction != self._text:
            self.start()
        self._text, self.stamp_ns = seen.instruction, seen.stamp_ns
        step = self.engine.step(seen)
        made, self.report = step.chunk, step.report
        values = np.concatenate((made.joints, made.gripper[:, None]), 1) if made.raw is None else made.raw
        return values.astype(np.float32)

    def _turned(self, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions (N, D) with the gripper as the client has it."""
        if self.gripper == "openvla":
            actions = actions.copy()
            actions[:, -1] = -np.sign(2.0 * actions[:, -1] - 1.0)
        return actions

    def _state_numbers(self) -> int:
        """Numbers of a state: as the other arm's data have it, or seven joints and the gripper."""
        return cast(HasUnits, self.engine.policy).normaliser.widths[0] if self.other else 8

    def _state(self, message: Mapping[str, Any]) -> NDArray[np.float64]:
        needed = self._state_numbers()
        if not needed:
            return np.zeros(0)
        try:
            found = [self._look(message, key) for key in self.keys.state]
            parts = [np.asarray([] if part is None else part, dtype=np.float64).ravel() for part in found]
        except (TypeError, ValueError) as error:
            raise ObservationError(f"the state ({', '.join(self.keys.state)}) is not numbers: {error}") from error
        state = np.concatenate(parts)
        if state.size != needed:
            keys = ", ".join(self.keys.state)
            raise ObservationError(f"the state ({keys}) has {state.size} numbers; needed: {needed}")
        return state

    def _look(self, message: Mapping[str, Any], key: str) -> Any:
        if key in message:
            return message[key]
        place: Any = message
        for part in key.split("/"):
            if not isinstance(place, Mapping) or part not in place:
                raise ObservationError(f"no '{key}' in the observation; it has {', '.join(map(str, _paths(message)))}")
            place = place[part]
        return place


def check_state(state: NDArray[np.float64]) -> None:
    """Raises ObservationError for eight numbers that are no state of this arm: not finite, degrees, a gripper beside 0
    to 1."""
    if not np.isfinite(state).all():
        raise ObservationError("the state is not finite; valid: finite rad, and the gripper from 0 to 1")
    check_radians(ArmState(0, state[:7], np.zeros(7), 0.0))
    if not -GRIPPER_BESIDE <= state[7] <= 1.0 + GRIPPER_BESIDE:
        raise ObservationError(f"the gripper of the state is at {state[7]:.4g}; valid: 0 (open) to 1 (closed)")


def picture(value: Any, key: str) -> Any:
    """An image as openpi's clients send them: (H, W, 3), or (3, H, W); uint8, or floats from 0 to 1.

    Raises ObservationError for floats that are none of these, and for what is no array; other arrays are the policy's
    to judge.
    """
    if not isinstance(value, (np.ndarray, list)):
        packed = f"{len(value)} bytes, packed" if isinstance(value, bytes) else type(value).__name__
        raise ObservationError(f"'{key}' is {packed}; valid: an array of pixels (H, W, 3), as it is when unpacked")
    image = np.asarray(value)
    if image.ndim == 3 and image.shape[0] == 3 and image.shape[2] != 3:
        image = np.moveaxis(image, 0, 2)
    if image.dtype.kind != "f":
        return np.ascontiguousarray(image)
    if not image.size or not np.isfinite(image).all() or image.min() < 0.0 or image.max() > 1.0:
        low, high = image.min(initial=0), image.max(initial=0)
        raise ObservationError(f"'{key}' is floats from {low:.4g} to {high:.4g}; valid: 0 to 1, or uint8")
    return np.ascontiguousarray((255.0 * image).astype(np.uint8))


def keys_of(protocol: MessageKeys, images: Sequence[str], state: str, text: str) -> MessageKeys:
    """`protocol`'s keys, or those of the command line: camera=key, comma-separated keys, a key. Raises ConfigError."""
    chosen = dict(protocol.images)
    for item in images:
        camera, equals, key = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{item}' is not camera=key, e.g. wrist=observation/wrist_image")
        chosen[camera] = key
    return MessageKeys(chosen, tuple(state.split(",")) if state else protocol.state, text or protocol.text)


def _paths(message: Mapping[str, Any], before: str = "") -> list[str]:
    out: list[str] = []
    for key, value in list(message.items())[:20]:
        out += _paths(value, f"{before}{key}/") if isinstance(value, Mapping) else [f"{before}{key}"]
    return out
