"""Programs that start or watch others. They read what comes over the wire as the nodes do: `nodes` comes first."""

import ecovla_ros.nodes  # noqa: F401  (before rclpy)
