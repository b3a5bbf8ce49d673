"""The one form of every result file: rows, and what is needed to judge and repeat them."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.errors import ConfigError

PACKAGES = ("numpy", "mujoco", "torch", "transformers", "triton")
COMMIT = "ECOVLA_COMMIT"
"""Environment variable that names the commit of a source tree that was copied without its history, or with another."""


def write(path: str | Path, rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any], **more: Any) -> None:
    """Write JSON with the keys rows, settings, machine, versions, commit and those of `more`; makes the folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "rows": [dict(row) for row in rows],
        "settings": dict(settings),
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        **more,
    }
    path.write_text(json.dumps(document, indent=2, default=_plain) + "\n", encoding="utf-8")


def prepare(path: str | Path) -> None:
    """Make the folder of a result file and find out whether it can be written, before the hours that fill it.

    Raises ConfigError.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("a").close()
        if new:
            path.unlink()
    except OSError as error:
        raise ConfigError(f"--json '{path}' cannot be written: {error.strerror}") from error


def _plain(value: Any) -> Any:
    """numpy's scalars as Python's. Raises TypeError for anything else, as json does."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} does not belong into a result file")


def machine() -> dict[str, Any]:
    """Platform, CPU model, usable cores and memory in GiB; the GPU where this process has used one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"platform": platform.platform(), "cpu": _cpu(), "cores": cores, "memory_gib": _memory_gib()}
    return found | ({"gpu": gpu} if (gpu := _gpu()) else {})


def versions() -> dict[str, str]:
    """Python and the installed ones of `PACKAGES`; CUDA as torch was built for it where this process has used a GPU."""
    found = {"python": platform.python_version()}
    if torch := _torch_with_gpu():
        found["cuda"] = str(torch.version.cuda)
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Commit of the source tree: as `COMMIT` says; else as its history does, with "+" when it has local changes; else
    "unknown"."""
    if named := os.environ.get(COMMIT, ""):
        return named
    folder = Path(__file__).resolve().parent
    head = _git(folder, "rev-parse", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")


def source(*more: Path) -> str:
    """A hash of the Python files of the package and of `more` folders: equal where the code is, whatever the commit."""
    package = Path(__file__).resolve().parents[1]
    found = hashlib.sha256()
    for folder in (package, *more):
        for path in sorted(folder.rglob("*.py")):
            name = path.relative_to(folder)
            if not {"msg", "srv"} & set(name.parts):
                found.update(str(name).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _git(folder: Path, *arguments: str) -> str:
    try:
        run = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def _torch_with_gpu() -> Any:
    """torch, if this process has imported it and used CUDA; else None."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None


def _gpu() -> dict[str, Any]:
    """Name, multiprocessors, memory, driver and clock limit of the GPU; empty where this process used none."""
    torch = _torch_with_gpu()
    if torch is None:
        return {}
    seen = torch.cuda.get_device_properties(0)
    found = {"name": seen.name, "sms": seen.multi_processor_count, "memory_gib": round(seen.total_memory / 2**30, 1)}
    asked = ("driver_version", "clocks.max.sm", "power.limit")
    command = ["nvidia-smi", f"--query-gpu={','.join(asked)}", "--format=csv,noheader", "--id=0"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return found
    return found | (dict(zip(asked, run.stdout.strip().split(", "))) if run.returncode == 0 else {})


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory_gib() -> float:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0.0
    return round(size / 2**30, 1)
