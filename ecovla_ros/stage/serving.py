"""`ecovla serve` under load, from outside: a process of its own, and clients that speak its protocols over sockets.

Three questions. Does anybody starve when several ask at once, and is anything lost against one after the other? Who
notices when a replica is killed? Does memory grow? Every answer must be the one to the message that its client sent
last: of its session, with its stamp.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ecovla_ros.errors import ConfigError, EcovlaError, unknown

TASK = "place the apple in the basket"
PX = 96
"""Side of a picture: what the built-in policy sees."""
START_S, ANSWER_S = 300.0, 120.0
"""A server is up, and a message answered, within this time, s."""
AFTER_S = 20.0
"""Clients go on for so long after a replica was killed, s."""
SAMPLES = 50
"""Of the memory, over a soak."""
FAIR, LOSSLESS, AGAIN_S, GROWTH = 1.5, 0.9, 5.0, 0.05
"""What is asked for: worst p99 over the mean p99; throughput at once over that one after the other; a killed replica's
sessions are answered again, s; growth of memory."""
BLOCK = 20
"""Frames of each client before the way of asking changes: both ways share whatever else the machine does."""


class Server:
    """`ecovla serve` as a process. A context manager."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        """Raises EcovlaError where it does not start."""
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("wb")
        command = [sys.executable, "-m", "ecovla_ros.cli", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, text=True)
        assert self.process.stdout is not None
        address = ""
        for line in self.process.stdout:
            found = re.search(r"ws://\S+", line)
            if found:
                address = found.group()
                break
        if not address:
            self.close()
            raise EcovlaError(f"serve did not start; see {log}")
        self.address = address

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._log.close()

    def metrics(self) -> dict[str, float]:
        """What `/metrics` says: name with labels -> value."""
        with urllib.request.urlopen(self.address.replace("ws:", "http:") + "/metrics", timeout=ANSWER_S) as answer:
            lines = answer.read().decode().splitlines()
        return {n: float(v) for n, _, v in (line.rpartition(" ") for line in lines if line[:1] != "#")}

    def wait_for_replicas(self, count: int) -> None:
        """Raises EcovlaError when they are not warm in time."""
        until_s = time.monotonic() + START_S
        while self.metrics().get("ecovla_replicas_warm", 0.0) < count:
            if time.monotonic() > until_s:
                raise EcovlaError(f"{count} replicas were not warm within {START_S:.0f} s")
            time.sleep(0.5)

    def processes(self) -> dict[int, str]:
        """Processes of the server that hold a policy, or take messages: id -> command line."""
        return {self.process.pid: "front", **{pid: name for pid, name in _below(self.process.pid) if "Replica" in name}}

    def memory_mb(self) -> float:
        """Memory of these together, MB: what is theirs alone."""
        return sum(map(_memory_mb, self.processes()))


@dataclass
class Client:
    """One arm: asks, waits for the answer, asks again. Pictures of its own."""

    name: int
    address: str
    protocol: str = "openpi"
    taken_s: list[float] = field(default_factory=list)
    ended_s: list[float] = field(default_factory=list)
    """When each answer came, s of a steady clock."""
    errors: list[tuple[float, str]] = field(default_factory=list)
    wrong: int = 0
    """Answers of another session, or to another message."""
    session: str = ""
    failure: str = ""
    _socket: Any = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _sent: int = 0

    def open(self) -> None:
        """Connect."""
        from websockets.sync.client import connect

        asked = connect(self.address, max_size=None, compression=None, open_timeout=ANSWER_S)
        self._socket = self._stack.enter_context(asked)
        if self.protocol == "openpi":
            self._socket.recv(timeout=ANSWER_S)
        rng = np.random.default_rng(self.name)
        self._pictures = [rng.integers(0, 256, (PX, PX, 3), dtype=np.uint8) for _ in range(2)]

    def close(self) -> None:
        """Leave."""
        self._stack.close()

    def ask(self, count: int) -> None:
        """So many messages."""
        self.ask_while(iter(range(count)))

    def ask_while(self, more: Iterable[Any]) -> None:
        """A message for each of these."""
        from websockets.exceptions import ConnectionClosed

        try:
            for _ in more:
                self._one()
        except (ConnectionClosed, OSError, TimeoutError) as error:
            self.failure = f"{type(error).__name__}: {error}"

    def _one(self) -> None:
        from ecovla_ros.serve import codec

        self._sent += 1
        stamp = self.name * 10**9 + self._sent
        message = self._message(stamp)
        began_s = time.monotonic()
        self._socket.send(codec.pack(message, self.protocol))
        answer = self._socket.recv(timeout=ANSWER_S)
        now_s = time.monotonic()
        told: Any = answer if isinstance(answer, str) else codec.unpack(answer)
        if self.protocol == "vla-eval":
            told = told["payload"] if told["type"] == "action" else str(told["payload"])
        if isinstance(told, str):
            self.errors.append((now_s, told))
            return
        self.session = self.session or told["session"]
        self.wrong += told["session"] != self.session or told["stamp_ns"] != stamp
        self.taken_s.append(now_s - began_s)
        self.ended_s.append(now_s)

    def _message(self, stamp: int) -> dict[str, Any]:
        outside, wrist = self._pictures
        state = np.full(8, 0.1 + 1e-3 * (self._sent % 50))
        if self.protocol == "openpi":
            return {"observation/image": outside, "observation/wrist_image": wrist, "observation/state": state,
                    "prompt": TASK, "stamp_ns": stamp}  # fmt: skip
        seen = {"images": {"agentview": outside, "wrist": wrist}, "states": state, "task_description": TASK,
                "stamp_ns": stamp}  # fmt: skip
        return {"type": "observation", "payload": seen, "seq": self._sent}


def crowd(server: Server, clients: int, frames: int) -> dict[str, Any]:
    """So many clients at once against one after the other, in blocks of frames, in turn."""
    group = [Client(name, server.address) for name in range(clients)]
    for client in group:
        client.open()
        client.ask(3)  # the first frames of a session refresh, and are not judged
        client.taken_s.clear()
    alone_s = at_once_s = 0.0
    alone: list[float] = []
    for _ in range(max(1, frames // BLOCK)):
        began_s = time.monotonic()
        for client in group:
            client.ask(BLOCK)
        alone_s += time.monotonic() - began_s
        alone += [t for client in group for t in client.taken_s[-BLOCK:]]
        for client in group:
            del client.taken_s[-BLOCK:]
        began_s = time.monotonic()
        _together(group, lambda client: client.ask(BLOCK))
        at_once_s += time.monotonic() - began_s
    for client in group:
        client.close()
    p99 = [float(np.percentile(client.taken_s, 99)) for client in group]
    count = sum(len(client.taken_s) for client in group)
    fair, lossless = max(p99) / float(np.mean(p99)), alone_s / at_once_s
    return {
        "question": "several at once", "clients": clients, "answers": count,
        "alone_p50_ms": 1e3 * float(np.median(alone)), "p50_ms": 1e3 * float(np.median([c.taken_s for c in group])),
        "worst_p99_ms": 1e3 * max(p99), "worst_over_mean_p99": fair, "throughput_over_alone": lossless,
        "answers_hz": count / at_once_s, **_faults(group),
        "reached": fair <= FAIR and lossless >= LOSSLESS and not any(_faults(group).values()),
    }  # fmt: skip


def killed(server: Server, clients: int, replicas: int) -> dict[str, Any]:
    """A replica ends with signal 9 while all clients ask."""
    group = [Client(name, server.address) for name in range(clients)]
    for client in group:
        client.open()
        client.ask(3)
    stop = threading.Event()
    threads = [threading.Thread(target=client.ask_while, args=(iter(stop.is_set, True),)) for client in group]
    for thread in threads:
        thread.start()
    time.sleep(AFTER_S / 4)
    victim = next(pid for pid, name in server.processes().items() if "Replica" in name)
    killed_s = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    time.sleep(AFTER_S)
    stop.set()
    for thread in threads:
        thread.join(ANSWER_S)
    for client in group:
        client.close()
    hit = [client for client in group if client.errors]
    again = [min((t for t in client.ended_s if t > client.errors[-1][0]), default=np.inf) - killed_s for client in hit]
    gaps = [_gap(client, killed_s) for client in group if not client.errors]
    before = [_gap(client, killed_s - AFTER_S / 4) for client in group if not client.errors]
    told_once = all(len(client.errors) == 1 and "begins anew" in client.errors[0][1] for client in hit)
    wrong = sum(client.wrong for client in group) + sum(bool(client.failure) for client in group)
    return {
        "question": "a replica killed", "clients": clients, "replicas": replicas, "sessions_hit": len(hit),
        "told_once": told_once, "answered_again_s": max(again, default=None), "others": len(gaps),
        "others_longest_ms": 1e3 * max(gaps, default=0.0), "others_longest_before_ms": 1e3 * max(before, default=0.0),
        "answers": sum(len(client.taken_s) for client in group), "wrong": wrong,
        "reached": bool(hit) and told_once and not wrong and max(again) <= AGAIN_S,
    }  # fmt: skip


def soak(server: Server, clients: int, requests: int, done: Callable[[int], None]) -> dict[str, Any]:
    """Many requests; the memory of all processes over them. The first tenth is not judged: caches fill.

    In vla-eval's protocol: each message is read whole, pictures and all, and a chunk answers as many as it has actions.
    """
    group = [Client(name, server.address, "vla-eval") for name in range(clients)]
    for client in group:
        client.open()
    memory: list[float] = []
    each = max(1, requests // SAMPLES // clients)
    with contextlib.suppress(KeyboardInterrupt):  # what there is then is judged, and says how many messages it was
        for sample in range(SAMPLES):
            _together(group, lambda client: client.ask(each))
            for client in group:
                client.taken_s.clear()
                client.ended_s.clear()
            memory.append(server.memory_mb())
            done((sample + 1) * each * clients)
    for client in group:
        client.close()
    later = np.array(memory[len(memory) // 10 :])
    third = max(1, len(later) // 3)
    growth = float(np.median(later[-third:]) / np.median(later[:third]) - 1.0)
    return {
        "question": "memory", "clients": clients, "requests": len(memory) * each * clients,
        "frames": sum(v for name, v in server.metrics().items() if name.startswith("ecovla_frames_total")),
        "memory_first_mb": memory[0],
        "memory_after_tenth_mb": float(np.median(later[:third])), "memory_last_mb": float(np.median(later[-third:])),
        "memory_most_mb": max(memory), "growth": growth, **_faults(group),
        "reached": abs(growth) <= GROWTH and not any(_faults(group).values()),
    }  # fmt: skip


def _faults(group: Sequence[Client]) -> dict[str, int]:
    return {
        "errors": sum(len(client.errors) + bool(client.failure) for client in group),
        "wrong": sum(client.wrong for client in group),
    }


def _gap(client: Client, after_s: float) -> float:
    """Longest time between two answers of a client, in the time after the first moment, s."""
    times = [t for t in client.ended_s if after_s - 1.0 <= t <= after_s + AFTER_S / 4]
    return float(np.diff(times).max(initial=0.0))


def _together(group: Sequence[Client], work: Callable[[Client], None]) -> None:
    threads = [threading.Thread(target=work, args=(client,)) for client in group]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _below(pid: int) -> list[tuple[int, str]]:
    """Processes that this one started, and theirs: id and command line."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
    found, todo = [], [pid]
    while todo:
        above = todo.pop()
        for child in (c for c, parent in parents.items() if parent == above):
            todo.append(child)
            try:
                found.append((child, Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()))
            except OSError:
                continue
    return found


