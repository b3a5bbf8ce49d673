"""`ecovla`: the programs that need no ROS, and those that do. Every figure of the documentation comes from here."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from ecovla_ros.errors import ConfigError, EcovlaError

COMMANDS = {
    "bench": "latency, dense and pruned, interleaved",
    "doctor": "is everything there before motion, over the live graph",
    "enable": "the guard may move the arm while this runs",
    "eval": "closed-loop success, paired across methods",
    "faults": "the guard against a campaign of faults, and five ways to play a motion",
    "fuzz": "hostile messages at guard, policy and serve, and attacks on who owns the arm, over the wire",
    "trial": "processes killed in mid-motion, over ROS 2",
    "plot": "success and speed-up against ratio, and one episode, from result files",
    "film": "the cameras of a bag as a film (.mp4) or a moving picture (.webp, .gif)",
    "inspect": "what a published checkpoint is and would cost; reads no weights",
    "replay": "the policy over a recorded bag, deterministic",
    "report": "one HTML file with the charts of a bag, a document or a live run",
    "serve": "the policy behind a websocket, for vla-eval and openpi clients",
    "train": "demonstrations and the built-in policy, from scratch",
}
"""Command -> what it does. Command `x` is the module cli/x.py (eval: cli/evaluate.py): `add_options` and `run`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an `EcovlaError` becomes one line on standard error and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["demo"]:
            return demo(arguments[1:])
        options = _parser(arguments[:1]).parse_args(arguments)
        return int(options.run(options))
    except EcovlaError as error:
        print(f"ecovla: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ecovla: stopped", file=sys.stderr)
        return 130


def demo(arguments: list[str]) -> int:
    """Hand over to the only command that needs ROS 2."""
    try:
        import rclpy
    except ImportError as error:
        raise ConfigError(f"the demo needs ROS 2, and rclpy does not import ({error}); run: make demo") from error
    from ecovla_ros.stage import demo as program

    del rclpy
    return int(program.main(arguments))


def _parser(command: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the module of the command that was asked for is imported."""
    parser = argparse.ArgumentParser(prog="ecovla", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="simulator, policy and guard over ROS 2 (see: ecovla demo --help)")
    for name, what in COMMANDS.items():
        sub = commands.add_parser(name, help=what, description=what)
        if [name] == list(command):
            module = importlib.import_module(f"ecovla_ros.cli.{'evaluate' if name == 'eval' else name}")
            module.add_options(sub)
            sub.set_defaults(run=module.run)
    return parser
