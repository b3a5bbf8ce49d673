"""A headless chromium for tests, driven over its DevTools pipe: no network, no further package."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
LIMIT_S = 60.0


class Browser:
    """One page. `requests` and `errors` hold what it asked for and what went wrong in it since the last `open`."""

    def __init__(self, process: subprocess.Popen[bytes], into: int, out: int) -> None:
        self._process, self._into, self._out, self._buffer = process, into, out, b""
        self._count = 0
        self._session = ""
        self._events: list[dict[str, Any]] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path, width: int, height: int = 900, scale: float = 1.0) -> None:
        """Load a file in a window of this size and wait until it is laid out."""
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        self._events.clear()
        self._ask("Page.navigate", url=path.resolve().as_uri())
        self._until(lambda: any(e["method"] == "Page.loadEventFired" for e in self._events))
        self.run("new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))")

    @property
    def requests(self) -> list[str]:
        """Addresses the page asked for, but for those that lie in it (data:, blob:)."""
        urls = [e["params"]["request"]["url"] for e in self._events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith(("data:", "blob:"))]

    @property
    def errors(self) -> list[str]:
        """Exceptions and console errors."""
        found = [json.dumps(e["params"]) for e in self._events if e["method"] == "Runtime.exceptionThrown"]
        return found + [
            json.dumps(e["params"])
            for e in self._events
            if e["method"] == "Log.entryAdded" and e["params"]["entry"]["level"] == "error"
        ]

    def run(self, script: str) -> Any:
        """Value of a JavaScript expression; promises are awaited."""
        answer = self._ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path, whole: bool = True) -> None:
        """A PNG of the page."""
        clip = {}
        if whole:
            size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}
        shot = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        number = self._count
        message = {"id": number, "method": method, "params": parameters} | (
            {"sessionId": self._session} if self._session else {}
        )
        os.write(self._into, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []
        self._until(lambda: bool(answers), lambda m: answers.append(m) if m.get("id") == number else None)
        assert "error" not in answers[0], answers[0]
        return dict(answers[0]["result"])

    def _until(self, done: Any, see: Any = lambda message: None) -> None:
        end = time.monotonic() + LIMIT_S
        while not done():
            assert time.monotonic() < end and self._process.poll() is None, "chromium does not answer"
            while b"\0" not in self._buffer:
                part = os.read(self._out, 1 << 16)
                assert part, "chromium ended"
                self._buffer += part
            text, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(text)
            if "method" in message:
                self._events.append(message)
            see(message)


@contextmanager
def browser() -> Iterator[Browser]:
    """A browser that ends with the block. Every name it may try to resolve is unknown."""
    assert CHROMIUM is not None
    (theirs_in, into), (out, theirs_out) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}",
            "--remote-debugging-pipe", "--hide-scrollbars",
        ]  # fmt: skip
        process = subprocess.Popen(
            command,
            pass_fds=(3, 4),
            preexec_fn=lambda: _to_3_and_4(theirs_in, theirs_out),  # noqa: PLW1509
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        try:
            yield Browser(process, into, out)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(into)
            os.close(out)


def _to_3_and_4(into: int, out: int) -> None:
    """Where chromium's pipe is. By way of high numbers, as either may be 3 or 4 already."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in (into, out)]
    for number, fd in zip((3, 4), high):
        os.dup2(fd, number)
