"""Says why a path cannot be read as a bag, judging by what it holds, and what to do about it."""

from __future__ import annotations

from pathlib import Path

VALID = "a rosbag2 folder, an .mcap or a .db3 file"
MCAP, SQLITE, ZSTD = b"\x89MCAP0\r\n", b"SQLite format 3\0", b"\x28\xb5\x2f\xfd"
"""First bytes of the files that are read, and of those that are unpacked first."""
ENDINGS = (".mcap", ".db3", ".mcap.zstd", ".db3.zstd", ".mcap.zst", ".db3.zst")
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"#ROSBAG V", "is a ROS 1 bag; convert it: pip install rosbags; rosbags-convert --src {0} --dst NEW_FOLDER"),
    (b"version https://git-lfs", "is a git-lfs pointer, not the bag; fetch it: git lfs pull"),
    (b"<!DOCTYPE", "is a web page, not a bag: the download went wrong"),
    (b"<html", "is a web page, not a bag: the download went wrong"),
    (b"\x89MCAP", "is an MCAP file of another version than 0, which is the one that is read"),
    (b"\x1f\x8b", "is packed with gzip; unpack it: gunzip or tar -xzf"),
    (b"PK\x03\x04", "is a zip archive; unpack it: unzip"),
    (b"\xfd7zXZ", "is packed with xz; unpack it: xz -d or tar -xJf"),
    (b"BZh", "is packed with bzip2; unpack it: bunzip2 or tar -xjf"),
    (b"7z\xbc\xaf", "is a 7z archive; unpack it: 7z x"),
)
_LOOK = 4096


def kind_of(path: Path) -> str:
    """ "mcap", "sqlite", "zstd", or empty for anything else; by the first bytes, as names can be wrong."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return ""
    starts = {"mcap": MCAP, "sqlite": SQLITE, "zstd": ZSTD}
    return next((name for name, start in starts.items() if head.startswith(start)), "")


def of_file(path: Path) -> str:
    """What is wrong with a file that is none of the kinds which are read; empty where its bytes do not tell."""
    try:
        with path.open("rb") as file:
            head = file.read(_LOOK)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not head:
        return "is an empty file (0 bytes): nothing was recorded, or the copy failed"
    for start, text in _STARTS:
        if head[: len(start)].lower() == start.lower():
            return text.format(path)
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it: tar -xf"
    if not any(head):
        return "holds zeros alone: the disk was full, or the machine went down while it was written"
    return ""


def of_folder(path: Path) -> str:
    """What a folder without a storage file is instead; empty where nothing tells."""
    names = sorted(p.name for p in path.iterdir())
    if any(name.endswith(".bag") for name in names):
        bag = next(name for name in names if name.endswith(".bag"))
        return (
            f"holds a ROS 1 bag ({bag}); convert it: pip install rosbags; rosbags-convert --src {path / bag} --dst NEW"
        )
    if (path / "meta" / "info.json").is_file():
        return "is a LeRobot data set, not a bag; valid: ecovla train --lerobot FOLDER"
    if (path / "config.json").is_file():
        return "is a checkpoint, not a bag; valid: --set policy.checkpoint=FOLDER beside a bag"
    inner = [p for p in sorted(path.iterdir()) if p.is_dir() and stored(p)]
    if inner:
        return f"holds folders with bags, not a bag; name one: {', '.join(str(p) for p in inner[:5])}"
    if "metadata.yaml" in names:
        return f"holds metadata.yaml and no {' and no '.join(ENDINGS[:2])} file: the recording itself was not copied"
    return f"holds no {' and no '.join(ENDINGS[:2])} file{': ' + ', '.join(names[:5]) if names else ', it is empty'}"


def stored(folder: Path) -> list[Path]:
    """Storage files of a folder, packed ones only where they do not lie there unpacked as well."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name.endswith(ENDINGS))
    plain = {p.name for p in files if p.suffix in ENDINGS[:2]}
    return [p for p in files if p.name in plain or p.stem not in plain]
