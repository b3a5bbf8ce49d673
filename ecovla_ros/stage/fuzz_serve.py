"""Hostile messages at `ecovla serve`, a process of its own: every one must be answered, and the good client served."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ecovla_ros.errors import EcovlaError
from ecovla_ros.serve import codec
from ecovla_ros.stage import hostile

BATCH, WARM, MEMORY_MB = 500, 0.1, 5.0
HEALTHY_S = 2.0
"""`/healthz` must answer within this time, s."""
STATE = [0.1] * 7 + [0.5]
TASK = "place the apple in the basket"


class Served:
    """`ecovla serve` with the built-in policy. A context manager."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self._log = (out / "serve.log").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ecovla_ros.cli", "serve", "--port", "0", "--protocol", "openpi", "--takeover",
             "--set", "policy.threads=1"],
            stdout=subprocess.PIPE, stderr=self._log, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        found = re.search(r"ws://\S+", self._process.stdout.readline())
        if found is None:
            raise EcovlaError(f"serve did not start; see {out / 'serve.log'}")
        self.address = found.group()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def memory_mb(self) -> float:
        """Resident memory, MB."""
        text = Path(f"/proc/{self._process.pid}/status").read_text(encoding="ascii")
        return float(text.partition("VmRSS:")[2].split()[0]) / 1000.0

    def health_s(self) -> float:
        """How long `/healthz` takes to answer, s."""
        began_s = time.monotonic()
        with urllib.request.urlopen(self.address.replace("ws:", "http:") + "/healthz", timeout=30.0) as answer:
            answer.read()
        return time.monotonic() - began_s

    def join(self) -> ClientConnection:
        """A client that was told what the server asks for."""
        client = connect(self.address, max_size=None, compression=None)
        client.recv(timeout=30.0)
        return client


def observation() -> dict[str, Any]:
    """A good one."""
    picture = np.full((128, 128, 3), 100, np.uint8)
    return {"observation/image": picture, "observation/wrist_image": picture, "observation/state": np.array(STATE),
            "prompt": TASK}  # fmt: skip


def sound(rng: np.random.Generator) -> bytes:
    """A message as a client could send it, small enough that its structure is what is broken most often."""
    tiny = np.zeros((2, 2, 3), np.uint8)
    image = codec.compressed.encode(tiny)
    choices: tuple[Any, ...] = (
        {**observation(), "observation/image": tiny, "observation/wrist_image": tiny},
        {"prompt": TASK, "observation/image": {"__image__": True, "format": "png", "data": image}},
        {"__ndarray__": True, "data": bytes(8), "dtype": "<f8", "shape": [1]},
        {"__npgeneric__": True, "data": 1.0, "dtype": "<f8"},
        [[[{"a": [1, 2.0, None, "b", b"c"]}]] * 3] * 5,
        {"observation/state": [float("nan")] * 8, "prompt": "x" * int(rng.integers(0, 20_000))},
        [{}] * int(rng.integers(0, 30_000)),
    )  # fmt: skip
    raw = codec.pack(choices[int(rng.integers(len(choices)))], "openpi" if rng.random() < 0.5 else "vla-eval")
    if rng.random() < 0.05:
        raw = b"\x91" * int(rng.integers(1, 5000)) + raw
    return raw


def serve(messages: int, out: Path, seed: int) -> dict[str, Any]:
    """`messages` broken ones, and a good observation after every `BATCH`."""
    rng = np.random.default_rng([seed, 3])
    with Served(out) as served:
        client, kinds, codes = served.join(), Counter[str](), Counter[str]()
        sent = good = answered = told = 0
        slowest_s, before_mb, began_s = 0.0, 0.0, time.monotonic()
        for _ in range(20):
            _ask(client)
        while sent < messages and served.alive:
            for _ in range(min(BATCH, messages - sent)):
                how, raw = hostile.broken(rng, sound(rng))
                kinds[how] += 1
                sent += 1
                try:
                    client.send(raw)
                    client.recv(timeout=30.0)
                    told += 1
                except ConnectionClosed as closed:
                    codes[str(closed.rcvd.code if closed.rcvd else "none")] += 1
                    client = served.join()
            slowest_s = max(slowest_s, served.health_s())
            good += 1
            answered += _ask(client)
            if not before_mb and sent >= WARM * messages:
                before_mb = served.memory_mb()
        grown = served.memory_mb() - before_mb if served.alive else float("nan")
        client.close()
        ends = int(not served.alive)
    return {
        "node": "serve", "topic": "websocket", "sent": sent, "ends": ends, "good": good, "answered": answered,
        "slowest_s": round(slowest_s, 3), "memory_mb": round(grown, 1), "seconds": round(time.monotonic() - began_s),
        "told": told, "closes": dict(codes), "kinds": dict(kinds),
        "reached": not ends and answered == good and told == sent and not codes and grown <= MEMORY_MB
        and slowest_s <= HEALTHY_S,
    }  # fmt: skip


def _ask(client: ClientConnection) -> bool:
    """Whether a good observation is answered with actions."""
    client.send(codec.pack(observation(), "openpi"))
    answer = client.recv(timeout=60.0)
    try:
        return isinstance(answer, bytes) and b"actions" in msgpack.unpackb(answer, raw=True, strict_map_key=False)
    except (ValueError, msgpack.UnpackException):
        return False
