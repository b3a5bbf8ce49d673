"""`ecovla report` writes one HTML file with the charts of a bag, a result file or a live run."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ecovla_ros.cli.options import add_common, module_with_ros, settings_of
from ecovla_ros.errors import BagError, ConfigError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_common(parser)
    parser.add_argument(
        "source", type=Path, help="a bag, or a result file written with --json; with --live, the folder of the new bag"
    )
    parser.add_argument(
        "--out", type=Path, help="the HTML file to write; without it, the name of the source with .html"
    )
    parser.add_argument(
        "--live", type=float, metavar="SECONDS", help="first record the running nodes for this time, s (needs ROS 2)"
    )
    parser.add_argument(
        "--rerun", type=Path, metavar="FILE.rrd", help="also write a recording for rerun (needs rerun-sdk)"
    )


def run(options: argparse.Namespace) -> int:
    """`ecovla report`. Exit code 2: the bag is damaged; the page says so, and shows what could be read."""
    from ecovla_ros.bench import document
    from ecovla_ros.cli.options import plain
    from ecovla_ros.control import limits
    from ecovla_ros.publish.report import from_bag, from_document, page

    control = settings_of(options).control
    if options.live is not None:
        _record(options.source, options.live)
    source = options.source
    began = time.perf_counter()
    if not source.exists():
        raise BagError(f"nothing at '{source}'; valid: a bag, or a document written with --json")
    story = from_document.read(source) if source.suffix == ".json" else from_bag.read(source)
    out = options.out or source.with_name(source.name.removesuffix(".json").removesuffix(".mcap") + ".html")
    try:
        size = page.write(story, out, limits.load(control.profile))
    except OSError as error:
        raise ConfigError(f"cannot write '{out}': {error.strerror}") from error
    seconds = time.perf_counter() - began
    for note in story.notes:
        if note != story.damage:
            print(f"note: {note}")
    print(f"{out}: {story.frames} frames, {size / 1e6:.1f} MB, {seconds:.1f} s")
    if options.rerun:
        from ecovla_ros.publish.report import to_rerun

        to_rerun.write(story, options.rerun)
        print(options.rerun)
    if options.json:
        row = {"source": str(source), "frames": story.frames, "bytes": size, "seconds": seconds}
        document.write(options.json, [row], plain(options))
    if story.damage:
        print(f"ecovla: {story.damage}; the report is of what could be read", file=sys.stderr)
    return 2 if story.damage else 0


def _record(bag: Path, seconds: float) -> None:
    if not 0.5 <= seconds <= 86_400.0:
        raise ConfigError(f"--live {seconds}; valid: 0.5 to 86400 s")
    module_with_ros("ecovla_ros.stage.listen", "--live").record(bag, seconds)
