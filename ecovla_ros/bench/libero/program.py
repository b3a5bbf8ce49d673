"""How the programs of this folder end."""

from __future__ import annotations

import sys
from collections.abc import Callable

from ecovla_ros.errors import EcovlaError


def exit_code(work: Callable[[], int]) -> int:
    """What `work` returns; 2, and one line on stderr, where it raises an error of ours."""
    try:
        return work()
    except EcovlaError as error:
        sys.stderr.write(f"{error}\n")
        return 2
