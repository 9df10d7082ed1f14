"""Sources and targets of unequal length as arrays for a model and its loss, on the host."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32, Integer

from .losses import IGNORED


Tokens = Integer[np.ndarray, " _"] | Sequence[int]


def seq2seq_batch(
    pairs: Iterable[tuple[Tokens, Tokens]],
    *,
    pad_token_id: int,
    decoder_start_token_id: int,
    pad_to_multiple_of: int = 1,
) -> dict[str, Int32[np.ndarray, "batch _"]]:
    """What [`seq2seq_loss`][bart_eqx.training.seq2seq_loss] takes, padded at the end.

    Args:
        pairs: `(source, target)`, token ids with their special tokens: of `Tokenizer.tokenize`, or of a
            [`Denoiser`][bart_eqx.training.Denoiser].
        pad_token_id: For sources and decoder inputs. The padding of labels is -100.
        decoder_start_token_id: In front of every target as decoder input: `config.decoder_start_token_id`.
        pad_to_multiple_of: Round lengths up, so that a compiled step sees few shapes.

    Returns:
        `input_ids` and `attention_mask` `[batch, src]`, `decoder_input_ids` and `labels` `[batch, tgt]`, all int32.

    Raises:
        ValueError: if there are no pairs, or `pad_to_multiple_of` is not positive.
    """
    if pad_to_multiple_of < 1:
        raise ValueError(f"`pad_to_multiple_of` must be at least 1. Got {pad_to_multiple_of}.")
    rows = list(pairs)
    if not rows:
        raise ValueError("`pairs` must be at least one (source, target).")
    sources, targets = zip(*rows, strict=True)
    input_ids, shown = _padded(sources, pad_token_id, pad_to_multiple_of)
    labels, _ = _padded(targets, IGNORED, pad_to_multiple_of)
    decoder_input_ids = np.full_like(labels, decoder_start_token_id)
    decoder_input_ids[:, 1:] = np.where(labels[:, :-1] == IGNORED, pad_token_id, labels[:, :-1])
    return dict(
        input_ids=input_ids,
        attention_mask=shown.astype(np.int32),
        decoder_input_ids=decoder_input_ids,
        labels=labels,
    )


def _padded(rows: Sequence[Tokens], fill: int, multiple: int) -> tuple[np.ndarray, np.ndarray]:
    """`[rows, length]`, and where the tokens are."""
    lengths = np.array([len(row) for row in rows])
    longest = -(-max(int(lengths.max()), 1) // multiple) * multiple
    is_token = np.arange(longest) < lengths[:, None]
    padded = np.full(is_token.shape, fill, np.int32)
    padded[is_token] = np.concatenate([np.asarray(row, np.int32) for row in rows])
    return padded, is_token
