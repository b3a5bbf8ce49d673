"""A film from any bag: its cameras side by side, and below them what the arm was told and what it did."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecovla_ros import wire
from ecovla_ros.bags.inputs import ENDINGS, IMAGES
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.storage import Raw
from ecovla_ros.errors import BagError, ObservationError
from ecovla_ros.types import CAMERAS

HEIGHT = 256
"""Height of a picture in the film, px."""
STRIP = 40
"""Height of the strip with the text, px."""
CODECS = ("vp09", "mp4v")
"""Tried in this order. VP9 plays in browsers and in VLC; opencv's wheels have no H.264 encoder."""
MOST = 4
"""Cameras in a film, at most."""
RATES = (1.0, 60.0)
"""Pictures a second that a film may have."""
MOVING = (".webp", ".gif")
"""Endings of a moving picture: it plays in a web page without being started."""
MOST_PICTURES = 1200
"""Pictures in a moving picture, at most: it is encoded as a whole, from memory."""
QUALITY = 60
"""Of a .webp, 1 to 100."""
GAP_S = 10.0
"""A longer silence of all cameras is left out, s."""
TEXTS = {
    "std_msgs/msg/String": "instruction",
    "std_msgs/msg/Bool": "success",
    "diagnostic_msgs/msg/DiagnosticStatus": "status",
}


def make(
    bag: str | Path,
    film: str | Path,
    rate_hz: float = 0.0,
    drawn: Callable[[int], None] = lambda count: None,
    cameras: Sequence[str] = (),
) -> int:
    """Write `film` and return its number of pictures; a second of the film is a second of the bag.

    `film` ends in .mp4, or in .webp or .gif for a moving picture of at most `MOST_PICTURES`.
    `rate_hz`: pictures a second; 0: as many as the first camera took. `cameras`: image topics, from left to right;
    none: those of the policy, else whatever the bag has. `drawn` is told the number of pictures so far, and may raise
    to stop.
    Raises BagError; of a damaged bag after the film of what could be read is complete.
    """
    with Bag(bag) as source:
        reel = _Reel(source, _cameras(source, cameras), film, rate_hz)
        damage = ""
        try:
            for raw in source.raw(reel.topics):
                if reel.see(raw):
                    drawn(reel.count)
        except BagError as error:
            damage = str(error)
        finally:
            reel.close()
    if not reel.count:
        raise BagError(damage or f"'{bag}' holds no picture of every camera ({', '.join(reel.cameras)})")
    if damage:
        raise BagError(f"{damage}; '{film}' holds {reel.count} pictures of what came before")
    return reel.count


def _cameras(bag: Bag, asked: Sequence[str]) -> list[str]:
    """Image topics of the film. Raises BagError when there is none."""
    bag.need(asked)
    image_topics = [topic for topic, kind in bag.topics.items() if kind in IMAGES]
    wrong = [topic for topic in asked if topic not in image_topics]
    if wrong or not image_topics:
        valid = ", ".join(image_topics) or IMAGES[0]
        raise BagError(f"'{bag.path}': {', '.join(wrong) or 'no topic'} holds pictures; valid: {valid}")
    if asked:
        return list(asked)
    usual = [next((t for e in ENDINGS if (t := f"/{name}/{e}") in image_topics), "") for name in CAMERAS]
    return usual if all(usual) else sorted(image_topics)[:MOST]


class _Reel:
    """Pictures go in as they were recorded, and out at an even rate. Only what is drawn is decoded."""

    def __init__(self, bag: Bag, cameras: list[str], film: str | Path, rate_hz: float) -> None:
        self._bag, self._film, self.cameras, self.count = bag, film, cameras, 0
        self._texts = {t: TEXTS[k] for t, k in bag.topics.items() if k in TEXTS and t.rpartition("/")[2] == TEXTS[k]}
        self.topics = [*cameras, *self._texts]
        self._rate_hz = min(max(rate_hz or _rate(bag, cameras[0]), RATES[0]), RATES[1])
        self._latest: dict[str, Raw] = {}
        self._said: dict[str, Any] = {"instruction": "", "success": False, "status": ""}
        self._begin_ns = 0
        self._due_ns: float | None = None
        self._writer: cv2.VideoWriter | _Moving | None = None
        self._size = (0, 0)

    def see(self, raw: Raw) -> bool:
        """The next message of the bag. Returns whether pictures were drawn."""
        if raw.topic in self._texts:
            self._hear(self._texts[raw.topic], raw)
            return False
        drawn = False
        if self._due_ns is not None and raw.time_ns > self._due_ns + GAP_S * 1e9:
            self._due_ns = float(raw.time_ns)
        while self._due_ns is not None and self._due_ns < raw.time_ns:
            drawn = self._draw(self._due_ns) or drawn
        self._latest[raw.topic] = raw
        if self._due_ns is None and len(self._latest) == len(self.cameras):
            self._due_ns = float(raw.time_ns)
        return drawn

    def _hear(self, name: str, raw: Raw) -> None:
        value = self._bag.decode(raw)
        if name == "instruction":
            self._said[name], self._begin_ns = value.data, raw.time_ns
        elif name == "success":
            self._said[name] = bool(value.data)
        else:
            self._said[name] = next((pair.value for pair in value.values if pair.key == "state"), "")

    def _draw(self, due_ns: float) -> bool:
        self._due_ns = due_ns + 1e9 / self._rate_hz
        try:
            pictures = [_scaled(wire.decode_image(self._bag.decode(self._latest[t]), t)) for t in self.cameras]
        except ObservationError:
            if not self.count:
                raise
            return False  # a broken picture: the film goes on with the next one
        seconds = (due_ns - (self._begin_ns or due_ns)) / 1e9
        frame = _frame(
            pictures, self._said["instruction"], max(seconds, 0.0), self._said["success"], self._said["status"]
        )
        if self._writer is None:
            self._writer, self._size = _open(self._film, frame, self._rate_hz), (frame.shape[1], frame.shape[0])
        if (frame.shape[1], frame.shape[0]) != self._size:
            frame = cv2.resize(frame, self._size)
        self._writer.write(frame)
        self.count += 1
        return True

    def close(self) -> None:
        """Draw the last pictures and finish the file."""
        if self._due_ns is not None and len(self._latest) == len(self.cameras):
            self._draw(self._due_ns)
        if self._writer is not None:
            self._writer.release()


