"""The only place that imports the generated messages, so that one text explains it when they are missing."""

from __future__ import annotations

from ecovla_ros.errors import EcovlaError

try:
    from ecovla_ros.msg import ActionChunk, LatencyReport, PruningState
    from ecovla_ros.srv import ApplyEvent, ResetScene
except ImportError as error:
    raise EcovlaError(
        f"the messages of ecovla_ros are not built ({error}): run `make setup`, or `colcon build` and source "
        "install/setup.bash"
    ) from error

__all__ = ["ActionChunk", "ApplyEvent", "LatencyReport", "PruningState", "ResetScene"]
