"""Demonstrations written in the LeRobot data set format, version 3.0: the same episodes train other policies.

Layout (huggingface/lerobot): `meta/info.json` (features, rate, paths), `meta/stats.json`, `meta/tasks.parquet` (the
sentence is the index), `meta/episodes/chunk-000/file-000.parquet` (where each episode lies), and
`data/chunk-000/file-000.parquet`, one row a frame and one row group an episode. Pictures are PNG bytes in the table
(dtype "image"), so that no video codec loses anything. An action is the absolute joint target and gripper one period
on. Needs pyarrow (pip install ecovla_ros[lerobot]).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ecovla_ros.errors import CheckpointError, ConfigError
from ecovla_ros.train.lerobot.layout import ACTION, AXES, DATA, EPISODES, IMAGE, STATE, VERSION, arrow
from ecovla_ros.types import Demonstration

INTEGERS = ("frame_index", "episode_index", "index", "task_index")
QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}


def write(folder: Path, episodes: Iterable[Demonstration], robot: str = "kinova_gen3") -> int:
    """Write a data set; returns the number of episodes. One episode is in memory at a time.

    Raises ConfigError: pyarrow missing, no episode, or pictures and periods that differ between episodes;
    CheckpointError where the folder holds something already.
    """
    library, parquet = arrow()
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"'{folder}' is not empty; valid: a folder that does not exist yet")
    tasks: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    columns: dict[str, list[np.ndarray]] = {STATE: [], ACTION: []}
    file: Any = None
    first, total = None, 0
    try:
        for number, episode in enumerate(episodes):
            _check_written(number, episode)
            features = _features(episode)
            if first is None:
                first = (features, episode.period_s)
                path = folder / DATA.format(chunk_index=0, file_index=0)
                path.parent.mkdir(parents=True)
                file = parquet.ParquetWriter(path, _schema(library, features))
            elif (features, episode.period_s) != first:
                raise ConfigError(f"episode {number} has other cameras, sizes or another period than the first")
            text = episode.observations[0].instruction
            table, numbers = _table(library, episode, number, total, tasks.setdefault(text, len(tasks)), features)
            file.write_table(table)
            rows.append(_episode_row(number, text, total, len(episode.gripper), numbers))
            total += len(episode.gripper)
            for name in columns:
                columns[name].append(numbers[name])
    finally:
        if file is not None:
            file.close()
    if first is None:
        raise ConfigError("no episode to write")
    _write_meta(folder, (library, parquet), first, tasks, rows, total, columns, robot)
    return len(rows)


def _check_written(number: int, episode: Demonstration) -> None:
    """Raises ConfigError for an episode that the format cannot hold, or whose numbers would spoil its statistics."""
    rate = 1.0 / episode.period_s
    if abs(rate - round(rate)) > 0.01 or rate < 0.5:
        raise ConfigError(f"episode {number} has {rate:.3f} frames a second; the format holds whole numbers")
    states = np.array([[*o.joints, o.gripper] for o in episode.observations])
    if not all(np.isfinite(values).all() for values in (states, episode.joints, episode.gripper)):
        raise ConfigError(f"episode {number} holds values that are not finite")


def _features(episode: Demonstration) -> dict[str, Any]:
    """The `features` of info.json."""
    out: dict[str, Any] = {
        IMAGE + name: {"dtype": "image", "shape": list(image.shape), "names": ["height", "width", "channels"]}
        for name, image in episode.observations[0].images.items()
    }
    for name in (STATE, ACTION):
        out[name] = {"dtype": "float32", "shape": [len(AXES)], "names": AXES}
    out["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
    return out | {name: {"dtype": "int64", "shape": [1], "names": None} for name in INTEGERS}


def _schema(arrow: Any, features: Mapping[str, Any]) -> Any:
    kinds = {"image": arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]), "int64": arrow.int64()}
    fields, hub = [], {}
    for name, feature in features.items():
        vector = feature["dtype"] == "float32" and feature["shape"] != [1]
        plain = arrow.list_(arrow.float32(), feature["shape"][0]) if vector else arrow.float32()
        fields.append((name, kinds.get(feature["dtype"], plain)))
        hub[name] = {"_type": "Image"} if feature["dtype"] == "image" else _hub_type(feature, vector)
    text = json.dumps({"info": {"features": hub}})
    return arrow.schema(fields).with_metadata({"huggingface": text})


def _hub_type(feature: Mapping[str, Any], vector: bool) -> dict[str, Any]:
    """The type as the `datasets` library writes it into a table."""
    value = {"dtype": feature["dtype"], "_type": "Value"}
    return {"feature": value, "length": feature["shape"][0], "_type": "List"} if vector else value


def _table(
    arrow: Any, episode: Demonstration, number: int, start: int, task: int, features: Mapping[str, Any]
) -> tuple[Any, dict[str, np.ndarray]]:
    seen, count = episode.observations, len(episode.gripper)
    numbers = {
        STATE: np.array([[*o.joints, o.gripper] for o in seen], np.float32),
        ACTION: np.column_stack((episode.joints, episode.gripper)).astype(np.float32),
        "timestamp": (np.arange(count) * episode.period_s).astype(np.float32),
        "frame_index": np.arange(count),
        "episode_index": np.full(count, number),
        "index": start + np.arange(count),
        "task_index": np.full(count, task),
    }
    columns: dict[str, Any] = {name: list(values) for name, values in numbers.items()}
    for name in (n for n in features if n.startswith(IMAGE)):
        columns[name] = [{"bytes": _png(o.images[name.removeprefix(IMAGE)]), "path": None} for o in seen]
    return arrow.Table.from_pydict(columns, schema=_schema(arrow, features)), numbers


def _png(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", image[..., ::-1])
    assert done, "cv2 encodes every uint8 RGB image"
    return bytes(data.tobytes())


def _episode_row(number: int, text: str, start: int, count: int, numbers: Mapping[str, np.ndarray]) -> dict[str, Any]:
    where = {f"{name}/{part}_index": 0 for name in ("data", "meta/episodes") for part in ("chunk", "file")}
    statistics = {f"stats/{n}/{k}": v for n in (STATE, ACTION) for k, v in _statistics(numbers[n]).items()}
    return {
        "episode_index": number,
        "tasks": [text],
        "length": count,
        "dataset_from_index": start,
        "dataset_to_index": start + count,
        **where,
        **statistics,
    }


def _statistics(values: np.ndarray) -> dict[str, list[float]]:
    wide = values.astype(np.float64)
    out = {"min": wide.min(0), "max": wide.max(0), "mean": wide.mean(0), "std": wide.std(0)}
    out |= {name: np.quantile(wide, q, axis=0) for name, q in QUANTILES.items()}
    return {**{name: value.tolist() for name, value in out.items()}, "count": [len(wide)]}


def _write_meta(
    folder: Path,
    libraries: tuple[Any, Any],
    first: tuple[dict[str, Any], float],
    tasks: Mapping[str, int],
    rows: list[dict[str, Any]],
    total: int,
    columns: Mapping[str, list[np.ndarray]],
    robot: str,
) -> None:
    arrow, parquet = libraries
    features, period_s = first
    info = {
        "codebase_version": VERSION,
        "robot_type": robot,
        "total_episodes": len(rows),
        "total_frames": total,
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": round(1.0 / period_s),
        "splits": {"train": f"0:{len(rows)}"},
        "data_path": DATA,
        "video_path": None,
        "features": features,
    }
    statistics = {name: _statistics(np.concatenate(parts)) for name, parts in columns.items()}
    (folder / EPISODES).parent.mkdir(parents=True)
    parquet.write_table(arrow.Table.from_pylist(rows), folder / EPISODES)
    index = {
        "index_columns": ["task"],
        "columns": [
            {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_kind, "metadata": None}
            for name, kind, numpy_kind in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
        ],
        "column_indexes": [],
        "creator": {"library": "pyarrow", "version": arrow.__version__},
        "pandas_version": "2.0",
    }
    table = arrow.table({"task_index": list(tasks.values()), "task": list(tasks)})
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(index)}), folder / "meta/tasks.parquet")
    (folder / "meta/stats.json").write_text(json.dumps(statistics, indent=2) + "\n", encoding="utf-8")
    (folder / "meta/info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
