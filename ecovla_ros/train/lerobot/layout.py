"""Where things lie in a LeRobot data set, and how its tables are opened: whatever goes wrong is a CheckpointError."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ecovla_ros import documents
from ecovla_ros.errors import CheckpointError, ConfigError, short
from ecovla_ros.types import JOINTS

VERSION = "v3.0"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
STATE, ACTION, IMAGE = "observation.state", "action", "observation.images."
AXES = [*JOINTS, "gripper"]
READ = ("v2.0", "v2.1", "v3.0")
OLD_DATA = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
OLD_VIDEO = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
Value = TypeVar("Value")


def arrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet. Raises ConfigError where they are not installed."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ConfigError(f"LeRobot data sets need pyarrow ({error}); run: pip install ecovla_ros[lerobot]") from error


def guarded(where: Path, work: Callable[[], Value]) -> Value:
    """What `work` gives. What pyarrow raises for a broken table becomes a CheckpointError that names the file."""
    library, _ = arrow()
    if where.is_symlink() or where.is_file():
        try:
            why = documents.instead(where)
        except OSError as error:
            why = f"cannot be read: {error.strerror}"
        if why:
            raise CheckpointError(f"'{where}' {why}")
    try:
        return work()
    except (library.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError, OverflowError,
            MemoryError, AttributeError) as error:  # fmt: skip
        raise CheckpointError(f"'{where}' cannot be read: {type(error).__name__}: {short(error)}") from error


@dataclass(frozen=True)
class Info:
    """meta/info.json."""

    folder: Path
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    data_path: str
    video_path: str
    chunk_size: int
    episodes: int | None
    """How many there are, as it says; None: it does not."""
    frames: int | None

    @property
    def old(self) -> bool:
        """A file for each episode, as before 3.0."""
        return not self.version.startswith("v3")

    def pictures(self) -> dict[str, str]:
        """Key of each camera -> "image" (in the tables) or "video"."""
        found = {name: str(feature.get("dtype")) for name, feature in self.features.items()}
        return {name: kind for name, kind in found.items() if kind in ("image", "video")}

    def file(self, pattern: str, **places: int | str) -> Path:
        """Path of a file. Raises CheckpointError for a pattern that leads outside, or is none."""
        try:
            path = self.folder / pattern.format(**places)
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise CheckpointError(f"'{self.folder}/meta/info.json': the path '{short(pattern)}' is none") from error
        if ".." in path.parts or self.folder not in path.parents:
            raise CheckpointError(f"'{self.folder}/meta/info.json': the path '{short(pattern)}' leads out of it")
        return path


def info(folder: Path) -> Info:
    """Read meta/info.json. Raises CheckpointError: missing, malformed, of a version that is not read."""
    path = folder / "meta/info.json"
    if why := _instead(folder):
        raise CheckpointError(f"'{folder}' {why}")
    try:
        document = documents.read_json(path)
        version, features, fps = str(document["codebase_version"]), document["features"], float(document["fps"])
        size = int(document.get("chunks_size", 1000))
        told = [_whole(document.get(f"total_{what}")) for what in ("episodes", "frames")]
        paths = [str(document.get(k) or d) for k, d in (("data_path", ""), ("video_path", ""))]
        if not all(isinstance(f, dict) for f in features.values()) or not 0.0 < fps < 1000.0 or size < 1:
            raise ValueError("features must be mappings, fps from 0 to 1000, chunks_size at least 1")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        why = str(error) if type(error) is ValueError else repr(error)
        raise CheckpointError(f"'{folder}' is no LeRobot data set ({short(why)}); needed: meta/info.json") from error
    if version not in READ:
        raise CheckpointError(f"'{folder}' has format {short(version)}; read here: {', '.join(READ)}")
    old = not version.startswith("v3")
    return Info(folder, version, fps, features, paths[0] or (OLD_DATA if old else DATA),
                paths[1] or (OLD_VIDEO if old else VIDEO), size, *told)  # fmt: skip


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _instead(folder: Path) -> str:
    """What a path is instead of a data set; empty where it may be one, or nothing tells."""
    if folder.is_symlink() and not folder.exists():
        return documents.instead(folder)
    if folder.is_file():
        return "is a file; valid: the folder of a LeRobot data set, which holds meta/info.json"
    if not folder.exists():
        text = str(folder)
        hub = not folder.is_absolute() and text[:1] not in ".~" and text.count("/") == 1
        how = f"; of the hub it is not fetched by itself: hf download --repo-type dataset {text} --local-dir FOLDER"
        return f"is not there{how if hub else ''}"
    if (folder / "meta/info.json").exists():
        return ""
    if (folder / "info.json").is_file() and folder.name == "meta":
        return f"is a part of a LeRobot data set; valid: '{folder.parent}'"
    for depth in ("*", "*/*"):
        if inner := sorted(p.parent.parent for p in folder.glob(f"{depth}/meta/info.json")):
            return f"holds LeRobot data sets, and is none; name one: {', '.join(map(str, inner[:5]))}"
    if (folder / "metadata.yaml").is_file() or any(folder.glob("*.mcap")) or any(folder.glob("*.db3")):
        return "is a bag, not a LeRobot data set; valid: ecovla train --bags FOLDER"
    return ""


def tasks(about: Info) -> dict[int, str]:
    """Number of a task -> the task in words. Raises CheckpointError."""
    if about.old:
        path = about.folder / "meta/tasks.jsonl"
        rows = list(lines(path))
        return _said(path, guarded(path, lambda: {int(r["task_index"]): r["task"] for r in rows}))
    path = about.folder / "meta/tasks.parquet"
    table = guarded(path, lambda: arrow()[1].read_table(path).to_pydict())
    name = next((n for n in ("task", "__index_level_0__", *table) if n in table and n != "task_index"), "")
    if "task_index" not in table or not name:
        raise CheckpointError(f"'{path}' has columns {', '.join(table) or 'none'}; needed: task_index, task")
    return _said(path, dict(zip(table["task_index"], table[name])))


def _said(path: Path, found: dict[int, Any]) -> dict[int, str]:
    """Raises CheckpointError for a task without words: a policy would be trained on none, or on the word None."""
    silent = [number for number, text in found.items() if not isinstance(text, str) or not text.strip()]
    if silent:
        raise CheckpointError(f"'{path}': task {short(silent[0])} is {found[silent[0]]!r}; needed: the task in words")
    return found


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """Objects of a .jsonl file. Raises CheckpointError."""
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number + 1} is no object")
                yield row
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' cannot be read: {short(error)}") from error
