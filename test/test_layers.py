"""The tree means what it says: imports go down, neighbours do not see each other, each library stays in its room."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ecovla_ros"
LEVELS = [
    {"types", "errors"},
    {"documents", "metrics"},
    {"config"},
    {"kernels", "wire"},
    {"prune", "control"},
    {"models"},
    {"engine", "sim", "arms"},
    {"build"},
    {"train", "bags", "serve"},
    {"bench"},
    {"publish"},
    {"nodes"},
    {"stage"},
    {"cli"},
]
"""From the bottom up; a room imports itself and rooms below, never one of its own line."""

LIBRARIES = {
    "numpy": {
        "types",
        "wire",
        "prune",
        "models",
        "control",
        "engine",
        "sim",
        "bench",
        "train",
        "bags",
        "nodes",
        "stage",
        "publish",
        "serve",
        "arms",
    },
    "yaml": {"documents"},
    "torch": {"kernels", "prune", "models", "engine", "build", "bench", "train"},
    "triton": {"kernels"},
    "safetensors": {"models"},
    "tokenizers": {"models"},
    "transformers": {"bench"},
    "websockets": {"serve", "stage"},
    "grpc": {"serve"},
    "google": {"serve"},
    "msgpack": {"serve", "stage"},
    "prometheus_client": {"metrics", "nodes"},
    "cv2": {"wire", "models", "sim", "train", "bags", "nodes", "publish", "serve"},
    "simplejpeg": {"wire"},
    "mujoco": {"sim"},
    "OpenGL": {"sim"},
    "rosbags": {"bags", "nodes"},
    "rclpy": {"nodes", "stage", "cli"},
    "rmw_dds_common": {"stage"},
    "launch": {"nodes"},
    "launch_ros": {"nodes"},
    "matplotlib": {"publish"},
    "ray": {"bench", "serve"},
    "av": {"train"},
    "pyarrow": {"train"},
    "apsw": {"bags"},
    "mcap": {"bags"},
    "pytest": {"bags"},
    "zstandard": {"bags"},
    "plotly": {"publish"},
    "foxglove": {"publish"},
    "rerun": {"publish"},
}
"""Third-party library -> rooms that may import it. Message packages go where rclpy goes."""

ROS = {
    "builtin_interfaces",
    "diagnostic_msgs",
    "geometry_msgs",
    "lifecycle_msgs",
    "rcl_interfaces",
    "rosgraph_msgs",
    "sensor_msgs",
    "std_msgs",
    "std_srvs",
    "trajectory_msgs",
    "control_msgs",
}
FILES = [p for p in sorted(PACKAGE.rglob("*.py")) if not {"msg", "srv"} & set(p.relative_to(PACKAGE).parts)]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def level(room: str) -> int:
    return next(i for i, rooms in enumerate(LEVELS) if room in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_and_libraries_stay_in_their_rooms(path):
    room = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if room == "__init__":
        return
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "ecovla_ros":
            if rest[0] in ("msg", "srv"):
                assert room in ("nodes", "stage"), f"{room} imports messages"
                continue
            other = rest[0]
            assert other == room or level(other) < level(room), f"{room} imports {module}"
        elif top in ROS:
            assert room in ("nodes", "stage"), f"{room} imports {module}"
        elif top not in sys.stdlib_module_names:
            assert room in LIBRARIES.get(top, set()), f"{room} imports {module}"


def test_nothing_outside_the_nodes_needs_rclpy():
    modules = [
        ".".join(("ecovla_ros", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        for p in FILES
        if p.relative_to(PACKAGE).parts[0] not in ("nodes", "stage")
        and p.name != "parity.py"  # parity asks for transformers
    ]
    program = (
        "import sys, importlib\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'rclpy', 'rosidl_runtime_py', 'std_msgs', 'sensor_msgs'}:\n"
        "            raise ImportError(name + ' is hidden by this test')\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "from ecovla_ros import cli\n"
        "sys.exit(any(cli.main([name]) != 2 for name in ('demo', 'doctor', 'enable', 'fuzz', 'trial')))\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("needs ROS 2") == 5