def _rate(bag: Bag, topic: str) -> float:
    """Pictures a second of a camera: the median over its first hundred."""
    times: list[int] = []
    messages: Iterator[Raw] = bag.raw([topic])
    try:
        for raw in messages:
            times.append(raw.time_ns)
            if len(times) > 100:
                break
    except BagError:
        pass  # told when the film is made
    steps = np.diff(times)
    return 1e9 / float(np.median(steps)) if len(steps) and np.median(steps) > 0 else 10.0


def _scaled(picture: np.ndarray) -> np.ndarray:
    """RGB picture to BGR of the film's height."""
    height, width = picture.shape[:2]
    how = cv2.INTER_CUBIC if height < HEIGHT else cv2.INTER_AREA
    return cv2.resize(picture[..., ::-1], (2 * round(width * HEIGHT / height / 2), HEIGHT), interpolation=how)


def _frame(pictures: list[np.ndarray], text: str, seconds: float, done: bool, state: str) -> np.ndarray:
    """Pictures side by side over the strip; BGR (HEIGHT + STRIP, W, 3)."""
    row = np.hstack(pictures)
    strip = np.full((STRIP, row.shape[1], 3), 24, np.uint8)
    font, base = cv2.FONT_HERSHEY_SIMPLEX, STRIP - 14
    clock = f"{state.lower()}  " * bool(state) + f"{seconds:5.1f} s" + "  done" * done
    colour = (120, 220, 120) if done else (170, 170, 170)
    (width, _), _ = cv2.getTextSize(clock, font, 0.5, 1)
    room = row.shape[1] - width - 36
    (long, _), _ = cv2.getTextSize(text, font, 0.55, 1)
    cv2.putText(strip, text, (12, base), font, 0.55 * min(1.0, room / max(long, 1)), (240, 240, 240), 1, cv2.LINE_AA)
    cv2.putText(strip, clock, (row.shape[1] - width - 12, base), font, 0.5, colour, 1, cv2.LINE_AA)
    return np.vstack([row, strip])


def _open(film: str | Path, frame: np.ndarray, rate_hz: float) -> cv2.VideoWriter | _Moving:
    if Path(film).suffix in MOVING:
        return _Moving(film, rate_hz)
    if Path(film).suffix != ".mp4":
        raise BagError(f"'{film}' ends in '{Path(film).suffix}'; valid: .mp4, {', '.join(MOVING)}")
    size = (frame.shape[1], frame.shape[0])
    for codec in CODECS:
        writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*codec), rate_hz, size)
        if writer.isOpened():
            return writer
    raise BagError(f"opencv cannot write '{film}' with any of {', '.join(CODECS)}")


class _Moving:
    """A moving picture: what `cv2.VideoWriter` has, for .webp and .gif."""

    def __init__(self, film: str | Path, rate_hz: float) -> None:
        if not hasattr(cv2, "imwriteanimation"):
            raise BagError(
                f"opencv {cv2.__version__} writes no moving pictures; valid: 4.11 or newer, or a film in .mp4"
            )
        self._film, self._period_ms, self._frames = str(film), round(1e3 / rate_hz), list[np.ndarray]()

    def write(self, frame: np.ndarray) -> None:
        """One more picture, BGR. Raises BagError for one too many."""
        if len(self._frames) == MOST_PICTURES:
            raise BagError(
                f"'{self._film}' would have more than {MOST_PICTURES} pictures; valid: fewer with --rate, or .mp4"
            )
        self._frames.append(frame)

    def release(self) -> None:
        """Encode and write. Raises BagError where the file cannot be written."""
        animation = cv2.Animation()
        animation.frames, animation.durations = self._frames, [self._period_ms] * len(self._frames)
        if not cv2.imwriteanimation(self._film, animation, [cv2.IMWRITE_WEBP_QUALITY, QUALITY]):
            raise BagError(f"opencv cannot write '{self._film}'")
