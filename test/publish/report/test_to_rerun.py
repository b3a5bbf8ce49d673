"""rerun logging, where rerun-sdk is installed; where it is not, the command says how to get it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from support.small_bag import STILL, Busy, answered, written

from ecovla_ros.errors import ConfigError
from ecovla_ros.publish.report import from_bag, to_rerun

THERE = importlib.util.find_spec("rerun") is not None


def test_what_was_read_is_logged(tmp_path: Path) -> None:
    story = from_bag.read(answered(written(tmp_path, list(STILL.events())), tmp_path / "answered", Busy()))
    if not THERE:
        with pytest.raises(ConfigError, match="pip install .* rerun-sdk"):
            to_rerun.write(story, tmp_path / "a.rrd")
        return
    count = to_rerun.write(story, tmp_path / "a.rrd")
    pictures = sum(len(p) for p in story.pictures.values())
    assert count > pictures + 7 * len(story.measured) + 10 * story.frames
    assert (tmp_path / "a.rrd").read_bytes()[:3] == b"RRF"
