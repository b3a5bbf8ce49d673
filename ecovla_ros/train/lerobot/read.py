"""Episodes of a LeRobot data set: columns by name, pictures of tables or videos, cameras under the names asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.errors import CheckpointError, ConfigError, ObservationError, short
from ecovla_ros.train.lerobot import columns, layout, videos
from ecovla_ros.train.lerobot.columns import Columns
from ecovla_ros.train.lerobot.layout import ACTION, IMAGE, STATE, Info, arrow, guarded
from ecovla_ros.types import GEN3, ArmJoints, Demonstration, Observation
from ecovla_ros.wire import compressed

LARGEST_FILE = 1 << 32
NUMBERS = ("timestamp", "frame_index", "episode_index", "task_index")


@dataclass(frozen=True)
class Reading:
    """How a data set is taken."""

    cameras: Mapping[str, str] = field(default_factory=dict)
    """Camera -> key of the data set, whole or behind "observation.images."; others keep the names of the data."""
    joints: ArmJoints = GEN3
    ends: tuple[float, float] = (0.0, 1.0)
    """The data's value of an open and of a closed gripper."""
    period_s: float = 0.0
    """Frames are left out until so much time lies between two; 0: every frame."""


def read(folder: Path, how: Reading = Reading()) -> Iterator[Demonstration]:  # noqa: B008  frozen
    """Every episode. Raises CheckpointError, naming file, episode and column of what does not fit."""
    arrow()
    about = layout.info(folder)
    names = _cameras(about, how.cameras)
    found = columns.of(folder, about.features, how.joints, how.ends)
    texts, every = layout.tasks(about), _every(about, how.period_s)
    seen: dict[int, int] = {}
    for rows, places in _episodes(about, names):
        number = int(rows["episode_index"][0].as_py())
        if number in seen:
            raise CheckpointError(f"'{rows['path']}' holds episode {number}, which another table holds too")
        seen[number] = len(rows["episode_index"])
        yield _Episode(about, names, found, texts, every).made(number, rows, places)
    if not seen:
        raise CheckpointError(f"'{folder}' holds no episode: no table under data/")
    _check_whole(about, seen)


def _check_whole(about: Info, seen: Mapping[int, int]) -> None:
    """`seen`: episode -> frames. Raises CheckpointError where meta/ tells of more than the tables hold."""
    told = _lengths(about)
    missing = sorted(told.keys() - seen.keys())
    if not missing and about.episodes is not None and about.episodes > len(seen):
        missing = sorted(set(range(about.episodes)) - seen.keys()) or [about.episodes]
    if missing:
        raise CheckpointError(
            f"'{about.folder}' is not whole: of {max(len(told), about.episodes or 0)} episodes that meta/ tells of "
            f"{len(seen)} are there, without {', '.join(map(str, missing[:10]))}"
        )
    frames = sum(seen.values())
    if about.frames is not None and about.frames != frames:
        raise CheckpointError(
            f"'{about.folder}' is not whole: its tables hold {frames} frames, of {about.frames} that meta/info.json "
            "tells of"
        )


def _cameras(about: Info, asked: Mapping[str, str]) -> dict[str, str]:
    """Camera -> key. Raises CheckpointError for a key that is not there."""
    keys = about.pictures()
    chosen: dict[str, str] = {}
    for camera, text in asked.items():
        key = next((k for k in (text, IMAGE + text, f"observation.{text}") if k in keys), "")
        if not key:
            raise CheckpointError(
                f"'{about.folder}' has no pictures '{short(text)}'; it has: {', '.join(keys) or 'none'}"
            )
        if key in chosen.values():
            raise CheckpointError(f"'{short(key)}' is named for two cameras; valid: pictures of its own for each")
        chosen[camera] = key
    used = set(chosen.values())
    rest = {k.removeprefix(IMAGE).removeprefix("observation."): k for k in keys if k not in used}
    return rest | chosen


def _every(about: Info, period_s: float) -> int:
    """Of how many frames one is taken."""
    share = period_s * about.fps
    return round(share) if share > 1.5 and abs(share - round(share)) < 0.01 else 1


