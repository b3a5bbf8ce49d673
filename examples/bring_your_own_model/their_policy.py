"""A policy that ecovla_ros does not know: parts of transformers and a regression head, with random weights.

Nothing here knows of pruning. SigLIP looks at every camera, Qwen2 reads its tokens and the words of the task, and what
stands at eight learned query tokens becomes eight actions: offsets from the measured joints, rad, and the gripper.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2Model, SiglipVisionConfig, SiglipVisionModel

CAMERAS, SIZE, PATCH, HORIZON, WIDTH = ("third_person", "wrist"), 32, 8, 8, 64
TASKS = ("place the apple in the basket", "put the bottle into the cabinet")
WORDS = {word: i for i, word in enumerate(sorted({word for task in TASKS for word in task.split()}))}


class TheirPolicy(nn.Module):
    """Images and a task in, actions (H, 8) out."""

    def __init__(self) -> None:
        super().__init__()
        self.vision = SiglipVisionModel(
            SiglipVisionConfig(
                image_size=SIZE, patch_size=PATCH, hidden_size=WIDTH, intermediate_size=2 * WIDTH,
                num_hidden_layers=1, num_attention_heads=4, vision_use_head=False,
            )
        )  # fmt: skip
        self.decoder = Qwen2Model(
            Qwen2Config(
                vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=256, num_hidden_layers=3,
                num_attention_heads=4, num_key_value_heads=2,
            )
        )  # fmt: skip
        self.queries = nn.Parameter(torch.randn(HORIZON, WIDTH))
        self.head = nn.Linear(WIDTH, 8)

    def look(self, images: Tensor) -> Tensor:
        """uint8 (cameras, H, W, 3) to vision tokens (cameras, N, WIDTH)."""
        pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return self.vision(pixel_values=pixels).last_hidden_state

    def read(self, vision: Tensor, task: str) -> Tensor:
        """Vision tokens (S, WIDTH) and the task to the decoder's input (S + words + H, WIDTH)."""
        words = torch.tensor([WORDS[word] for word in task.split()], device=vision.device)
        return torch.cat((vision, self.decoder.embed_tokens(words), self.queries))

    def think(self, sequence: Tensor) -> Tensor:
        """The decoder's input to what stands at the query tokens, (H, WIDTH)."""
        return self.decoder(inputs_embeds=sequence[None], use_cache=False).last_hidden_state[0, -HORIZON:]

    def forward(self, images: Tensor, task: str) -> Tensor:
        """uint8 (cameras, H, W, 3) and a task to actions (H, 8)."""
        return self.head(self.think(self.read(self.look(images).flatten(0, 1), task)))
