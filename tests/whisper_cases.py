"""Whispers of the tests: configurations that expose mistakes, inputs, and parameters."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

from bart_eqx.checkpoint.names import to_flax_leaf
from bart_eqx.checkpoint.pytree import named_parameters
from examples.whisper.checkpoint import from_flax
from examples.whisper.conditional_generation import WhisperForConditionalGeneration
from examples.whisper.config import WhisperConfig
from support import randomised, unflatten


# Text, then the tokens of the prompt, then 17 timestamps.
TEXT, END, START, ENGLISH, GERMAN, TRANSLATE, TRANSCRIBE, NO_TIMESTAMPS = 40, 40, 41, 42, 43, 44, 45, 46
_TINY: dict[str, Any] = dict(
    vocab_size=64,
    num_mel_bins=5,
    max_source_positions=7,
    max_target_positions=24,
    d_model=12,
    encoder_layers=3,
    encoder_attention_heads=3,
    encoder_ffn_dim=17,
    decoder_layers=1,  # distil-whisper has fewer here
    decoder_attention_heads=2,
    decoder_ffn_dim=13,
    decoder_start_token_id=START,
    bos_token_id=END,
    eos_token_id=END,
    pad_token_id=END,
)
CONFIGS = {"distilled": _TINY, "untied": _TINY | dict(tie_word_embeddings=False, encoder_layers=1, decoder_layers=2)}
# The fields of transformers' generation_config.json.
GENERATION: dict[str, Any] = dict(
    max_length=20,
    decoder_start_token_id=START,
    bos_token_id=END,
    eos_token_id=END,
    pad_token_id=END,
    suppress_tokens=[1, 5, 9, START],
    begin_suppress_tokens=[2, END],
    is_multilingual=True,
    lang_to_id={"<|en|>": ENGLISH, "<|de|>": GERMAN},
    task_to_id={"translate": TRANSLATE, "transcribe": TRANSCRIBE},
    no_timestamps_token_id=NO_TIMESTAMPS,
    max_initial_timestamp_index=4,
    return_timestamps=False,
    forced_decoder_ids=[[1, None], [2, TRANSCRIBE]],
    alignment_heads=[[0, 0]],
)


def spectrograms(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 5, 14)).astype(np.float32)


def flax_shapes(config: WhisperConfig) -> dict[str, tuple[int, ...]]:
    """Of the parameters, by Flax names."""
    skeleton = eqx.filter_eval_shape(WhisperForConditionalGeneration, config, key=jax.random.key(0))
    shapes = {}
    for name, leaf in named_parameters(skeleton).items():
        name, array = to_flax_leaf(name.replace("convolutions.conv", "encoder.conv"), np.empty(leaf.shape, bool))
        shapes[name] = array.shape
    return shapes


def parameters(config: WhisperConfig, dtype: Any = np.float32, seed: int = 0) -> dict[str, np.ndarray]:
    """By Flax names. No token is likely to follow itself, and tokens depend on the source and on their position."""
    params = randomised(flax_shapes(config), dtype, seed)
    params["model.decoder.layer_norm.scale"] *= -1  # with a tied head
    params["model.decoder.embed_positions.embedding"] *= 2
    params["model.decoder.embed_tokens.embedding"][END] *= 2
    for layer in range(config.decoder_layers):
        params[f"model.decoder.layers.{layer}.encoder_attn.out_proj.kernel"] *= 3
    return params


def random_whisper(name: str, dtype: Any = np.float32, seed: int = 0) -> WhisperForConditionalGeneration:
    config = WhisperConfig(**CONFIGS[name])
    return from_flax(unflatten(parameters(config, dtype, seed)), config)
