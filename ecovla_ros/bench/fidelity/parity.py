"""How far this package's pi0 is from transformers' `PI0ForConditionalGeneration`: equal random weights, equal noise."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros.bench import document
from ecovla_ros.models.base import DENSE, PolicySpec
from ecovla_ros.models.data.normalise import Normaliser
from ecovla_ros.models.data.prompt import Prompt
from ecovla_ros.models.pi.convert import from_transformers
from ecovla_ros.models.pi.flow import euler
from ecovla_ros.models.pi.model import PiModel
from ecovla_ros.models.pi.policy import PiPolicy
from ecovla_ros.types import Observation

TEXT = "place the apple in the basket"
TOLERANCE = 1e-4
"""Largest difference of an action that counts as agreement, float32."""


@dataclass(frozen=True)
class Case:
    """One model and one batch of observations."""

    name: str
    prompts: tuple[int, ...] = (7,)
    """Tokens of each prompt of the batch; the shorter are padded."""
    cameras: int = 2
    masked: tuple[int, ...] = ()
    """Rows of the batch whose last camera is masked."""
    layers: int = 3
    heads: int = 8
    kv_heads: int = 1
    head_dim: int = 16
    width: int = 64
    image: int = 56
    horizon: int = 10
    steps: int = 10
    left: bool = False
    """Padding before the prompt instead of after it."""


CASES = (
    Case("one observation"),
    Case("padded prompts", prompts=(7, 4, 5)),
    Case("padded on the left", prompts=(6, 3), left=True),
    Case("masked camera", prompts=(5, 7, 2), masked=(1,)),
    Case("two KV heads", prompts=(7, 5), kv_heads=2),
    Case("every head its own KV", prompts=(3, 6), heads=4, kv_heads=4, head_dim=8),
    Case("deep, three cameras", prompts=(12, 9), cameras=3, masked=(0,), layers=6, kv_heads=2),
    Case("wide, one camera, chunk of 50", prompts=(1,), cameras=1, width=128, head_dim=32, image=84, horizon=50),
    Case("two flow steps", prompts=(8, 8, 8, 8), steps=2, horizon=4),
)


def measure(cases: tuple[Case, ...] = CASES) -> list[dict[str, Any]]:
    """One row per case and path: "batched" is `PiModel`, "policy" `PiPolicy` on one observation without padding."""
    rows = []
    for seed, case in enumerate(cases):
        rows.append(_row(case, "batched", *batched(case, seed)))
        rows.append(_row(case, "policy", *through_policy(case, seed)))
    return rows


@torch.inference_mode()
def batched(case: Case, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Actions (B, H, A) of this package and of transformers, and the noise they started from."""
    reference, model = pair(case, seed)
    g = torch.Generator().manual_seed(seed + 1000)
    ids, real, present = _batch(case, g)
    size, batch = (case.image,) * 2, len(case.prompts)
    images = torch.rand(batch, case.cameras, 3, *size, generator=g) * 2 - 1
    state = torch.randn(batch, 32, generator=g)
    noise = torch.randn(batch, case.horizon, 32, generator=g)
    theirs = _sample(reference, model.config.tokens, images, present, ids, real, state, noise)
    tokens = model.project(model.vision_tokens(dict(zip(model.config.cameras, images.unbind(1)))))
    prefix = torch.cat([*tokens.values(), model.embed_prompt(ids)], 1)
    mask = torch.cat((present.repeat_interleave(model.config.tokens, 1), real), 1)
    kv, _ = model.prefix(prefix, mask)
    return euler(lambda x, t: model.velocity(kv, mask, state, x, t), noise, case.steps), theirs, noise


