"""Published checkpoints of pi0 and pi0.5: transformers', lerobot's and openpi's (PyTorch) folders.

A folder holds config.json, the weights in safetensors, the training data's statistics as its source writes them, and
PaliGemma's tokenizer.json, which all three leave to a download.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ecovla_ros.config import EmbodimentConfig
from ecovla_ros.errors import CheckpointError
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.data import statistics
from ecovla_ros.models.data.embodiment import cameras_by_slot
from ecovla_ros.models.data.folder import must_hold_checkpoint
from ecovla_ros.models.data.prompt import GemmaPrompt
from ecovla_ros.models.data.weights import Weights, open_safetensors, read_json
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.convert import config_of_transformers, from_weights
from ecovla_ros.models.pi.policy import PiPolicy

OPENPI_SLOTS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""Image slots of openpi's models, in the order of the prefix; transformers' PI0 names none."""

GEMMA = {"gemma_2b": (2048, 16_384), "gemma_300m": (1024, 4096)}
"""openpi's variant -> width, MLP channels; 18 layers, 8 heads of 256 on one KV head."""

PROMPTS = {"pi0": 48, "pi05": 200}
"""Longest prompt, tokens (openpi)."""

IMAGES = "observation.images."


@dataclass(frozen=True)
class Published:
    """What a folder says of itself before its weights are read."""

    source: str
    """transformers, lerobot or openpi."""
    config: PiConfig
    slots: tuple[str, ...]
    statistics: statistics.Statistics


def load(
    folder: str | Path,
    device: str | torch.device,
    dtype: torch.dtype,
    embodiment: EmbodimentConfig,
    flow_steps: int = 0,
    bucket: int = 1,
) -> PiPolicy:
    """A policy of this arm. Raises CheckpointError: anything missing, left over, malformed, or of another arm.

    On the device "meta" no weight is read: everything is checked but the numbers.
    """
    path = Path(folder)
    must_hold_checkpoint(path)
    with ExitStack() as files:
        weights = named(open_safetensors(path, files))
        weights = weights.outline() if torch.device(device).type == "meta" else weights
        found = describe(path, weights, embodiment)
        horizon, size = found.config.horizon, (found.config.image_size,) * 2
        cameras = cameras_by_slot(embodiment, found.slots, needed=False)
        config = dataclasses.replace(found.config, cameras=cameras, prompt_state=embodiment.prompt_state)
        norm = statistics.normaliser(found.statistics, horizon, embodiment)
        prompt = GemmaPrompt.load(path / "tokenizer.json", config.max_prompt)
        prompt.ending = "" if config.variant == "pi05" and config.prompt_state else "\n"
        model = from_weights(config, weights, device, dtype)
    spec = PolicySpec(path.name, {c: size for c in cameras}, horizon, embodiment.period_s, config.action_dim)
    return PiPolicy(model, spec, norm, prompt, flow_steps, bucket=bucket)


def describe(folder: Path, weights: Weights, embodiment: EmbodimentConfig) -> Published:
    """Family, shape, image slots and statistics from the folder and its weights' names. Raises CheckpointError."""
    document = read_json(folder / "config.json")
    if not isinstance(document, dict):
        raise CheckpointError(f"'{folder / 'config.json'}' is not a mapping")
    variant = "pi05" if "time_mlp_in.weight" in weights else "pi0"
    if document.get("model_type") == "pi0":
        config = config_of_transformers(document, ("base",), PROMPTS[variant], True)
        config = dataclasses.replace(config, fit="pad", variant=variant)
        return Published("transformers", config, OPENPI_SLOTS, _openpi_statistics(folder, variant, embodiment))
    if document.get("type") in ("pi0", "pi05"):
        if document["type"] != variant:
            raise CheckpointError(f"'{folder}': config.json says {document['type']}, the weights are of {variant}")
        slots = _slots(document.get("input_features"))
        relative = bool(document.get("use_relative_actions"))
        if relative != (embodiment.actions == "relative") and not embodiment.other:
            said = "relative" if relative else "absolute"
            raise CheckpointError(f"'{folder}' was trained on {said} actions; set policy.embodiment.actions={said}")
        if not slots:
            raise CheckpointError(
                f"'{folder / 'config.json'}': input_features name no picture ({IMAGES}… or type VISUAL)"
            )
        stats = statistics.of_lerobot(folder, document.get("normalization_mapping") or {})
        config = _openpi_config(document, variant, "chunk_size", "max_action_dim")
        return Published("lerobot", config, slots, stats)
    if "action_horizon" in document and "paligemma_variant" in document:
        config = _openpi_config(document, variant, "action_horizon", "action_dim")
        return Published("openpi", config, OPENPI_SLOTS, _openpi_statistics(folder, variant, embodiment))
    raise CheckpointError(
        f"'{folder / 'config.json'}' is none of: transformers' (model_type pi0), lerobot's (type pi0, pi05), openpi's "
        "(action_horizon and paligemma_variant)"
    )


