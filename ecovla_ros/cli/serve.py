"""`ecovla serve` offers the policy over a websocket to evaluation harnesses; beyond this machine only with a token."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ecovla_ros.cli.options import add_common, settings_of
from ecovla_ros.config import values_of
from ecovla_ros.errors import ConfigError

if TYPE_CHECKING:
    from ecovla_ros.serve.lerobot.server import LeRobotServer
    from ecovla_ros.serve.offer import Offer
    from ecovla_ros.serve.server import Access, PolicyServer

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
        "--replicas", type=int, default=1,
        help="processes that each hold the policy, on the GPUs or cores of a Ray cluster; SIGTTIN starts one more, "
        "SIGTTOU lets one end with its last client (default: %(default)s, without Ray)",
    )  # fmt: skip
    parser.add_argument(
        "--ray", default="", metavar="ADDRESS",
        help="the cluster: local, a new one on this machine; auto, the one it is in; or HOST:PORT (default: local)",
    )  # fmt: skip
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
    offered.check()
    if options.protocol == "lerobot":
        return _lerobot(offered, options, access)
    serving = _replicas if options.replicas > 1 or options.ray else _here
    try:
        return serving(offered, options, access)
    except asyncio.CancelledError:
        return 0


def _here(offered: Offer, options: argparse.Namespace, access: Access) -> int:
    """One replica, in this process."""
    from ecovla_ros.serve import server
    from ecovla_ros.serve.replica import Here

    engine, replica = offered.open()
    asks = offered.asks(engine.policy.spec.cameras)
    pool, deadline_ms = Here(replica, options.sessions), offered.settings.node.deadline_ms
    try:
        asyncio.run(_serve(server.PolicyServer(pool, options.protocol, asks, access, deadline_ms), options))
    finally:
        engine.close()
    return 0


def _replicas(offered: Offer, options: argparse.Namespace, access: Access) -> int:
    """Several, as processes of a cluster."""
    from ecovla_ros.serve import server
    from ecovla_ros.serve.cluster import LOCAL, Cluster
    from ecovla_ros.serve.fleet import MOST, Fleet

    if not 1 <= options.replicas <= MOST:
        raise ConfigError(f"--replicas {options.replicas}; valid: 1 to {MOST}")
    with Cluster(offered, options.replicas, options.ray or LOCAL) as cluster:

        async def serve() -> None:
            fleet = Fleet(cluster.start, options.sessions)
            for _ in range(options.replicas):
                fleet.scale(1)
            await fleet.warm()
            made = server.PolicyServer(fleet, options.protocol, fleet.asks, access, offered.settings.node.deadline_ms)
            await _serve(made, options, fleet.scale)

        asyncio.run(serve())
    return 0


async def _serve(policy: PolicyServer, options: argparse.Namespace, scale: Callable[[int], None] | None = None) -> None:
    """Until SIGTERM. `scale`: one replica more or fewer."""
    host, loop, ended = options.host, asyncio.get_running_loop(), asyncio.Event()
    try:
        listening = await policy.start(host, options.port)
    except OSError as error:
        raise ConfigError(f"cannot listen at {host}:{options.port}: {error.strerror}") from error
    try:
        if host not in ("127.0.0.1", "::1", "localhost"):
            print(TLS, flush=True)
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        if scale is not None:
            for number, change in ((signal.SIGTTIN, 1), (signal.SIGTTOU, -1)):
                loop.add_signal_handler(number, _scale, scale, change)
        print(f"serving at ws://{host}:{listening.sockets[0].getsockname()[1]}", flush=True)
        await ended.wait()
    finally:
        listening.close()
        await listening.wait_closed()
        policy.close()


def _scale(scale: Callable[[int], None], change: int) -> None:
    """What a signal asked for, if it can be."""
    try:
        scale(change)
    except ConfigError as error:
        print(f"ecovla: {error}", file=sys.stderr, flush=True)


def _lerobot(offered: Offer, options: argparse.Namespace, access: Access) -> int:
    """The same policy by gRPC, as LeRobot's robot clients ask for it."""
    for name in ("execute", "ensemble", "keys", "state", "text", "ask"):
        if getattr(options, name):
            raise ConfigError(f"--{name} does not go with --protocol lerobot; valid: --image, --prompt, --gripper")
    if options.replicas > 1 or options.ray:
        raise ConfigError("LeRobot's clients are served by one replica in this process; valid: no --replicas, no --ray")
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


async def _listen(policy: LeRobotServer, host: str, port: int) -> None:
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
