"""LeRobot data sets as people have them: versions, videos, names in another order, numbers that mean something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ecovla_ros.errors import CheckpointError, ConfigError, EcovlaError
from ecovla_ros.train import lerobot
from ecovla_ros.train.lerobot import Reading
from ecovla_ros.types import GEN3, JOINTS, ArmJoints, Demonstration, Observation

av, arrow = pytest.importorskip("av"), pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
HOME = np.array([0.0, 0.26, 3.1, -2.2, 0.0, 0.96, 1.57])
TEXTS = ("place the apple in the basket", "place the banana in the basket")
FRAMES, SIDE = 12, 64


def demonstration(number: int, frames: int = FRAMES) -> Demonstration:
    """An arm that moves slowly, seen by two cameras whose pictures tell which frame it is."""
    joints = HOME + 0.02 * np.arange(frames + 1)[:, None] * np.linspace(0.2, 1.0, 7)
    gripper = np.linspace(0.0, 1.0, frames + 1)
    seen = []
    for i in range(frames):
        images = {c: np.zeros((SIDE, SIDE, 3), np.uint8) for c in ("scene", "hand")}
        for k, image in enumerate(images.values()):
            image[..., k] = 15 * i + 40
            image[..., 2] = 60 * number
        seen.append(Observation(1 + i * 10**8, images, joints[i], float(gripper[i]), TEXTS[number % 2]))
    return Demonstration(tuple(seen), joints[1:], gripper[1:], 0.1)


EPISODES = [demonstration(0), demonstration(1, 9)]
CAMERAS = {"third_person": "observation.images.scene", "wrist": "hand"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert lerobot.write(tmp_path / "set", EPISODES) == 2
    return tmp_path / "set"


def film(path: Path, pictures: list[np.ndarray], codec: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        options = {"g": "2", "crf": "10"} | ({"preset": "12"} if "av1" in codec else {})
        stream = container.add_stream(codec, rate=10, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def info(folder: Path, **changes: Any) -> dict[str, Any]:
    path = folder / "meta/info.json"
    document = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(document))
    return document


def with_videos(folder: Path, codec: str) -> Path:
    """The pictures of version 3.0 in videos: those of both episodes in one file."""
    table = parquet.read_table(folder / "data/chunk-000/file-000.parquet")
    keys = [n for n in table.column_names if n.startswith("observation.images")]
    parquet.write_table(table.drop_columns(keys), folder / "data/chunk-000/file-000.parquet", row_group_size=7)
    rows = parquet.read_table(folder / lerobot.EPISODES).to_pylist()
    for key in keys:
        camera = key.removeprefix("observation.images.")
        pictures = [o.images[camera] for e in EPISODES for o in e.observations]
        film(folder / f"videos/{key}/chunk-000/file-000.mp4", pictures, codec)
        for row, begin in zip(rows, (0.0, 0.1 * FRAMES)):
            row |= {
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": 0,
                f"videos/{key}/from_timestamp": begin,
            }
    parquet.write_table(arrow.Table.from_pylist(rows), folder / lerobot.EPISODES)
    features = info(folder)["features"]
    info(folder, features=features | {key: {"dtype": "video", "shape": [SIDE, SIDE, 3]} for key in keys})
    return folder


def as_old(folder: Path, codec: str, version: str = "v2.1") -> Path:
    """The same as version 2: a table and a video for each episode."""
    table = parquet.read_table(folder / "data/chunk-000/file-000.parquet")
    keys = [n for n in table.column_names if n.startswith("observation.images")]
    (folder / "data/chunk-000/file-000.parquet").unlink()
    for number, episode in enumerate(EPISODES):
        rows = table.drop_columns(keys).filter(arrow.compute.equal(table["episode_index"], number))
        parquet.write_table(rows, folder / f"data/chunk-000/episode_{number:06d}.parquet")
        for key in keys:
            pictures = [o.images[key.removeprefix("observation.images.")] for o in episode.observations]
            film(folder / f"videos/chunk-000/{key}/episode_{number:06d}.mp4", pictures, codec)
    (folder / "meta/tasks.parquet").unlink()
    lines = [json.dumps({"task_index": i, "task": text}) for i, text in enumerate(TEXTS)]
    (folder / "meta/tasks.jsonl").write_text("\n".join(lines))
    features = info(folder)["features"]
    videos = {key: {"dtype": "video", "shape": [SIDE, SIDE, 3]} for key in keys}
    info(folder, codebase_version=version, features=features | videos, data_path=None, video_path=None)
    return folder


def same(found: list[Demonstration], pictures: float) -> None:
    assert [len(e.gripper) for e in found] == [len(e.gripper) for e in EPISODES]
    for before, after in zip(EPISODES, found):
        np.testing.assert_allclose(after.joints, before.joints, atol=1e-5)
        np.testing.assert_allclose(after.gripper, before.gripper, atol=1e-5)
        for a, b in zip(before.observations, after.observations):
            np.testing.assert_allclose(b.joints, a.joints, atol=1e-5)
            assert b.instruction == a.instruction and set(b.images) == set(CAMERAS)
            for ours, theirs in (("third_person", "scene"), ("wrist", "hand")):
                assert np.abs(b.images[ours].astype(int) - a.images[theirs]).mean() <= pictures


@pytest.mark.reads("LeRobot data set", "videos by {codec}, versions 2.1 and 3.0")
@pytest.mark.parametrize("codec", ["libx264", "libsvtav1", "mpeg4"])
@pytest.mark.parametrize("make", [with_videos, as_old])
def test_videos_give_the_frame_of_each_time(folder: Path, codec: str, make: Callable[..., Path]) -> None:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    same(
        list(lerobot.read(make(folder, codec), Reading(CAMERAS))), 4.0
    )  # frames differ by 15 in a third of the colours


def test_what_is_wrong_with_videos_is_named(folder: Path) -> None:
    with_videos(folder, "mpeg4")
    file = folder / "videos/observation.images.scene/chunk-000/file-000.mp4"
    film(file, [EPISODES[0].observations[0].images["scene"]] * 15, "mpeg4")
    with pytest.raises(CheckpointError, match=r"no frame at 1\.5"):
        list(lerobot.read(folder))
    for content in (b"", b"no video", file.read_bytes()[:300]):
        file.write_bytes(content)
        with pytest.raises(
            CheckpointError, match="is an empty file|does not decode as a video|holds no video|no frame at"
        ):
            list(lerobot.read(folder))
    file.unlink()
    with pytest.raises(CheckpointError, match="no video"):
        list(lerobot.read(folder))


@pytest.mark.reads("LeRobot data set", "version 3.0 with pictures in its tables")
def test_pictures_of_tables_are_read_under_the_names_asked_for(folder: Path) -> None:
    same(list(lerobot.read(folder, Reading(CAMERAS))), 0.0)
    with pytest.raises(CheckpointError, match="no pictures 'front'; it has: observation.images.scene"):
        list(lerobot.read(folder, Reading({"wrist": "front"})))
    with pytest.raises(ConfigError, match="CAMERA=KEY"):
        lerobot.cameras(["wrist"])
    assert lerobot.cameras(["wrist=hand"]) == {"wrist": "hand"}


def changed(folder: Path, change: Callable[[np.ndarray], np.ndarray], *names: str) -> None:
    path = folder / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(path)
    for name in names:
        values = change(np.array(table.column(name).to_pylist(), np.float32)).astype(np.float32)
        kind = arrow.list_(arrow.float32(), values.shape[1])
        field = arrow.field(name, kind)
        table = table.set_column(table.schema.get_field_index(name), field, arrow.array(list(values), type=kind))
    parquet.write_table(table, path)


def renamed(folder: Path, names: Any, shape: int = 8) -> None:
    features = info(folder)["features"]
    both = {n: features[n] | {"names": names, "shape": [shape]} for n in (lerobot.STATE, lerobot.ACTION)}
    info(folder, features=features | both)


ORDERS: dict[str, tuple[list[int], Any, ArmJoints]] = {
    "gripper first": ([7, 0, 1, 2, 3, 4, 5, 6], ["gripper", *JOINTS], GEN3),
    "backwards": ([7, 6, 5, 4, 3, 2, 1, 0], ["gripper", *reversed(JOINTS)], GEN3),
    "with endings": (list(range(8)), [f"{n}.pos" for n in (*JOINTS, "gripper")], GEN3),
    "in a group": (list(range(8)), {"motors": [*JOINTS, "gripper"]}, GEN3),
    "prefixed": (list(range(8)), [*(f"left_{n}" for n in JOINTS), "left_grip"],
                 ArmJoints(tuple(f"left_{n}" for n in JOINTS), "left_grip")),
}  # fmt: skip


@pytest.mark.reads("LeRobot data set", "names of the columns: {how}")
@pytest.mark.parametrize("how", ORDERS)
def test_joints_are_taken_by_name_whatever_their_order(folder: Path, how: str) -> None:
    order, names, joints = ORDERS[how]
    changed(folder, lambda v: v[:, order], lerobot.STATE, lerobot.ACTION)
    renamed(folder, names)
    same(list(lerobot.read(folder, Reading(CAMERAS, joints))), 0.0)


def test_further_columns_are_left_out_and_an_arm_without_gripper_needs_none(folder: Path) -> None:
    changed(folder, lambda v: np.concatenate([v[:, :7], 9.0 + v], 1), lerobot.STATE, lerobot.ACTION)
    renamed(folder, [*JOINTS, *(f"effort_{i}" for i in range(8))], 15)
    found = list(lerobot.read(folder, Reading(CAMERAS, ArmJoints(gripper=""))))
    np.testing.assert_allclose(found[0].joints, EPISODES[0].joints, atol=1e-5)
    assert not found[0].gripper.any()
    with pytest.raises(CheckpointError, match="lacks gripper"):
        list(lerobot.read(folder))


def spoiled(frame: int, column: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(values: np.ndarray) -> np.ndarray:
        values[frame, column] = value
        return values

    return change


def differences(values: np.ndarray) -> np.ndarray:
    return np.concatenate([np.diff(values[:, :7], axis=0, append=values[-1:, :7]), values[:, 7:]], 1)


DEGREES = np.array([*[180 / np.pi] * 7, 1.0])
MEANINGS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], tuple[str, ...]]] = {
    "are these degrees": (lambda v: v * DEGREES, (lerobot.STATE, lerobot.ACTION)),
    r"action, joint_2 is .*degrees": (lambda v: v * DEGREES, (lerobot.ACTION,)),
    r"episode 0: action, joint_3 is nan in frame 3": (spoiled(3, 2, np.nan), (lerobot.ACTION,)),
    r"joint_1 is inf in frame 0": (spoiled(0, 0, np.inf), (lerobot.STATE,)),
    "are these differences": (differences, (lerobot.ACTION,)),
    "gripper goes from 0 to 9": (lambda v: v * [*[1.0] * 7, 100.0], (lerobot.STATE,)),
}  # fmt: skip


@pytest.mark.reads("refused as a data set", "{says}")
@pytest.mark.parametrize("says", MEANINGS)
def test_numbers_that_cannot_be_this_arm_are_refused_by_episode_and_column(folder: Path, says: str) -> None:
    change, names = MEANINGS[says]
    changed(folder, change, *names)
    with pytest.raises(CheckpointError, match=says):
        list(lerobot.read(folder))


def test_a_gripper_in_other_units_is_read_by_its_ends(folder: Path) -> None:
    changed(folder, lambda v: np.concatenate([v[:, :7], 100 - 100 * v[:, 7:]], 1), lerobot.STATE, lerobot.ACTION)
    same(list(lerobot.read(folder, Reading(CAMERAS, ends=(100.0, 0.0)))), 0.0)


def test_frames_are_left_out_so_that_the_period_is_as_asked(folder: Path) -> None:
    slow = list(lerobot.read(folder, Reading(CAMERAS, period_s=0.3)))[0]
    assert slow.period_s == pytest.approx(0.3) and len(slow.observations) == 4
    np.testing.assert_allclose(slow.joints[0], EPISODES[0].joints[2], atol=1e-5)  # where it was to be 0.3 s later


def lost_frame(folder: Path) -> None:
    path = folder / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(path)
    parquet.write_table(arrow.concat_tables([table.slice(0, 4), table.slice(5)]), path)


SPOILED: dict[str, Callable[[Path], Any]] = {
    "has frames": lost_frame,
    "format v1.6": lambda f: info(f, codebase_version="v1.6"),
    "8 columns and 0 names": lambda f: renamed(f, None),
    "lacks joint_7": lambda f: renamed(f, [*JOINTS[:6], "joint_x", "gripper"]),
    "a column twice": lambda f: renamed(f, [*JOINTS, "gripper", "joint_7"], 9),
    "rows of shape": lambda f: renamed(f, [*JOINTS, "gripper", "x"], 9),
    "no LeRobot data set": lambda f: info(f, fps="fast"),
    "fps from 0 to 1000": lambda f: info(f, fps=0),
    "is not at the time": lambda f: info(f, fps=33),
    "cannot be read": lambda f: (f / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1"),
    "no table under data": lambda f: (f / "data/chunk-000/file-000.parquet").unlink(),
    "tasks.parquet": lambda f: (f / "meta/tasks.parquet").unlink(),
}  # fmt: skip


@pytest.mark.parametrize("says", SPOILED)
def test_a_set_that_is_spoiled_is_refused_by_what_is_wrong(folder: Path, says: str) -> None:
    SPOILED[says](folder)
    with pytest.raises(CheckpointError, match=says) as raised:
        list(lerobot.read(folder))
    assert "\n" not in str(raised.value)


def rows_changed(folder: Path, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    path = folder / "data/chunk-000/file-000.parquet"
    rows = change(parquet.read_table(path).to_pylist())
    parquet.write_table(arrow.Table.from_pylist(rows, schema=parquet.read_schema(path)), path)


def cell(frame: int, data: bytes) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    def change(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        rows[frame]["observation.images.scene"] = {"bytes": data, "path": None}
        return rows

    return change


def tasks(folder: Path, *texts: Any) -> None:
    table = arrow.table({"task_index": [0, 1], "task": list(texts)})
    parquet.write_table(table, folder / "meta/tasks.parquet")


def again(folder: Path) -> None:
    shutil.copy(folder / "data/chunk-000/file-000.parquet", folder / "data/chunk-000/file-001.parquet")


SMALL = bytes(cv2.imencode(".png", np.zeros((32, 48, 3), np.uint8))[1])
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
NOT_WHOLE: dict[str, Callable[[Path], Any]] = {
    "of 2 episodes that meta/ tells of 1 are there, without 1": lambda f: rows_changed(f, lambda rows: rows[:FRAMES]),
    "holds episode 0, which another table holds too": again,
    "episode 0, frame 3, camera 'third_person': 48 x 32 px, and 64 x 64 px": lambda f: rows_changed(f, cell(3, SMALL)),
    "task 0 is ''; needed: the task in words": lambda f: tasks(f, "", "x"),
    "task 1 is None; needed": lambda f: tasks(f, "x", None),
    "file-000.parquet' is a git-lfs pointer.*git lfs pull": lambda f: (f / EPISODE_TABLE).write_text(LFS),
    "no LeRobot data set .it is a git-lfs pointer": lambda f: (f / "meta/info.json").write_text(LFS),
    "tasks.parquet' is an empty file": lambda f: (f / "meta/tasks.parquet").write_bytes(b""),
    "observation.state is empty in 1 of 12 rows": lambda f: rows_changed(
        f, lambda rows: [row | {"observation.state": None} if i == 2 else row for i, row in enumerate(rows)]
    ),
}
EPISODE_TABLE = "data/chunk-000/file-000.parquet"


@pytest.mark.reads("refused as a data set", "{says}")
@pytest.mark.parametrize("says", NOT_WHOLE)
def test_part_of_a_set_is_never_taken_for_the_whole(folder: Path, says: str) -> None:
    NOT_WHOLE[says](folder)
    with pytest.raises(CheckpointError, match=says):
        list(lerobot.read(folder, lerobot.Reading(cameras=CAMERAS)))


@pytest.mark.parametrize("lengths", [True, False])
def test_an_episode_of_the_old_form_that_lost_frames_or_its_file_is_told(folder: Path, lengths: bool) -> None:
    as_old(folder, "libx264")
    if lengths:
        rows = [{"episode_index": i, "length": len(e.gripper)} for i, e in enumerate(EPISODES)]
        (folder / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = folder / "data/chunk-000/episode_000001.parquet"
    parquet.write_table(parquet.read_table(path).slice(0, 4), path)
    with pytest.raises(CheckpointError, match="of 9 that meta/ says" if lengths else "hold 16 frames, of 21 that"):
        list(lerobot.read(folder, lerobot.Reading(cameras=CAMERAS)))
    path.unlink()
    with pytest.raises(CheckpointError, match="is not whole: of 2 episodes .* without 1"):
        list(lerobot.read(folder, lerobot.Reading(cameras=CAMERAS)))


def test_what_is_no_data_set_says_what_it_is(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bag").mkdir()
    (tmp_path / "bag/metadata.yaml").write_text("")
    (tmp_path / "lost").symlink_to(tmp_path / "none")
    monkeypatch.chdir(tmp_path)
    for path, says in (
        (folder / "meta", f"a part of a LeRobot data set; valid: '{folder}'"),
        (folder / "meta/info.json", "is a file; valid: the folder"),
        (tmp_path, f"holds LeRobot data sets, and is none; name one: {folder}"),
        (tmp_path / "bag", "is a bag, not a LeRobot data set; valid: ecovla train --bags"),
        (tmp_path / "lost", "is a link to .*none', which is not there"),
        (Path("lerobot/aloha"), "is not there; of the hub .*hf download --repo-type dataset lerobot/aloha"),
    ):
        with pytest.raises(CheckpointError, match=says):
            list(lerobot.read(path))
    with pytest.raises(CheckpointError, match="'scene' is named for two cameras|is named for two cameras"):
        list(lerobot.read(folder, lerobot.Reading(cameras={"third_person": "scene", "wrist": "scene"})))


def test_what_cannot_be_written_is_refused_before_it_spoils_statistics(tmp_path: Path) -> None:
    whole = EPISODES[0]
    broken = whole.joints.copy()
    broken[3, 2] = np.nan
    for change, says in (
        (Demonstration(whole.observations, broken, whole.gripper, 0.1), "not finite"),
        (Demonstration(whole.observations, whole.joints, whole.gripper, 0.15), "whole numbers"),
    ):
        with pytest.raises(EcovlaError, match=says):
            lerobot.write(tmp_path / "out", [change])
