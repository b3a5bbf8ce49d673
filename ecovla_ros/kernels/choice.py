"""Which of several ways to compute the same runs for a shape: the fastest, as timed on this machine in warm-up.

A way is timed as it will run: in a captured graph, on weights that lie in no cache, since between two calls of a layer
all others have run. What was found can be kept in a file: the next process of the same machine and code reads it,
starts at once, and runs the same kernels, so that its results are the same to the bit.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ecovla_ros.errors import PruningError
from ecovla_ros.kernels import launch

COLD_BYTES = 160 * 2**20
"""More than the last cache of any GPU holds (50 MB on an H100, 128 MB on a B200)."""

CALLS = 24
"""Calls in one captured graph."""

DIFFER = 0.1
"""Share of its norm by which what a way gives may differ from what another gives."""

SAME = 0.05
"""Ways whose times differ by less than this share are taken to be equal: then the one that is named first runs, so that
what runs does not hang on what a clock cannot tell."""

Key = tuple[Any, ...]


class KernelChoice:
    """The process's choice: what is fastest is a fact of the machine, not of a model.

    Outside of `tuning` nothing is timed: a shape that was not timed runs the first of its ways.
    """

    def __init__(self) -> None:
        self.chosen: dict[Key, str] = {}
        self.times_ms: dict[Key, dict[str, float]] = {}
        """What was measured, by way; a way that failed is not there."""
        self._tuning = False
        self._file: Path | None = None
        self._kept: dict[str, dict[str, float]] = {}
        """What the file holds: key as text -> times by way."""
        self._unsaved = False

    def keep(self, file: Path | None) -> None:
        """From now on read what was timed from `file`, and write there what is; None: neither.

        A file that cannot be read, or that somebody else wrote, is no reason to stop: what it would say is timed anew.
        """
        self._file, self._kept, self._unsaved = file, {} if file is None else _read(file), False

    @contextmanager
    def tuning(self) -> Iterator[None]:
        """Time every shape that comes and is not known yet. Belongs to warm-up."""
        before, self._tuning = self._tuning, True
        try:
            yield
        finally:
            self._tuning = before
            if self._unsaved and self._file is not None:
                self._unsaved = False
                _write(self._file, self._kept)

    def of(self, key: Key, like: Tensor, ways: Mapping[str, Callable[..., object]], cold: Sequence[Tensor] = ()) -> str:
        """The name of the way to take for `key`, which device and type of `like` are added to.

        A way takes `cold`, tensors that are read once a call: the weights. Timing gives it copies of them.
        """
        key = (*key, str(like.device), like.dtype)
        if key not in self.chosen:
            if not self._tuning or len(ways) < 2 or not like.is_cuda or torch.cuda.is_current_stream_capturing():
                return next(iter(ways))
            launch.choose(like.device)
            self.times_ms[key] = times = self._times(key, ways, cold)
            best = min(times.values(), default=math.inf)
            fast = [name for name in ways if name in times and times[name] <= (1 + SAME) * best]
            self.chosen[key] = fast[0] if fast else next(iter(ways))
        return self.chosen[key]

    def _times(self, key: Key, ways: Mapping[str, Callable[..., object]], cold: Sequence[Tensor]) -> dict[str, float]:
        """Out of the file if it was of the same ways; else measured, and put there."""
        text = f"{key} of {', '.join(ways)}"
        if text not in self._kept:
            times = measured(ways, cold)
            if not times:  # the first way then runs, and says itself what is wrong
                return times
            self._kept[text] = times
            self._unsaved = True
        return self._kept[text]


def cache_file(device: torch.device) -> Path:
    """Where the choices of a GPU belong: a file of the user's cache that this GPU, its software and this code name."""
    triton = importlib.import_module("triton")
    code = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        code.update(source.read_bytes())
    gpu = torch.cuda.get_device_properties(device)
    machine = (gpu.name, gpu.major, gpu.minor, gpu.multi_processor_count, torch.__version__, torch.version.cuda,
               triton.__version__, launch.allowed())  # fmt: skip
    code.update(repr(machine).encode())
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "ecovla_ros" / f"kernels-{code.hexdigest()[:16]}.json"


