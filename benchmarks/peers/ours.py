"""bart_eqx, as its users have it: `from_pretrained`, `generate`, `filter_jit`."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import bart_eqx


class Peer:
    def __init__(self, folder: Path, variant: str):
        dtype = jnp.bfloat16 if variant == "bfloat16" else jnp.float32
        self.model = bart_eqx.from_pretrained(folder / "pytorch", dtype=dtype)
        if variant == "int8":
            self.model = bart_eqx.quantize(self.model)
        self.versions = {"jax": jax.__version__, "equinox": eqx.__version__, "device": jax.devices()[0].device_kind}

    def encode(self, ids: np.ndarray, **_: Any):
        encode = eqx.filter_jit(lambda model, ids: model.encode(ids).last_hidden_state)
        return lambda: jax.block_until_ready(encode(self.model, ids))

    def forward(self, ids: np.ndarray, targets: np.ndarray, **_: Any):
        forward = eqx.filter_jit(lambda model, ids, targets: model(ids, decoder_input_ids=targets).logits)
        return lambda: jax.block_until_ready(forward(self.model, ids, targets))

    def generate(self, ids: np.ndarray, beams: int, new: int, sample: bool, **_: Any):
        stop = dict(max_length=new + 1, min_length=new + 1, forced_bos_token_id=None, forced_eos_token_id=None)
        draw: dict[str, Any] = dict(do_sample=True, top_k=50, key=jax.random.key(0)) if sample else {}
        return lambda: np.asarray(bart_eqx.generate(self.model, ids, num_beams=beams, **stop, **draw).sequences)

    def generate_in_room(self, ids: np.ndarray, new: int, room: int, **_: Any):
        """Ends after `new` tokens and the end itself, though more were allowed."""
        options: dict[str, Any] = dict(max_length=room + 1, min_length=new + 1, forced_eos_token_id=None)
        options["logits_processor"] = (End(new),)
        return lambda: np.asarray(bart_eqx.generate(self.model, ids, num_beams=1, **options).sequences)

    def train(self, ids: np.ndarray, targets: np.ndarray, **_: Any):
        @eqx.filter_jit(donate="all")
        def step(model: Any, ids: jax.Array, targets: jax.Array):
            @eqx.filter_value_and_grad
            def loss(model: Any) -> jax.Array:
                log_probs = jax.nn.log_softmax(model(ids, decoder_input_ids=targets).logits)
                return -jnp.mean(jnp.take_along_axis(log_probs, targets[..., None], axis=-1))

            value, gradients = loss(model)
            return value, eqx.apply_updates(model, jax.tree.map(lambda g: -1e-4 * g, gradients))

        def run() -> None:
            value, self.model = step(self.model, jnp.asarray(ids), jnp.asarray(targets))
            jax.block_until_ready(value)

        return run


class End(eqx.Module):
    """Lets nothing but the end follow after so many tokens."""

    new: int

    def __call__(self, logits: jax.Array, tokens: jax.Array, length: jax.Array) -> jax.Array:
        only_end = jnp.where(jnp.arange(logits.shape[-1]) == 2, logits, -jnp.inf)
        return jnp.where(length > self.new, only_end, logits)
