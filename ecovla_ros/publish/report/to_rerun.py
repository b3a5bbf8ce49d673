"""A story as a rerun recording (.rrd). Optional: needs rerun-sdk, which is imported here and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ecovla_ros.errors import ConfigError
from ecovla_ros.publish.report.story import NUMBERS, Story
from ecovla_ros.types import JOINTS


def write(story: Story, path: str | Path) -> int:
    """Log pictures, scalars, joints, states and instructions against the timeline "time"; returns how many values.

    Raises ConfigError where rerun-sdk is not installed.
    """
    try:
        import rerun as rr
    except ImportError as error:
        raise ConfigError(f"--rerun needs rerun-sdk ({error}); pip install -c constraints.txt rerun-sdk") from error
    recording = rr.RecordingStream("ecovla")
    recording.save(str(path))
    count = 0

    def log(entity: str, t: float, value: object) -> None:
        nonlocal count
        recording.set_time("time", duration=t)
        recording.log(entity, value)
        count += 1

    for topic, pictures in story.pictures.items():
        for t, jpeg in pictures:
            log(topic, t, rr.EncodedImage(contents=jpeg, media_type="image/jpeg"))
    for name in NUMBERS:
        for t, value in zip(story.columns["t"], story.columns[name]):
            if np.isfinite(value):
                log(f"policy/{name}", float(t), rr.Scalars(float(value)))
    for t, joints in zip(story.measured_t, story.measured):
        for name, value in zip(JOINTS, joints):
            log(f"joints/{name}", float(t), rr.Scalars(float(value)))
    for change in story.changes:
        log("guard", change.t, rr.TextLog(f"{change.state}: {change.reason}"))
    for t, text in story.instructions:
        log("instruction", t, rr.TextLog(text))
    recording.flush()
    return count
