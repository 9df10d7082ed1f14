"""Stages, in-place writes and shared traces: they change no result, and they take effect."""

import dataclasses
import re
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest

import bart_eqx
from bart_eqx.generation import decode_loop
from support import random_model


CONFIG = bart_eqx.BartConfig(
    vocab_size=61,
    max_position_embeddings=40,
    d_model=24,
    encoder_layers=1,
    decoder_layers=2,
    encoder_attention_heads=3,
    decoder_attention_heads=2,
    encoder_ffn_dim=20,
    decoder_ffn_dim=28,
    forced_eos_token_id=None,
)
ON_CPU = pytest.mark.skipif(jax.default_backend() != "cpu", reason="looks for what XLA does on CPU")
OPTIONS: dict[str, Any] = dict(max_length=14, min_length=9, num_beams=3, num_return_sequences=2)


@pytest.fixture(scope="module")
def model() -> bart_eqx.BartForConditionalGeneration:
    return random_model(bart_eqx.BartForConditionalGeneration, CONFIG)


def source(rows: int = 3, width: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Ids, and a mask under which rows have unequal lengths; the last row is padded in its first half."""
    ids = np.random.default_rng(0).integers(4, 61, (rows, width))
    lengths = np.linspace(width, 2, rows).astype(int)
    mask = np.arange(width) < lengths[:, None]
    mask[-1] = np.arange(width) >= width // 2
    return ids, mask


@pytest.mark.parametrize("steps, ends", [(1, [1]), (127, [127]), (128, [64, 128]), (1023, [64, 256, 1023])])
def test_stages(steps: int, ends: list[int]) -> None:
    assert decode_loop.stage_ends(steps) == ends


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(dict(max_length=14, min_length=9), id="greedy"),
        pytest.param(OPTIONS, id="beams", marks=pytest.mark.slow),
        pytest.param(dict(max_length=14, prompt_lookup_num_tokens=2), id="lookup", marks=pytest.mark.slow),
    ],
)
def test_stages_are_not_seen(
    model: bart_eqx.BartForConditionalGeneration, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, mask = source()
    prompt = np.array([[2, 7, 9]] * 3)
    wanted = bart_eqx.generate(model, ids, mask, decoder_input_ids=prompt, **options)
    monkeypatch.setattr(decode_loop, "FIRST_STAGE", 2)
    monkeypatch.setattr(decode_loop, "STAGE_GROWTH", 2)
    jax.clear_caches()
    assert decode_loop.stage_ends(11) == [2, 4, 11]
    staged = bart_eqx.generate(model, ids, mask, decoder_input_ids=prompt, **options)
    assert np.array_equal(staged.sequences, wanted.sequences)
    jax.clear_caches()


@pytest.mark.slow
@pytest.mark.optimised
@ON_CPU
@pytest.mark.parametrize("rows", [1, 2])
def test_the_cache_is_written_in_place(model: bart_eqx.BartForConditionalGeneration, rows: int) -> None:
    """Keys and values of two layers are four writes. If XLA writes one twice, for its reader and for the next step, it
    copies the cache for both."""
    ids = np.full((rows, 5), 7)
    arrays, static = eqx.partition(model, eqx.is_array)
    write = lambda arrays: bart_eqx.generate(eqx.combine(arrays, static), ids, max_length=40).sequences
    program = str(jax.jit(write).lower(arrays).compile().as_text())
    assert len(re.findall(rf"= f32\[({rows},)?2,(12,39|39,12)\]\S* dynamic-update-slice\(", program)) == 4


def test_layers_alike_are_traced_once() -> None:
    traced: list[str] = []

    class Noticed(bart_eqx.AbstractAttention):
        inner: bart_eqx.AbstractAttention
        where: str = eqx.field(static=True)

        def project_kv(self, source: jax.Array, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self.inner.project_kv(source, positions)

        def attend(self, x: jax.Array, *args: Any, **kwargs: Any) -> tuple[jax.Array, jax.Array | None]:
            traced.append(self.where)
            return self.inner.attend(x, *args, **kwargs)

    model = random_model(bart_eqx.BartModel, dataclasses.replace(CONFIG, encoder_layers=3, decoder_layers=4))
    where = lambda m: [x.self_attn for x in m.encoder.layers] + [x.self_attn for x in m.decoder.layers]
    names = ["encoder"] * 3 + ["decoder"] * 4
    model = eqx.tree_at(where, model, [Noticed(x, name) for x, name in zip(where(model), names, strict=True)])
    ids, _ = source()
    for _ in range(2):  # without an outer `jit`; the second call is not traced
        model(ids)
    assert traced == ["encoder", "decoder"]
