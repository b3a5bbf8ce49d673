"""Every way of every kernel is accepted by Triton's own compiler and NVIDIA's assembler. No GPU is needed for that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ecovla_ros.kernels.available import installed

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not installed(), reason="needs Triton, which torch brings along on Linux")
@pytest.mark.parametrize("capability", [86, 89, 90, 120], ids=["RTX 30", "RTX 40", "H100", "RTX 50"])
def test_every_way_compiles_for_a_gpu_that_is_not_here(capability: int) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = f"{ROOT}:{ROOT / 'test'}"
    command = [sys.executable, "-m", "support.assembled", str(capability)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr[-3000:]
    ways, *refused = run.stdout.splitlines()
    assert int(ways) > 30
    assert not refused