@torch.inference_mode()
def through_policy(case: Case, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `batched` for one observation through `PiPolicy`; transformers gets the prompt padded and the same pixels."""
    reference, model = pair(case, seed)
    policy = _policy(model)
    rng = np.random.default_rng(seed)
    shape = (case.image, case.image, 3)
    images: dict[str, Any] = {c: rng.integers(0, 256, shape, dtype=np.uint8) for c in model.config.cameras}
    present = torch.ones(1, case.cameras, dtype=torch.bool)
    pixels = torch.stack([torch.from_numpy(i).permute(2, 0, 1) / 127.5 - 1 for i in images.values()])[None]
    if case.masked:
        images[model.config.cameras[-1]], present[0, -1] = None, False
    seen = policy.encode(Observation(1, images, rng.normal(size=7), 0.3, TEXT))
    noise = torch.randn(case.horizon, 32, generator=torch.Generator().manual_seed(seed))
    ours = policy.act(seen, policy.prefill(seen, DENSE), DENSE, noise)
    ids = torch.tensor([policy.prompt.ids(TEXT) + [0] * 3])
    real = torch.arange(ids.shape[1])[None] < ids.shape[1] - 3
    theirs = _sample(reference, model.config.tokens, pixels, present, ids, real, seen.state[None], noise[None])
    return ours[None], theirs, noise[None]


def pair(case: Case, seed: int) -> tuple[Any, PiModel]:
    """transformers' model with random weights, and ours with the same."""
    from transformers import PI0Config, PI0ForConditionalGeneration  # two seconds: only where the reference is needed

    heads = {
        "model_type": "gemma", "num_hidden_layers": case.layers, "head_dim": case.head_dim, "vocab_size": 1024,
        "num_attention_heads": case.heads, "num_key_value_heads": case.kv_heads,
    }  # fmt: skip
    vision = {
        "model_type": "siglip_vision_model", "patch_size": 14, "image_size": case.image, "hidden_size": case.width,
        "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 2 * case.width, "vision_use_head": False,
    }  # fmt: skip
    text = heads | {"hidden_size": case.width, "intermediate_size": 2 * case.width}
    vlm = {"model_type": "paligemma", "text_config": text, "vision_config": vision, "projection_dim": case.width,
           "image_token_id": 1023}  # fmt: skip
    expert = heads | {"hidden_size": case.width // 2, "intermediate_size": case.width}
    config = PI0Config(vlm_config=vlm, dit_config=expert, chunk_size=case.horizon, num_inference_steps=case.steps)
    reference = PI0ForConditionalGeneration(config).eval()
    g = torch.Generator().manual_seed(seed)
    for p in reference.parameters():  # transformers starts near zero, with norms at one: no test of either
        p.data += 0.08 * torch.randn(p.shape, generator=g)
    return reference, from_transformers(reference, tuple(f"camera_{i}" for i in range(case.cameras)))


def _batch(case: Case, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt ids (B, T), which are real (B, T), which cameras are present (B, cameras)."""
    longest = max(case.prompts)
    ids = torch.randint(3, 1000, (len(case.prompts), longest), generator=g)
    real = torch.arange(longest)[None] < torch.tensor(case.prompts)[:, None]
    present = torch.ones(len(case.prompts), case.cameras, dtype=torch.bool)
    present[list(case.masked), -1] = False
    return ids, real.flip(1) if case.left else real, present


def _sample(
    reference: Any,
    tokens: int,
    images: Tensor,
    present: Tensor,
    ids: Tensor,
    real: Tensor,
    state: Tensor,
    noise: Tensor,
) -> Tensor:
    """transformers' actions. Its rows hold image tokens of the present cameras only, and are padded behind the text."""
    length = tokens * present.shape[1] + ids.shape[1]
    rows = torch.zeros(len(ids), length, dtype=torch.long)
    mask = torch.zeros_like(rows)
    for i, seen in enumerate(present.sum(1).tolist()):
        end = seen * tokens + ids.shape[1]
        rows[i, : seen * tokens], rows[i, seen * tokens : end] = 1023, ids[i]
        mask[i, : seen * tokens], mask[i, seen * tokens : end] = 1, real[i].long()
    out: Tensor = reference.sample_actions(
        state, rows, images, noise=noise, attention_mask=mask, pixel_attention_mask=present
    )
    return out


def _policy(model: PiModel) -> PiPolicy:
    config = model.config
    cameras = {name: (config.image_size, config.image_size) for name in config.cameras}
    spec = PolicySpec("pi0", cameras, config.horizon, 0.1, config.action_dim)
    ones, row = (1.0,) * 8, ((0.0,) * 8,) * config.horizon
    normaliser = Normaliser((0.0,) * 8, ones, row, (ones,) * config.horizon)
    return PiPolicy(model, spec, normaliser, Prompt.build([TEXT], config.max_prompt))


def _row(case: Case, path: str, ours: Tensor, theirs: Tensor, noise: Tensor) -> dict[str, Any]:
    return {
        "case": case.name,
        "path": path,
        "shape": list(ours.shape),
        "kv_heads": case.kv_heads,
        "steps": case.steps,
        "max_abs_difference": float((ours - theirs).abs().max()),
        "max_abs_displacement": float((theirs - noise).abs().max()),
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the table; with --json also write the document. 1 when a case is beyond the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default="", help="file to write")
    chosen = parser.parse_args(arguments)
    rows = measure()
    for row in rows:
        sys.stdout.write(f"{row['case']:<30} {row['path']:<8} {row['shape']!s:<14} {row['max_abs_difference']:.1e}\n")
    if chosen.json:
        settings = {"dtype": "float32", "tolerance": TOLERANCE, "reference": "transformers PI0ForConditionalGeneration"}
        document.write(chosen.json, rows, settings)
    return int(any(not row["max_abs_difference"] <= TOLERANCE for row in rows))


if __name__ == "__main__":
    sys.exit(main())
