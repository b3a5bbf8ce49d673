"""Instructions to token ids. A word-level tokenizer for policies trained on few instructions; any saved one is read."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from ecovla_ros import documents
from ecovla_ros.errors import CheckpointError, ObservationError

PAD, UNKNOWN = "<pad>", "<unknown>"


Loaded = TypeVar("Loaded", bound="Prompt")


class Prompt:
    """A tokenizer and the longest prompt of its model."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self._unknown = tokenizer.token_to_id(UNKNOWN)

    @classmethod
    def build(cls, texts: Iterable[str], max_tokens: int) -> Prompt:
        """The words of `texts`, lower-cased, in alphabetical order after `<pad>` (id 0) and `<unknown>` (id 1)."""
        words = sorted({word for text in texts for word in _split(text)})
        ids = {word: i for i, word in enumerate((PAD, UNKNOWN, *words))}
        tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        return cls(tokenizer, max_tokens)

    @classmethod
    def load(cls: type[Loaded], path: str | Path, max_tokens: int) -> Loaded:
        """Read tokenizer.json. Raises CheckpointError."""
        try:
            return cls(Tokenizer.from_str(Path(path).read_text(encoding="utf-8")), max_tokens)
        except UnicodeDecodeError as error:
            raise CheckpointError(f"'{path}' is not a tokenizer.json: it is not text in UTF-8") from error
        except OSError as error:
            why = documents.instead(Path(path)) if Path(path).is_symlink() else error.strerror
            raise CheckpointError(f"cannot read tokenizer '{path}': {why}") from error
        except Exception as error:
            if type(error) is not Exception:  # the bindings raise Exception itself for every malformed file
                raise
            why = documents.instead(Path(path))
            raise CheckpointError(f"'{path}' is not a tokenizer.json: {f'it {why}' if why else error}") from error

    def save(self, path: str | Path) -> None:
        """Write tokenizer.json."""
        Path(path).write_text(self.tokenizer.to_str(pretty=True), encoding="utf-8")

    @property
    def size(self) -> int:
        """Number of tokens: the least `vocab` a model for this tokenizer can have."""
        return self.tokenizer.get_vocab_size()

    @property
    def words(self) -> list[str]:
        """Every token, by id."""
        ids = self.tokenizer.get_vocab()
        return sorted(ids, key=ids.__getitem__)

    @property
    def highest(self) -> int:
        """The largest token id that a prompt can hold."""
        return self.size - 1

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, without padding. Raises ObservationError: empty, too long, or with unknown words."""
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        if not encoded.ids:
            raise ObservationError("empty instruction: say what to do, e.g. 'place the apple in the basket'")
        if self._unknown is not None and self._unknown in encoded.ids:
            bad = [text[a:b] for i, (a, b) in zip(encoded.ids, encoded.offsets) if i == self._unknown]
            known = sorted(set(self.tokenizer.get_vocab()) - {PAD, UNKNOWN})
            words = f"unknown words: {', '.join(bad)}; known: {', '.join(known)}"
            raise ObservationError(f"instruction '{text}' has {words}")
        if len(encoded.ids) > self.max_tokens:
            raise ObservationError(f"instruction of {len(encoded.ids)} tokens; at most {self.max_tokens}: '{text}'")
        return encoded.ids

    def example(self) -> str:
        """Some valid instruction."""
        words = sorted(set(self.tokenizer.get_vocab()) - {PAD, UNKNOWN})
        return next(word for word in words if word.isalpha())

    def batch(self, texts: Iterable[str]) -> tuple[list[list[int]], list[list[bool]]]:
        """Ids padded on the right to the longest of `texts`, and which are not padding. Raises ObservationError."""
        rows = [self.ids(text) for text in texts]
        longest = max((len(row) for row in rows), default=0)
        ids = [row + [0] * (longest - len(row)) for row in rows]
        return ids, [[i < len(row) for i in range(longest)] for row in rows]


class GemmaPrompt(Prompt):
    """PaliGemma's tokenizer as openpi uses it: a begin token before the text, and `ending` after it, encoded apart."""

    BEGIN = 2
    ending = ""

    def ids(self, text: str) -> list[int]:
        """Token ids of `text`, without padding. Raises ObservationError: empty, too long."""
        clean = text.strip().replace("_", " ").replace("\n", " ") if self.ending else text
        if not clean.strip():
            raise ObservationError("empty instruction: say what to do, e.g. 'place the apple in the basket'")
        parts = [self.tokenizer.encode(part, add_special_tokens=False).ids for part in (clean, self.ending) if part]
        ids = [self.BEGIN, *(i for part in parts for i in part)]
        if len(ids) > self.max_tokens:
            raise ObservationError(f"prompt of {len(ids)} tokens; at most {self.max_tokens}: '{text}'")
        return ids


def state_prompt(text: str, bins: Iterable[int]) -> str:
    """pi0.5's prompt: the task, the state in bins, and where the actions begin (openpi, tokenizer.py)."""
    task = text.strip().replace("_", " ").replace("\n", " ")
    return f"Task: {task}, State: {' '.join(map(str, bins))};\nAction: "


def state_bins(state: Iterable[float]) -> list[int]:
    """Normalised state to 256 equal bins of -1..1, numbered 0..255; below them -1, above 255, as openpi does."""
    return [min(max(math.floor((value + 1.0) * 128.0), -1), 255) for value in state]


def _split(text: str) -> list[str]:
    pieces = pre_tokenizers.Whitespace().pre_tokenize_str(text.lower())
    return [piece for piece, _ in pieces]
