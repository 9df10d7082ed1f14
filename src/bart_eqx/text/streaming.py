"""A text as it is generated: pieces of whole characters, each as soon as its tokens are there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..generation.generate import stream
from ..model.language_model import AbstractLanguageModel
from .tokenizer import Tokenizer
from .tokens import Tokens, pad


_INCOMPLETE = "\ufffd"  # how the tokenizer decodes the first bytes of a character


def stream_text(
    model: AbstractLanguageModel, tokenizer: Tokenizer, row: Tokens, options: Mapping[str, Any]
) -> Iterator[str]:
    """Generate from one source by greedy search or sampling.

    Args:
        model: The model.
        tokenizer: Decodes.
        row: The source.
        options: Of [`stream`][bart_eqx.stream].

    Yields:
        Pieces of the text. Joined they are what `generate` would give.

    Raises:
        FloatingPointError, TypeError, ValueError: as `stream` does.
    """
    # As wide as the engine would make it, so that another text of about this length is the same program.
    ids, mask = pad([row], tokenizer.pad_token_id, -(-len(row) // 4) * 4)
    steps = stream(model, jnp.asarray(ids), jnp.asarray(mask), **options)
    return decode_pieces(tokenizer, (int(np.asarray(token)[0]) for token in steps))


def decode_pieces(tokenizer: Tokenizer, token_ids: Iterable[int]) -> Iterator[str]:
    """The text of tokens that arrive one by one. A character of several tokens comes with its last.

    Only the tokens since the piece before last are decoded, for what a token reads as may depend on the one before it.
    """
    seen: list[int] = []
    start, shown = 0, 0  # `seen[start:shown]` is the last piece that was yielded
    for token in token_ids:
        seen.append(token)
        if not (piece := _piece(tokenizer, seen, start, shown)).endswith(_INCOMPLETE) and piece:
            start, shown = shown, len(seen)
            yield piece
    if piece := _piece(tokenizer, seen, start, shown):
        yield piece


def _piece(tokenizer: Tokenizer, seen: Sequence[int], start: int, shown: int) -> str:
    """The text of `seen[shown:]`, after `seen[start:shown]`."""
    before, both = tokenizer.decode([list(seen[start:shown]), list(seen[start:])])
    return both[len(before) :]


def strip_pieces(pieces: Iterable[str]) -> Iterator[str]:
    """`"".join(pieces).strip()` in pieces: white space waits for what comes after it."""
    held, started = "", False
    for piece in pieces:
        piece = held + (piece if started else piece.lstrip())
        stripped = piece.rstrip()
        held = piece[len(stripped) :]
        if stripped:
            started = True
            yield stripped
