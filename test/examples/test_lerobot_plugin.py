"""examples/lerobot_policy_ecovla: what LeRobot's loops get is what the engine gives. Stubs stand in for lerobot."""

from __future__ import annotations

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from ecovla_ros import build
from ecovla_ros.config import Config, override_texts
from ecovla_ros.errors import ConfigError, ObservationError
from ecovla_ros.serve.session import MessageKeys, Session

SOURCE = Path(__file__).parents[2] / "examples" / "lerobot_policy_ecovla" / "src"
SET = ["policy.model=libero", "policy.embodiment.other=true", "policy.threads=1", "prune.ratio=0.25"]
KEYS = {"third_person": "observation.images.image", "wrist": "observation.images.image2"}


class Config_:
    """The part of PreTrainedConfig that a plugin touches."""

    choices: dict[str, type] = {}

    @classmethod
    def register_subclass(cls, name):
        return lambda made: cls.choices.setdefault(name, made)


class Policy_(torch.nn.Module):
    """PreTrainedPolicy: checks the two names, keeps the configuration."""

    def __init_subclass__(cls, **kwargs):
        assert cls.config_class and cls.name

    def __init__(self, config):
        super().__init__()
        assert isinstance(config, Config_)
        self.config = config


class Pipeline:
    def __init__(self, **options):
        self.options = options


def module(name, **contents):
    made = types.ModuleType(name)
    made.__dict__.update(contents)
    return made


@pytest.fixture
def plugin(monkeypatch):
    stubs = [
        module("lerobot"), module("lerobot.configs"), module("lerobot.configs.policies", PreTrainedConfig=Config_),
        module("lerobot.policies"), module("lerobot.policies.pretrained", PreTrainedPolicy=Policy_),
        module("lerobot.processor", AddBatchDimensionProcessorStep=object, PolicyProcessorPipeline=Pipeline),
        module("lerobot.processor.converters", policy_action_to_transition=1, transition_to_policy_action=2),
        module("lerobot.utils"),
        module("lerobot.utils.constants", POLICY_POSTPROCESSOR_DEFAULT_NAME="a", POLICY_PREPROCESSOR_DEFAULT_NAME="b"),
    ]  # fmt: skip
    for stub in stubs:
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
    monkeypatch.syspath_prepend(str(SOURCE))
    yield importlib.import_module("lerobot_policy_ecovla")
    for name in [n for n in sys.modules if n.startswith("lerobot_policy_ecovla")]:
        del sys.modules[name]


def batch(seed=0, rows=1):
    rng = np.random.default_rng(seed)
    images = {k: torch.from_numpy(rng.integers(0, 256, (rows, 3, 112, 112))).float() / 255 for k in KEYS.values()}
    return {**images, "observation.state": torch.from_numpy(rng.normal(size=(rows, 8))), "task": ["pick it up"] * rows}


def plain(message):
    """The same observation as `ecovla serve` would get it."""
    images = {k: (message[k][0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy() for k in KEYS.values()}
    return {**images, "observation.state": message["observation.state"][0].numpy(), "task": message["task"][0]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_actions_are_those_of_the_engine_and_lerobot_s_names_are_kept(plugin):
    config = plugin.EcovlaConfig(ecovla_config="mini_sim.yaml", overrides=SET, n_action_steps=3)
    assert Config_.choices["ecovla"] is plugin.EcovlaConfig and plugin.EcovlaPolicy.name == "ecovla"
    assert plugin.EcovlaConfig.__name__.removesuffix("Config") + "Policy" == plugin.EcovlaPolicy.__name__
    policy = plugin.EcovlaPolicy(config)
    engine = build.engine(override_texts(Config(), SET), serving=True)
    own = Session(engine, MessageKeys(KEYS, ("observation.state",), "task"), True)
    own.start()
    expected = [own.chunk(plain(batch(seed))) for seed in (0, 1)]
    taken = torch.cat([policy.select_action(batch(0)) for _ in range(3)] + [policy.select_action(batch(1))])
    assert np.array_equal(taken[:3].numpy(), expected[0][:3]) and np.array_equal(taken[3].numpy(), expected[1][0])
    policy.reset()
    own.start()  # a pattern outlives the episode, so that the same frame need not get the same actions
    assert np.array_equal(policy.predict_action_chunk(batch(0))[0].numpy(), own.chunk(plain(batch(0))))
    own.engine.close()
    with pytest.raises(ObservationError, match="2 observations; valid: batches of one"):
        policy.predict_action_chunk(batch(0, rows=2))
    with pytest.raises(ObservationError, match="no 'observation.images.image2'"):
        policy.predict_action_chunk({k: v for k, v in batch().items() if "image2" not in k})
    with pytest.raises(NotImplementedError, match="not trained"):
        policy.forward(batch())
    before, after = plugin.make_ecovla_pre_post_processors(config, None)
    assert len(before.options["steps"]) == 1 and after.options["steps"] == []


def test_a_wrong_override_is_named(plugin):
    with pytest.raises(ConfigError, match="ratioo"):
        plugin.EcovlaPolicy(plugin.EcovlaConfig(ecovla_config="mini_sim.yaml", overrides=["prune.ratioo=0.2"]))


def test_without_lerobot_it_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    monkeypatch.syspath_prepend(str(SOURCE))
    with pytest.raises(ImportError, match="plugin of lerobot"):
        importlib.import_module("lerobot_policy_ecovla")
