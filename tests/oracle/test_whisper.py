"""`examples/whisper` equals Hugging Face's FlaxWhisper: outputs, cached decoding, tokens, the shapes of the cache."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

import bart_eqx
from bart_eqx.checkpoint.names import from_flax_leaf
from bart_eqx.checkpoint.pytree import named_parameters
from bart_eqx.generation.processors.scores import Suppress
from examples.whisper.checkpoint import from_flax
from examples.whisper.config import WhisperConfig
from examples.whisper.processors import FlaxTimestampRules, ForcedTokens
from support import flatten, precision, relative_error, unflatten
from whisper_cases import (
    CONFIGS,
    END,
    GENERATION,
    GERMAN,
    NO_TIMESTAMPS,
    START,
    TRANSCRIBE,
    flax_shapes,
    parameters,
    spectrograms,
)


LIMITS = {"float32": 5e-6, "float64": 1e-12}
TARGET = np.array([[41, 42, 45, 46, 3, 7, 50], [41, 43, 44, 46, 11, 12, 13]], np.int32)


@functools.cache
def both(name: str, dtype: Any) -> tuple[Any, Any]:
    """Their model, with random parameters, and ours with the same."""
    reference = transformers.FlaxWhisperForConditionalGeneration(
        transformers.WhisperConfig(**CONFIGS[name]), dtype=dtype, _do_init=True
    )
    config = WhisperConfig.from_dict(reference.config.to_dict())
    assert config == WhisperConfig(**CONFIGS[name])
    assert flax_shapes(config) == {name: array.shape for name, array in flatten(reference.params).items()}
    reference.params = unflatten(parameters(config, dtype))
    return reference, from_flax(reference.params, config)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("name", CONFIGS)
def test_all_outputs(name: str, dtype: str) -> None:
    with precision(dtype):
        reference, model = both(name, np.dtype(dtype).type)
        outputs = dict(output_hidden_states=True, output_attentions=True)
        wanted = reference(spectrograms(2), TARGET, **outputs)
        got = model(spectrograms(2), TARGET, **outputs)
        errors: dict[str, float] = {}
        for field, value in wanted.items():
            ours, theirs = getattr(got, field), value
            pairs = zip(ours, theirs, strict=True) if isinstance(theirs, tuple) else [(ours, theirs)]
            for index, (mine, one) in enumerate(pairs):
                assert mine.dtype == dtype
                errors[f"{field}.{index}"] = relative_error(mine, one)
    worst = max(errors, key=errors.__getitem__)
    print(name, dtype, worst, errors[worst])
    assert errors[worst] <= LIMITS[dtype], worst
    assert len(errors) == 4 + 2 * model.config.encoder_layers + 3 * model.config.decoder_layers


def test_cached_decoding() -> None:
    """In three calls, with both caches. Measured 4e-7."""
    reference, model = both("distilled", np.float32)
    theirs = reference.encode(spectrograms(2))
    ours = model.encode(spectrograms(2))
    past, cache = reference.init_cache(2, 9, theirs), model.model.init_cache(2, 9, ours)
    mask = np.ones((2, 9), np.int32)
    for start, end in ((0, 3), (3, 4), (4, 7)):
        positions = np.broadcast_to(np.arange(start, end), (2, end - start))
        wanted = reference.decode(
            TARGET[:, start:end],
            theirs,
            decoder_attention_mask=mask,
            decoder_position_ids=positions,
            past_key_values=past,
        )
        past = wanted.past_key_values
        got, cache = model.decode(TARGET[:, start:end], cache)
        assert relative_error(got.logits, wanted.logits) <= LIMITS["float32"]
        for layer, kv in enumerate(cache.self_attn):
            of_layer = past["model"]["decoder"]["layers"][str(layer)]["self_attn"]
            assert int(of_layer["cache_index"]) == int(cache.position) == end
            assert relative_error(np.moveaxis(kv.keys, -1, 1), of_layer["cached_key"]) <= LIMITS["float32"]
            assert relative_error(np.moveaxis(kv.values, 2, 1), of_layer["cached_value"]) <= LIMITS["float32"]


@pytest.mark.parametrize("name", CONFIGS)
def test_init_cache(name: str) -> None:
    """The reference's arrays, `[batch, max_length, heads, head_dim]`, with other orders of the axes: keys
    `[batch, heads, head_dim, max_length]`, as in distil-whisper, and values `[batch, heads, max_length, head_dim]`.
    Beside them, the keys and values of the source, which the reference computes at every step."""
    reference, model = both(name, np.float32)
    past = reference.init_cache(2, 9, reference.encode(spectrograms(2)))
    cache = model.model.init_cache(2, 9, model.encode(spectrograms(2)))
    layers = past["model"]["decoder"]["layers"]
    assert len(cache.self_attn) == len(cache.cross_attn) == len(layers) == model.config.decoder_layers
    for kv, source, of_layer in zip(cache.self_attn, cache.cross_attn, layers.values(), strict=True):
        batch, slots, heads, width = of_layer["self_attn"]["cached_key"].shape
        assert (batch, slots, heads, width) == (2, 9, 2, 6) == of_layer["self_attn"]["cached_value"].shape
        assert kv.keys.shape == (batch, heads, width, slots) and kv.values.shape == (batch, heads, slots, width)
        assert source.keys.shape == (batch, heads, width, 7) and source.values.shape == (batch, heads, 7, width)
        assert not np.any(kv.keys) and not np.any(of_layer["self_attn"]["cached_key"])
    assert int(cache.position) == int(layers["0"]["self_attn"]["cache_index"]) == 0


@pytest.mark.filterwarnings("ignore:Using the model-agnostic default")
@pytest.mark.parametrize("return_timestamps", [False, True], ids=["text", "timestamps"])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_tokens(num_beams: int, return_timestamps: bool) -> None:
    """Forced tokens, suppressed tokens, timestamps."""
    reference, first = both("distilled", np.float32)
    options: dict[str, Any] = dict(max_length=16, num_beams=num_beams, suppress_tokens=[1, 5, 9, START])
    settings = GENERATION | options | dict(language="<|de|>", task="transcribe", return_timestamps=return_timestamps)

    @jax.jit
    def theirs(params: Any, features: Any) -> Any:
        return reference.generate(features, transformers.GenerationConfig(**settings), params=params)

    forced = [-1, GERMAN, TRANSCRIBE, *([] if return_timestamps else [NO_TIMESTAMPS])]
    processors: list[Any] = [Suppress(jnp.array([2, END]), jnp.array(len(forced))), ForcedTokens(jnp.array(forced))]
    if return_timestamps:
        rules = dict(no_timestamps=NO_TIMESTAMPS, eos=END, begin=4, max_initial=4)  # as that class counts
        processors.append(FlaxTimestampRules(**{name: jnp.array(value) for name, value in rules.items()}))
    lengths, stamps = set(), 0
    for seed in range(4):
        params = unflatten(parameters(first.config, seed=seed))
        wanted = theirs(params, spectrograms(3, seed))
        model = from_flax(params, first.config)
        got = bart_eqx.generate(model, spectrograms(3, seed), semantics="flax", logits_processor=processors, **options)
        np.testing.assert_array_equal(got.sequences, wanted.sequences)
        if num_beams > 1:
            assert got.scores is not None
            np.testing.assert_allclose(got.scores, wanted.scores, rtol=1e-5, atol=1e-5)
        lengths |= set(got.lengths.tolist())
        stamps += int(np.sum(np.asarray(got.sequences) > NO_TIMESTAMPS))
    assert len(lengths) > 1 and (stamps > 9 or not return_timestamps), (lengths, stamps)


def test_gradients() -> None:
    """Of every parameter; those of the sinusoids are zero, as in the reference. Measured 2e-6."""
    reference, model = both("untied", np.float32)
    theirs = jax.grad(lambda params: reference(spectrograms(2), TARGET, params=params).logits.std())(reference.params)
    ours = eqx.filter_grad(lambda model: model(spectrograms(2), TARGET).logits.std())(model)
    got = {name.replace("convolutions.conv", "encoder.conv"): g for name, g in named_parameters(ours).items()}
    wanted = dict(from_flax_leaf(name, np.asarray(array)) for name, array in flatten(theirs).items())
    assert got.keys() == wanted.keys() and not np.any(got["model.encoder.embed_positions.weight"])
    largest = max(float(np.abs(array).max()) for array in wanted.values())
    for name, array in wanted.items():
        assert np.abs(np.asarray(got[name]) - array).max() <= 5e-6 * largest, name
