"""`ecovla serve` offers the policy over a websocket to evaluation harnesses; beyond this machine only with a token."""

from __future__ import annotations

import argparse
import asyncio
import os
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
    parser.add_argument(
        "--protocol",
        default="vla-eval",
        choices=("vla-eval", "openpi", "lerobot"),
        help="the protocol of the clients (default: %(default)s)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; one that other machines reach needs a token (default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=_port, default=8000, help="port to listen at; 0: any free one (default: %(default)s)"
    )
    parser.add_argument(
        "--token",
        default="",
        help=f"what clients must show; better in the environment variable {TOKEN}, which no list of processes shows",
    )
    parser.add_argument(
        "--takeover", action="store_true", help="a new client takes the place of the present one at once"
    )
    parser.add_argument(
        "--idle",
        type=float,
        default=60.0,
        help="a client that is silent for this time gives way to the next, s (default: %(default)s)",
    )
    parser.add_argument(
        "--sessions", type=int, default=1,
        help="clients at a time of one replica, which take turns at its weights (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--patterns", default="shared", choices=("shared", "own"),
        help="with several sessions: one pattern, driven by the energies of all, or one for each, whose rows are moved "
        "when its turn comes (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--execute",
        type=int,
        default=0,
        help="vla-eval: how many actions of a chunk are handed out before the next inference; 0: all",
    )
    parser.add_argument(
        "--ensemble", type=int, default=0, help="vla-eval: how many chunks are averaged for every action; 0: none"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.1, help="how much the average favours chunks that agree (default: %(default)s)"
    )
    parser.add_argument(
        "--gripper",
        default="as-is",
        choices=("as-is", "openvla"),
        help="openvla: the gripper as LIBERO expects it, -1 open or 1 closed",
    )
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="CAMERA=KEY",
        help="the key of a camera's image in the messages of the client",
    )
    parser.add_argument(
        "--keys",
        default="",
        choices=("", "libero", "droid", "aloha"),
        help="openpi: what the client calls images, state and instruction (default: as in its LIBERO example)",
    )
    parser.add_argument("--prompt", default="", help="instruction of messages that have none")
    parser.add_argument("--state", default="", help="keys of the state in these messages, separated by commas")
    parser.add_argument("--text", default="", help="key of the instruction in these messages")
    parser.add_argument(
        "--ask",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="vla-eval: something that the harness is asked to send",
    )


def _port(text: str) -> int:
    """A TCP port. Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or not 0 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port; valid: 0 to 65535")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """`ecovla serve`."""
    try:
        from ecovla_ros.serve import offer, server
        from ecovla_ros.serve.replica import Here
    except ImportError as error:
        raise ConfigError(
            f"serving needs three more packages: pip install websockets msgpack prometheus-client ({error})"
        ) from error

    if options.ensemble and options.execute:
        raise ConfigError("--ensemble infers for every action: --execute does not go with it")
    token = options.token or os.environ.get(TOKEN, "")
    if options.protocol != "lerobot":
        server.check_exposed(options.host, token)
    if not 1.0 <= options.idle <= 86_400.0:
        raise ConfigError(f"--idle {options.idle}; valid: 1 to 86400 s")
    access = server.Access(token, options.takeover, options.idle)
    settings = settings_of(options)
    offered = offer.Offer(
        settings, options.protocol, options.keys or "libero", tuple(options.image), options.state, options.text,
        options.prompt, options.execute, options.ensemble, options.alpha, options.gripper,
        options.sessions, options.patterns, values_of(options.ask),
    )  # fmt: skip
    if options.protocol == "lerobot":
        return _lerobot(options, offered, access)
    engine, replica = offered.open()
    pool = Here(replica, options.sessions)
    served = server.PolicyServer(
        pool, options.protocol, offered.asks(engine.policy.spec.cameras), access, settings.node.deadline_ms
    )
    try:
        asyncio.run(_serve(served, options.host, options.port))
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


def _lerobot(options: argparse.Namespace, offered: Any, access: Any) -> int:
    """The same policy by gRPC, as LeRobot's robot clients ask for it."""
    for name in ("execute", "ensemble", "keys", "state", "text", "ask"):
        if getattr(options, name):
            raise ConfigError(f"--{name} does not go with --protocol lerobot; valid: --image, --prompt, --gripper")
    try:
        from ecovla_ros.serve.lerobot import server, setup
    except ImportError as error:
        raise ConfigError(f"LeRobot's clients need two more packages: pip install grpcio protobuf ({error})") from error
    from ecovla_ros.serve.replica import Here

    server.check_alone(options.host, access.token)
    engine, replica = offered.open()
    spec, arm = engine.policy.spec, offered.settings.arm.joints
    served = setup.RobotNeeds(
        offered.cameras(spec.cameras), arm, offered.settings.policy.embodiment.other, bool(options.prompt)
    )
    pool = Here(replica, options.sessions)
    try:
        asyncio.run(_listen(server.LeRobotServer(pool, served, spec.period_s, access), options.host, options.port))
    finally:
        engine.close()
    return 0


async def _listen(policy: Any, host: str, port: int) -> None:
    listening, bound = await policy.start(host, port)
    try:
        print(
            f"serving at {host}:{bound} for LeRobot's clients; run them with --fps={1.0 / policy.period_s:g} "
            f"--server_address={host}:{bound}",
            flush=True,
        )
        await listening.wait_for_termination()
    finally:
        await listening.stop(None)
        policy.close()
