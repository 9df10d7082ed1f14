"""Small random models and tokenizers for the tests of the tasks."""

import functools
from pathlib import Path
from typing import Any

import bart_eqx
from bart_eqx.text import Tokenizer
from support import random_model


BART_TOKENIZER = Path(__file__).parent / "data" / "bart-tokenizer"
TINY: dict[str, Any] = dict(
    vocab_size=50265,
    max_position_embeddings=64,
    d_model=16,
    encoder_layers=1,
    encoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_layers=1,
    decoder_attention_heads=2,
    decoder_ffn_dim=24,
    forced_bos_token_id=0,
)


@functools.cache
def tokenizer() -> Tokenizer:
    """BART's."""
    return Tokenizer.from_pretrained(BART_TOKENIZER)


@functools.cache
def demo_tokenizer() -> Tokenizer:
    """The demo's, of 359 tokens: every digit is one."""
    return Tokenizer.from_pretrained("demo")


@functools.cache
def demo_model() -> bart_eqx.BartForConditionalGeneration:
    """The demo's, which spells numbers."""
    return bart_eqx.from_pretrained("demo", bart_eqx.BartForConditionalGeneration)


@functools.cache
def tiny(name: str, **changes: Any) -> Any:
    """A random model of one of the five classes, with BART's vocabulary."""
    return random_model(getattr(bart_eqx, name), bart_eqx.BartConfig(**(TINY | changes)))
