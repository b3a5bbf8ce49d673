"""A checkpoint is a folder: model.safetensors, config.json, tokenizer.json. Read strictly: nothing is guessed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ecovla_ros import documents
from ecovla_ros.errors import CheckpointError, unknown
from ecovla_ros.models.base import PolicySpec
from ecovla_ros.models.data.folder import of_weights_file
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.data.statistics import OTHER_ARM, OtherArmUnits
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.models.pi.policy import PiPolicy
from ecovla_ros.models.pi.sites import sites

FAMILY = "pi"
WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
SECTIONS = ("family", "model", "spec", "normaliser", "training")
CALIBRATION = "calibration."
"""Prefix of the optional calibration energies in the weights file, before the site key."""
MEAN = ".mean"
"""Behind the site key: mean activations instead of energies, for compensation."""


def save(
    folder: str | Path,
    model: PiModel,
    normaliser: Normaliser | OtherArmUnits,
    prompt: Prompt,
    spec: PolicySpec,
    training: Mapping[str, Any],
    calibration: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a checkpoint. `training`: settings for the record, JSON values. `calibration`: site key -> energies
    (C * unit,) in channel order, of a model whose rows are in channel order too. `dtype`: of the weights in the file;
    None: as they are. Raises CheckpointError.
    """
    energies = dict(calibration or {})
    _check_calibration(energies, model)
    tensors = {k: v.detach().to("cpu", dtype or v.dtype).contiguous() for k, v in model.state_dict().items()}
    tensors |= {CALIBRATION + k: v.detach().float().cpu().contiguous() for k, v in energies.items()}
    document = {
        "family": FAMILY,
        "model": model.config.to_dict(),
        "spec": dataclasses.asdict(spec),
        "normaliser": normaliser.to_dict(),
        "training": dict(training),
    }
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path / WEIGHTS)
    (path / WEIGHTS).chmod(0o644)  # safetensors leaves it readable by its owner alone
    (path / CONFIG).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    prompt.save(path / TOKENIZER)


def load(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    flow_steps: int = 0,
    bucket: int = 1,
) -> PiPolicy:
    """Read a checkpoint written by `save`. `flow_steps` 0: as it was trained for. `bucket`: see `PiPolicy`.

    Raises CheckpointError: a file missing, truncated or foreign; weights missing, extra, not finite, of a wrong shape;
    bad statistics.
    """
    path = Path(folder)
    document = _document(path)
    config = PiConfig.from_dict(document["model"])
    spec, normaliser = _spec(document["spec"]), _units(document["normaliser"])
    prompt = Prompt.load(path / TOKENIZER, config.max_prompt)
    tensors = _tensors(path / WEIGHTS)
    calibrated = [name for name in tensors if name.startswith(CALIBRATION)]
    energies = {name.removeprefix(CALIBRATION): tensors.pop(name).float() for name in calibrated}
    model = PiModel(config)
    _check_weights(tensors, model.state_dict())
    model.load_state_dict(tensors, strict=True)
    model.to(device=device, dtype=dtype)
    _check_calibration(energies, model)
    energies = {k: v.to(device) for k, v in energies.items()}
    return PiPolicy(model, spec, normaliser, prompt, flow_steps, energies, bucket)


def _document(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise CheckpointError(f"no checkpoint folder '{path}'; it must hold {WEIGHTS}, {CONFIG} and {TOKENIZER}")
    for name in (WEIGHTS, CONFIG, TOKENIZER):
        if not (path / name).is_file():
            have = ", ".join(sorted(p.name for p in path.iterdir())) or "nothing"
            raise CheckpointError(f"'{path}' has no {name}; found: {have}")
    try:
        document = documents.read_json(path / CONFIG)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path / CONFIG}' is not JSON: {error}") from error
    family = document.get("family") if isinstance(document, dict) else None
    if family != FAMILY:
        raise CheckpointError(f"'{path / CONFIG}': family is {family!r}, this loader reads '{FAMILY}'")
    for key in document:
        if key not in SECTIONS:
            raise CheckpointError(f"'{path / CONFIG}': " + unknown("section", key, SECTIONS))
    missing = [key for key in SECTIONS if key not in document]
    if missing:
        raise CheckpointError(f"'{path / CONFIG}' has no section {', '.join(missing)}")
    return document


def _units(data: Any) -> Normaliser | OtherArmUnits:
    """Of this arm, or of another, which says so."""
    other = isinstance(data, Mapping) and data.get("arm") == OTHER_ARM
    return OtherArmUnits.from_dict(data) if other else Normaliser.from_dict(data)


def _spec(data: Any) -> PolicySpec:
    fields = {f.name: f for f in dataclasses.fields(PolicySpec)}
    if not isinstance(data, dict):
        raise CheckpointError(f"spec: expected a mapping of {', '.join(fields)}")
    for key in data:
        if key not in fields:
            raise CheckpointError("spec: " + unknown("key", key, fields))
    try:
        values = dict(data)
        values["cameras"] = {str(k): (int(v[0]), int(v[1])) for k, v in data["cameras"].items()}
        values["instructions"] = tuple(str(text) for text in data.get("instructions", ()))
        values["period_s"] = float(data["period_s"])
        spec = PolicySpec(**values)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"spec is malformed: {error!r}; needed: {', '.join(fields)}") from error
    if not 0.0 < spec.period_s < 10.0:
        raise CheckpointError(f"spec: period_s must be within (0, 10) s, got {spec.period_s}")
    return spec


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        if path.exists() and (why := of_weights_file(path)):
            raise CheckpointError(f"'{path}' {why}") from error
        raise CheckpointError(f"'{path}' is not a complete safetensors file: {error}") from error


def _check_weights(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    for what, names in (("missing", expected.keys() - found.keys()), ("unknown", found.keys() - expected.keys())):
        if names:
            raise CheckpointError(f"{len(names)} {what} weights: {', '.join(sorted(names)[:5])}")
    for name, weight in found.items():
        shape, needed = tuple(weight.shape), tuple(expected[name].shape)
        if shape != needed:
            raise CheckpointError(f"weight {name} has shape {shape}; the configuration needs {needed}")
        if not weight.is_floating_point() or not bool(torch.isfinite(weight).all()):
            raise CheckpointError(f"weight {name} is not finite floating-point numbers")


def _check_calibration(energies: Mapping[str, Tensor], model: PiModel) -> None:
    known = {site.key: site.channels * site.unit for site in sites(model, 1)}
    for name, values in energies.items():
        key = name.removesuffix(MEAN)
        if key not in known:
            raise CheckpointError("calibration: " + unknown("site", key, known))
        if values.shape != (known[key],):
            raise CheckpointError(f"calibration of {name} has shape {tuple(values.shape)}; needed: ({known[key]},)")
        if not bool(torch.isfinite(values).all()) or bool(key == name and (values < 0).any()):
            raise CheckpointError(f"calibration of {name} must be finite and, if energies, not negative")
