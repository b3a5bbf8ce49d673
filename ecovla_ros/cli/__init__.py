"""`ecovla`: every program of this package. Every figure of the documentation is written by one of these commands.

demo, doctor, enable, fuzz, gazebo, trial, `bench --nodes` and `report --live` need ROS 2; all others run without it.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Sequence

from ecovla_ros.cli.options import module_with_ros
from ecovla_ros.errors import EcovlaError, short

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
COMMANDS = {
    "bench": "measure the latency of the policy, dense and pruned in turn; or what pruning does to the actions",
    "calibrate": "measure on a bag of your own which channels a policy uses, for the first pattern and for static ones",
    "doctor": "check the running system before any motion: topics, rates, clocks, joints, checkpoint (needs ROS 2)",
    "enable": "let the guard move the arm for as long as this command runs (needs ROS 2)",
    "eval": "measure how often the policy succeeds in simulation, with the same scenes for every method",
    "faults": "try faults against the guard, and compare five ways to play a motion",
    "fuzz": "send hostile messages to guard, policy and server, and try to take the arm over (needs ROS 2)",
    "gazebo": "drive the tasks in Gazebo and measure success, latency and guard states (needs ROS 2 and Gazebo)",
    "trial": "kill each process in mid-motion and check how the arm comes to rest (needs ROS 2)",
    "plot": "draw success and speed-up against the pruning ratio, and one episode, from result files",
    "film": "make a film (.mp4) or a moving picture (.webp, .gif) of the cameras of a bag",
    "inspect": "say what a published checkpoint is and what it would cost, without reading its weights",
    "replay": "run the policy over a recorded bag; the same bag always gives the same answers",
    "report": "write one HTML file with the charts of a bag, a result file or a live run",
    "serve": "offer the policy over a websocket, to clients of vla-eval and openpi",
    "spoil": "read bags, data sets, settings and checkpoints that were spoilt, and count what is said",
    "train": "collect demonstrations and train the built-in policy, from scratch or from a checkpoint",
}
"""Command -> what it does. Command `x` is the module cli/x.py (eval: cli/evaluate.py): `add_options` and `run`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an `EcovlaError` becomes one line on standard error and exit code 2, and so does a file that the
    system does not give: a name that is too long, a folder without permission, a full disk."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["demo"]:
            return demo(arguments[1:])
        options = _parser(arguments[:1]).parse_args(arguments)
        if getattr(options, "json", None):
            importlib.import_module("ecovla_ros.bench.document").prepare(options.json)
        return int(options.run(options))
    except EcovlaError as error:
        print(f"ecovla: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None and error.errno not in FULL:
            raise
        where = f"'{short(error.filename)}': " if error.filename is not None else ""
        print(f"ecovla: {where}{error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("ecovla: stopped", file=sys.stderr)
        return 130


def demo(arguments: list[str]) -> int:
    """Hand over to the demo, whose options are parsed where ROS 2 is."""
    return int(module_with_ros("ecovla_ros.stage.demo", "the demo").main(arguments))


def _parser(command: Sequence[str]) -> argparse.ArgumentParser:
    """The parser; only the module of the command that was asked for is imported."""
    parser = argparse.ArgumentParser(prog="ecovla", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("demo", help="run simulator, policy and guard together over ROS 2 (needs ROS 2)")
    for name, what in COMMANDS.items():
        sub = commands.add_parser(name, help=what, description=what)
        if [name] == list(command):
            module = importlib.import_module(f"ecovla_ros.cli.{'evaluate' if name == 'eval' else name}")
            module.add_options(sub)
            sub.set_defaults(run=module.run)
    return parser
