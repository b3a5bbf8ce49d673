"""The Foxglove layout of this package, built with foxglove-sdk: `python -m ecovla_ros.publish.report.foxglove FILE`.

The shipped config/foxglove_ecovla.json is what this writes. It shows the nodes live (foxglove_bridge) and bags as they
were recorded. A test compares every topic, field and service in it with the nodes' own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecovla_ros.errors import ConfigError
from ecovla_ros.publish.report.story import STAGES
from ecovla_ros.types import CAMERAS, JOINTS

FILE = "foxglove_ecovla.json"
COMMAND = "/joint_trajectory_controller/joint_trajectory"
TOPICS = {
    **{f"/{camera}/image": "sensor_msgs/msg/Image" for camera in CAMERAS},
    "/latency": "ecovla_ros/msg/LatencyReport",
    "/pruning": "ecovla_ros/msg/PruningState",
    "/status": "diagnostic_msgs/msg/DiagnosticStatus",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
    "/joint_states": "sensor_msgs/msg/JointState",
    COMMAND: "trajectory_msgs/msg/JointTrajectory",
}
"""Topic -> message type of everything the layout shows."""
SERVICES = {
    "/guard/enable": ("std_srvs/srv/SetBool", {"data": True}),
    "/guard/hold": ("std_srvs/srv/Trigger", {}),
    "/guard/reset": ("std_srvs/srv/Trigger", {}),
}
"""Service -> type, and the request its button sends."""
STATE = '/status.values[:]{key=="state"}.value'
"""Foxglove's message path to the guard's state."""


PLOTS: dict[str, list[tuple[str, str]]] = {
    "Stages of a policy frame, ms": [(f"/latency.{name}_ms", name) for name in (*STAGES, "policy", "deadline")],
    "Similarity and threshold": [(f"/pruning.{name}", name) for name in ("similarity", "threshold")],
    "Triggers and pattern age": [(f"/pruning.{name}", name) for name in ("triggered", "pattern_age", "swaps")],
    "Joints: measured and commanded, rad": [
        *((f"/joint_states.position[{i}]", name) for i, name in enumerate(JOINTS)),
        *((f"{COMMAND}.points[0].positions[{i}]", f"{name} command") for i, name in enumerate(JOINTS)),
    ],
}
"""Title -> message path and label of each line."""


def build() -> str:
    """The layout as JSON text, indented. Raises ConfigError where foxglove-sdk is not installed."""
    try:
        from foxglove import layouts
    except ImportError as error:
        raise ConfigError(
            f"the layout is built with foxglove-sdk ({error}); pip install -c constraints.txt foxglove-sdk"
        ) from error
    column, row = _container(layouts, "column"), _container(layouts, "row")
    cameras = row(*(_image(layouts, camera) for camera in CAMERAS))
    buttons = row(*(_button(layouts, name, request) for name, (_, request) in SERVICES.items()))
    shown = layouts.DiagnosticsSummaryConfig(topic_to_render="/diagnostics", sort_by_level=True)
    health = layouts.DiagnosticsSummaryPanel(config=shown)
    plots = [_plot(layouts, title, paths) for title, paths in PLOTS.items()]
    left = column(cameras, _states(layouts), health, buttons)
    made = layouts.Layout(content=row(left, column(*plots)))
    return json.dumps(json.loads(made.to_json()), indent=1) + "\n"


def _states(layouts: Any) -> Any:
    """The guard's state and the kind of each frame over time."""
    paths = ((STATE, "guard"), ("/pruning.kind", "frame"))
    series = [
        layouts.StateTransitionsSeries(value=path, label=label, timestamp_method="receiveTime") for path, label in paths
    ]
    return layouts.StateTransitionsPanel(title="Guard", config=layouts.StateTransitionsConfig(paths=series))


def _container(layouts: Any, direction: str) -> Any:
    def contain(*content: Any) -> Any:
        return layouts.SplitContainer(direction=direction, items=[layouts.SplitItem(content=c) for c in content])

    return contain


def _image(layouts: Any, camera: str) -> Any:
    mode = layouts.ImageModeConfig(image_topic=f"/{camera}/image")
    return layouts.ImagePanel(title=camera, config=layouts.ImageConfig(image_mode=mode))


def _plot(layouts: Any, title: str, paths: Sequence[tuple[str, str]]) -> Any:
    series = [
        layouts.PlotSeries(value=path, label=label, enabled=True, timestamp_method="receiveTime")
        for path, label in paths
    ]
    return layouts.PlotPanel(title=title, config=layouts.PlotConfig(paths=series, show_legend=True, is_synced=True))


def _button(layouts: Any, name: str, request: dict[str, Any]) -> Any:
    config = layouts.ServiceCallConfig(
        service_name=name, request_payload=json.dumps(request), button_text=name.rpartition("/")[2], editing_mode=False
    )
    return layouts.ServiceCallPanel(title=name, config=config)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=Path("config") / FILE)
    options = parser.parse_args(argv)
    options.file.write_text(build(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
