"""The tokens of one text or pair, and a padded batch of them."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Int8, Int32


@dataclasses.dataclass(frozen=True)
class Part:
    """The tokens that are kept of one text.

    Args:
        encoding: The encoding of the whole text.
        start: The first token that is kept.
        stop: The first token after it that is not.
        shift: Characters that were put in front of the text.
    """

    encoding: tokenizers.Encoding
    start: int
    stop: int
    shift: int = 0

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def ids(self) -> list[int]:
        return self.encoding.ids[self.start : self.stop]

    @property
    def offsets(self) -> Int32[np.ndarray, "tokens 2"]:
        offsets = np.array(self.encoding.offsets[self.start : self.stop], np.int32).reshape(-1, 2)
        return np.maximum(offsets - self.shift, 0)


@dataclasses.dataclass(frozen=True)
class Frame:
    """The special tokens around a text, or around and between two.

    Args:
        between: The ids before the first text, before the second where there is one, and at the end.
    """

    between: tuple[tuple[int, ...], ...]

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.between))


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The tokens of one text, or of a pair, without padding.

    Args:
        frame: The special tokens.
        parts: What is kept of the text, or of both.
        truncated: The number of tokens that were dropped.
    """

    frame: Frame
    parts: tuple[Part, ...]
    truncated: int

    def __len__(self) -> int:
        return self.frame.num_tokens + sum(map(len, self.parts))

    @functools.cached_property
    def input_ids(self) -> list[int]:
        """Token ids, special tokens included."""
        ids = list(self.frame.between[0])
        for part, special in zip(self.parts, self.frame.between[1:], strict=True):
            ids += part.ids
            ids += special
        return ids

    @property
    def offsets(self) -> Int32[np.ndarray, "src 2"]:
        """The first character of each token in its text, and the one after its last; `(0, 0)` for special tokens."""
        offsets = np.zeros((len(self), 2), np.int32)
        for part, start in self._places():
            offsets[start : start + len(part)] = part.offsets
        return offsets

    @property
    def sequence_ids(self) -> Int8[np.ndarray, " src"]:
        """0 for tokens of the text, 1 for those of its pair, -1 for special tokens."""
        ids = np.full(len(self), -1, np.int8)
        for index, (part, start) in enumerate(self._places()):
            ids[start : start + len(part)] = index
        return ids

    def _places(self) -> list[tuple[Part, int]]:
        """Each part, and the index of its first token."""
        places, start = [], 0
        for part, special in zip(self.parts, self.frame.between[:-1], strict=True):
            places.append((part, start + len(special)))
            start += len(special) + len(part)
        return places


@dataclasses.dataclass(frozen=True)
class TokenBatch:
    """Texts as arrays for a model: `model(batch.input_ids, batch.attention_mask)`.

    A list of texts has a batch axis, a single text has none.

    Args:
        input_ids: Token ids, padded at the end.
        attention_mask: 1 at tokens, 0 at padding.
        rows: The tokens of each text, without padding.
    """

    input_ids: Int32[np.ndarray, "*batch src"]
    attention_mask: Int32[np.ndarray, "*batch src"]
    rows: tuple[Tokens, ...]

    @property
    def truncated(self) -> Int32[np.ndarray, "*batch"]:
        """The number of tokens that were dropped from each text, or pair."""
        counts = np.array([row.truncated for row in self.rows], np.int32)
        return counts.reshape(self.input_ids.shape[:-1])

    @property
    def offsets(self) -> Int32[np.ndarray, "*batch src 2"]:
        """The first character of each token in its text, and the one after its last.

        `(0, 0)` at special tokens and padding. Spaces in front of a word are in its token and not in its offsets. A
        token that is a part of a character has the offsets of the whole character.
        """
        return self._padded([row.offsets for row in self.rows], 0, (2,))

    @property
    def sequence_ids(self) -> Int8[np.ndarray, "*batch src"]:
        """0 for tokens of the text, 1 for those of its pair, -1 for special tokens and padding."""
        return self._padded([row.sequence_ids for row in self.rows], -1, ())

    def _padded(self, arrays: Sequence[np.ndarray], fill: int, shape: tuple[int, ...]) -> np.ndarray:
        dtype = arrays[0].dtype if arrays else np.int32
        padded = np.full((len(arrays), self.input_ids.shape[-1], *shape), fill, dtype)
        for row, array in zip(padded, arrays, strict=True):
            row[: len(array)] = array
        return padded.reshape(*self.input_ids.shape, *shape)


def pad(rows: Sequence[Tokens], pad_token_id: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and their mask, int32 `[rows, length]`, padded at the end."""
    ids = np.full((len(rows), length), pad_token_id, np.int32)
    mask = np.zeros((len(rows), length), np.int32)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row.input_ids
        mask[index, : len(row)] = 1
    return ids, mask
