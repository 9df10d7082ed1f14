"""Helpers of the tests: configurations that expose mistakes, inputs, and measures of error."""

import contextlib
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bart_eqx
from bart_eqx.checkpoint.formats.lazy_array import LazyArray, from_numpy
from bart_eqx.checkpoint.formats.msgpack import msgpack_parts
from bart_eqx.checkpoint.formats.nested import flatten as flatten, unflatten as unflatten
from bart_eqx.checkpoint.formats.safetensors import safetensors_parts
from bart_eqx.checkpoint.formats.writer import write_parts
from bart_eqx.checkpoint.pytree import CLASSES as _CLASSES


CLASSES = list(_CLASSES.values())  # `BartModel` first

_TINY: dict[str, Any] = dict(
    vocab_size=97,
    max_position_embeddings=23,
    d_model=30,
    encoder_layers=1,
    encoder_attention_heads=5,
    encoder_ffn_dim=17,
    decoder_layers=2,
    decoder_attention_heads=3,
    decoder_ffn_dim=13,
    # Rates without effect: a loaded model is in inference mode.
    dropout=0.1,
    attention_dropout=0.2,
    activation_dropout=0.3,
    classifier_dropout=0.4,
    encoder_layerdrop=0.0,
    decoder_layerdrop=0.0,
)

# Each with the mistake that it catches.
CONFIGS: dict[str, dict[str, Any]] = {
    # encoder sizes used in the decoder, or vice versa
    "unequal": _TINY,
    # the scale forgotten on one side, or applied to the positions too
    "scaled": _TINY | dict(scale_embedding=True, encoder_layers=2, decoder_layers=1),
    # a head that uses the embedding although it has its own weights
    "untied": _TINY | dict(tie_word_embeddings=False, num_labels=5),
    # an approximate activation instead of the exact one; each entry of the table
    "gelu_new": _TINY | dict(activation_function="gelu_new", scale_embedding=True, tie_word_embeddings=False),
    "relu": _TINY | dict(activation_function="relu", encoder_attention_heads=2, decoder_attention_heads=6),
    "silu": _TINY | dict(activation_function="silu", d_model=22, encoder_attention_heads=11, decoder_attention_heads=1),
    "swish": _TINY | dict(activation_function="swish", encoder_ffn_dim=31, decoder_ffn_dim=7),
    "tanh": _TINY | dict(activation_function="tanh", encoder_layers=3, decoder_layers=3, num_labels=2),
    # BART's special ids hard-coded
    "other_ids": _TINY | dict(pad_token_id=0, bos_token_id=5, eos_token_id=7, decoder_start_token_id=11),
}


def configured(name: str, **changes: Any) -> bart_eqx.BartConfig:
    return bart_eqx.BartConfig(**(CONFIGS[name] | changes))


def randomised(
    shapes: Mapping[str, tuple[int, ...]], dtype: Any = np.float32, seed: int = 0, gain: float = 1.5
) -> dict[str, np.ndarray]:
    """Parameters by their Flax names. Each is seeded by its name, so that all models share its values.

    Large enough that logits differ by units. No bias is zero and no norm is one, so that a missing one shows.
    """
    params = {}
    for name, shape in shapes.items():
        draw = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
        if name.endswith("scale"):
            params[name] = 1 + 0.3 * draw
        elif name.endswith("bias"):
            params[name] = 0.3 * draw
        elif name.endswith("embedding"):
            params[name] = 0.7 * draw
        else:
            params[name] = gain * draw / np.sqrt(shape[0])
    return {name: np.asarray(value, dtype) for name, value in params.items()}


def write_file(path: Path, arrays: Mapping[str, np.ndarray], layout: str = "pt") -> None:
    """Write weights in the format that the path's suffix names."""
    stored = {name: from_numpy(array) for name, array in arrays.items()}
    parts = msgpack_parts(stored) if path.suffix == ".msgpack" else safetensors_parts(stored, layout=layout)
    path.unlink(missing_ok=True)
    write_parts(path, parts, stored)


def values(stored: Mapping[str, LazyArray]) -> dict[str, np.ndarray]:
    return {name: array.read() for name, array in stored.items()}


def ragged_inputs(config: bart_eqx.BartConfig, src: int = 11, tgt: int = 7) -> dict[str, Any]:
    """Three right-padded sources of unequal length with two `</s>` each, and three targets, one of them padded."""
    rng = np.random.default_rng(src + 100 * tgt)
    ids = rng.integers(12, config.vocab_size, (3, src))
    mask = np.ones((3, src), np.int32)
    for row, length in enumerate((src, src - 3, src - 6)):
        ids[row, length - 1] = ids[row, 2] = config.eos_token_id
        ids[row, length:] = config.pad_token_id
        mask[row, length:] = 0
    targets = rng.integers(12, config.vocab_size, (3, tgt))
    target_mask = np.ones((3, tgt), np.int32)
    target_mask[1, -2:] = 0
    return dict(
        input_ids=ids.astype(np.int32),
        attention_mask=mask,
        decoder_input_ids=targets.astype(np.int32),
        decoder_attention_mask=target_mask,
    )


def relative_error(ours: Any, reference: Any) -> float:
    """The largest absolute difference, divided by the largest absolute value of the reference."""
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    assert np.isfinite(ours).all() and np.isfinite(reference).all()
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def model_shapes(cls: Any, config: bart_eqx.BartConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of a class's parameters, by Flax names."""
    skeleton = eqx.filter_eval_shape(cls, config, key=jax.random.key(0))
    shapes = jax.tree.map(lambda leaf: np.empty(leaf.shape, bool) if hasattr(leaf, "shape") else leaf, skeleton)
    return {name: array.shape for name, array in flatten(bart_eqx.to_flax(shapes)).items()}


def random_model(cls: Any, config: bart_eqx.BartConfig, dtype: Any = np.float32, seed: int = 0) -> Any:
    params = randomised(model_shapes(cls, config), dtype, seed)
    return bart_eqx.from_flax(unflatten(params), config, cls)


@contextlib.contextmanager
def precision(dtype: Any) -> Iterator[None]:
    """Enable 64-bit mode inside the block if `dtype` is float64."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", jnp.dtype(dtype) == np.float64)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)
