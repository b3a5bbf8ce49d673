"""`ecovla demo`: simulator, policy and guard as processes over ROS 2, each task driven once, a bag and a film left.

Exit code 0 says that every process ended cleanly and something came on every topic; whether the tasks were solved is
reported. 1: something did not work. 2: it could not start. 130: stopped by a signal; the bag is readable all the same.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor

from ecovla_ros import config
from ecovla_ros.bags import film
from ecovla_ros.bench import document
from ecovla_ros.control import limits
from ecovla_ros.errors import ConfigError, EcovlaError
from ecovla_ros.nodes.record import RecordNode
from ecovla_ros.nodes.ros import settings
from ecovla_ros.nodes.ros.process import Signals, start_ros
from ecovla_ros.publish.report import from_bag, page
from ecovla_ros.sim.tasks import TASKS, find
from ecovla_ros.stage import children, summary
from ecovla_ros.stage.children import Child
from ecovla_ros.stage.driver import LEASE_S, Driver

NODES = ("sim", "guard", "policy")
LOOK_S = 1.5
"""How long to look for others in a domain that somebody listens in, s."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo. Raises EcovlaError for what cannot start."""
    options = _parser().parse_args(arguments)
    tasks = list(TASKS) if options.task == "all" else [find(options.task).name]
    overrides = [
        f"prune.method={options.method}",
        f"prune.ratio={options.ratio}",
        f"policy.seed={options.seed}",
        *options.set,
    ]
    loaded = settings.load(options.config, overrides)
    signals = Signals()
    began = time.monotonic()
    domain = _domain(options.domain)
    out = _folder(options.out)
    demo = Demo(out, domain, loaded, {"config": options.config, "overrides": overrides}, signals)
    _say(f"ROS domain {domain}, this machine only; method {options.method}, ratio {options.ratio}; logs in {out}/log")
    try:
        demo.drive(tasks, options.seed, options.seconds or loaded.sim.episode_s)
    except (EcovlaError, KeyboardInterrupt) as error:
        demo.failure = "stopped by a signal" if signals.received else str(error)
    finally:
        demo.close()
    if not signals.received and demo.rows and not options.no_film:
        demo.film()
        demo.tell()
    return demo.report(time.monotonic() - began)


