"""Pictures out of the video files of a data set, by their times. PyAV brings FFmpeg's decoders: AV1, H.264, HEVC.

What does not decode is named, and a frame that is not there is never replaced by its neighbour.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros import documents
from ecovla_ros.errors import CheckpointError, ConfigError, short


def library() -> Any:
    """PyAV. Raises ConfigError where it is not installed."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise ConfigError(
            f"videos of LeRobot data sets need PyAV ({error}); run: pip install ecovla_ros[lerobot]"
        ) from error


def frames(path: Path, times_s: Sequence[float], tolerance_s: float) -> Iterator[np.ndarray]:
    """RGB uint8 (H, W, 3) at each time of the file, which rise, s. Raises CheckpointError: a file that is missing, does
    not decode, or has no frame within `tolerance_s` of a time."""
    av = library()
    if not path.is_file():
        raise CheckpointError(f"no video '{path}'")
    if why := documents.instead(path):
        raise CheckpointError(f"'{path}' {why}")
    try:
        yield from _frames(av, path, times_s, tolerance_s)
    except (av.FFmpegError, ValueError, IndexError, TypeError, OverflowError, MemoryError, EOFError) as error:
        raise CheckpointError(f"'{path}' does not decode as a video: {short(error)}") from error


def _frames(av: Any, path: Path, times_s: Sequence[float], tolerance_s: float) -> Iterator[np.ndarray]:
    with av.open(str(path)) as container:
        if not container.streams.video:
            raise CheckpointError(f"'{path}' holds no video")
        stream = container.streams.video[0]
        container.seek(max(int((times_s[0] - tolerance_s) / float(stream.time_base)), 0), stream=stream)
        wanted = iter(times_s)
        due = next(wanted, None)
        for frame in container.decode(stream):
            at_s = float(frame.pts * stream.time_base) if frame.pts is not None else -1.0
            if due is not None and at_s > due + tolerance_s:
                break
            while due is not None and abs(at_s - due) <= tolerance_s:
                yield np.ascontiguousarray(frame.to_ndarray(format="rgb24"))
                due = next(wanted, None)
            if due is None:
                return
    if due is not None:
        raise CheckpointError(f"'{path}' has no frame at {due:.3f} s")
