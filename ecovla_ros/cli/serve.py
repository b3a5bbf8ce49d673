"""`ecovla serve`: the policy behind a websocket, for the field's harnesses. Loopback unless there is a token."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from typing import Any

from ecovla_ros.cli.options import add_common, settings_of
from ecovla_ros.config import values_of
from ecovla_ros.errors import ConfigError

TOKEN = "ECOVLA_TOKEN"
"""Environment variable that may hold the token."""
TLS = (
    "not encrypted: whoever sees the network sees the token and the cameras. Put TLS in front, e.g. "
    "`caddy reverse-proxy --from NAME:443 --to 127.0.0.1:8000`, and serve at 127.0.0.1; clients then connect to wss://NAME"
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.add_argument("--protocol", default="vla-eval", choices=("vla-eval", "openpi"), help="what clients speak")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; any but this machine's needs a token"
    )
    parser.add_argument("--port", type=_port, default=8000, help="port to listen at; 0: any free one")
    parser.add_argument(
        "--token", default="", help=f"what clients must show; or in {TOKEN}, where no process list has it"
    )
    parser.add_argument(
        "--takeover", action="store_true", help="a new client takes the place of the one before, at once"
    )
    parser.add_argument("--idle", type=float, default=60.0, help="a client silent for so long gives way to the next, s")
    parser.add_argument("--execute", type=int, default=0, help="vla-eval: actions handed out per inference; 0: all")
    parser.add_argument("--ensemble", type=int, default=0, help="vla-eval: chunks averaged for every action; 0: none")
    parser.add_argument("--alpha", type=float, default=0.1, help="how much an ensemble favours chunks that agree")
    parser.add_argument("--gripper", default="as-is", choices=("as-is", "openvla"), help="openvla: for LIBERO")
    parser.add_argument("--image", action="append", default=[], metavar="CAMERA=KEY", help="where an image lies")
    parser.add_argument("--state", default="", help="comma-separated keys of the state")
    parser.add_argument("--text", default="", help="key of the instruction")
    parser.add_argument("--ask", action="append", default=[], metavar="NAME=VALUE", help="what the harness shall send")


def _port(text: str) -> int:
    """A TCP port. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port; valid: 0 to 65535")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """`ecovla serve`."""
    try:
        from ecovla_ros.serve import ensemble, server, session
    except ImportError as error:
        raise ConfigError(f"serving needs two more packages: pip install websockets msgpack ({error})") from error
    from ecovla_ros import build

    if options.ensemble and options.execute:
        raise ConfigError("--ensemble infers for every action: --execute does not go with it")
    token = options.token or os.environ.get(TOKEN, "")
    server.check_exposed(options.host, token)
    if not 1.0 <= options.idle <= 86_400.0:
        raise ConfigError(f"--idle {options.idle}; valid: 1 to 86400 s")
    access = server.Access(token, options.takeover, options.idle)
    settings = settings_of(options)
    averaged = ensemble.Ensemble(options.ensemble, options.alpha) if options.ensemble else None
    engine = build.engine(settings, serving=True)
    protocol = session.VLA_EVAL if options.protocol == "vla-eval" else session.OPENPI
    made = session.Session(
        engine, session.keys_of(protocol, options.image, options.state, options.text),
        settings.policy.embodiment.other, options.execute, averaged, options.gripper, settings.policy.seed,
        time.time_ns,
    )  # fmt: skip
    asks = {"send_wrist_image": "wrist" in engine.policy.spec.cameras, "send_state": True, **values_of(options.ask)}
    try:
        asyncio.run(_serve(server.PolicyServer(made, options.protocol, asks, access), options.host, options.port))
    finally:
        engine.close()
    return 0


async def _serve(policy: Any, host: str, port: int) -> None:
    try:
        listening = await policy.start(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    try:
        if host not in ("127.0.0.1", "::1", "localhost"):
            print(TLS, flush=True)
        print(f"serving at ws://{host}:{listening.sockets[0].getsockname()[1]}", flush=True)
        await listening.serve_forever()
    finally:
        listening.close()
        policy.close()
