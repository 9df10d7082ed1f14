"""LoRA, over float32 and int8 weights, and the adapter folders of PEFT."""

import json
import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jaxtyping import TypeCheckError

import bart_eqx
from bart_eqx.model.quantized import QuantizedLinear
from bart_eqx.training import cross_entropy, rematerialise
from examples import lora
from examples.peft_adapters import load_adapter, save_adapter
from extension_checks import CONFIG, check_cached_equals_full, check_generates
from support import ragged_inputs, random_model, relative_error


REFERENCES = Path(__file__).parent / "references"
PATHS = r"model\..*\.(self_attn|encoder_attn)\.[qv]_proj"


def trained(model: Any) -> Any:
    """With updates as large as those of a long training."""
    draw = lambda leaf, adapter: jax.random.normal(jax.random.key(leaf.size), leaf.shape) / 5 if adapter else leaf
    return jax.tree.map(draw, model, lora.is_adapter(model))


@pytest.fixture(scope="module")
def bart() -> bart_eqx.BartForConditionalGeneration:
    return random_model(bart_eqx.BartForConditionalGeneration, CONFIG)


@pytest.fixture(scope="module")
def model(bart: bart_eqx.BartForConditionalGeneration) -> Any:
    return trained(lora.attach(bart, PATHS, rank=3, alpha=6, key=jax.random.key(0)))


@eqx.filter_jit
def logits(model: Any) -> jax.Array:
    inputs = ragged_inputs(CONFIG)
    return model(inputs["input_ids"], inputs["attention_mask"], inputs["decoder_input_ids"]).logits


def loss(model: Any) -> jax.Array:
    inputs = ragged_inputs(CONFIG)
    states = model.model(inputs["input_ids"], inputs["attention_mask"], inputs["decoder_input_ids"]).last_hidden_state
    return cross_entropy(model.lm_logits, states, np.roll(inputs["decoder_input_ids"], -1))


