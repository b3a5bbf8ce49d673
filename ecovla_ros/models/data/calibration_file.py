"""Calibrations as files, beside the checkpoint they belong to: what `ecovla calibrate` writes, and engines start from.

A file belongs to one set of weights. Names and sizes of sites alone would let the calibration of one checkpoint pass
for that of another of the same family, so the file also holds a fingerprint of the weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ecovla_ros.errors import PruningError, unknown
from ecovla_ros.prune.site import Site

FORM = "ecovla-calibration-1"
SAMPLED = 64
"""Numbers of each site's weights that the fingerprint covers."""


def save(path: str | Path, energies: Mapping[str, Tensor], sites: Sequence[Site], source: Mapping[str, Any]) -> None:
    """Write what `engine.calibration` gave. `source`: where the frames came from, as JSON values.

    The rows of the sites must lie in channel order.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"form": FORM, "weights": fingerprint(sites), "source": json.dumps(dict(source))}
    save_file({key: value.detach().float().cpu().contiguous() for key, value in energies.items()}, path, metadata)
    path.chmod(0o644)  # safetensors leaves it readable by its owner alone


def load(path: str | Path, sites: Sequence[Site]) -> dict[str, Tensor]:
    """Energies and means, on the device of each site, in channel order, in which the rows of `sites` must lie.

    Raises PruningError for a file that is missing, damaged or no calibration, and for one of another model or other
    weights.
    """
    tensors, metadata = _read(path)
    rows = {s.key: s for s in sites}
    for key in tensors:
        if key.removesuffix(".mean") not in rows:
            raise PruningError(f"calibration '{path}': " + unknown("site", key, rows) + " It is of another model.")
    for key, site in rows.items():
        shape = tuple(tensors[key].shape) if key in tensors else None
        if shape != (site.rows,):
            said = "nothing" if shape is None else f"{shape} numbers"
            raise PruningError(f"calibration '{path}' has {said} of site {key}; this model's site has {site.rows}")
    here = fingerprint(sites)
    if metadata.get("weights") != here:
        raise PruningError(
            f"calibration '{path}' was made with other weights (fingerprint {metadata.get('weights')}, these {here}); "
            "valid: that of this checkpoint, from `ecovla calibrate`, or prune.calibration=none"
        )
    return {key: value.to(rows[key.removesuffix(".mean")].consumer.device) for key, value in tensors.items()}


def source(path: str | Path) -> dict[str, Any]:
    """Where the frames of a calibration came from. Raises PruningError."""
    return dict(json.loads(_read(path)[1]["source"]))


def fingerprint(sites: Sequence[Site]) -> str:
    """16 hexadecimal digits over names, sizes and some weights of the sites, in channel order.

    Weights count as bfloat16, so that a checkpoint has the same fingerprint whichever type it is loaded in.
    """
    digest = hashlib.sha256()
    for site in sorted(sites, key=lambda s: s.key):
        digest.update(f"{site.key} {site.rows} {tuple(site.consumer.shape)}".encode())
        weights = site.consumer.reshape(-1)
        step = max(1, weights.numel() // SAMPLED)
        some = weights[::step][:SAMPLED].detach().to(torch.bfloat16).float().cpu()
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()[:16]


def _read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise PruningError(f"cannot read calibration '{path}': {error}") from error
    if metadata.get("form") != FORM or not {"weights", "source"} <= metadata.keys():
        raise PruningError(f"'{path}' is no calibration; valid: auto, none, or a file that `ecovla calibrate` wrote")
    return tensors, metadata
