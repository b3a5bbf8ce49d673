"""A film from a bag: both cameras side by side, and the instruction below them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from ecovla_ros import wire
from ecovla_ros.bags.read import messages, topics
from ecovla_ros.errors import BagError
from ecovla_ros.types import CAMERAS

TOPICS = tuple(f"/{name}/image" for name in CAMERAS)
HEIGHT = 256
"""Height of a picture in the film, px."""
STRIP = 40
"""Height of the strip with the text, px."""
CODECS = ("vp09", "mp4v")
"""Tried in this order. VP9 plays in browsers and in VLC; opencv's wheels have no H.264 encoder."""


def make(
    bag: str | Path, film: str | Path, rate_hz: float = 10.0, drawn: Callable[[int], None] = lambda count: None
) -> int:
    """Write `film` (.mp4) and return its number of pictures; one is drawn for each picture of the first camera.

    `drawn` is told the number of pictures so far, and may raise to stop. Raises BagError.
    """
    wanted = [*TOPICS, *({"/instruction", "/success"} & topics(bag).keys())]
    latest: dict[str, np.ndarray] = {}
    text, done, count = "", False, 0
    begin_ns = 0
    writer: cv2.VideoWriter | None = None
    for topic, time_ns, value in messages(bag, wanted):
        if topic == "/instruction":
            text, begin_ns = value.data, time_ns
        elif topic == "/success":
            done = bool(value.data)
        else:
            latest[topic] = _scaled(wire.decode_image(value, topic))
            if topic == TOPICS[0] and len(latest) == len(TOPICS):
                frame = _frame([latest[t] for t in TOPICS], text, (time_ns - begin_ns) / 1e9, done)
                writer = _open(film, frame, rate_hz) if writer is None else writer
                writer.write(frame)
                count += 1
                drawn(count)
    if writer is None:
        raise BagError(f"'{bag}' holds no picture of every camera ({', '.join(TOPICS)})")
    writer.release()
    return count


def _scaled(picture: np.ndarray) -> np.ndarray:
    """RGB picture to BGR of the film's height."""
    height, width = picture.shape[:2]
    how = cv2.INTER_CUBIC if height < HEIGHT else cv2.INTER_AREA
    return cv2.resize(picture[..., ::-1], (2 * round(width * HEIGHT / height / 2), HEIGHT), interpolation=how)


def _frame(pictures: list[np.ndarray], text: str, seconds: float, done: bool) -> np.ndarray:
    """Pictures side by side over the strip; BGR (HEIGHT + STRIP, W, 3)."""
    row = np.hstack(pictures)
    strip = np.full((STRIP, row.shape[1], 3), 24, np.uint8)
    font, base = cv2.FONT_HERSHEY_SIMPLEX, STRIP - 14
    clock = f"{seconds:5.1f} s" + ("  done" if done else "")
    colour = (120, 220, 120) if done else (170, 170, 170)
    (width, _), _ = cv2.getTextSize(clock, font, 0.5, 1)
    room = row.shape[1] - width - 36
    (long, _), _ = cv2.getTextSize(text, font, 0.55, 1)
    cv2.putText(strip, text, (12, base), font, 0.55 * min(1.0, room / max(long, 1)), (240, 240, 240), 1, cv2.LINE_AA)
    cv2.putText(strip, clock, (row.shape[1] - width - 12, base), font, 0.5, colour, 1, cv2.LINE_AA)
    return np.vstack([row, strip])


def _open(film: str | Path, frame: np.ndarray, rate_hz: float) -> cv2.VideoWriter:
    size = (frame.shape[1], frame.shape[0])
    for codec in CODECS:
        writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*codec), rate_hz, size)
        if writer.isOpened():
            return writer
    raise BagError(f"opencv cannot write '{film}' with any of {', '.join(CODECS)}")
