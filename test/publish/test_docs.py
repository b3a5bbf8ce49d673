"""The documentation: it builds strictly, loads nothing from the network, and what it names exists."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.browser import CHROMIUM, browser

from ecovla_ros import build, cli, config
from ecovla_ros.errors import ConfigError
from ecovla_ros.publish import settings_tables, tables
from ecovla_ros.types import CAMERAS, Observation

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ecovla_ros"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = {p.name for p in PACKAGE.iterdir() if p.is_dir() and not p.name.startswith("_")}
GENERATED = {"msg", "srv"}
"""Rooms that setup makes: their files are named by the .msg and .srv files."""
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
FOUND = """new Promise((done, fail) => {
  let tries = 0;
  const look = () => document.querySelector(".md-search-result__item") ? done(1)
    : tries++ < 100 ? setTimeout(look, 100) : fail();
  look();
})"""
"""A script that ends when the search has found something."""
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for name, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if name == language:
                yield page, text


def commands() -> Iterator[tuple[Path, list[str]]]:
    """Every command line of every shell block, without comments, continued lines as one."""
    for page, text in blocks("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield page, words


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    pytest.importorskip("mkdocs", reason="the documentation needs Python 3.11 or newer: extra docs")
    out = tmp_path_factory.mktemp("site")
    run = built(out)
    assert run.returncode == 0, run.stdout + run.stderr
    return out


def built(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """`make docs` into `out`. Not --quiet: what is not said is not counted as a warning."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out), *options]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={"PATH": "", "NO_MKDOCS_2_WARNING": "1"}
    )


class Loads(HTMLParser):
    """What a page makes a browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video") and named.get("src"):
            self.found.append(named["src"])
        if tag == "link" and named.get("rel") != "canonical" and named.get("href"):
            self.found.append(named["href"])


def test_the_site_builds_and_every_page_loads_only_what_lies_beside_it(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= len(PAGES) - 2
    for page in pages:
        loads = Loads(page.read_text(encoding="utf-8")).found
        assert not [url for url in loads if "//" in url], page
        assert loads
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_a_dead_anchor_fails_the_build(tmp_path):
    pytest.importorskip("mkdocs", reason="the documentation needs Python 3.11 or newer: extra docs")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("# One\n\n[there](two.md#nowhere)\n")
    (tmp_path / "docs/two.md").write_text("# Two\n")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    rules = settings[settings.index("validation:") : settings.index("nav:")]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: x\nstrict: true\n{rules}")
    run = built(tmp_path / "out", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert run.returncode == 1 and "anchor '#nowhere'" in run.stdout + run.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [400, 1600])
def test_pages_fit_into_the_window_and_ask_for_nothing_else(site, width):
    with browser() as page:
        for path in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # that one is for a web server
            page.open(path, width)
            assert not page.errors, (path, page.errors)
            assert all(url.startswith(site.as_uri()) for url in page.requests), path
            assert page.run("document.documentElement.scrollWidth") <= width, path


def test_equations_became_mathml(site):
    text = (site / "pruning.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 8 and "arithmatex" not in text


def test_every_setting_stands_on_the_settings_page():
    text = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    for name in tables.SECTIONS:
        assert f"<!-- table: settings-{name} -->" in text
        assert settings_tables.section(name) in text
    with pytest.raises(ConfigError, match=r"outside \[10.0, 1000.0\] Hz"):
        config.from_mapping({"control": {"rate_hz": 1.0}})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_what_a_page_names_exists(page):
    """Links between files, and paths in the text that begin with a room or a top folder."""
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(BLOCK.sub("", text)):
        if not link.startswith(("http", "#")):
            assert (page.parent / link.partition("#")[0]).exists(), link
    for name in re.findall(r"`([\w./-]+)`", text):
        room, _, rest = name.partition("/")
        if rest and room in ROOMS - GENERATED:
            assert any((PACKAGE / (name + end)).exists() for end in ("", ".py")) or _member(name), name
        elif rest and room in ("ecovla_ros", "test", "config", "launch", "results", "examples", "tools", "docs"):
            assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists(), name


def _member(name: str) -> bool:
    """`prune/site.Site`: a name of a module."""
    path, _, member = name.rpartition(".")
    file = PACKAGE / f"{path}.py"
    return file.is_file() and re.search(rf"\b{member.split('.')[0]}\b", file.read_text(encoding="utf-8")) is not None


def test_the_rooms_of_the_architecture_page_are_those_of_the_layer_test():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    (listed,) = re.findall(r"<!-- layers -->\n```\n(.*?)```", text, re.DOTALL)
    layers = ast.parse((ROOT / "test/test_layers.py").read_text(encoding="utf-8"))
    (levels,) = (node.value for node in layers.body if isinstance(node, ast.Assign) and node.targets[0].id == "LEVELS")
    assert [set(line.split()) for line in listed.splitlines()] == ast.literal_eval(levels)[::-1]


def test_the_walk_of_one_frame_is_the_one_it_takes():
    """At most 15 files before the guard; a frame enters every one of them, the engine's first."""
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    walk = re.findall(r"^\d+\. `([\w/]+)`", text, re.MULTILINE)
    assert 10 <= len(walk) <= 15 and len(set(walk)) == len(walk)
    engine = build.engine(config.override(config.load(config.shipped("mini_sim.yaml")), **{"policy.threads": 1}))
    picture = np.zeros((96, 96, 3), np.uint8)
    entered: list[str] = []

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            entered.append(str(path.relative_to(PACKAGE).with_suffix("")))

    seen = Observation(1, dict.fromkeys(CAMERAS, picture), np.zeros(7), 0.0, "place the apple in the basket")
    engine.step(seen)
    sys.setprofile(note)
    engine.step(seen)
    sys.setprofile(None)
    engine.close()
    without_ros = walk[walk.index("engine/engine") :]
    assert entered[0] == without_ros[0] and set(without_ros) <= set(entered)


