"""Run by `test_sharding.py` in a process with 8 devices, for devices are counted when JAX starts.

Options and inputs of `generate` with rows on several devices; the searches themselves are in `sharded_meshes.py`.
"""

from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P

import bart_eqx
from support import configured, random_model


OPTIONS: dict[str, Any] = dict(max_length=12, forced_eos_token_id=None)


def a_model() -> Any:
    model = random_model(bart_eqx.BartForConditionalGeneration, configured("unequal", decoder_layers=1), seed=2)
    bias = model.final_logits_bias.at[0, model.config.eos_token_id].add(9.0)
    return eqx.tree_at(lambda m: m.final_logits_bias, model, bias)


def sources() -> np.ndarray:
    ids = np.random.default_rng(0).integers(4, 97, (16, 9))
    ids[::3, 6:] = 1
    return ids


def spread(x: np.ndarray, *spec: str | None) -> jax.Array:
    """Also where this process has only some of the devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, P(*spec)), lambda index: x[index])


def same(ours: Any, wanted: Any) -> bool:
    """Shard by shard, of those that this process has; every array in shards over `data`."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True)
    return all(
        "data" in x.sharding.spec
        and x.shape == np.shape(y)
        and all(np.allclose(shard.data, np.asarray(y)[shard.index], atol=1e-5) for shard in x.addressable_shards)
        for x, y in pairs
    )


def compare(model: Any) -> None:
    key = jax.random.key(1)
    cases: dict[str, dict[str, Any]] = {
        "beams": dict(num_beams=4, num_return_sequences=2, output_scores=True),
        "sampling": dict(do_sample=True, key=key, num_return_sequences=2),
        "lookup": dict(prompt_lookup_num_tokens=3),
        "attentions": dict(output_attentions=True, pad_to_multiple_of=16),
        "source": dict(encoder_repetition_penalty=1.3, encoder_no_repeat_ngram_size=3),
    }
    ids = sources()
    there = spread(ids, "data")
    for name, options in cases.items():
        wanted = bart_eqx.generate(model, ids, **OPTIONS, **options)
        assert len({tuple(row) for row in np.asarray(wanted.sequences).tolist()}) >= 8
        assert same(bart_eqx.generate(model, there, **OPTIONS, **options), wanted), name
    sampled: dict[str, Any] = dict(do_sample=True, key=key, num_return_sequences=2)
    streamed, wanted = (list(bart_eqx.stream(model, rows, **OPTIONS, **sampled)) for rows in (there, ids))
    assert same(streamed, wanted), "stream"


def given_parts() -> None:
    """The prompts alone are spread, with a mask; and an encoded source alone. Also over two processes."""
    model, ids = a_model(), sources()
    prompts, mask = np.full((16, 3), 30), np.arange(3) < np.arange(16)[:, None] % 3 + 1
    prompts[:, 0] = 2
    prompted: dict[str, Any] = dict(decoder_input_ids=prompts, decoder_attention_mask=mask, **OPTIONS)
    wanted = bart_eqx.generate(model, ids, **prompted)
    prompted |= dict(decoder_input_ids=spread(prompts, "data"))
    assert same(bart_eqx.generate(model, ids, **prompted), wanted), "prompts"
    encoded = eqx.filter_jit(model.encode)(ids, ids != 1)
    wanted = bart_eqx.generate(model, encoder_outputs=encoded, attention_mask=ids != 1, **OPTIONS)
    encoded = jax.tree.map(lambda x: spread(np.asarray(x), "data"), encoded)
    ours = bart_eqx.generate(model, encoder_outputs=encoded, attention_mask=ids != 1, **OPTIONS)
    assert same(ours, wanted), "encoder_outputs"


def batch_axes(model: Any) -> None:
    """The second of two batch axes over the devices."""
    ids = sources().reshape(2, 8, 9)
    wanted = bart_eqx.generate(model, ids, **OPTIONS)
    ours = bart_eqx.generate(model, spread(ids, None, "data"), **OPTIONS)
    there: Any = ours.sequences.sharding
    assert there.spec == P(None, "data") and same(ours, wanted)


if __name__ == "__main__":
    compare(a_model())
    given_parts()
    batch_axes(a_model())
    print("all the same")