def _slots(features: Any) -> tuple[str, ...]:
    """Image slots in the order of the configuration: whatever it says is a picture, by name or by type."""
    found = features.items() if isinstance(features, Mapping) else ()
    return tuple(
        str(key).removeprefix(IMAGES).removeprefix("observation.")
        for key, feature in found
        if str(key).startswith(IMAGES) or (isinstance(feature, Mapping) and feature.get("type") == "VISUAL")
    )


def named(weights: Weights) -> Weights:
    """Any of the three namings as transformers 5.10 has it."""
    return weights.renamed(_rename(weights))


def _rename(weights: Weights) -> Any:
    tied = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    have = {n.removeprefix("model.") for n in weights.shapes if "paligemma_with_expert." in n}
    ours = any("paligemma_with_expert." in n for n in weights.shapes)

    def rename(name: str) -> str:
        if not ours:
            return name.replace("vision_tower.vision_model.", "vision_tower.")
        name = name.removeprefix("model.")
        if name == "paligemma_with_expert.paligemma.lm_head.weight" and tied not in have:
            name = tied  # safetensors keeps one of two names of shared weights
        for old, new in RULES:
            name = old.sub(new, name)
        return name

    return rename


RULES = tuple((re.compile(old), new) for old, new in (
    (r"^paligemma_with_expert\.paligemma\.model\.vision_tower\.(vision_model\.)?", "model.vlm.vision_tower."),
    (r"^paligemma_with_expert\.paligemma\.model\.", "model.vlm."),
    (r"^paligemma_with_expert\.paligemma\.lm_head\.", "lm_head.language."),
    (r"^paligemma_with_expert\.gemma_expert\.lm_head\.", "lm_head.expert."),
    (r"^paligemma_with_expert\.gemma_expert\.model\.", "model.dit."),
    (r"^(state_proj|action_in_proj|action_time_mlp_in|action_time_mlp_out)\.", r"embed_action_time.\1."),
))  # fmt: skip
"""openpi's and lerobot's names -> transformers'."""


def _openpi_config(document: Mapping[str, Any], variant: str, horizon: str, action_dim: str) -> PiConfig:
    try:
        lm_width, lm_mlp = GEMMA[document["paligemma_variant"]]
        width, mlp = GEMMA[document["action_expert_variant"]]
        size = document.get("image_resolution", (224, 224))[0]
        return PiConfig(
            cameras=("base",), optional_cameras=True, variant=variant, vision="siglip", fit="pad", image_size=int(size),
            patch=14, vision_width=1152, vision_layers=27, vision_heads=16, vision_mlp=4304, vocab=257_152,
            max_prompt=int(document.get("tokenizer_max_length", PROMPTS[variant])), lm_width=lm_width, lm_mlp=lm_mlp,
            layers=18, heads=8, kv_heads=1, head_dim=256, expert_width=width, expert_mlp=mlp,
            state_dim=int(document.get("max_state_dim", document[action_dim])), action_dim=int(document[action_dim]),
            horizon=int(document[horizon]), flow_steps=int(document.get("num_inference_steps", 10)),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        variants = [str(document.get(f"{name}_variant")) for name in ("paligemma", "action_expert")]
        if any("lora" in name for name in variants):
            raise CheckpointError(
                f"config.json says {', '.join(variants)}: LoRA weights that are not merged; valid: merged weights, and "
                f"a variant of {', '.join(GEMMA)}"
            ) from error
        raise CheckpointError(f"config.json lacks or spoils {error}; variants: {', '.join(GEMMA)}") from error


def _openpi_statistics(folder: Path, variant: str, embodiment: EmbodimentConfig) -> statistics.Statistics:
    """openpi: pi0 by mean and deviation, pi0.5 by quantiles."""
    mode = "mean_std" if variant == "pi0" else "quantiles"
    return statistics.of_openpi(folder, embodiment.statistics, mode)
