"""Configuration: unknown keys, wrong types and ranges are named; nothing is guessed."""

from __future__ import annotations

import dataclasses

import pytest
import yaml

from ecovla_ros import config
from ecovla_ros.errors import ConfigError


def test_a_written_configuration_reads_back(tmp_path):
    plain = yaml.safe_load(yaml.safe_dump(_lists(dataclasses.asdict(config.Config()))))
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(plain))
    assert config.load(path) == config.Config()


def _lists(value):
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"prun": {}}, "Did you mean 'prune'"),
        ({"prune": {"ratoi": 0.1}}, "Did you mean 'ratio'"),
        ({"prune": {"ratio": 0.95}}, r"outside \[0.0, 0.9\]"),
        ({"prune": {"ratio": float("nan")}}, "outside"),
        ({"prune": {"ratio": "0.2"}}, "expected float"),
        ({"prune": {"window": True}}, "expected int"),
        ({"prune": {"method": "eco"}}, "valid: dense, ecovla"),
        ({"prune": {"sites": "lm.mlp"}}, "expected a list"),
        ({"prune": {"sites": ["lm.mpl"]}}, "lm.mlp"),
        ({"prune": 3}, "expected a mapping"),
        ([1], "expected a mapping"),
    ],
)
def test_mistakes_are_named(data, match):
    with pytest.raises(ConfigError, match=match):
        config.from_mapping(data)


def test_every_field_says_what_it_is():
    for section in dataclasses.fields(config.Config):
        for field in dataclasses.fields(section.default_factory):
            assert field.metadata.get("doc"), f"{section.name}.{field.name}"


def test_a_section_within_a_section_is_overridden_and_checked():
    texts = ["policy.embodiment.cameras=[wrist=a]", "policy.embodiment.period_s=0.2"]
    made = config.override_texts(config.Config(), texts)
    found = made.policy.embodiment
    assert (found.cameras, found.period_s) == (("wrist=a",), 0.2)
    for text, match in (("policy.embodiment.camera=[]", "Did you mean 'cameras'"), ("policy.model.x=1", "section")):
        with pytest.raises(ConfigError, match=match):
            config.override_texts(config.Config(), [text])


def test_overrides_are_checked_like_files():
    changed = config.override_texts(config.Config(), ["prune.ratio=0.4", "prune.sites=[lm.heads]"])
    assert changed.prune.sites == ("lm.heads",)
    for text, match in (("prune.ratio", "not an override"), ("prune.ratio=2", "outside"), ("x.y=1", "section")):
        with pytest.raises(ConfigError, match=match):
            config.override_texts(config.Config(), [text])


def test_a_missing_file_and_broken_yaml_are_one_error(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        config.load(tmp_path / "bad.yaml")
