"""OpenVLA's prompt: a fixed question around the instruction, a begin token before it and fixed tokens after it."""

from __future__ import annotations

from tokenizers import Tokenizer

from ecovla_ros.errors import ObservationError
from ecovla_ros.models.data.prompt import Prompt

QUESTION = "In: What action should the robot take to {}?\nOut:"
"""The wording all published OpenVLA-OFT and CogACT checkpoints were trained with; the instruction is lower-cased."""

BEGIN, EMPTY, END = 1, 29871, 2
"""Llama's <s>, the lone blank that training left behind "Out:", and </s>, CogACT's cognition token."""


class QuestionPrompt(Prompt):
    """`begin`, then the question, then `closing` tokens."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, begin: int, closing: tuple[int, ...]) -> None:
        super().__init__(tokenizer, max_tokens)
        self.begin, self.closing = begin, closing

    @property
    def highest(self) -> int:
        """The largest token id that a prompt can hold, the fixed tokens around it included."""
        return max(super().highest, self.begin, *self.closing)

    def ids(self, text: str) -> list[int]:
        """Token ids of the whole prompt for an instruction. Raises ObservationError: empty, unknown words, too long."""
        if not text.strip():
            raise ObservationError("empty instruction: say what to do, e.g. 'place the apple in the basket'")
        ids = [self.begin, *super().ids(QUESTION.format(text.lower())), *self.closing]
        if len(ids) > self.max_tokens:
            raise ObservationError(f"prompt of {len(ids)} tokens; at most {self.max_tokens}: '{text}'")
        return ids
