"""EcoVLA (arXiv 2602.00780) on a Kinova Gen3: adaptive pruning of vision-language-action models over ROS 2."""

__path__ = __import__("pkgutil").extend_path(__path__, __name__)  # msg and srv may lie in an install space
