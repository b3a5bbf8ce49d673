"""Small damage to files, from a seed: bytes as disks and networks spoil them, values as people mistype them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 2**200, 1e308, "", "none", "\x00", "a" * 5000, [], {}, [[]], {"a": []}, [1, "x"], "../..",
    "{0}", "nan",
)  # fmt: skip
"""Values where others are expected."""


def flip(rng: random.Random, data: bytes) -> bytes:
    """Some bits turned over."""
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 12) if spoilt else 0):
        spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def cut(rng: random.Random, data: bytes) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data) + 1)]


def hole(rng: random.Random, data: bytes) -> bytes:
    """A stretch of zeros, as after a crash."""
    at = rng.randrange(len(data) + 1)
    size = min(rng.randint(1, 4096), len(data) - at)
    return data[:at] + bytes(size) + data[at + size :]


def lose(rng: random.Random, data: bytes) -> bytes:
    """A stretch is missing."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.randint(1, 200) :]


def repeat(rng: random.Random, data: bytes) -> bytes:
    """A stretch is there twice."""
    at, size = rng.randrange(len(data) + 1), rng.randint(1, 400)
    return data[: at + size] + data[at:]


def noise(rng: random.Random, data: bytes) -> bytes:
    """A stretch of something else."""
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.randint(1, 300)) + data[at:]


BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (flip, flip, cut, hole, lose, repeat, noise)


def odd_value(rng: random.Random, value: Any) -> Any:
    """The value with one leaf, or one key, replaced, removed or added; in place where it can be."""
    places: list[tuple[Any, Any]] = []

    def walk(part: Any) -> None:
        for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
            places.append((part, key))
            if isinstance(inner, (dict, list)):
                walk(inner)

    if isinstance(value, (dict, list)):
        walk(value)
    if not places:
        return rng.choice(ODD)
    part, key = rng.choice(places)
    how = rng.randrange(4)
    if how == 0:
        del part[key]
    elif how == 1 and isinstance(part, dict):
        part[f"{key}x"] = part.pop(key)
    else:
        part[key] = rng.choice(ODD)
    return value


def json_file(rng: random.Random, data: bytes) -> bytes:
    """A JSON document with odd values, or spoilt bytes."""
    if rng.random() < 0.3:
        return rng.choice(BYTES)(rng, data)
    value = json.loads(data)
    for _ in range(rng.randint(1, 3)):
        value = odd_value(rng, value)
    return json.dumps(value).encode()


def tensors(rng: random.Random, data: bytes) -> bytes:
    """A safetensors header that is whole, of which some tensors have another name, shape or type."""
    size = struct.unpack_from("<Q", data)[0]
    head = json.loads(data[8 : 8 + size])
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(head))
        how = rng.randrange(4)
        if how == 0:
            head[f"{rng.choice(('module.', 'base_model.', 'x'))}{name}"] = head.pop(name)
        elif how == 1:
            head = {f"model.{key}": value for key, value in head.items()}
        elif how == 2:
            head[name]["shape"] = head[name]["shape"][::-1] if rng.random() < 0.5 else [1, *head[name]["shape"]]
        else:
            head[name]["dtype"] = rng.choice(("F16", "I16", "U16"))
    told = json.dumps(head).encode()
    return struct.pack("<Q", len(told)) + told + data[8 + size :]


def safetensors_header(rng: random.Random, data: bytes) -> bytes:
    """The header of a safetensors file with odd values, of another length, or with spoilt bytes."""
    size = struct.unpack_from("<Q", data)[0]
    head, rest = data[8 : 8 + size], data[8 + size :]
    spoilt = json_file(rng, head)
    told = len(spoilt) if rng.random() < 0.8 else rng.choice((0, 7, 2**40, 2**63, len(spoilt) + 3))
    return struct.pack("<Q", told) + spoilt + rest


def any_file(rng: random.Random, folder: Path, text: tuple[str, ...] = (".json", ".jsonl")) -> str:
    """Spoil one file of a folder, remove it, or empty it; returns what was done."""
    path = rng.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
    name, how = str(path.relative_to(folder)), rng.random()
    if how < 0.05:
        path.unlink()
        return f"{name} removed"
    if how < 0.08:
        path.write_bytes(b"")
        return f"{name} empty"
    change = json_file if path.suffix in text and path.suffix == ".json" else rng.choice(BYTES)
    path.write_bytes(change(rng, path.read_bytes()))
    return f"{name} {change.__name__}"
