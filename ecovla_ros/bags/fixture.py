"""A pytest fixture to regress bags of your own. In conftest.py: pytest_plugins = ["ecovla_ros.bags.fixture"]

    def test_the_policy_still_answers_as_it_did(golden_replay):
        golden_replay("bags/pick_up.mcap", method="ecovla", ratio=0.25)

`pytest --regenerate-golden` writes the golden actions anew; without the flag a difference fails the test and is printed
as a table. examples/regress_a_bag is a whole example.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ecovla_ros import config
from ecovla_ros.bags import golden, replay
from ecovla_ros.bags.inputs import mapping

FLAG = "--regenerate-golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the flag."""
    parser.addoption(FLAG, action="store_true", help="write the golden actions of bags anew instead of comparing")


@pytest.fixture
def golden_replay(request: pytest.FixtureRequest) -> Callable[..., list[dict[str, Any]]]:
    """Replay a bag and compare its chunks with golden actions; returns the rows."""
    here = request.path.parent

    def check(
        bag: str | Path,
        method: str = "ecovla",
        ratio: float = 0.25,
        configuration: str = "mini_sim.yaml",
        topics: tuple[str, ...] = (),
        instruction: str = "",
        allowed: float | None = None,
        name: str = "",
        **overrides: Any,
    ) -> list[dict[str, Any]]:
        """`bag`: relative to the test. `topics`: "input=topic" texts. `allowed`: rad, else by dtype. `overrides`:
        configuration keys with "__" for the dot, e.g. policy__seed=1. `name`: of the golden file."""
        path = Path(configuration)
        loaded = config.load(path if path.is_file() else config.shipped(configuration))
        changes = {"prune.method": method, "prune.ratio": ratio} | {
            k.replace("__", "."): v for k, v in overrides.items()
        }
        options = replay.Options(topics=mapping(topics), instruction=instruction)
        file = here / "golden" / f"{name or Path(bag).stem}-{method}-{ratio:g}.json"
        anew = request.config.getoption(FLAG)
        if not anew and not file.is_file():
            pytest.fail(f"no golden actions at {file}; make them: pytest {FLAG}")
        found = replay.run(config.override(loaded, **changes), here / bag, options)
        if found.damage:
            pytest.fail(found.damage)
        if anew:
            golden.write(file, found.rows)
        wrong = golden.differences(found.rows, golden.read(file), allowed)
        if wrong:
            pytest.fail(
                f"{len(wrong)} of {len(found.rows)} frames differ from {file}:\n{golden.table(wrong)}", pytrace=False
            )
        return found.rows

    return check
