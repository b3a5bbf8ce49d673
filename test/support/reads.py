"""`pytest --reads FILE`: what the tests that passed show to be read, for the table of docs/inputs.md.

A test says it with the marker `reads(kind, text)`; `{name}` in the text is the value of a parameter.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from ecovla_ros.bench import document


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reads", type=Path, help="write what tests that ran show to be read to this file")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "reads(kind, text): what this test shows to be read or refused")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    report = yield
    if report.when == "call":
        values = getattr(item, "callspec", None)
        for marker in item.iter_markers("reads"):
            kind, text = marker.args
            told = {k: getattr(v, "name", v) for k, v in (values.params if values else {}).items()}
            report.user_properties.append(("reads", [kind, text.format(**told), item.nodeid.partition("[")[0]]))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    path = config.getoption("--reads")
    if path is None:
        return
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in report.user_properties:
                if name == "reads":
                    row = rows.setdefault((value[0], value[1]), {"kind": value[0], "what": value[1], "test": value[2],
                                                                 "passed": 0, "failed": 0})  # fmt: skip
                    row[outcome] += 1
    document.write(path, list(rows.values()), {"arguments": list(config.invocation_params.args)})
