"""Episodes on disk, one JSON line each, as they end: an interrupted evaluation goes on, and anyone can recount it.

The first line holds what every episode depends on beside its trial, and names the columns; episodes of other settings
are refused. A row is a list in order of the columns, or an object.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ecovla_ros.bench.success.trials import Trial
from ecovla_ros.config import ADAPTIVE, ADAPTIVE_ONLY
from ecovla_ros.errors import ConfigError

KEYS = tuple(f.name for f in fields(Trial))
COLUMNS = (*KEYS, "success", "steps", "seconds", "path_m", "jerk", "reason", "frames", "triggered", "policy_p50_ms",
           "policy_p95_ms")  # fmt: skip
"""What `drive.Runner` says of an episode."""


PRUNING_ONLY = {"benchmark.calibration", "benchmark.demonstrations", "benchmark.switched", "config.prune.sites"}
"""What a journal's head says that a dense policy does not read."""


def trial_of(row: Mapping[str, Any]) -> Trial:
    """The trial an episode's row belongs to."""
    return Trial(**{key: row[key] for key in KEYS})


def beside(result: Path) -> Path:
    """The journal of a result file: results/table.json has results/table.episodes.jsonl."""
    return result.with_name(result.stem + ".episodes.jsonl")


def fingerprint(checkpoint: Path) -> str:
    """SHA-256 over the files of a checkpoint folder, by name."""
    digest = hashlib.sha256()
    for path in sorted(p for p in checkpoint.iterdir() if p.is_file()):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Journal:
    """An open journal. Not thread-safe: one process owns it."""

    def __init__(
        self, path: Path, head: Mapping[str, Any], resume: bool, commit: str = "", reuse: Sequence[Path] = (),
        asked: Container[Trial] | None = None,
    ) -> None:  # fmt: skip
        """Start a new file, or with `resume` go on with the one there is. Raises ConfigError where `head` differs.

        `commit`: the code that runs now, for the record: a journal names all that went on with it. `reuse`: other
        journals, whose episodes are taken where `head` says the same of all that they depend on, see `reusable`, and
        where they are in `asked`: what is not asked for must not come into a table.
        """
        self.rows: list[dict[str, Any]] = []
        """Episodes that are done already."""
        self.commits: list[str] = []
        """Commits of the code that was run, oldest first."""
        plain = json.loads(json.dumps(head))
        if resume and path.is_file():
            self.rows, self.commits = _read(path, plain)
        for other in reuse:
            have = {trial_of(row) for row in self.rows}
            rows, commits = reusable(other, plain)
            new = [r for r in rows if trial_of(r) not in have and (asked is None or trial_of(r) in asked)]
            self.rows += new
            self.commits = list(dict.fromkeys((*(commits if new else ()), *self.commits)))
        self.commits += [commit] if commit and commit not in self.commits else []
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        lines = [{**plain, "commits": self.commits, "columns": COLUMNS}, *map(_line, self.rows)]
        partial.write_text("".join(_text(line) for line in lines), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one episode; it is on its way to the disk when this returns."""
        self._file.write(_text(_line(row)))
        self._file.flush()

    def close(self) -> None:
        """No more episodes."""
        self._file.close()


def read(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Episodes of a journal, whatever their settings, and the commits they were made with. Raises ConfigError."""
    rows, commits, _ = _compare(path, {})
    return rows, commits


def unlike(path: Path, other: Path) -> dict[str, tuple[Any, Any]]:
    """What the settings of two journals say otherwise: name -> here, there. Raises ConfigError."""
    return {name: (here, there) for name, here, there in _differences(_head(path), _head(other))}


def _head(path: Path) -> dict[str, Any]:
    """What a journal's episodes depend on beside their trial."""
    _, _, differ = _compare(path, {})
    return {name: value for name, value, _ in differ}


def reusable(path: Path, head: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Episodes of another journal that `head` would give again, and the commits they were made with.

    All of them where the settings agree. Where they differ in nothing but what adaptive methods alone read
    (`config.ADAPTIVE_ONLY`), those of the other methods; in what pruning alone reads, the dense ones. `head`: as JSON
    gives it back. Raises ConfigError for any other difference, or no journal.
    """
    free = {f"config.prune.{name}" for name in ADAPTIVE_ONLY}
    policy = head["config"].get("policy", {})
    if policy.get("rtc") and policy.get("rtc_release") == "trigger":
        free -= {"config.prune.p", "config.prune.window"}  # then every method has a trigger
    remembers = policy.get("rtc") or policy.get("vla_cache")
    pruning = PRUNING_ONLY - ({"benchmark.switched"} if remembers else set())  # then what was before counts when dense
    rows, commits, differ = _compare(path, head)
    _refuse(path, [d for d in differ if d[0] not in free | pruning])
    if any(d[0] in pruning for d in differ):
        return [row for row in rows if row["method"] == "dense"], commits
    return [row for row in rows if not differ or row["method"] not in ADAPTIVE], commits


def _line(row: Mapping[str, Any]) -> Any:
    """A row as it is written: a list where it has the columns and no others."""
    return [row[name] for name in COLUMNS] if row.keys() == set(COLUMNS) else dict(row)


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) + "\n"


def _read(path: Path, head: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Episodes and commits of a journal of these settings."""
    rows, commits, differ = _compare(path, head)
    _refuse(path, differ)
    return rows, commits


def _refuse(path: Path, differ: Sequence[tuple[str, Any, Any]]) -> None:
    if differ:
        odd = "; ".join(f"{name} ({a!r} there, {b!r} now)" for name, a, b in differ)
        raise ConfigError(f"'{path}' is of other settings: {odd}; use another file, or do not resume")


def _compare(
    path: Path, head: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[str], Sequence[tuple[str, Any, Any]]]:
    """Episodes and commits of a journal, and what it says otherwise than `head`.

    A last line that an interruption cut short is left out.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        before = dict(json.loads(lines[0]))
    except OSError as error:
        raise ConfigError(f"cannot read the journal '{path}': {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"'{path}' is not a journal of episodes; remove it, or do not resume") from error
    columns, commits = before.pop("columns", ()), before.pop("commits", [])
    rows = []
    for number, line in enumerate(lines[1:], 2):
        try:
            row = json.loads(line)
            rows.append(dict(zip(columns, row, strict=True)) if isinstance(row, list) else row)
        except ValueError as error:
            if "".join(lines[number:]):
                raise ConfigError(f"'{path}' is damaged in line {number}; remove it, or do not resume") from error
    return rows, commits, _differences(before, head)


def _differences(a: Any, b: Any, where: str = "") -> Sequence[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = sorted({*a, *b})
        return [d for key in keys for d in _differences(a.get(key), b.get(key), f"{where}.{key}".strip("."))]
    return [] if a == b else [(where, a, b)]
