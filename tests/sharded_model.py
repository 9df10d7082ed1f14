"""Run by `test_sharding.py` in a process with 8 devices, for devices are counted when JAX starts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import bart_eqx
from bart_eqx.training import cross_entropy
from support import configured, random_model, relative_error


CONFIG = configured(
    "unequal", d_model=32, vocab_size=128, max_position_embeddings=300, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64,
)  # fmt: skip
SHARE = 1.05 / 8


def spread(x: np.ndarray, kind: AxisType = AxisType.Auto) -> jax.Array:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    return jax.device_put(x, NamedSharding(mesh, P("data")))


def flops(function: Callable[..., Any], *arguments: Any) -> float:
    """Of one device."""
    compiled: Any = jax.jit(function).lower(*arguments).compile()
    return compiled.cost_analysis()["flops"]


def check(name: str, function: Callable[..., Any], model: Any, *arrays: np.ndarray, tolerance: float) -> None:
    arrays_of_model, static = eqx.partition(model, eqx.is_array)
    run = lambda parameters, *arrays: function(eqx.combine(parameters, static), *arrays)
    wanted = jax.jit(run)(arrays_of_model, *arrays)
    got = jax.jit(run)(arrays_of_model, *map(spread, arrays))
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    assert relative_error(flat(got), flat(wanted)) <= tolerance, (name, relative_error(flat(got), flat(wanted)))
    one, each = flops(run, arrays_of_model, *arrays), flops(run, arrays_of_model, *map(spread, arrays))
    print(f"{name}: {each / one:.4f} of one device's operations, error {relative_error(flat(got), flat(wanted)):.1e}")
    assert each <= SHARE * one, (name, each / one)


def explicit(model: Any) -> None:
    """Axes of type Explicit: the message names both ways out, wherever a call begins."""
    ids, labels = np.full((8, 5), 7, np.int32), np.full((8, 4), 9, np.int32)
    calls = [
        lambda: model(spread(ids, AxisType.Explicit)),
        lambda: eqx.filter_jit(model)(spread(ids, AxisType.Explicit)),
        lambda: bart_eqx.generate(model, spread(ids, AxisType.Explicit), max_length=5),
        lambda: next(bart_eqx.stream(model, spread(ids, AxisType.Explicit), max_length=5)),
        lambda: cross_entropy(model.lm_logits, spread(np.ones((8, 4, 32), np.float32), AxisType.Explicit), labels),
        lambda: eqx.tree_at(lambda m: m.model.shared.weight, model, sharded_table(model))(ids),
    ]
    for call in calls:
        try:
            call()
        except ValueError as error:
            assert "AxisType.Auto" in str(error) and "auto_axes" in str(error), error
        else:
            raise AssertionError("nothing was raised")


def sharded_table(model: Any) -> jax.Array:
    return spread(np.asarray(model.model.shared.weight), AxisType.Explicit)


def main() -> None:
    assert jax.device_count() == 8
    model = random_model(bart_eqx.BartForConditionalGeneration, CONFIG)
    random = np.random.default_rng(0)
    ids = random.integers(4, 128, (16, 256)).astype(np.int32)
    labels = random.integers(4, 128, (16, 40)).astype(np.int32)

    def loss(model: Any, ids: Any, labels: Any) -> jax.Array:
        states = model.model(ids, decoder_input_ids=bart_eqx.shift_tokens_right(labels, 1, 2)).last_hidden_state
        return cross_entropy(model.lm_logits, states, labels, rows=64)

    gradient = lambda model, ids, labels: eqx.filter(eqx.filter_grad(loss)(model, ids, labels), eqx.is_array)
    encode = lambda model, ids: model.encode(ids).last_hidden_state
    # float32: each device sums its rows, and then these sums. Measured: 1e-6, of gradients 4e-6.
    check("encode", encode, model, ids, tolerance=5e-6)
    check("gradient", gradient, model, ids, labels, tolerance=2e-5)
    for num_beams in (1, 4):
        options: dict[str, Any] = dict(num_beams=num_beams, max_length=12, min_length=12)
        check(f"generate, {num_beams} beams", lambda m, ids, o=options: bart_eqx.generate(m, ids, **o).sequences, model,
              ids, tolerance=0)  # fmt: skip
        result = bart_eqx.generate(model, spread(ids), **options)
        sharding = result.sequences.sharding
        assert isinstance(sharding, NamedSharding) and sharding.spec[0] == "data"
        wanted = bart_eqx.generate(model, ids, **options).sequences
        assert jnp.array_equal(np.asarray(result.sequences), np.asarray(wanted))
    explicit(model)
    print("all the same")


if __name__ == "__main__":
    main()