def _read(file: Path) -> dict[str, dict[str, float]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: times for key, times in found.items() if _are_times(times)}


def _are_times(times: object) -> bool:
    return isinstance(times, dict) and bool(times) and all(isinstance(t, float) and t > 0 for t in times.values())


def _write(file: Path, kept: Mapping[str, object]) -> None:
    """Whole or not at all. Where nothing can be written (a read-only home), the next start times again."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, suffix=".part", delete=False, encoding="utf-8") as part:
            json.dump(kept, part, indent=1)
        Path(part.name).replace(file)
    except OSError:
        return


def measured(ways: Mapping[str, Callable[..., object]], cold: Sequence[Tensor] = ()) -> dict[str, float]:
    """Device time of one call of each way, ms. A way that cannot run here (memory of a block, a type) is left out, and
    one that gives something else than the first that can, at its last call of many.

    Raises PruningError if the device itself has failed: nothing runs on it after that.
    """
    size = sum(t.numel() * t.element_size() for t in cold)
    copies = max(2, min(CALLS, COLD_BYTES // max(size, 1) + 1)) if size else 1
    sets = [cold] + [[_copy(t) for t in cold] for _ in range(copies - 1)]
    found: dict[str, float] = {}
    reference: object = None
    for name, way in ways.items():
        try:
            time_ms, given = _replayed_ms(way, sets)
            reference = _kept_apart(given) if not found else reference
            if agree(given, reference):
                found[name] = time_ms
        except Exception as error:  # noqa: BLE001 - what a kernel cannot do here differs by device, driver and version
            if "out of memory" in str(error):
                raise
            _must_be_well(name, error)
    return found


def _must_be_well(name: str, error: Exception) -> None:
    try:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    except RuntimeError as broken:
        raise PruningError(
            f"the GPU failed in a kernel that was tried, '{name}', and nothing runs on it any more: {error}; valid: "
            "policy.kernels=torch, which runs none of ours"
        ) from broken


def _kept_apart(given: object) -> object:
    """Copies: a way may give what it writes to every time, and so does the next one."""
    if isinstance(given, Tensor):
        return given.clone()
    return tuple(map(_kept_apart, given)) if isinstance(given, (tuple, list)) else given


def agree(given: object, reference: object) -> bool:
    """Whether two ways gave the same, but for how they round: a kernel that is wrong on a device is wrong by far more.

    e4m3 rounds most: two products of it differ by some per cent.
    """
    if isinstance(reference, Tensor):
        if not isinstance(given, Tensor) or given.shape != reference.shape:
            return False
        a, b = given.double(), reference.double()
        return bool((a - b).norm() <= DIFFER * b.norm())  # False with a NaN on either side
    if isinstance(reference, (tuple, list)):
        return isinstance(given, (tuple, list)) and len(given) == len(reference) and all(map(agree, given, reference))
    return True


def _copy(tensor: Tensor) -> Tensor:
    """Equal values at equal strides."""
    out = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return out.copy_(tensor)


def _replayed_ms(way: Callable[..., object], sets: Sequence[Sequence[Tensor]]) -> tuple[float, object]:
    """Device time of one call, of `CALLS` that were captured one after the other over sets of weights in turn, ms, and
    what the last of them gave."""
    side, graph = launch.timing_stream(), torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # libraries choose kernels and Triton compiles
            way(*sets[0])
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    captured = torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local")
    with torch.cuda.stream(torch.cuda.current_stream()), captured:  # it stays on `side` where it cannot be ended
        for i in range(CALLS):
            given = way(*sets[i % len(sets)])
    graph.replay()
    times = []
    for _ in range(3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / CALLS)
    return statistics.median(times), given


KERNEL_CHOICE = KernelChoice()
