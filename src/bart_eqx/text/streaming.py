"""A text as it is generated: pieces of whole characters, each as soon as its tokens are there."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..generation.generate import stream
from ..model.language_model import AbstractLanguageModel
from .batches import ladder
from .engine import Engine
from .generation import with_own_key
from .tokenizer import Tokenizer
from .tokens import Tokens


_INCOMPLETE = "\ufffd"  # how the tokenizer decodes the first bytes of a character


def stream_text(
    engine: Engine, model: AbstractLanguageModel, row: Tokens, options: Mapping[str, Any], *, index: int = 0
) -> Iterator[str]:
    """Generate from one source by greedy search or sampling.

    Args:
        engine: Pads, and decodes.
        model: The model.
        row: The source.
        options: Options of [`stream`][bart_eqx.stream].
        index: The number of the source among those of a call, which draw from different keys.

    Yields:
        Pieces of the text. Joined, those of the first source are the text that `generate_texts` makes of it alone.

    Raises:
        FloatingPointError, TypeError, ValueError: as `stream` does.
    """
    # The width that the engine would choose, so that texts of similar lengths share a program.
    width = next(width for width in ladder(engine.max_length) if width >= len(row))
    ids, mask = engine.pad([row], width)
    steps = stream(model, ids, mask, **with_own_key(options, index))
    return decode_pieces(engine.tokenizer, (int(np.asarray(token)[0]) for token in steps))


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
