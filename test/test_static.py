"""What people expect of a tree before they read it: no finding of ruff or mypy, and one meaning for each class name."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ecovla_ros"
GENERATED = {"msg", "srv"}


@pytest.mark.parametrize(
    "command",
    [("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)],
    ids=["ruff check", "ruff format", "mypy"],
)
def test_the_checkers_find_nothing(command):
    run = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, f"{' '.join(command)}:\n{run.stdout}{run.stderr}"


def test_a_class_name_means_one_thing():
    where = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        inside = path.relative_to(PACKAGE)
        if inside.parts[0] in GENERATED:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                where[node.name].append(f"{inside}:{node.lineno}")
    twice = {name: places for name, places in where.items() if len(places) > 1}
    assert not twice, f"one name, two meanings: {twice}"


def test_files_that_a_text_of_the_package_names_are_there():
    rooms = "|".join(p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name not in GENERATED)
    named = re.compile(rf"(?<![\w/.-])(?:ecovla_ros/)?((?:{rooms})/(?:[a-z_0-9]+/)*[a-z_0-9]{{2,}}\.py)")
    texts = [
        *PACKAGE.rglob("*.py"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        ROOT / "README.md",
    ]
    missing = {
        f"{path.relative_to(ROOT)}: {found}"
        for path in texts
        for found in named.findall(path.read_text(encoding="utf-8"))
        if not (PACKAGE / found).is_file()
    }
    assert not missing, f"named, and not there: {sorted(missing)}"