def _memory_mb(pid: int) -> float:
    """Memory that is a process's own, MB; 0 where it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0.0
    return float(text.partition("RssAnon:")[2].split()[0]) / 1000.0


QUESTIONS = ("crowd", "kill", "soak")


def measure(
    questions: Sequence[str], clients: int, frames: int, replicas: int, requests: int, overrides: Sequence[str],
    out: Path, done: Callable[[int], None],
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of `ecovla bench --serve`. Raises ConfigError for a question that is none, or a kill without a spare."""
    for question in questions:
        if question not in QUESTIONS:
            raise ConfigError(unknown("question", question, QUESTIONS))
    if clients < 1 or replicas < 1 or requests < SAMPLES:
        raise ConfigError(
            f"{clients} clients, {replicas} replicas, {requests} requests; valid: 1, 1, {SAMPLES} or more"
        )
    if "kill" in questions and replicas < 2:
        raise ConfigError("--serve kill needs --replicas 2 or more: one is killed, and the others take over")
    places = str(-(-clients // replicas))
    told = [text for value in overrides for text in ("--set", value)]
    several = ["--replicas", str(replicas)] if replicas > 1 else []
    base, rows = [*several, "--sessions", places, *told], []
    if {"crowd", "kill"} & set(questions):
        with Server(["--protocol", "openpi", *base], out / "serve.log") as server:
            server.wait_for_replicas(replicas)
            if "crowd" in questions:
                rows.append(crowd(server, clients, frames) | {"replicas": replicas})
            if "kill" in questions:
                rows.append(killed(server, clients, replicas))
    if "soak" in questions:
        with Server(["--protocol", "vla-eval", *base], out / "soak.log") as server:
            server.wait_for_replicas(replicas)
            rows.append(soak(server, clients, requests, done) | {"replicas": replicas})
    return rows