def _episodes(about: Info, cameras: Mapping[str, str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Columns of each episode's rows, and where its videos lie."""
    wanted = [STATE, ACTION, *NUMBERS, *(k for k in cameras.values() if about.pictures()[k] == "image")]
    places = _places(about)
    for path in sorted((about.folder / "data").glob("chunk-*/*.parquet")):
        file = guarded(path, lambda path=path: arrow()[1].ParquetFile(path))  # type: ignore[misc]
        missing = [name for name in wanted if name not in file.schema_arrow.names]
        if missing:
            raise CheckpointError(f"'{path}' has no column {', '.join(missing)}")
        pending: list[Any] = []
        for group in range(file.num_row_groups):
            table = guarded(path, lambda f=file, g=group: f.read_row_group(g, wanted))  # type: ignore[misc]
            numbers = table.column("episode_index").to_pylist()
            ends = [i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1]]
            for start, stop in zip([0, *ends], [*ends, len(numbers)]):
                if pending and start < stop and numbers[start] != pending[-1].column("episode_index")[0].as_py():
                    yield _joined(path, pending, places)
                    pending = []
                pending += [table.slice(start, stop - start)] if start < stop else []
        if pending:
            yield _joined(path, pending, places)


def _joined(path: Path, parts: list[Any], places: Mapping[int, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    table = arrow()[0].concat_tables(parts)
    number = table.column("episode_index")[0].as_py()
    return {name: table.column(name) for name in table.column_names} | {"path": path}, places.get(number, {})


def _places(about: Info) -> dict[int, dict[str, Any]]:
    """Episode -> its row of meta/episodes: since 3.0 videos of several lie in one file."""
    if about.old:
        return {number: {"length": length} for number, length in _lengths(about).items()}
    found: dict[int, dict[str, Any]] = {}
    for path in sorted((about.folder / "meta/episodes").glob("chunk-*/*.parquet")):
        names = guarded(path, lambda path=path: arrow()[1].read_schema(path)).names  # type: ignore[misc]
        kept = [n for n in names if n in ("episode_index", "length") or n.startswith("videos/")]
        rows = guarded(path, lambda path=path, kept=kept: arrow()[1].read_table(path, columns=kept).to_pylist())  # type: ignore[misc]
        found |= {int(row["episode_index"]): row for row in rows if row.get("episode_index") is not None}
    return found


def _lengths(about: Info) -> dict[int, int]:
    """Episode -> its frames, as meta/ says; empty where it does not."""
    if not about.old:
        rows = _places(about)
        return {number: int(row["length"]) for number, row in rows.items() if isinstance(row.get("length"), int)}
    path = about.folder / "meta/episodes.jsonl"
    if not path.exists():
        return {}
    return guarded(path, lambda: {int(row["episode_index"]): int(row["length"]) for row in layout.lines(path)})


@dataclass(frozen=True)
class _Episode:
    about: Info
    cameras: Mapping[str, str]
    columns: Columns
    texts: Mapping[int, str]
    every: int

    def made(self, number: int, rows: Mapping[str, Any], places: Mapping[str, Any]) -> Demonstration:
        """One episode of its columns. Raises CheckpointError."""
        path = rows["path"]
        state, action = (self._numbers(path, rows, name) for name in (STATE, ACTION))
        columns.check(number, state, action)
        times, told, tasks = (
            guarded(path, lambda n=n: np.array(rows[n].to_pylist(), np.float64).ravel())  # type: ignore[misc]
            for n in ("timestamp", "frame_index", "task_index")
        )
        self._check_frames(number, times, told, places)
        unknown = sorted({t for t in tasks.tolist() if t not in self.texts})
        if unknown:
            raise CheckpointError(f"episode {number}: task {unknown[0]:g} is not among those of meta/")
        taken = range(0, len(times), self.every)
        pictures = {c: self._pictures(c, key, number, rows, places, times) for c, key in self.cameras.items()}
        seen: list[Observation] = []
        sizes: list[tuple[int, ...]] = []
        for i, frame in enumerate(zip(*pictures.values()) if pictures else [()] * len(times)):
            sizes = sizes or [image.shape for image in frame]
            self._check_sizes(number, i, dict(zip(pictures, zip(sizes, frame))))
            if i in taken:
                images = dict(zip(pictures, frame))
                stamp = round(float(times[i]) * 1e9) + 1
                seen.append(Observation(stamp, images, state[0][i], float(state[1][i]), self.texts[int(tasks[i])]))
        due = np.minimum(np.array(taken) + self.every - 1, len(times) - 1)  # what is reached when the next one is seen
        return Demonstration(tuple(seen), action[0][due], action[1][due], self.every / self.about.fps)

    def _numbers(self, path: Path, rows: Mapping[str, Any], name: str) -> tuple[np.ndarray, np.ndarray]:
        width = self.about.features[name]["shape"][0]
        empty = guarded(path, lambda: rows[name].null_count)
        if empty:
            raise CheckpointError(f"'{path}': {name} is empty in {empty} of {len(rows[name])} rows; needed: numbers")
        values = guarded(path, lambda: np.array(rows[name].to_pylist(), np.float64))
        if values.shape != (len(values), width) or not len(values):
            raise CheckpointError(
                f"'{path}': {name} has rows of shape {values.shape[1:]}; meta/info.json says [{width}]"
            )
        return self.columns.values(name, values)

    @staticmethod
    def _check_sizes(number: int, frame: int, pictures: Mapping[str, tuple[tuple[int, ...], np.ndarray]]) -> None:
        """Raises CheckpointError for a picture of another size than the first of its camera."""
        for camera, (first, image) in pictures.items():
            if image.shape != first:
                raise CheckpointError(
                    f"episode {number}, frame {frame}, camera '{camera}': {image.shape[1]} x {image.shape[0]} px, and "
                    f"{first[1]} x {first[0]} px before; needed: one size"
                )

    def _check_frames(self, number: int, times: np.ndarray, told: np.ndarray, places: Mapping[str, Any]) -> None:
        """Raises CheckpointError for frames that are missing or out of their time."""
        expected = places.get("length")
        if not np.array_equal(told, np.arange(len(told))) or (expected is not None and expected != len(told)):
            says = f", of {expected} that meta/ says" if expected is not None else ""
            raise CheckpointError(
                f"episode {number} has frames {told[:3].tolist()} ... {told[-1]:g}{says}; needed: each once"
            )
        off = np.abs(times - times[0] - np.arange(len(times)) / self.about.fps)
        if not np.isfinite(times).all() or off.max() > 0.5 / self.about.fps:
            raise CheckpointError(
                f"episode {number}: frame {int(np.nan_to_num(off, nan=np.inf).argmax())} is not at the time that "
                f"{self.about.fps:g} frames a second give"
            )

    def _pictures(
        self, camera: str, key: str, number: int, rows: Mapping[str, Any], places: Mapping[str, Any], times: np.ndarray
    ) -> Iterator[np.ndarray]:
        if self.about.pictures()[key] == "image":
            for i, cell in enumerate(rows[key]):
                yield self._decoded(cell.as_py(), f"episode {number}, frame {i}, camera '{camera}'")
            return
        begin, path = 0.0, Path()
        if self.about.old:
            chunk = number // self.about.chunk_size
            path = self.about.file(self.about.video_path, episode_chunk=chunk, episode_index=number, video_key=key)
        else:
            begin, path = self._video(key, number, places)
        yield from videos.frames(path, (times - times[0] + begin).tolist(), 0.5 / self.about.fps)

    def _video(self, key: str, number: int, places: Mapping[str, Any]) -> tuple[float, Path]:
        try:
            chunk, file = int(places[f"videos/{key}/chunk_index"]), int(places[f"videos/{key}/file_index"])
            begin = float(places[f"videos/{key}/from_timestamp"])
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"episode {number}: meta/episodes does not say where the video of {key} lies"
            ) from error
        return begin, self.about.file(self.about.video_path, chunk_index=chunk, file_index=file, video_key=key)

    def _decoded(self, cell: Any, where: str) -> np.ndarray:
        data = cell.get("bytes") if isinstance(cell, dict) else None
        if data is None and isinstance(cell, dict) and isinstance(cell.get("path"), str):
            path = self.about.file("{name}", name=cell["path"])
            data = guarded(path, path.read_bytes)
        if not isinstance(data, bytes):
            raise CheckpointError(f"{where}: no bytes of a picture")
        try:
            return compressed.decode(data, where, upright=True)
        except ObservationError as error:
            raise CheckpointError(str(error)) from error


def cameras(texts: list[str]) -> dict[str, str]:
    """ "camera=key" texts as camera -> key. Raises ConfigError."""
    out = {}
    for text in texts:
        camera, equals, key = text.partition("=")
        if not equals or not camera or not key:
            raise ConfigError(f"'{text}' is not CAMERA=KEY, e.g. third_person=observation.images.scene")
        out[camera] = key
    return out
