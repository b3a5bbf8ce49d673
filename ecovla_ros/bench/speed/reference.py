"""transformers' PI0 on the weights of one of ours, for a comparison in the same run.

As its users run it: three camera slots, the third masked, and the prompt padded to 200 tokens (openpi's and lerobot's
defaults). Beside it the same model on exactly the tokens that ours takes. Both also compiled: the vision tower, the
language model and the expert through torch.compile, which on CUDA replays each as a graph; transformers' own code
between them reads a mask of the cameras on the host, so that no larger part can be one graph. transformers is imported
here and nowhere else at run time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ecovla_ros import build
from ecovla_ros.config import PolicyConfig
from ecovla_ros.errors import ConfigError, unknown
from ecovla_ros.models.base import DENSE
from ecovla_ros.models.data.inputs import camera_images
from ecovla_ros.models.pi.config import PiConfig
from ecovla_ros.models.pi.convert import from_transformers
from ecovla_ros.models.shapes import PI0, PI0_MID, PI0_REDUCED, around
from ecovla_ros.types import Observation

SLOTS, PROMPT = 3, 200
IMAGE_TOKEN = 1
SHAPES = {"pi0": PI0, "pi0-mid": PI0_MID, "pi0-reduced": PI0_REDUCED}
"""Models that have a counterpart in transformers."""
REHEARSALS = 4
"""Answers of a compiled model before any is timed: it compiles, warms up, and captures."""

Compile = Callable[[Any], Any]
COMPILE: Compile = partial(torch.compile, dynamic=False, mode="reduce-overhead")
"""Inductor, with CUDA graphs where there is CUDA."""


def shape_of(model: str) -> PiConfig:
    """The configuration of a model that has a counterpart. Raises ConfigError."""
    if model not in SHAPES:
        raise ConfigError(f"--reference is transformers' PI0: {unknown('model', model, SHAPES)}")
    return SHAPES[model]


class Reference:
    """transformers' model and our policy, on equal random weights, on one device."""

    def __init__(self, name: str, settings: PolicyConfig, every: int, compiler: Compile | None = None) -> None:
        """`settings`: device, dtype, seed and bucket. `every`: it runs on every so many frames, as it is slow.
        `compiler`: run it compiled too; None: only as it is.

        Raises ConfigError without transformers, or for a model that has no counterpart.
        """
        config = shape_of(name)
        try:
            from transformers import PI0Config, PI0ForConditionalGeneration
        except ImportError as error:
            why = f"--reference needs transformers 5.4 or newer: pip install transformers ({error})"
            raise ConfigError(why) from error
        place: dict[str, Any] = {"device": build.device_of(settings), "dtype": build.dtype_of(settings)}
        torch.manual_seed(settings.seed)
        with torch.device(place["device"]):  # billions of weights are drawn where they will run
            self.model = PI0ForConditionalGeneration(PI0Config(**settings_of(config))).eval()
        generator = torch.Generator(place["device"]).manual_seed(settings.seed)
        with torch.no_grad():
            for weight in self.model.parameters():  # transformers starts near zero
                noise = torch.randn(weight.shape, generator=generator, device=place["device"])
                weight.add_(noise, alpha=0.5 * weight.shape[-1] ** -0.5)
        model = from_transformers(self.model, config.cameras, config.max_prompt, config.optional_cameras, **place)
        self.policy = around(name, model, build.bucket_of(settings))
        self.model.to(**place)
        self.steps, self.every, self._turns = config.flow_steps, every, 0
        self.times: dict[str, list[float]] = {"padded": [], "exact": []}
        self.difference = 0.0
        self._parts = self._compiled(compiler) if compiler is not None else []
        self.times |= {f"{name}, compiled": [] for name in (*self.times,) if self._parts}
        self.failed = ""
        """Why nothing runs compiled; empty: it does, or nobody asked."""

    @torch.inference_mode()
    def turn(self, obs: Observation, measured: bool) -> None:
        """Answer one observation in the ways that are not compiled, if it is this one's turn; the exact one must agree
        with our dense one."""
        self._turns += 1
        if (self._turns - 1) % self.every:
            return
        for name in (n for n in self.times if not _is_compiled(n)):
            actions, took_ms = self._timed(name, obs)
            if measured:
                self.times[name].append(took_ms)
            if self._turns == 1 and name == "exact":  # before any pattern has moved a row
                seen, noise = self.policy.encode(obs), self._noise()
                ours = self.policy.act(seen, self.policy.prefill(seen, DENSE), DENSE, noise[0])
                self.difference = float((ours.cpu() - actions[0]).abs().max())

    @torch.inference_mode()
    def run_compiled(self, observations: Sequence[Observation]) -> None:
        """Every compiled way over its turns of `observations`, one for each turn, after a few rehearsals. What fails
        here is left out, and rows say why.

        Behind everything else of a run: a compiler takes minutes, and engines that were captured before were seen to
        fail in the frame after it (torch 2.11; see `engine.recorder.claim_workspace`, which was written since).
        """
        for name in [n for n in self.times if _is_compiled(n)]:
            try:
                for _ in range(REHEARSALS):
                    self._way(name, observations[0])
                for obs in observations[:: self.every]:
                    self.times[name].append(self._timed(name, obs)[1])
            except Exception as error:  # noqa: BLE001 - a compiler raises whatever it likes, and the rest is measured
                said = str(error).strip().splitlines()
                self.failed = ": ".join([type(error).__name__, *said[:1]])
                del self.times[name]

    def _timed(self, name: str, obs: Observation) -> tuple[Tensor, float]:
        """The answer of one way, and how long it took, ms."""
        start = time.perf_counter()
        actions = self._way(name, obs)
        return actions, (time.perf_counter() - start) * 1e3

    def _way(self, name: str, obs: Observation) -> Tensor:
        """The answer (1, H, action_dim) of one way to run the model."""
        slots, prompt = (SLOTS, PROMPT) if name.startswith("padded") else (len(obs.images), 0)
        with self._running_compiled() if _is_compiled(name) else nullcontext():
            return self._answer(obs, self._noise(), slots, prompt)

    def _noise(self) -> Tensor:
        return torch.randn(1, self.policy.config.horizon, 32, generator=torch.Generator().manual_seed(0))

    def _compiled(self, compiler: Compile) -> list[tuple[Any, str, Any]]:
        """Module, name of its method, and the method compiled."""
        inner = self.model.model
        parts = ((inner.vlm, "get_image_features"), (inner.vlm, "forward"), (inner.dit, "forward"))
        return [(module, method, compiler(getattr(module, method))) for module, method in parts]

    @contextmanager
    def _running_compiled(self) -> Iterator[None]:
        """The model's parts as compiled; afterwards as they were."""
        if self.policy.device.type == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        for module, method, compiled in self._parts:
            setattr(module, method, compiled)
        try:
            yield
        finally:
            for module, method, _ in self._parts:
                delattr(module, method)

    def rows(self, dense_ms: float) -> list[dict[str, Any]]:
        """One row for each way; speed-up is over our dense mean, so that it is below 1."""
        rows = []
        for name, times in self.times.items():
            if not times:
                continue
            mean = float(np.mean(times))
            rows.append(
                {
                    "method": f"transformers, {name}",
                    "refresh": "none",
                    "ratio": 0.0,
                    "scope": "policy",
                    "frames": "all",
                    "n": len(times),
                    "mean_ms": mean,
                    **{f"p{p}_ms": float(np.percentile(times, p)) for p in (50, 95, 99)},
                    "speedup": dense_ms / mean,
                    "max_abs_difference": self.difference,
                    "compiled_note": self.failed,
                }
            )
        return rows

    def _answer(self, obs: Observation, noise: Tensor, slots: int, prompt: int) -> Tensor:
        """Actions (1, H, action_dim) float32 on the host, which is what ends a policy call."""
        config, policy = self.policy.config, self.policy
        images = list(camera_images(obs.images, config).values())
        pixels = [torch.from_numpy(i).permute(2, 0, 1).to(policy.dtype) / 127.5 - 1 for i in images]
        pixels += [torch.zeros_like(pixels[0])] * (slots - len(pixels))
        ids = policy.prompt.ids(obs.instruction)
        text = ids + [0] * max(0, prompt - len(ids))
        row = [IMAGE_TOKEN] * (len(images) * config.tokens) + text
        row += [0] * (slots * config.tokens + len(text) - len(row))
        real = len(images) * config.tokens + len(ids)
        mask = (torch.arange(len(row)) < real).long()[None]
        present = torch.tensor([[i < len(images) for i in range(slots)]])
        state = torch.zeros(1, config.state_dim, dtype=policy.dtype)
        state[0, :8] = torch.from_numpy(policy.normaliser.observed(obs))
        given = (state, torch.tensor([row]), torch.stack(pixels)[None], noise.to(policy.dtype), mask, present)
        state, row_ids, images_in, noise, mask, present = (t.to(policy.device) for t in given)
        out: Tensor = self.model.sample_actions(
            state,
            row_ids,
            images_in,
            noise=noise,
            attention_mask=mask,
            pixel_attention_mask=present,
            num_steps=self.steps,
        )
        return out.float().cpu()


def _is_compiled(name: str) -> bool:
    return name.endswith("compiled")


def settings_of(config: PiConfig) -> dict[str, Any]:
    """Arguments of transformers' `PI0Config` for one of ours."""
    heads = {
        "model_type": "gemma",
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab,
        "rms_norm_eps": config.norm_eps,
    }
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": config.vision_width,
        "intermediate_size": config.vision_mlp,
        "num_hidden_layers": config.vision_layers,
        "num_attention_heads": config.vision_heads,
        "image_size": config.image_size,
        "patch_size": config.patch,
        "vision_use_head": False,
    }
    text = heads | {"hidden_size": config.lm_width, "intermediate_size": config.lm_mlp}
    expert = heads | {"hidden_size": config.expert_width, "intermediate_size": config.expert_mlp}
    vlm = {
        "model_type": "paligemma",
        "text_config": text,
        "vision_config": vision,
        "projection_dim": config.lm_width,
        "image_token_id": IMAGE_TOKEN,
    }
    return {
        "vlm_config": vlm,
        "dit_config": expert,
        "chunk_size": config.horizon,
        "num_inference_steps": config.flow_steps,
        "max_state_dim": config.state_dim,
        "max_action_dim": config.action_dim,
    }
