"""A bag made from a seed: two cameras, joint states and an instruction. `python -m ecovla_ros.bags.sample FOLDER`

For tests, examples and figures. The pictures are drawn in integers, so that every machine makes the same bag: a table
with three discs that wander, and one change of the whole scene in the middle. It is no robot's view of anything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from ecovla_ros import wire
from ecovla_ros.bags.kinds import Kinds
from ecovla_ros.bags.write import BagWriter
from ecovla_ros.errors import BagError, unknown
from ecovla_ros.types import CAMERAS, ArmState

START_NS = 1_700_000_000_000_000_000
"""Time of the first message, ns."""
HOME = (0.0, 0.35, 3.14, -2.2, 0.0, -1.0, 1.57)
"""Where the arm stands at first, rad."""
SENSOR = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
ENCODINGS = ("rgb8", "jpeg", "png")


class TimedMessage(NamedTuple):
    """One message to be written."""

    topic: str
    kind: str
    time_ns: int
    message: Any


@dataclass(frozen=True)
class Sample:
    """What the bag holds."""

    seconds: float = 5.0
    size: int = 224
    """Side of a picture, px."""
    image_hz: float = 10.0
    state_hz: float = 50.0
    encoding: str = "jpeg"
    """rgb8: raw. jpeg, png: compressed, topics end in /compressed."""
    instruction: str = "place the apple in the basket"
    still: bool = False
    """The arm does not move."""
    seed: int = 0

    def events(self) -> Iterator[TimedMessage]:
        """Messages in time order. Raises BagError for an unknown encoding."""
        if self.encoding not in ENCODINGS:
            raise BagError(unknown("encoding", self.encoding, ENCODINGS))
        kinds = Kinds()
        said = kinds.blank("std_msgs/msg/String")
        said.data = self.instruction
        yield TimedMessage("/instruction", "std_msgs/msg/String", START_NS, said)
        scene = _Scene(self.size, self.seed)
        pictures = [(round(i * 1e9 / self.image_hz), i) for i in range(round(self.seconds * self.image_hz))]
        states = [(round(i * 1e9 / self.state_hz), -1) for i in range(round(self.seconds * self.state_hz))]
        for after_ns, i in sorted(states + pictures):
            ns = START_NS + after_ns
            if i < 0:
                yield TimedMessage("/joint_states", "sensor_msgs/msg/JointState", ns, self._state(kinds, after_ns))
                continue
            if i == len(pictures) // 2:
                scene.change()
            for camera in CAMERAS:
                yield self._picture(kinds, camera, ns, scene.draw(camera, i))

    def _state(self, kinds: Kinds, after_ns: int) -> Any:
        phase = 0.0 if self.still else after_ns * 1e-9
        joints = np.round(np.array(HOME) + 0.15 * np.sin(phase * np.linspace(0.3, 0.9, 7)), 6)
        speed = np.zeros(7) if self.still else np.round(0.05 * np.cos(phase * np.linspace(0.3, 0.9, 7)), 6)
        state = ArmState(0, joints, speed, 0.25)
        return wire.fill_joint_state(kinds.blank("sensor_msgs/msg/JointState"), state, START_NS + after_ns)

    def _picture(self, kinds: Kinds, camera: str, ns: int, rgb: np.ndarray) -> TimedMessage:
        if self.encoding == "rgb8":
            message = wire.fill_image(kinds.blank(SENSOR[0]), rgb, ns, f"{camera}_optical_frame")
            return TimedMessage(f"/{camera}/image", SENSOR[0], ns, message)
        message = kinds.blank(SENSOR[1])
        wire.set_stamp(message.header.stamp, ns)
        message.header.frame_id, message.format = f"{camera}_optical_frame", f"rgb8; {self.encoding} compressed bgr8"
        message.data = cv2.imencode(f".{self.encoding}", rgb[..., ::-1])[1].ravel()
        return TimedMessage(f"/{camera}/image/compressed", SENSOR[1], ns, message)


class _Scene:
    """Integer drawing: no float decides a pixel."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._rng = size, np.random.default_rng(seed)
        self.change()

    def change(self) -> None:
        """Other colours, other places."""
        self._colours = self._rng.integers(30, 226, (2, 4, 3)).tolist()
        self._places = self._rng.integers(0, self._size, (2, 3, 2))
        self._steps = self._rng.integers(-3, 4, (2, 3, 2))

    def draw(self, camera: str, i: int) -> np.ndarray:
        """RGB uint8 (size, size, 3) of frame `i`."""
        view = CAMERAS.index(camera)
        table, *discs = self._colours[view]
        picture = np.full((self._size, self._size, 3), table, np.uint8)
        picture += (np.arange(self._size) * 24 // self._size).astype(np.uint8)[:, None, None]
        for colour, place, step in zip(discs, self._places[view], self._steps[view]):
            at = (place + i * step) % self._size
            cv2.circle(picture, (int(at[0]), int(at[1])), self._size // 8, colour, -1)
        return picture


def write(path: str | Path, events: Iterable[TimedMessage], storage: str = "mcap", compressed: bool = False) -> Path:
    """Write events as a bag; the instruction is latched. Raises BagError."""
    with BagWriter(path, storage, compressed) as bag:
        for event in events:
            if event.topic not in bag.counts:
                bag.add(event.topic, event.kind, latched=event.kind == "std_msgs/msg/String")
            bag.put(event.topic, event.time_ns, event.message)
    return Path(path)


def main(argv: Sequence[str] | None = None) -> int:
    """Write a bag."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of the bag; must not exist")
    for name in ("seconds", "image_hz", "state_hz"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=getattr(Sample, name))
    for name in ("size", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Sample, name))
    parser.add_argument("--encoding", default=Sample.encoding, choices=ENCODINGS)
    parser.add_argument("--storage", default="mcap", choices=("mcap", "sqlite3"))
    options = parser.parse_args(argv)
    names = ("seconds", "size", "image_hz", "state_hz", "encoding", "seed")
    path = write(options.folder, Sample(**{n: getattr(options, n) for n in names}).events(), options.storage)
    print(f"{path}: {sum(p.stat().st_size for p in path.iterdir()) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
