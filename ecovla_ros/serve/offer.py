"""What a server offers, as plain values: they can be sent to another process, which makes an engine and sessions of
them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ecovla_ros import build
from ecovla_ros.config import Config
from ecovla_ros.engine.engine import Engine
from ecovla_ros.errors import ConfigError
from ecovla_ros.serve.ensemble import Ensemble
from ecovla_ros.serve.replica import Replica, Turns
from ecovla_ros.serve.session import LEROBOT, PRESETS, VLA_EVAL, Session, keys_of

PATTERNS = ("shared", "own")
"""Of several sessions of a replica: one pattern for all, or one each, whose rows are moved at a change of turns."""
MOST_SESSIONS = 64


@dataclass(frozen=True)
class Offer:
    """The policy and how clients talk to it; the options of `ecovla serve`."""

    settings: Config
    protocol: str = "vla-eval"
    keys: str = "libero"
    """Of an openpi client: which of `PRESETS`."""
    images: tuple[str, ...] = ()
    """CAMERA=KEY, over those of `keys`."""
    state: str = ""
    text: str = ""
    prompt: str = ""
    execute: int = 0
    ensemble: int = 0
    alpha: float = 0.1
    gripper: str = "as-is"
    sessions: int = 1
    """Clients at a time of one replica."""
    patterns: str = "shared"
    """One of `PATTERNS`."""
    more: dict[str, Any] = field(default_factory=dict)
    """What else the harness is asked for."""

    def check(self) -> None:
        """Raises ConfigError for what no replica could offer."""
        self._keys()
        if self.ensemble:
            Ensemble(self.ensemble, self.alpha)
        if not 1 <= self.sessions <= MOST_SESSIONS:
            raise ConfigError(f"--sessions {self.sessions}; valid: 1 to {MOST_SESSIONS}")
        if self.sessions > 1 and any(self.settings.policy.vla_cache):
            raise ConfigError("policy.vla_cache keeps K and V of one arm: it does not go with --sessions above 1")

    def asks(self, cameras: Iterable[str]) -> dict[str, Any]:
        """What the harness is asked to send, for a policy with these cameras."""
        return {"send_wrist_image": "wrist" in cameras, "send_state": True, **self.more}

    def cameras(self, cameras: Iterable[str]) -> dict[str, str]:
        """Camera of the policy -> what clients call it. Raises ConfigError."""
        images = self._keys().images
        return {camera: images.get(camera, camera) for camera in cameras}

    def with_settings(self, settings: Config) -> Offer:
        """The same with another configuration."""
        return replace(self, settings=settings)

    def open(self, take_turns: bool = False) -> tuple[Engine, Replica]:
        """An engine and the replica around it. `take_turns`: for several sessions, however many are asked for, as a
        replica gets those of one that has ended. Raises ConfigError, CheckpointError or PruningError."""
        self.check()
        engine = build.engine(self.settings, serving=True)
        turns = Turns(engine, self.patterns == "own") if take_turns or self.sessions > 1 else None
        return engine, self._replica(engine, turns)

    def _replica(self, engine: Engine, turns: Turns | None) -> Replica:
        keys, policy = self._keys(), self.settings.policy

        def session(key: str) -> Session:
            averaged = Ensemble(self.ensemble, self.alpha) if self.ensemble else None
            return Session(
                engine, keys, policy.embodiment.other, self.execute, averaged, self.gripper, policy.seed, time.time_ns,
                self.prompt, key, shares=turns is not None and self.patterns != "own",
            )  # fmt: skip

        return Replica(session, self.protocol, self.asks(engine.policy.spec.cameras), turns)

    def _keys(self) -> Any:
        own = {"vla-eval": VLA_EVAL, "lerobot": LEROBOT}
        protocol = own.get(self.protocol) or PRESETS[self.keys]
        return keys_of(protocol, self.images, self.state, self.text)