def test_python_blocks_are_python():
    found = list(blocks("python"))
    for _, text in found:
        ast.parse(text)
    assert found


def test_yaml_blocks_are_valid_settings():
    for page, text in blocks("yaml"):
        data = yaml.safe_load(text)
        if set(data) & {"policy", "prune", "control", "sim", "node"}:
            config.from_mapping(data, str(page))


def test_commands_are_commands(capsys):
    """Options, settings, targets, modules and launch files that shell blocks name exist."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    seen = set()
    for page, words in commands():
        name, *rest = words
        seen.add(name.rpartition("/")[2])
        if name.endswith("ecovla"):
            _parse(rest, page)
        elif name == "make":
            assert all(word in targets or re.fullmatch(r"[A-Z]+=.*", word) for word in rest), (page, words)
        elif rest[:1] == ["-m"] and rest[1].startswith("ecovla_ros"):
            assert (ROOT / (rest[1].replace(".", "/") + ".py")).is_file(), (page, words)
        elif words[:3] == ["ros2", "launch", "ecovla_ros"]:
            _launch(words[3:], page)
        elif words[:3] == ["ros2", "run", "ecovla_ros"]:
            assert (ROOT / "scripts" / words[3]).is_file(), (page, words)
    assert {"ecovla", "make", "ros2"} <= seen


def test_getting_started_has_every_command():
    text = (ROOT / "docs/getting-started.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `ecovla (\w+)` \|", text, re.MULTILINE)
    assert sorted(listed) == sorted([*cli.COMMANDS, "demo"])


def _parse(arguments: list[str], page: Path) -> None:
    if arguments[0] == "demo":
        return
    try:
        options = cli._parser(arguments[:1]).parse_args(arguments)
    except SystemExit:
        pytest.fail(f"{page}: ecovla {' '.join(arguments)}")
    config.override_texts(config.Config(), getattr(options, "set", []))
    if getattr(options, "config", "").endswith(".yaml") and "/" not in options.config:
        config.shipped(options.config)


def _launch(arguments: list[str], page: Path) -> None:
    text = (ROOT / "launch" / arguments[0]).read_text(encoding="utf-8")
    if "launching.COMMON" in text:
        text += (ROOT / "ecovla_ros/nodes/ros/launching.py").read_text(encoding="utf-8")
    for argument in arguments[1:]:
        name = argument.partition(":=")[0]
        assert f'"{name}"' in text, f"{page}: {arguments[0]} does not name {name}"


def test_the_readme_is_one_screen():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150 and len(text.encode()) <= 9 * 1024
    (table,) = re.findall(r"<!-- table: headline -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert len(table.splitlines()) - 2 <= 8


def test_the_snippet_of_the_readme_runs(capsys, monkeypatch):
    """The Python of the README, as it stands: it prunes, and it prints one line a frame."""
    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (snippet,) = (text for language, text in BLOCK.findall(readme) if language == "python")
    assert len(snippet.splitlines()) <= 16
    names: dict[str, object] = {}
    exec(compile(snippet, "README.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 3 and "refresh" in printed[0] + printed[1] + printed[2]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_search_works_on_pages_that_were_opened_from_a_folder(site):
    field = "document.querySelector('input[data-md-component=search-query]')"
    with browser() as page:
        page.open(site / "safety.html", 1200)
        page.run(f"{field}.focus()")
        page.run(f"{field}.value = 'hysteresis'; {field}.dispatchEvent(new Event('keyup'))")
        page.run(FOUND)
        assert page.run("document.querySelector('.md-search-result__item').textContent.includes('hysteresis')")
        assert not page.errors and all(url.startswith("file:") for url in page.requests)
