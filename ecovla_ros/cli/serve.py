"""`ecovla serve`: the policy behind a websocket, for the field's harnesses. Loopback unless told otherwise."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from ecovla_ros.cli.options import add_common, settings_of
from ecovla_ros.config import values_of
from ecovla_ros.errors import ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.add_argument("--protocol", default="vla-eval", choices=("vla-eval", "openpi"), help="what clients speak")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at; 0: any free one")
    parser.add_argument("--execute", type=int, default=0, help="vla-eval: actions handed out per inference; 0: all")
    parser.add_argument("--ensemble", type=int, default=0, help="vla-eval: chunks averaged for every action; 0: none")
    parser.add_argument("--alpha", type=float, default=0.1, help="how much an ensemble favours chunks that agree")
    parser.add_argument("--gripper", default="as-is", choices=("as-is", "openvla"), help="openvla: for LIBERO")
    parser.add_argument("--image", action="append", default=[], metavar="CAMERA=KEY", help="where an image lies")
    parser.add_argument("--state", default="", help="comma-separated keys of the state")
    parser.add_argument("--text", default="", help="key of the instruction")
    parser.add_argument("--ask", action="append", default=[], metavar="NAME=VALUE", help="what the harness shall send")


def run(options: argparse.Namespace) -> int:
    """`ecovla serve`."""
    try:
        from ecovla_ros.serve import ensemble, server, session
    except ImportError as error:
        raise ConfigError(f"serving needs two more packages: pip install websockets msgpack ({error})") from error
    from ecovla_ros import build

    if options.ensemble and options.execute:
        raise ConfigError("--ensemble infers for every action: --execute does not go with it")
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
        asyncio.run(_serve(server.PolicyServer(made, options.protocol, asks), options.host, options.port))
    finally:
        engine.close()
    return 0


async def _serve(policy: Any, host: str, port: int) -> None:
    try:
        listening = await policy.start(host, port)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror}") from error
    try:
        print(f"serving at ws://{host}:{listening.sockets[0].getsockname()[1]}", flush=True)
        await listening.serve_forever()
    finally:
        listening.close()
        policy.close()
