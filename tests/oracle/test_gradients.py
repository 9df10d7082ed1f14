"""The gradient of a loss for every parameter equals that of Hugging Face's Flax."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bart_eqx
from support import flatten, precision

from .conftest import compared, hf_model, our_model
from .test_forward import inputs_for


# Measured over all cases: at most 6.5e-6 in float32, 1.1e-14 in float64.
LIMITS = {"float32": 2e-5, "float64": 1e-10}

# Smaller weights than in other tests. Where softmax is saturated, the gradient of a query is a difference of nearly
# equal numbers, and float32 leaves mostly rounding, also in the reference: with the other tests' gain of 1.5, the worst
# of `tanh` differ by 3.7e-4, and from their values in float64 by 2.4e-4 (ours) and 1.2e-4 (theirs).
GAIN = 0.7
CASES = ["unequal", "scaled", "untied", "gelu_new", "silu", "tanh"]


def loss_of(out: object) -> jax.Array:
    """A loss in which every number of every output has its own weight."""
    loss = jnp.zeros(())
    for name in ("logits", "start_logits", "end_logits", "last_hidden_state"):
        value = getattr(out, name, None)
        if value is not None:
            weights = np.random.default_rng(len(name)).standard_normal(value.shape)
            loss += jnp.mean(jnp.tanh(value / 4) * weights.astype(value.dtype))
    return loss


@pytest.mark.parametrize(("cls_name", "config_name", "dtype"), compared(CASES))
def test_every_parameter(
    cls_name: str, config_name: str, dtype: str, record_property: Callable[[str, object], None]
) -> None:
    with precision(dtype):
        reference = hf_model(cls_name, config_name, dtype, GAIN)
        model = our_model(cls_name, config_name, dtype, GAIN)
        inputs = inputs_for(cls_name, model.config)
        # One `</s>` per row: under jit, the reference sums the states of all.
        inputs["input_ids"][:, 2] = 13
        theirs = jax.jit(jax.grad(lambda params, inputs: loss_of(reference(**inputs, params=params))))
        ours = eqx.filter_jit(eqx.filter_grad(lambda model, inputs: loss_of(model(**inputs))))
        wanted, got = flatten(theirs(reference.params, inputs)), flatten(bart_eqx.to_flax(ours(model, inputs)))
        assert got.keys() == wanted.keys()
        errors: dict[str, float] = {}
        for name, gradient in wanted.items():
            if name == "final_logits_bias":
                assert not got[name].any() and not np.asarray(gradient).any()
                continue
            scale = np.abs(gradient).max()
            if name.endswith("k_proj.bias"):
                # Zero up to rounding, because softmax ignores what is added to all scores of a query: compared at the
                # scale of the query bias's gradient.
                scale = np.abs(wanted[name.replace("k_proj", "q_proj")]).max()
            if scale == 0:  # cross attention, in a decoder without an encoder
                assert "encoder_attn" in name and cls_name == "BartForCausalLM" and not got[name].any()
                continue
            errors[name] = float(np.abs(got[name] - gradient).max() / scale)
        worst = max(errors, key=errors.__getitem__)
        record_property("largest", f"{errors[worst]:.1e} {worst}")
        assert errors[worst] <= LIMITS[dtype], worst
