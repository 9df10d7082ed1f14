"""Models on many devices. `sharded_meshes.py` has the numbers; here are the rules."""

import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec as P

import bart_eqx
from bart_eqx.checkpoint.pytree import named_parameters
from bart_eqx.parallel import RULES, gathered, make_mesh, shard, shard_batch, shardings
from examples import lora
from examples.stacked import stack
from subprocesses import ends_well, free_port, start
from support import configured, random_model


MESH: Any = AbstractMesh((2, 4, 2), ("data", "fsdp", "tensor"))


def specs(tree: Any, **options: Any) -> dict[str, P]:
    is_sharding = lambda node: isinstance(node, NamedSharding)
    leaves = jax.tree_util.tree_leaves_with_path(shardings(tree, MESH, **options), is_leaf=is_sharding)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf.spec for path, leaf in leaves}


def test_rules() -> None:
    """By the end of a name, for the moments of an optimiser and for adapted and stacked layers too."""
    heads = dict(encoder_attention_heads=4, decoder_attention_heads=4)
    widths = dict(d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, **heads)
    model = random_model(bart_eqx.BartForConditionalGeneration, configured("unequal", **widths))
    found = specs(model)
    assert found.keys() == named_parameters(model).keys()
    layer = "model.decoder.layers.1"
    assert found[f"{layer}.self_attn.q_proj.weight"] == found[f"{layer}.fc1.weight"] == P("tensor", "fsdp")
    assert found[f"{layer}.encoder_attn.out_proj.weight"] == found[f"{layer}.fc2.weight"] == P("fsdp", "tensor")
    assert found[f"{layer}.fc1.bias"] == P("tensor") and found[f"{layer}.fc2.bias"] == P(None)
    assert found["model.shared.weight"] == P(None, ("tensor", "fsdp"))
    assert found["final_logits_bias"] == P(None, None) and found[f"{layer}.final_layer_norm.weight"] == P(None)

    moments = specs(optax.adam(1.0).init(eqx.filter(model, eqx.is_array)))
    assert {name.partition(".mu.")[2]: spec for name, spec in moments.items() if ".mu." in name} == found
    stacked = specs(stack(model))
    assert [spec for name, spec in stacked.items() if re.search("decoder.*fc1.weight", name)] == [
        P(None, "tensor", "fsdp")
    ]
    adapted = lora.attach(model, r"model\.decoder.*q_proj", rank=4, alpha=1.0, key=jax.random.key(0))
    own = (r"lora_A", P(None, "fsdp")), *RULES
    assert specs(adapted, rules=own)[f"{layer}.self_attn.q_proj.lora_A"] == P(None, "fsdp")
    assert specs(adapted)[f"{layer}.self_attn.q_proj.linear.weight"] == found[f"{layer}.self_attn.q_proj.weight"]


def test_an_axis_that_is_not_divided_stays_whole() -> None:
    """97 words of width 12: `tensor` divides the width, `fsdp` not what remains."""
    tree = {"shared": {"weight": jax.ShapeDtypeStruct((97, 12), jnp.float32)}, "name": "a setting"}
    assert specs(tree) == {"shared.weight": P(None, "tensor")}
    assert specs({"fc1": {"weight": jnp.ones(3)}}) == {"fc1.weight": P()}


def test_one_device(model: bart_eqx.BartForConditionalGeneration) -> None:
    mesh = make_mesh(devices=jax.devices()[:1])
    assert dict(mesh.shape) == dict(data=1, fsdp=1, tensor=1)
    there, ids = shard(model, mesh), shard_batch(jnp.array([[5, 6, 2], [7, 8, 2]]), mesh)
    assert eqx.tree_equal(there, model)
    view = gathered(there, mesh)
    assert jnp.array_equal(eqx.filter_jit(view)(ids).logits, eqx.filter_jit(model)(ids).logits)
    with pytest.raises(ValueError, match=r"must be the number of devices, 1. Got data=1, fsdp=2, tensor=1"):
        make_mesh(data=1, fsdp=2, devices=jax.devices()[:1])
    with pytest.raises(ValueError, match="Got data=None, fsdp=0"):
        make_mesh(fsdp=0, devices=jax.devices()[:1])


@pytest.mark.slow
def test_two_processes() -> None:
    """Neither sees the other's half of an array."""
    port = free_port()
    for process in [start("sharded_meshes.py", 4, port, rank) for rank in ("0", "1")]:
        ends_well(process)


@pytest.mark.slow
def test_eight_devices() -> None:
    """The compiler warns where it moves more than it should."""
    output = ends_well(start("sharded_meshes.py", 8))
    assert "Involuntary full rematerialization" not in output, output[-3000:]