class Demo:
    """The processes, the recorder and the driver, from start to end."""

    def __init__(
        self, out: Path, domain: int, loaded: config.Config, parameters: Mapping[str, Any], signals: Signals
    ) -> None:
        self.out, self.failure = out, ""
        self.rows: list[dict[str, Any]] = []
        self.samples: list[dict[str, list[float]]] = []
        self._signals, self._loaded, self._parameters = signals, loaded, parameters
        self._codes: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._driver: Driver | None = None
        self._recorder: RecordNode | None = None
        surroundings = children.environment(domain, out / "log")
        leased = {"guard": {"enable_lease_s": LEASE_S}}
        self._children = [
            Child(n, {**parameters, **leased.get(n, {})}, surroundings, out / "log" / f"{n}.log") for n in NODES
        ]
        os.environ.update({key: surroundings[key] for key in surroundings if key.startswith(("ROS_", "FASTDDS_"))})

    def drive(self, tasks: Sequence[str], seed: int, limit_s: float) -> None:
        """Every task once. Raises EcovlaError, or KeyboardInterrupt at a signal."""
        start_ros([])
        executor = SingleThreadedExecutor()
        node = rclpy.create_node("demo")
        self._recorder = RecordNode(self.out / "bag")
        for made in (node, self._recorder):
            executor.add_node(made)
        self._driver = Driver(node, executor, self._watch)
        _say(f"started {', '.join(f'{c.name} ({c.pid})' for c in self._children)}; loading the policy")
        self._bring_up()
        for number, task in enumerate(tasks, 1):
            episode = self._driver.lay(task, seed)
            head = f"[{number}/{len(tasks)}] {episode.instruction}"
            self._driver.drive(episode, limit_s, partial(_tell_state, head))
            self.rows.append(episode.row())
            self.samples.append({"policy_ms": episode.policy_ms, "camera_to_command_ms": episode.command_ms})
            _progress("")
            _say(f"{head}: {'solved' if episode.success else 'not solved'} after {episode.seconds:.1f} s")
        self._driver.take_down()

    def _bring_up(self) -> None:
        assert self._driver is not None
        try:
            self._driver.bring_up()
        except EcovlaError as error:
            policy = self._children[NODES.index("policy")]
            raise EcovlaError(f"{error}; the last words of policy in {policy.log}:\n{policy.last_words()}") from error

    def close(self) -> None:
        """End the processes, policy first and simulator last, then the bag."""
        _progress("")
        for child in reversed(self._children):
            self._codes[child.name] = child.stop()
        if self._recorder is not None:
            self._recorder.close()
            self._counts = dict(self._recorder.counts)
        rclpy.try_shutdown()

    def film(self) -> None:
        """The film of the bag."""
        began = time.monotonic()

        def drawn(count: int) -> None:
            if self._signals.received:
                raise KeyboardInterrupt
            _progress(f"film: {count} pictures, {time.monotonic() - began:.0f} s")

        try:
            film.make(self.out / "bag", self.out / "film.mp4", self._loaded.sim.image_hz, drawn)
        except (EcovlaError, KeyboardInterrupt) as error:
            self.failure = self.failure or f"no film: {error or 'stopped by a signal'}"
        _progress("")

    def tell(self) -> None:
        """The report of the bag, as HTML."""
        try:
            profile = limits.load(self._loaded.control.profile)
            page.write(from_bag.read(self.out / "bag"), self.out / "report.html", profile)
        except EcovlaError as error:
            self.failure = self.failure or f"no report: {error}"

    def report(self, seconds: float) -> int:
        """Write summary.json, show the table, and give the exit code."""
        faults = [self.failure] if self.failure else summary.faults(self._codes, self._counts)
        document.write(
            self.out / "summary.json",
            self.rows,
            self._parameters,
            topics=self._counts,
            exit_codes=self._codes,
            seconds=round(seconds, 1),
            faults=faults,
            samples=self.samples,
        )
        if self.rows:
            _say("\n" + summary.table(self.rows) + "\n")
        for fault in faults:
            _say(f"demo: {fault}")
        _say(f"{seconds:.0f} s; {', '.join(str(p) for p in sorted(self.out.iterdir()) if p.name != 'log')}")
        if self._signals.received:
            return 130
        return 1 if faults else 0

    def _watch(self) -> None:
        if self._signals.received:
            raise KeyboardInterrupt
        for child in self._children:
            child.check()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ecovla demo", description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="all", help=f"which task: all, {', '.join(TASKS)}")
    parser.add_argument("--method", default="ecovla", help="what chooses the channels: " + ", ".join(config.METHODS))
    parser.add_argument(
        "--ratio",
        type=float,
        default=0.25,
        help="share of the prunable channels that is left out (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=1, help="seed of the placements and of the flow noise (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/demo"),
        help="folder for bag, film, summary and logs (default: %(default)s)",
    )
    parser.add_argument("--domain", type=int, help="the ROS domain, 1 to 101; without it a free one is chosen")
    parser.add_argument("--seconds", type=float, help="longest time for a task, s; without it sim.episode_s")
    parser.add_argument("--no-film", action="store_true", help="make no film of the bag")
    parser.add_argument(
        "--config",
        default=settings.DEFAULT_FILE,
        help="configuration: a YAML file, or the name of one that ships in config/",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="replace one value of the configuration; may be given several times",
    )
    return parser


def _domain(asked: int | None) -> int:
    """The domain to use. Raises ConfigError when nodes of ours are in the one that was asked for."""
    if asked is None:
        return children.free_domain()
    if not 1 <= asked <= 101:
        raise ConfigError(f"ROS domain {asked}; valid: 1 to 101")
    if children.taken(asked):
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
        start_ros_in(asked)
        node = rclpy.create_node("demo")
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        end = time.monotonic() + LOOK_S
        while time.monotonic() < end:
            executor.spin_once(timeout_sec=0.1)
        there = sorted(set(node.get_node_names()) & {*NODES, "record"})
        rclpy.shutdown()
        if there:
            raise ConfigError(
                f"ROS domain {asked} is taken: it has nodes {', '.join(there)}; valid: another, e.g. --domain "
                f"{children.free_domain()}, or none, and a free one is chosen"
            )
    return asked


def start_ros_in(domain: int) -> None:
    """Start ROS in a domain, to look round."""
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    start_ros([])


def _folder(out: Path) -> Path:
    """The output folder, without what an earlier demo left there. Raises ConfigError when it cannot be written."""
    try:
        for name in ("bag", "log"):
            shutil.rmtree(out / name, ignore_errors=True)
        for name in ("film.mp4", "report.html", "summary.json"):
            (out / name).unlink(missing_ok=True)
        (out / "log").mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"cannot write to '{out}': {error.strerror}; valid: --out with a folder of yours") from error
    return out.resolve()


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _tell_state(head: str, seconds: float, state: str) -> None:
    _progress(f"{head}: {seconds:5.1f} s, guard {state}")


def _progress(text: str) -> None:
    """One line that is overwritten; nothing where nobody looks."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r\x1b[K{text}")
        sys.stdout.flush()
