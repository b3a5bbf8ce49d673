"""The programs that a ROS user runs. Importing one loads a reader that keeps within its messages (`cdr_bounds`)."""

from ecovla_ros.nodes.ros import cdr_bounds

cdr_bounds.load()
