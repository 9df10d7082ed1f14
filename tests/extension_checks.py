"""What every model with a replaced part must do: read a cache as it reads a whole target, and generate."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
from support import configured, ragged_inputs, relative_error


CONFIG = configured("unequal", d_model=32, encoder_attention_heads=4, decoder_attention_heads=4, encoder_layers=2)
LIMIT = 1e-5


def self_attentions(model: Any) -> list[Any]:
    return [layer.self_attn for side in (model.model.encoder, model.model.decoder) for layer in side.layers]


def check_cached_equals_full(model: Any) -> None:
    """In chunks of several sizes, over padded sources."""
    inputs = ragged_inputs(CONFIG)
    ids, mask, target = inputs["input_ids"], inputs["attention_mask"], inputs["decoder_input_ids"]

    @eqx.filter_jit
    def both(model: Any) -> tuple[jax.Array, jax.Array]:
        cache = model.init_cache(model.encode(ids, mask), mask, max_length=10)
        parts = []
        for start, end in ((0, 3), (3, 4), (4, 7)):
            output, cache = model.decode(target[:, start:end], cache)
            parts.append(output.logits)
        return jnp.concatenate(parts, axis=1), model(ids, mask, target).logits

    cached, whole = both(model)
    assert relative_error(cached, whole) <= LIMIT


@eqx.filter_jit
def _logits(model: Any, ids: Any, mask: Any, target: Any) -> jax.Array:
    return model(ids, mask, target).logits


def check_generates(model: Any) -> None:
    """Greedy search chooses the best word at each step, and four beams have the scores of their sequences: both as read
    in one piece, without a cache."""
    inputs = ragged_inputs(CONFIG)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    options: dict[str, Any] = dict(max_length=9, min_length=9, forced_eos_token_id=None)
    of_beams = lambda x: np.repeat(x, 4, axis=0)
    whole = lambda sequences: _logits(model, of_beams(ids), of_beams(mask), sequences[:, :-1])
    greedy = bart_eqx.generate(model, ids, mask, num_beams=1, output_logits=True, **options)
    assert greedy.step_logits is not None
    assert relative_error(greedy.step_logits, whole(of_beams(greedy.sequences))[::4]) <= LIMIT
    beams = bart_eqx.generate(model, ids, mask, num_beams=4, num_return_sequences=4, **options)
    assert beams.scores is not None
    scores = jax.nn.log_softmax(whole(beams.sequences))
    totals = jnp.sum(jnp.take_along_axis(scores, beams.sequences[:, 1:, None], axis=-1), axis=(1, 2))
    assert np.asarray(beams.scores) == pytest.approx(np.asarray(totals) / 8, rel=LIMIT)
    for of_source in np.asarray(beams.sequences).reshape(3, 4, 9):
        assert len({tuple(row) for row in of_source}) == 4