class TestLoRA:
    def test_definition(self, model: Any) -> None:
        """Measured 1.4e-7."""
        adapter = model.model.encoder.layers[1].self_attn.q_proj
        x = jax.random.normal(jax.random.key(1), (2, 5, 32))
        w, b, lora_a, lora_b, wide = (
            np.asarray(p, np.float64)
            for p in (adapter.linear.weight, adapter.linear.bias, adapter.lora_A, adapter.lora_B, x)
        )
        assert relative_error(adapter(x), wide @ (w + 6 / 3 * lora_b @ lora_a).T + b) <= 1e-6

    def test_bfloat16(self, bart: Any) -> None:
        """Adapters stay in float32, and the model computes in its own dtype."""
        narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16) if eqx.is_inexact_array(x) else x, bart)
        model = trained(lora.attach(narrow, PATHS, rank=3, alpha=6, key=jax.random.key(0)))
        assert model.model.encoder.layers[0].self_attn.q_proj.lora_A.dtype == jnp.float32
        assert logits(model).dtype == jnp.bfloat16

    def test_attached_by_path(self, bart: Any) -> None:
        """The outputs are the same until the adapters are trained, up to rounding: two programs."""
        model = lora.attach(bart, PATHS, rank=3, alpha=6.0, key=jax.random.key(0))
        found = lora.named(model, lora.LoRALinear)
        assert len(found) == 2 * (2 + 2 * 2) and "model.decoder.layers.1.encoder_attn.v_proj" in found
        assert relative_error(logits(model), logits(bart)) <= 1e-6
        assert not np.array_equal(*(adapter.lora_A for adapter in [*found.values()][:2]))
        with pytest.raises(ValueError, match="No linear map's path matches 'q_proj', of .*'model.encoder.layers.0"):
            lora.attach(bart, "q_proj", rank=3, alpha=6.0, key=jax.random.key(0))

    def test_training(self, bart: Any) -> None:
        """Only adapters change, by way of rematerialised layers too, and only they have moments in the optimiser."""
        model = lora.attach(bart, PATHS, rank=2, alpha=4.0, key=jax.random.key(0))
        adapters, rest = eqx.partition(model, lora.is_adapter(model))
        assert sum(leaf.size for leaf in jax.tree.leaves(adapters)) == 12 * 2 * (32 + 32)
        optimiser = optax.adam(1e-2)

        @eqx.filter_jit
        def step(adapters: Any, state: Any) -> tuple[Any, Any, jax.Array]:
            of_adapters = lambda adapters: loss(rematerialise(eqx.combine(adapters, rest)))
            value, gradients = eqx.filter_value_and_grad(of_adapters)(adapters)
            updates, state = optimiser.update(gradients, state)
            return eqx.apply_updates(adapters, updates), state, value

        state, values = optimiser.init(adapters), []
        for _ in range(8):
            adapters, state, value = step(adapters, state)
            values.append(float(value))
        assert values[-1] < 0.8 * values[0]
        assert all(
            np.any(adapter.lora_B) for adapter in lora.named(eqx.combine(adapters, rest), lora.LoRALinear).values()
        )

    def test_merge_and_unmerge(self, bart: Any, model: Any, tmp_path: Path) -> None:
        """Measured 3.2e-7, of logits that the adapters move by two thirds of their range."""
        merged = lora.merge(model)
        assert jax.tree.structure(merged) == jax.tree.structure(bart)
        assert relative_error(logits(model), logits(bart)) > 0.1 > 2e-6 >= relative_error(logits(merged), logits(model))
        apart = lora.unmerge(merged, model)
        assert jax.tree.structure(apart) == jax.tree.structure(model)
        assert relative_error(logits(apart), logits(model)) <= 2e-6
        for one, other in zip(jax.tree.leaves(apart), jax.tree.leaves(model), strict=True):
            if eqx.is_array(one):
                assert relative_error(one, other) <= 2e-6
        bart_eqx.save_pretrained(merged, tmp_path / "merged")
        assert eqx.tree_equal(bart_eqx.from_pretrained(tmp_path / "merged"), merged)
        with pytest.raises(bart_eqx.CheckpointError, match="merge the additions into its weights"):
            bart_eqx.save_pretrained(model, tmp_path / "adapted")

    def test_cached_equals_full(self, model: Any) -> None:
        check_cached_equals_full(model)

    def test_greedy_and_four_beams(self, model: Any) -> None:
        check_generates(model)

    def test_wrong_shape(self, bart: Any, model: Any) -> None:
        where = lambda m: m.model.encoder.layers[0].self_attn.q_proj.lora_A
        wrong = eqx.tree_at(where, model, jnp.ones((3, 31)))
        with pytest.raises(TypeCheckError, match=r"\*batch \{self.lora_A.shape\[1\]\}"):
            logits(wrong)
        linear = bart.model.encoder.layers[0].self_attn.q_proj
        with pytest.raises(TypeCheckError, match="(?s)'lora_A'.*rank in_dim"):
            lora.LoRALinear(linear, jnp.ones(32), jnp.ones((32, 3)), 1.0)
        with pytest.raises(TypeCheckError, match="(?s)'lora_B'.*out_dim rank"):
            lora.LoRALinear(linear, jnp.ones((3, 32)), jnp.ones((32, 2)), 1.0)


class TestInt8:
    def test_gradients(self, model: Any) -> None:
        """Of every adapter, the cosine with float32's. Smallest measured: 0.9960."""
        small = bart_eqx.quantize(model)
        assert isinstance(small.model.encoder.layers[0].self_attn.q_proj.linear, QuantizedLinear)
        of_small, wanted = (eqx.filter_jit(eqx.filter_grad(loss))(m) for m in (small, model))
        pairs = zip(*(jax.tree.leaves(eqx.filter(g, lora.is_adapter(g))) for g in (of_small, wanted)), strict=True)
        for one, other in pairs:
            assert jnp.vdot(one, other) / jnp.linalg.norm(one) / jnp.linalg.norm(other) >= 0.99

    def test_not_merged(self, bart: Any) -> None:
        small = lora.attach(bart_eqx.quantize(bart), PATHS, rank=3, alpha=6.0, key=jax.random.key(0))
        with pytest.raises(TypeError, match="int8 weights hold no update"):
            lora.merge(small)


