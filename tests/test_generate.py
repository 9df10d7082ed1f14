"""The greedy loop, against one that is written out step by step."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
from bart_eqx import GenerationConfig, generate
from support import CONFIGS, ragged_inputs, random_model


Model = bart_eqx.BartForConditionalGeneration


def written_out(model: Model, ids: Any, mask: Any, max_length: int, bos: int | None, eos: int | None) -> list[int]:
    """One row, without a cache and without a loop of JAX's: the whole prefix anew for every token."""
    end, pad = model.config.eos_token_id, model.config.pad_token_id
    tokens = [model.config.decoder_start_token_id]
    while len(tokens) < max_length:
        if len(tokens) == 1 and bos is not None:
            tokens.append(bos)
        elif len(tokens) == max_length - 1 and eos is not None:
            tokens.append(eos)
        else:
            tokens.append(
                int(jnp.argmax(full(model, ids, mask, np.array(tokens + [pad] * (15 - len(tokens))), len(tokens))))
            )
        if tokens[-1] == end:
            break
    return tokens


@eqx.filter_jit
def full(model: Model, ids: Any, mask: Any, tokens: Any, length: Any) -> Any:
    return model(ids, mask, tokens).logits[jnp.asarray(length) - 1]


@pytest.fixture(scope="module", params=["unequal", "other_ids"])
def writer(request: pytest.FixtureRequest) -> Model:
    """A random model, made likelier to end, so that rows end at different places."""
    model = random_model(Model, bart_eqx.BartConfig(**CONFIGS[request.param]), seed=2)
    eos = model.config.eos_token_id
    bias = model.final_logits_bias.at[0, eos].add(9.0)
    return eqx.tree_at(lambda m: m.final_logits_bias, model, bias)


@pytest.mark.parametrize(("bos", "eos"), [(None, None), (13, 7)])
def test_greedy(writer: Model, bos: int | None, eos: int | None) -> None:
    inputs = ragged_inputs(writer.config)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    result = generate(writer, ids, mask, max_length=12, forced_bos_token_id=bos, forced_eos_token_id=eos)
    assert result.sequences.shape == (3, 12) and result.scores is None
    for row in range(3):
        wanted = written_out(writer, ids[row], jnp.asarray(mask[row]), 12, bos, eos)
        length = int(result.lengths[row])
        assert result.sequences[row, :length].tolist() == wanted
        assert (result.sequences[row, length:] == writer.config.pad_token_id).all()


def test_rows_end_apart(writer: Model) -> None:
    """The case above means something: some rows end early, and one row's end leaves the others alone."""
    inputs = ragged_inputs(writer.config)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    together = generate(writer, ids, mask, max_length=15, forced_eos_token_id=None)
    if writer.config.eos_token_id == 2:
        assert len(set(together.lengths.tolist())) > 1
    for row in range(3):
        alone = generate(writer, ids[row], mask[row], max_length=15, forced_eos_token_id=None)
        assert alone.sequences.shape == (15,)
        np.testing.assert_array_equal(alone.sequences, together.sequences[row])
        assert alone.lengths == together.lengths[row]


def test_the_mask_is_inferred_from_padding(model: Model, config: bart_eqx.BartConfig) -> None:
    inputs = ragged_inputs(config)
    given = generate(model, inputs["input_ids"], inputs["attention_mask"], max_length=8)
    inferred = generate(model, inputs["input_ids"], max_length=8)
    np.testing.assert_array_equal(inferred.sequences, given.sequences)
    unmasked = generate(model, inputs["input_ids"], np.ones((3, 11), int), max_length=8)
    assert (unmasked.sequences != given.sequences).any()


def test_lengths(model: Model) -> None:
    ids = np.array([5, 6, 7])
    assert generate(model, ids).sequences.shape == (20,)  # the default, as in transformers
    assert generate(model, ids, max_new_tokens=3).sequences.shape == (4,)
    assert generate(model, ids, max_length=23).sequences.shape == (23,)
    settings = GenerationConfig(max_length=5)
    assert generate(model, ids, generation_config=settings).sequences.shape == (5,)
    assert generate(model, ids, max_length=2, forced_eos_token_id=2).sequences.tolist() == [2, 2]
    assert generate(model, ids, max_length=2, forced_eos_token_id=2).lengths == 2


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(num_beams=4), ValueError, "num_beams=4, .*num_beams=1"),
        (dict(do_sample=True, min_length=3), ValueError, "do_sample=True, min_length=3"),
        (dict(no_repeat_ngram_size=3), ValueError, "no_repeat_ngram_size=3"),
        (dict(max_lenght=4), TypeError, "max_lenght"),
        (dict(max_length=1), ValueError, "at least 2"),
        (dict(max_length=25), ValueError, "at most max_position_embeddings=23. Got max_length=24"),
    ],
)
def test_refused(model: Model, options: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        generate(model, np.array([5, 6]), **options)


def test_ids_outside_the_vocabulary(model: Model) -> None:
    with pytest.raises(ValueError, match="Got 97"):
        generate(model, np.array([5, 97]))
