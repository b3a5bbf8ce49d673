"""Documents of others: what is too deep or too long is refused at once, with the reason."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from ecovla_ros import config, documents
from ecovla_ros.bags import sample
from ecovla_ros.bags.read import Bag
from ecovla_ros.bags.sample import Sample
from ecovla_ros.errors import ConfigError

DEEP = {
    "flow": "a: " + "[" * 20_000 + "]" * 20_000,
    "open": "[" * 20_000,
    "block": "\n".join(" " * i + f"k{i}:" for i in range(2000)),
    "dashes": "- " * 5000 + "a",
    "questions": "? " * 2000 + "a",
    "maps": "{a: " * 3000,
}


@pytest.mark.parametrize("name", DEEP)
def test_a_deep_configuration_is_refused_without_work(name: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text(DEEP[name])
    with pytest.raises(ConfigError, match="deeper than 32"):
        config.load(path)
    with pytest.raises(ConfigError, match="deeper than 32"):
        config.override_texts(config.Config(), [f"prune.sites={'[' * 40}"])


@pytest.mark.parametrize("text", ["a: 2001-99-99", "a: \x00", "[1", "? [a]\n: b", "!!python/object:os.system {}"])
def test_what_yaml_raises_is_one_kind_of_error(text: str) -> None:
    with pytest.raises(ValueError):
        documents.from_yaml(text)


def test_nesting_as_people_write_it_is_read() -> None:
    value: dict = {}
    for _ in range(documents.MOST_DEPTH - 1):
        value = {"a": value}
    assert documents.from_yaml(yaml.safe_dump(value)) == value
    with pytest.raises(ValueError, match="deeper"):
        documents.from_yaml(yaml.safe_dump([value]))


def test_long_yaml_and_deep_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="valid: up to"):
        documents.from_yaml("# " + "x" * documents.MOST_BYTES)
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too deep"):
        documents.read_json(path)
    path.write_text(json.dumps({"a": [1]}))
    assert documents.read_json(path) == {"a": [1]}


def test_a_bag_is_read_whole_whatever_its_metadata_is(tmp_path: Path) -> None:
    path = sample.write(tmp_path / "bag", Sample(seconds=0.5).events())
    with closing(Bag(path)) as bag:
        counts = bag.counts()
    for deep in DEEP.values():
        (path / "metadata.yaml").write_text(deep)
        with closing(Bag(path)) as bag:
            assert bag.counts() == counts and not bag.damage


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "top:\n  x: 1\n  x: 1\n", "[{k: 1, k: 2}]"])
def test_a_key_that_stands_twice_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="stands twice"):
        documents.from_yaml(text)
    assert documents.from_yaml("base: &b {x: 1}\none:\n  <<: *b\n  x: 2\n")["one"] == {"x": 2}