@pytest.fixture(scope="module")
def base() -> Any:
    return bart_eqx.from_pretrained(REFERENCES / "converted", bart_eqx.BartForConditionalGeneration)


@pytest.fixture(scope="module")
def stored() -> Any:
    return np.load(REFERENCES / "peft/logits.npz")


class TestPEFT:
    """Logits of `peft` with transformers 5, stored by `scripts/make_peft_references.py`."""

    @pytest.mark.parametrize("name", ["plain", "patterns", "whole-parameters", "written"])
    def test_logits(self, base: Any, stored: Any, name: str) -> None:
        """Three folders that PEFT wrote, and one that was written here and read by PEFT. Measured 1.3e-6."""
        model = load_adapter(base, REFERENCES / "peft" / name)
        inputs = {key.removeprefix("input."): stored[key] for key in stored if key.startswith("input.")}
        wanted = stored[f"logits.{name}"]
        assert relative_error(stored["logits.base"], wanted) > 0.1
        assert relative_error(model(**inputs).logits, wanted) <= 5e-6
        assert relative_error(lora.merge(model)(**inputs).logits, wanted) <= 5e-6

    @pytest.mark.parametrize("name", ["plain", "patterns", "written"])
    def test_written_again(self, base: Any, name: str, tmp_path: Path) -> None:
        """To the byte what PEFT has read; and of PEFT's own folders the same adapters."""
        model = load_adapter(base, REFERENCES / "peft" / name)
        save_adapter(model, tmp_path / "again", base_model="converted")
        assert eqx.tree_equal(load_adapter(base, tmp_path / "again"), model)
        if name == "written":
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                assert (tmp_path / "again" / file).read_bytes() == (REFERENCES / "peft/written" / file).read_bytes()

    def test_over_int8(self, base: Any, tmp_path: Path) -> None:
        model = load_adapter(bart_eqx.quantize(base), REFERENCES / "peft/plain")
        save_adapter(model, tmp_path)
        assert eqx.tree_equal(load_adapter(bart_eqx.quantize(base), tmp_path), model)

    @pytest.mark.parametrize(
        "changes, message",
        [
            (dict(use_dora=True), "'use_dora': True"),
            (dict(peft_type="IA3"), "'peft_type': 'IA3'"),
            (dict(init_lora_weights="pissa"), "'init_lora_weights': 'pissa'"),
            (dict(a_new_setting=[1]), r"'a_new_setting': \[1\]"),
        ],
    )
    def test_settings_that_would_change_the_result(
        self, base: Any, changes: dict[str, Any], message: str, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(REFERENCES / "peft/plain", tmp_path / "adapter")
        config = json.loads((folder / "adapter_config.json").read_text()) | changes
        (folder / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=f"Only plain LoRA adapters can be read. Got .*{message}"):
            load_adapter(base, folder)

    def test_of_another_model(self, base: Any, bart: Any, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no place for \['model.decoder.layers.0.*: is it of another class"):
            load_adapter(base.model, REFERENCES / "peft/plain")
        with pytest.raises(ValueError, match=r"_proj is for weights of shape \(8, 8\)"):
            load_adapter(bart, REFERENCES / "peft/plain")
        with pytest.raises(ValueError, match=r"k_proj.bias must be float32\(32,\), as in the model. Got float32\(8,\)"):
            load_adapter(bart, REFERENCES / "peft/whole-parameters")
        with pytest.raises(ValueError, match="no LoRA adapters to save"):
            save_adapter(base, tmp_path)
