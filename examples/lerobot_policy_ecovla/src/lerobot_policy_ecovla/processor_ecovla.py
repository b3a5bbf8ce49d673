"""What comes before and after: a batch dimension, and nothing else. Statistics are the checkpoint's own."""

from __future__ import annotations

from typing import Any

from lerobot.processor import AddBatchDimensionProcessorStep, PolicyProcessorPipeline
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from lerobot.utils.constants import POLICY_POSTPROCESSOR_DEFAULT_NAME, POLICY_PREPROCESSOR_DEFAULT_NAME

from .configuration_ecovla import EcovlaConfig


def make_ecovla_pre_post_processors(config: EcovlaConfig, dataset_stats: Any = None) -> tuple[Any, Any]:
    """Pipelines that change no number. `dataset_stats` are not used."""
    before = PolicyProcessorPipeline(steps=[AddBatchDimensionProcessorStep()], name=POLICY_PREPROCESSOR_DEFAULT_NAME)
    after = PolicyProcessorPipeline(
        steps=[], name=POLICY_POSTPROCESSOR_DEFAULT_NAME, to_transition=policy_action_to_transition,
        to_output=transition_to_policy_action,
    )  # fmt: skip
    return before, after
