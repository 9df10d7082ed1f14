"""Checkpoints of random weights, in BART's sizes and in each peer's format, with the same weights for all peers."""

from pathlib import Path

import jax
from bounds import SIZES

import bart_eqx


def checkpoint(size: str, folder: Path, *, flax: bool = True) -> Path:
    """Write `folder/pytorch`, and `folder/flax` with `flax=True`. An existing folder is used as it is."""
    if not folder.exists():
        shape = SIZES[size]
        config = bart_eqx.BartConfig(
            vocab_size=shape.vocab,
            d_model=shape.dim,
            encoder_layers=shape.layers,
            decoder_layers=shape.layers,
            encoder_attention_heads=shape.heads,
            decoder_attention_heads=shape.heads,
            encoder_ffn_dim=shape.ffn,
            decoder_ffn_dim=shape.ffn,
        )
        model = bart_eqx.BartForConditionalGeneration(config, key=jax.random.key(0))
        partial = folder.with_name(f"{folder.name}.partial")
        bart_eqx.save_pretrained(model, partial / "pytorch")
        if flax:
            bart_eqx.save_pretrained(model, partial / "flax", to="flax")
        partial.rename(folder)
    return folder
